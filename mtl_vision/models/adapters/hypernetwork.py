"""Hypernetworks that make the weights of bottleneck adapters from embeddings of the tasks.

Task t owns a vector ``e_t [K]``. A generator, an affine map, turns it into the weights of a map of
block l; all generators are shared by the tasks. The weights come in one of three forms:

- ``full``: W ``[C, D]`` itself (Hyperformer, arXiv 2106.04489).
- ``decomposed``: P ``[C, R]`` and Q ``[D, R]`` with ``W = P Q^T`` (Polyhistor, arXiv 2210.03265).
- ``template``: P and Q of the narrowest block's size, ``[C0, R]`` and ``[D0, R]``, made once for
  all blocks; ``W = S (x) P Q^T`` with a scaling kernel S ``[s, s]`` per block that is a plain
  parameter, ``s = C / C0`` (Polyhistor-Lite).

W is never formed from its factors. The biases are made by generators of the block, or are plain
parameters.
"""

from typing import Any

import jax
from flax import nnx

from mtl_vision.errors import lookup
from mtl_vision.models.adapters.bottleneck import bottleneck, insert
from mtl_vision.models.adapters.generate import put_in_slot, repeat, written
from mtl_vision.models.adapters.generated import (
    LAST,
    GeneratedMap,
    Generator,
    Settings,
    weight_shapes,
)
from mtl_vision.models.adapters.inject import name_tasks
from mtl_vision.models.adapters.maps import Dense
from mtl_vision.models.adapters.streams import open_streams
from mtl_vision.models.layers import Dtype, TaskParam

BIASES = ("generated", "task", "shared", "none")
SCALINGS = ("shared", "task")
ORDERS = ("scale_left", "template_left")


class Hypernetwork(nnx.Module):
    """The embeddings, and what is made of them for all blocks: the ``generate`` of a backbone.

    Args:
      settings: of the method.
      base: C0 and the width of its bottleneck.
      tasks: T.
      zero: whether what is made for the maps up is zero at the start.
      rngs: of the parameters.
    """

    def __init__(
        self, settings: Settings, base: tuple[int, int], *, tasks: int, zero: bool, rngs: nnx.Rngs
    ):
        K = settings.embed
        size, hidden = settings.projection or (K, 0)
        self.embedding = TaskParam(jax.random.normal(rngs.params(), (tasks, size)))
        self.hidden = Dense(size, hidden, rngs=rngs) if hidden else None
        self.project = Dense(hidden, K, rngs=rngs) if hidden else None
        shapes = {}
        if settings.form == "template":
            for role, size in (("down", base), ("up", base[::-1])):
                shapes[role] = weight_shapes(settings.form, *size, settings.rank)

        def generator(role):
            last = LAST if zero and role == "up" else ()
            return Generator(K, shapes[role], affine=settings.affine, zero=last, rngs=rngs)

        self.templates = nnx.Dict({role: generator(role) for role in shapes})

    def __call__(self, backbone: Any) -> Any:
        e = self.embedding[...]
        if self.hidden is not None:
            e = self.project(jax.nn.relu(self.hidden(e)))
        templates = {role: generator(e) for role, generator in self.templates.items()}

        def write(module, lead):
            made = {} if module.generator is None else {"made": module.generator(e)}
            if templates:
                made["template"] = repeat(templates[module.role], lead)
            return made

        return written(backbone, GeneratedMap, write)


def hypernetwork(
    backbone: Any,
    settings: Settings,
    *,
    tasks: int | tuple[str, ...],
    dtype: Dtype = None,
    rngs: nnx.Rngs,
) -> Any:
    """Puts adapters with generated weights into every block, in place.

    Args:
      backbone: Swin or ViT.
      settings: of the method.
      tasks: their names, or their number, in order.
      dtype: compute type; generators compute in float32.
      rngs: of the parameters.

    Raises:
      ConfigError: an unknown name, a ratio or rank that does not fit a width, or another adapter
        that makes weights for the whole backbone.
    """
    for name, choices in (("bias", BIASES), ("scaling", SCALINGS), ("order", ORDERS)):
        lookup(dict.fromkeys(choices), getattr(settings, name), f"adapter.{name}")
    name_tasks(backbone, tasks)
    open_streams(backbone, trunk=backbone.carried and bool(backbone.shared))
    *_, C0 = backbone.patch_embed.proj.kernel.shape
    base, T = (C0, bottleneck(C0, settings.ratio)), len(backbone.tasks)
    zero = settings.norm == "none"
    put_in_slot(backbone, Hypernetwork(settings, base, tasks=T, zero=zero, rngs=rngs))

    def maps(C, d, rngs):
        make = dict(tasks=T, dtype=dtype, rngs=rngs)
        down = GeneratedMap(C, d, settings, role="down", base=base, zero=False, **make)
        up = dict(role="up", base=base[::-1], zero=zero)
        return down, GeneratedMap(d, C, settings, **up, **make)

    options = {k: getattr(settings, k) for k in ("sites", "ratio", "act", "norm", "gain")}
    return insert(backbone, maps, **options, dtype=dtype, rngs=rngs)

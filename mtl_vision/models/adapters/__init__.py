"""Adapters by name: what is added to a frozen backbone, and which parameters then train.

A backbone knows nothing of adapters. Its activations are ``[S, B, ..., C]`` with a leading axis
of streams, S = 1 in a plain one. An adapter is a factory

    ``(backbone, *, tasks, rngs, dtype=None, **options) -> backbone``

that wraps layers of the built backbone in place (or puts modules in its slots) and returns it.
Blocks, norms and residuals work on any S by broadcasting, so any wrapped layer may widen the axis:
``[1, ...]`` -> ``[shared + T, ...]``, the shared stream first if it is kept, then a stream per
task. `MultiTask` hands the decoder the trunk ``x[0]`` and the streams ``x[shared:]``.

To write one, ``adapters/<name>.py``:

1. ``name_tasks(backbone, tasks)`` first: ``backbone.tasks`` are the names then.
2. ``edit_blocks(backbone, edit, rngs=rngs)`` calls ``edit(block, place, rngs)`` on every block of
   Swin and ViT, stacked ones under `jax.vmap`; `place` is (stage, index, last). What it returns,
   if anything, takes the place of the block. In it
   ``wrap(block, "attn.qkv", make)`` puts ``make(layer)`` in a layer's place. Sites are
   ``attn.qkv attn.proj mlp.fc1 mlp.fc2``, ``attn`` and ``mlp`` as a whole, ``norm1 norm2``, and
   ``scale1 scale2``, which stand behind attention and MLP, before the residual sum. On Swin also
   ``stage.merging.reduction``.
3. A layer is called as ``layer(x, key=key)``; no key means evaluation. One that wraps keeps the
   layer as `linear`, so that paths and sharding rules still find ``.../linear/kernel``, or under
   the name of its place, as ``attn/attn``: `transfer.unwrapped` knows both. It has
   ``merged()`` where it can be folded, see `merge`.
4. Parameters are `AdapterParam` or, with a leading axis of tasks, `TaskParam`. The tasks of a
   joint model over several datasets share that axis in order; the forward pass for one dataset
   runs on a copy of the backbone where every `TaskParam` is sliced (`select`, in
   `MultiTask.encode`). So read T from the parameter and not from the constructor; a module with
   other knowledge per task has a method ``select(start, stop)``. What cannot be sliced, such as
   running statistics, is in a `ByDataset`.
5. Task streams that run through the whole backbone are declared with ``open_streams(backbone,
   trunk=...)`` after the edit; a layer per task reads its input with ``task_streams(x,
   backbone.shared, T)`` and puts the shared stream back in front. Streams that end with a stage,
   as MTLoRA's, need a hand-over `SharedOnly` instead, and on a scanned ViT ``backbone.detach()``
   before the edit, since S may not change inside a scan.
6. ``backbone.generate`` is a slot for hypernetworks: ``generate(backbone) -> backbone`` runs once
   per forward pass and returns a copy with the weights it made in the layers: `generate.written`.
   On a ViT, ``backbone.tap`` is a slot for what reads a map out of the tokens.
7. An entry in `ADAPTERS`, and in `PATTERNS` what trains in the backbone, as regexes of paths below
   ``backbone/``.

At its start an adapter leaves the outputs of the backbone as they are, unless it says otherwise.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from flax import nnx

from mtl_vision import rules
from mtl_vision.errors import lookup
from mtl_vision.models.adapters import bottleneck
from mtl_vision.models.adapters.adapter import adapter
from mtl_vision.models.adapters.compacter import compacter, compacter_pp, phm
from mtl_vision.models.adapters.ditask import ditask
from mtl_vision.models.adapters.dora import dora
from mtl_vision.models.adapters.hyperformer import hyperformer, hyperformer_v
from mtl_vision.models.adapters.ia3 import ia3
from mtl_vision.models.adapters.lora import lora
from mtl_vision.models.adapters.low_rank_adapter import low_rank_adapter
from mtl_vision.models.adapters.m3vit import m3vit
from mtl_vision.models.adapters.mhr import mhr
from mtl_vision.models.adapters.mtlora import mtlora
from mtl_vision.models.adapters.palora import palora
from mtl_vision.models.adapters.polyhistor import (
    polyhistor,
    polyhistor_lite,
    polyhistor_lite_v,
    polyhistor_v,
)
from mtl_vision.models.adapters.ssf import ssf
from mtl_vision.models.adapters.tadformer import tadformer
from mtl_vision.models.adapters.taps import taps
from mtl_vision.models.adapters.task_prompter import task_prompter
from mtl_vision.models.adapters.vpt import vpt
from mtl_vision.models.layers import Dtype

ADAPTERS = {
    "mtlora": mtlora,
    "adapter": adapter,
    "low_rank_adapter": low_rank_adapter,
    "phm": phm,
    "compacter": compacter,
    "compacter_pp": compacter_pp,
    "lora": lora,
    "vpt": vpt,
    "hyperformer": hyperformer,
    "hyperformer_v": hyperformer_v,
    "polyhistor": polyhistor,
    "polyhistor_v": polyhistor_v,
    "polyhistor_lite": polyhistor_lite,
    "polyhistor_lite_v": polyhistor_lite_v,
    "ssf": ssf,
    "ia3": ia3,
    "dora": dora,
    "ditask": ditask,
    "tadformer": tadformer,
    "palora": palora,
    "mhr": mhr,
    "taps": taps,
    "m3vit": m3vit,
    "task_prompter": task_prompter,
}

# What trains in the backbone, by adapter and as published: regexes of paths below ``backbone/``.
_TAPS = "out_norms/.*"
_BOTTLENECK = (*bottleneck.PATTERNS, _TAPS)
_SWIN = ("patch_embed/.*", ".*norm.*", ".*relative_position_bias_table")
PATTERNS = {
    "mtlora": (".*lora.*", *_SWIN, ".*merging/reduction/kernel"),
    "adapter": _BOTTLENECK,
    "low_rank_adapter": _BOTTLENECK,
    "phm": _BOTTLENECK,
    "compacter": _BOTTLENECK,
    "compacter_pp": _BOTTLENECK,
    "lora": (".*/lora/.*", _TAPS),
    "vpt": (".*prompt.*", _TAPS),
    "hyperformer": _BOTTLENECK,
    "hyperformer_v": _BOTTLENECK,
    "polyhistor": _BOTTLENECK,
    "polyhistor_v": _BOTTLENECK,
    "polyhistor_lite": _BOTTLENECK,
    "polyhistor_lite_v": _BOTTLENECK,
    "ssf": (".*ssf.*",),
    "ia3": (".*ia3.*",),
    "ditask": (".*ditask/theta", *_SWIN, ".*merging/reduction/kernel"),
    "tadformer": (".*lora.*", ".*filter.*", ".*prompt.*", ".*/gate", *_SWIN),
    "palora": (".*palora.*",),
    "mhr": (".*lora.*", ".*skills.*"),
    "taps": (".*taps.*",),
    "m3vit": (".*",),
    "task_prompter": (".*",),
    "dora": (".*dora.*", *_SWIN, ".*merging/reduction/kernel"),
}

Specs = Sequence[tuple[str, Mapping[str, Any]]]


def adapt(
    backbone: Any,
    adapters: Specs,
    *,
    tasks: int | tuple[str, ...],
    dtype: Dtype = None,
    rngs: nnx.Rngs,
) -> Any:
    """Applies adapters to a backbone, one after another.

    Args:
      backbone: Swin or ViT; changed in place.
      adapters: (name, options) pairs.
      tasks: names of all tasks in order, ``dataset/kind`` where there are several datasets, or
        their number.
      dtype: compute type.
      rngs: of the parameters.

    Raises:
      ConfigError: an unknown name, or options that do not fit; see the factories.
    """
    for name, options in adapters:
        factory = lookup(ADAPTERS, name, "adapter.name")
        backbone = factory(backbone, tasks=tasks, dtype=dtype, rngs=rngs, **options)
    return backbone


def trainable(names: Sequence[str]) -> rules.Rules[bool]:
    """Returns the rules that train what the adapters train, and all outside the backbone.

    Args:
      names: keys of `ADAPTERS`. A parameter trains if one of them trains it.

    Raises:
      ConfigError: an unknown name.
    """
    found = [p for name in names for p in lookup(PATTERNS, name, "adapter.name")]
    if ".*" in found:
        return ((".*", True),)
    chosen = "|".join(dict.fromkeys(found))
    return ((f"backbone/(?:{chosen})", True), ("backbone/.*", False), (".*", True))

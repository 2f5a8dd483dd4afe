"""MTLoRA and MTLoRA+ (arXiv 2403.20320).

Every linear layer of every block gets a low-rank branch shared by all tasks; in the last block of
a stage all but qkv also get one per task. That block opens the task streams and the stage ends
them: only the shared stream goes on, so the frozen layers run once for all tasks.

Where paper and code (scale-lab/MTLoRA) differ this is the code, which the published numbers of
parameters agree with. What its option for branches per task in earlier blocks adds is left out:
no output uses it.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from mtl_vision.errors import ConfigError, lookup
from mtl_vision.models.adapters.inject import edit_blocks, merged, name_tasks, widths, wrap
from mtl_vision.models.adapters.low_rank import LowRank, TaskLowRank
from mtl_vision.models.adapters.options import Numbers, TaskNumbers, per_stage, per_task
from mtl_vision.models.adapters.streams import end_streams
from mtl_vision.models.blocks import ACTS
from mtl_vision.models.layers import (
    AdapterParam,
    Dtype,
    Identity,
    LayerNorm,
    Linear,
    TaskParam,
    dropout,
    split,
)

# Is there a branch per task, and one that all tasks share beside it?
MODES = {
    "matrix": (True, True),
    "matrixv2": (True, True),
    "addition": (True, False),
    "lora_only": (False, True),
}
SITES = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")


class Branches(NamedTuple):
    """The branches of a stage: ranks, factors, and the dropout rate before them."""

    rank: int
    scale: float
    rate: float
    task_ranks: tuple[int, ...]
    task_scales: tuple[float, ...]


class Trunk(NamedTuple):
    """What a layer makes of the shared stream: all of ``[1, ..., C or D]``.

    Attributes:
      dropped: its input after dropout.
      base: what the branches per task are added to.
      out: its output.
    """

    dropped: jax.Array
    base: jax.Array
    out: jax.Array


class MTLoRALinear(nnx.Module):
    """A linear layer with low-rank branches: ``[1 or 1 + T, ..., C]`` -> ``[1 + T, ..., D]``.

    With p the layer's response to the shared stream x, d = dropout(x), and u_t the stream of task
    t, or d where none is open:

        shared: ``p + s d A B``; in mode ``addition`` ``p + LayerNorm(sum of the tasks' outputs)``
        task t: ``p + s_t u_t A_t B_t``; in mode ``matrixv2`` the shared output in place of p

    So the streams of tasks do not meet the frozen weight and are not dropped. Where the layer has
    no branches per task, all streams are treated like the shared one and none is opened.
    `carried`, see `open_streams`, gives every stream its own p.

    Args:
      linear: the layer, ``[..., C]`` -> ``[..., D]``.
      branches: of the stage.
      mode: a key of `MODES`.
      own: whether there are branches per task.
      train_scales: whether s, and whether s_t, are parameters.
      dtype: compute type.
      rngs: of the parameters.
    """

    def __init__(
        self,
        linear: nnx.Module,
        branches: Branches,
        *,
        mode: str,
        own: bool,
        train_scales: tuple[bool, bool],
        dtype: Dtype,
        rngs: nnx.Rngs,
    ):
        d_in, d_out = widths(linear)
        self.linear, self.rate, self.carried = linear, branches.rate, False
        self.mode = mode if own else "matrix"
        make = dict(dtype=dtype, rngs=rngs)
        _, shared = MODES[self.mode]
        self.lora = LowRank(d_in, d_out, branches.rank, **make) if shared else None
        self.lora_norm = None if shared else LayerNorm(d_out, dtype=dtype)
        self.task_lora = TaskLowRank(d_in, d_out, branches.task_ranks, **make) if own else None
        scale, scales = branches.scale, branches.task_scales
        if train_scales[0]:  # in mode `addition` too, where nothing uses it
            scale = AdapterParam(jnp.array(scale, jnp.float32))
        if train_scales[1] and own:
            scales = TaskParam(jnp.array(scales, jnp.float32))
        self.lora_scale, self.task_lora_scale = scale, scales

    def __call__(self, x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        if self.task_lora is None:
            return self.trunk(x, key).out
        trunk = self.trunk(x if self.carried else x[:1], key)
        first, rest = trunk.out[:1], trunk.base[1:] if len(trunk.base) > 1 else trunk.base
        tasks = rest + self.task_lora(self.streams(x, trunk), array(self.task_lora_scale))
        if self.mode == "addition":
            first = first + self.lora_norm(tasks.sum(0, keepdims=True))
        return jnp.concatenate([first, tasks])

    def trunk(self, x: jax.Array, key: jax.Array | None) -> Trunk:
        """Runs the frozen layer and the shared branch on all of `x`."""
        keys = split(key, 2)
        dropped = dropout(x, self.rate, keys[1])
        if dropped is x and self._folds(x):
            extra = array(self.lora_scale) * self.lora.product()
            out = self.linear(x, key=keys[0], extra=extra)
            return Trunk(x, out, out)
        frozen = self.linear(x, key=keys[0])
        out = frozen
        if self.lora is not None:
            out = frozen + self.lora(dropped, array(self.lora_scale))
        return Trunk(dropped, out if self.mode == "matrixv2" else frozen, out)

    def _folds(self, x):
        """Is ``x (W + s A B)`` all that is needed, and less work than ``x W + s x A B``?"""
        if type(self.linear) is not Linear or self.lora is None:
            return False
        d_in, d_out = widths(self.linear)
        less = x.size // d_in * (d_in + d_out) > d_in * d_out
        return less and (self.task_lora is None or self.mode == "matrixv2")

    def streams(self, x: jax.Array, trunk: Trunk) -> jax.Array:
        """Returns what the branches per task read, ``[1 or T, ..., C]``."""
        return x[1:] if len(x) > 1 else trunk.dropped[:1]

    def select(self, start: int, stop: int) -> None:
        """Narrows the tasks."""
        if isinstance(self.task_lora_scale, tuple):
            self.task_lora_scale = self.task_lora_scale[start:stop]

    def merged(self) -> nnx.Module:
        """Returns the layer with ``W + s A B``, or itself where there are branches per task."""
        self.linear = merged(self.linear)
        if self.task_lora is not None or not hasattr(self.linear, "kernel"):
            return self
        product, scale = self.lora.product(), array(self.lora_scale)
        scale = jnp.expand_dims(scale, range(scale.ndim, product.ndim))  # one per stacked layer
        self.linear.kernel[...] += scale * product
        return self.linear


class MTLoRAMlp(nnx.Module):
    """An MLP whose layers are `MTLoRALinear`, without keeping its hidden maps of every task.

    Task t: ``base2 + s_t act(base1 + s_t u_t A_t B_t) A'_t B'_t``. Between the two branches of
    rank R is a map of four times the width per task; it is made one task after another and again
    in the backward pass, which takes a quarter of the time that keeping all of them takes (CPU).
    """

    def __init__(self, mlp: nnx.Module):
        self.fc1, self.fc2, self.act = mlp.fc1, mlp.fc2, mlp.act

    def __call__(self, x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        keys, act = split(key, 2), ACTS[self.act]
        if not (_lean(self.fc1) and _lean(self.fc2)):
            return self.fc2(act(self.fc1(x, key=keys[0])), key=keys[1])
        first = self.fc1.trunk(x[:1], keys[0])
        second = self.fc2.trunk(act(first.out), keys[1])
        up, down = self.fc1.task_lora, self.fc2.task_lora
        base = first.base.reshape(-1, first.base.shape[-1])

        @jax.checkpoint
        def narrow(z, b, a):
            return act(base + z @ b) @ a

        z = up.down(self.fc1.streams(x, first))
        T, *places, R = z.shape
        factors = up.factor(array(self.fc1.task_lora_scale)), down.a.astype(base.dtype)
        z = jax.lax.map(lambda args: narrow(*args), (z.reshape(T, -1, R), *factors))
        z = z.reshape(T, *places, -1)
        tasks = second.base + down.up(z, array(self.fc2.task_lora_scale))
        return jnp.concatenate([second.out, tasks])


def _lean(layer):
    """Is the layer one whose tasks only add low-rank functions to the shared stream?"""
    return (
        type(layer) is MTLoRALinear
        and layer.task_lora is not None
        and layer.mode != "addition"
        and not layer.carried
    )


def array(scale: Any) -> jax.Array:
    """Returns factors as an array, whether they are parameters or not."""
    return scale[...] if isinstance(scale, nnx.Variable) else jnp.asarray(scale, jnp.float32)


def mtlora(
    backbone: Any,
    *,
    tasks: int | tuple[str, ...],
    rank: Numbers = 64,
    task_rank: TaskNumbers = 4,
    scale: Numbers = 4.0,
    task_scale: TaskNumbers = (),
    dropout: Numbers = 0.05,
    mode: str = "matrix",
    sites: tuple[str, ...] = SITES,
    plus: bool = False,
    train_scale: bool = False,
    train_task_scale: bool = False,
    dtype: Dtype = None,
    rngs: nnx.Rngs,
) -> Any:
    """Puts MTLoRA into a backbone, in place; the function is the same until B is trained.

    Swin-T with hrnet heads for the four tasks of PASCAL-Context trains 4,953,146, 6,083,642 and
    8,344,634 parameters at rank 16, 32 and 64 (Table 1).

    Args:
      backbone: Swin or ViT.
      tasks: their names, or their number, in order.
      rank: of the shared branches; 0 leaves the layers of a stage as they are.
      task_rank: of the branches per task.
      scale: factor on the shared branches; it is not divided by the rank.
      task_scale: factor on the branches per task, () for that on the shared ones.
      dropout: rate before the branches, of the shared stream.
      mode: a key of `MODES`.
      sites: the layers of a block that get branches.
      plus: MTLoRA+: the reduction of patch merging gets a shared branch too.
      train_scale: whether the factors on shared branches are parameters, one per layer.
      train_task_scale: the same for those per task, one per layer and task.
      dtype: compute type.
      rngs: of the parameters.

    Returns: the backbone.

    Raises:
      ConfigError: an unknown mode or site, numbers that do not fit stages, tasks or layers, or a
        backbone that this does not work on.
    """
    own, _ = lookup(MODES, mode, "adapter.mode")
    for site in sites:
        lookup(dict.fromkeys(SITES), site, "adapter.sites")
    name_tasks(backbone, tasks)
    stages = _branches(backbone, rank, scale, dropout, task_rank, task_scale or scale)
    made = dict(mode=mode, train_scales=(train_scale, train_task_scale), dtype=dtype)

    def edit(block, place, rngs):
        branches = stages[place.stage]
        for site in sites if branches.rank else ():
            per_task = own and place.last and site != "attn.qkv"
            make = functools.partial(
                MTLoRALinear, branches=branches, own=per_task, rngs=rngs, **made
            )
            wrap(block, site, make)
        if own and place.last:
            wrap(block, "mlp", MTLoRAMlp)

    if own:
        end_streams(backbone, "mtlora", "put mtlora first")
    edit_blocks(backbone, edit, rngs=rngs)
    if plus:
        _wrap_merging(backbone, stages, rngs=rngs, **made)
    return backbone


def _branches(backbone, rank, scale, rate, task_rank, task_scale):
    count = len(backbone.channels)
    options = dict(rank=rank, scale=scale, dropout=rate)
    columns = [per_stage(v, count, name) for name, v in options.items()]
    for name, value in (("task_rank", task_rank), ("task_scale", task_scale)):
        columns.append(per_task(value, backbone.tasks, count, name))
    return [Branches(*row) for row in zip(*columns, strict=True)]


def _wrap_merging(backbone, stages, **made):
    mergings = [stage.merging for stage in getattr(backbone, "stages", ())]
    if not mergings:
        raise ConfigError("config.adapter.plus: only Swin has patch merging; use plus=False.")
    for merging, branches in zip(mergings, stages, strict=True):
        if not isinstance(merging, Identity) and branches.rank:
            wrap(merging, "reduction", lambda x, b=branches: MTLoRALinear(x, b, own=False, **made))

"""PHM adapters, Compacter and Compacter++ (arXiv 2106.04647)."""

import functools
from typing import Any

import jax
from flax import nnx

from mtl_vision.models.adapters.adapter import owned
from mtl_vision.models.adapters.bottleneck import insert
from mtl_vision.models.adapters.generate import put_in_slot, repeat, written
from mtl_vision.models.adapters.maps import ZEROS, Kronecker, parameter, xavier
from mtl_vision.models.layers import Dtype


class Rule(nnx.Module):
    """The left factors A ``[n, n, n]`` that all `Kronecker` maps of a backbone share."""

    def __init__(self, n: int, *, deviation: float, tasks: int, rngs: nnx.Rngs):
        init = jax.nn.initializers.normal(deviation)
        self.rule = parameter(init, (n, n, n), tasks, rngs)

    def __call__(self, backbone: Any) -> Any:
        rule = self.rule[...]
        return written(backbone, Kronecker, lambda _, lead: {"rule": repeat(rule, lead)})


def compacter(
    backbone: Any,
    *,
    tasks: int | tuple[str, ...],
    n: int = 4,
    rank: int = 1,
    deviation: float = 1e-4,
    sites: tuple[str, ...] = ("attn", "mlp"),
    ratio: int = 2,
    act: str = "gelu_tanh",
    norm: str = "shared",
    gain: float = 0.0,
    share: str = "all",
    dtype: Dtype = None,
    rngs: nnx.Rngs,
) -> Any:
    """Puts adapters of Kronecker products behind attention and MLPs, in place.

    ``x + norm(up(act(down x)))`` where both maps are ``x W + b``, ``W = sum_i A_i (x) B_i``; A is
    the same in all layers and ``B_i = U_i V_i``. See `Kronecker`.

    On Swin-T the defaults have 57,472 parameters and those of `compacter_pp`, after MLPs only,
    28,768; with them, once per task, the published totals (arXiv 2210.03265) come out. The
    reference for T5 has ratio 32 and no norm.

    Args:
      backbone: Swin or ViT.
      tasks: their names, or their number, in order.
      n: terms of the sum, and size of A_i; divides the widths of blocks and bottlenecks.
      rank: of B_i; 0 for full matrices, as in `phm`.
      deviation: of A at the start.
      sites, ratio, act, norm, gain, share: see `adapter`; A is per task if nothing is shared.
      dtype: compute type.
      rngs: of the parameters.

    Returns: the backbone.

    Raises:
      ConfigError: an unknown name, an n, ratio or rank that does not fit a width, or another
        adapter that makes weights for the whole backbone.
    """
    down, up = owned(backbone, tasks, share=share, norm=norm)
    last = ZEROS if norm == "none" else xavier

    def maps(C, d, rngs):
        make = dict(n=n, rank=rank, dtype=dtype, rngs=rngs)
        return Kronecker(C, d, tasks=down, **make), Kronecker(d, C, init=last, tasks=up, **make)

    put_in_slot(backbone, Rule(n, deviation=deviation, tasks=min(down, up), rngs=rngs))
    options = dict(sites=sites, ratio=ratio, act=act, norm=norm, gain=gain)
    return insert(backbone, maps, **options, dtype=dtype, rngs=rngs)


compacter_pp = functools.partial(compacter, sites=("mlp",))


def phm(
    backbone: Any,
    *,
    tasks: int | tuple[str, ...],
    n: int = 4,
    sites: tuple[str, ...] = ("mlp",),
    ratio: int = 8,
    act: str = "gelu_tanh",
    norm: str = "shared",
    gain: float = 0.0,
    share: str = "all",
    dtype: Dtype = None,
    rngs: nnx.Rngs,
) -> Any:
    """Puts adapters of parametrised hypercomplex multiplication (arXiv 2102.08597), in place.

    Like `compacter` with full matrices B_i, and A drawn with the deviation 0.01. On Swin-T the
    defaults have 148,648 parameters; with them, once per task, the published total of the row "PHM
    layer" (arXiv 2210.03265) comes out, but not with one A for every layer, as in the code of
    Compacter.

    Args:
      backbone: Swin or ViT.
      tasks: their names, or their number, in order.
      n: terms of the sum, and size of A_i; divides the widths of blocks and bottlenecks.
      sites, ratio, act, norm, gain, share: see `adapter`; A is per task if nothing is shared.
      dtype: compute type.
      rngs: of the parameters.

    Returns: the backbone.

    Raises:
      ConfigError: as `compacter`.
    """
    options = dict(sites=sites, ratio=ratio, act=act, norm=norm, gain=gain, share=share)
    make = dict(n=n, rank=0, deviation=0.01, dtype=dtype, rngs=rngs)
    return compacter(backbone, tasks=tasks, **options, **make)

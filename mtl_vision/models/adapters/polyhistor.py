"""Polyhistor and Polyhistor-Lite (arXiv 2210.03265).

No code was published and the settings are not known. Two readings give the published numbers of
parameters. U, the defaults, has one policy for Hyperformer and both: a norm per task behind the
adapter, ratio 8, no projection. V, ``polyhistor_v`` and ``polyhistor_lite_v``, shares the norms
and has ratio 4. To vary V, give its fields to the plain names.
"""

import functools
from typing import Any

from flax import nnx

from mtl_vision.models.adapters.generated import Settings
from mtl_vision.models.adapters.hypernetwork import hypernetwork
from mtl_vision.models.layers import Dtype


def polyhistor(
    backbone: Any,
    *,
    tasks: int | tuple[str, ...],
    embed: int = 256,
    rank: int = 2,
    ratio: int = 8,
    sites: tuple[str, ...] = ("mlp",),
    act: str = "gelu_tanh",
    norm: str = "task",
    gain: float = 0.0,
    bias: str = "generated",
    affine: bool = True,
    projection: tuple[int, int] | tuple[()] = (),
    dtype: Dtype = None,
    rngs: nnx.Rngs,
) -> Any:
    """Puts adapters into a backbone whose low-rank factors a hypernetwork makes, in place.

    ``W_t = P_t Q_t^T`` with P and Q affine in the embedding of task t, for every block by itself.
    The function is the same until it is trained. On Swin-T with four tasks the defaults have
    6,420,232 parameters, those of `polyhistor_v` 6,418,064.

    Args:
      backbone: Swin or ViT.
      tasks: their names, or their number, in order.
      rank: of P and Q.
      embed, ratio, sites, act, norm, gain, bias, affine, projection: see `generated.Settings`.
      dtype: compute type.
      rngs: of the parameters.

    Returns: the backbone. Its task streams run from the first block to the end.

    Raises:
      ConfigError: an unknown name, or numbers that do not fit a width.
    """
    settings = Settings(
        form="decomposed",
        embed=embed,
        rank=rank,
        ratio=ratio,
        sites=sites,
        act=act,
        norm=norm,
        gain=gain,
        bias=bias,
        affine=affine,
        projection=projection,
    )
    return hypernetwork(backbone, settings, tasks=tasks, dtype=dtype, rngs=rngs)


def polyhistor_lite(
    backbone: Any,
    *,
    tasks: int | tuple[str, ...],
    embed: int = 64,
    rank: int = 4,
    ratio: int = 8,
    scaling: str = "shared",
    order: str = "scale_left",
    sites: tuple[str, ...] = ("mlp",),
    act: str = "gelu_tanh",
    norm: str = "task",
    gain: float = 0.0,
    bias: str = "generated",
    affine: bool = True,
    projection: tuple[int, int] | tuple[()] = (),
    dtype: Dtype = None,
    rngs: nnx.Rngs,
) -> Any:
    """Puts adapters into a backbone that enlarge a template made by a hypernetwork, in place.

    ``W_t = S (x) P_t Q_t^T``: P and Q have the size of the narrowest block, are made once for all
    blocks, and S is a kernel of the block. The function is the same until it is trained. On Swin-T
    with four tasks the defaults have 415,132 parameters, those of `polyhistor_lite_v` 416,132. On
    a ViT all blocks are as wide, and S is a number.

    Args:
      backbone: Swin or ViT.
      tasks: their names, or their number, in order.
      rank: of P and Q.
      scaling: S is ``shared`` by tasks, or there is one per ``task``.
      order: ``scale_left`` for ``S (x) P Q^T``, ``template_left`` for ``P Q^T (x) S``.
      embed, ratio, sites, act, norm, gain, bias, affine, projection: see `generated.Settings`.
      dtype: compute type.
      rngs: of the parameters.

    Returns: the backbone. Its task streams run from the first block to the end.

    Raises:
      ConfigError: an unknown name, or numbers that do not fit a width.
    """
    settings = Settings(
        form="template",
        embed=embed,
        rank=rank,
        ratio=ratio,
        sites=sites,
        act=act,
        norm=norm,
        gain=gain,
        bias=bias,
        affine=affine,
        projection=projection,
        scaling=scaling,
        order=order,
    )
    return hypernetwork(backbone, settings, tasks=tasks, dtype=dtype, rngs=rngs)


polyhistor_v = functools.partial(polyhistor, embed=128, rank=4, ratio=4, norm="shared")
polyhistor_lite_v = functools.partial(
    polyhistor_lite, embed=64, rank=2, ratio=4, norm="shared", projection=(64, 128)
)

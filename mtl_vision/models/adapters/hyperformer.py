"""Hyperformer (arXiv 2106.04489) on a backbone with blocks of several widths."""

import functools
from typing import Any

from flax import nnx

from mtl_vision.models.adapters.generated import Settings
from mtl_vision.models.adapters.hypernetwork import hypernetwork
from mtl_vision.models.layers import Dtype


def hyperformer(
    backbone: Any,
    *,
    tasks: int | tuple[str, ...],
    embed: int = 128,
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
    """Puts adapters whose matrices come from a hypernetwork per block into a backbone, in place.

    The reference for T5 shares generators over layers; here widths differ, and only one set per
    block comes out at the published 72.77 M of Swin-T with four tasks (70,225,256 beside the
    decoders). Its settings are not published (arXiv 2210.03265): the defaults reproduce the count
    (reading U), and so does `hyperformer_v` (70,223,336).

    Args:
      backbone: Swin or ViT.
      tasks: their names, or their number, in order.
      embed, ratio, sites, act, norm, gain, bias, affine, projection: see `generated.Settings`.
      dtype: compute type.
      rngs: of the parameters.

    Returns: the backbone. Its task streams run from the first block to the end.

    Raises:
      ConfigError: an unknown name, or numbers that do not fit a width.
    """
    settings = Settings(
        form="full",
        embed=embed,
        rank=0,
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


hyperformer_v = functools.partial(
    hyperformer, embed=128, ratio=8, norm="shared", projection=(64, 128)
)

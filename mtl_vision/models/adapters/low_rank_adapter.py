"""Adapters whose two matrices are low-rank products."""

from typing import Any

from flax import nnx

from mtl_vision.models.adapters.adapter import owned
from mtl_vision.models.adapters.bottleneck import insert
from mtl_vision.models.adapters.maps import ZEROS, Product, xavier
from mtl_vision.models.layers import Dtype


def low_rank_adapter(
    backbone: Any,
    *,
    tasks: int | tuple[str, ...],
    rank: int = 8,
    sites: tuple[str, ...] = ("mlp",),
    ratio: int = 8,
    act: str = "gelu_tanh",
    norm: str = "none",
    gain: float = 0.0,
    share: str = "all",
    dtype: Dtype = None,
    rngs: nnx.Rngs,
) -> Any:
    """Puts ``x + norm(act(x U1 V1 + b1) U2 V2 + b2)`` behind MLPs, in place.

    The products are plain ones, as in VL-Adapter's code; that of Compacter multiplies U and V
    elementwise, which is the same at rank 1 only. On Swin-T the defaults have 84,456 parameters;
    with them, once per task, the published total (arXiv 2210.03265) comes out.

    Args:
      backbone: Swin or ViT.
      tasks: their names, or their number, in order.
      rank: of both products.
      sites, ratio, act, norm, gain, share: see `adapter`.
      dtype: compute type.
      rngs: of the parameters.

    Returns: the backbone.

    Raises:
      ConfigError: an unknown name, or a ratio or rank that does not fit a width.
    """
    down, up = owned(backbone, tasks, share=share, norm=norm)
    last = ZEROS if norm == "none" else xavier

    def maps(C, d, rngs):
        make = dict(rank=rank, dtype=dtype, rngs=rngs)
        return Product(C, d, tasks=down, **make), Product(d, C, init=last, tasks=up, **make)

    options = dict(sites=sites, ratio=ratio, act=act, norm=norm, gain=gain)
    return insert(backbone, maps, **options, dtype=dtype, rngs=rngs)

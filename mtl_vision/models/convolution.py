"""Convolutions and pooling of channels-last maps, each in its fastest form."""

import contextlib
import contextvars
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax import lax

_LAYOUT = ("NHWC", "HWIO", "NHWC")
_PLAIN = contextvars.ContextVar("plain", default=False)


@contextlib.contextmanager
def plain() -> Iterator[None]:
    """Inside, layers are traced in the form that papers write and count, not in a faster one."""
    token = _PLAIN.set(True)
    try:
        yield
    finally:
        _PLAIN.reset(token)


def is_plain() -> bool:
    """Says whether this is inside `plain`."""
    return _PLAIN.get()


def pad_to(x: jax.Array, multiple: int) -> jax.Array:
    """Zeros below and to the right of ``[..., H, W, C]`` up to a multiple."""
    *_, height, width, _ = x.shape
    below, right = -height % multiple, -width % multiple
    if below == right == 0:
        return x
    return jnp.pad(x, [(0, 0)] * (x.ndim - 3) + [(0, below), (0, right), (0, 0)])


def conv(
    x: jax.Array,
    kernel: jax.Array,
    *,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
) -> jax.Array:
    """Cross-correlates ``[..., H, W, C]`` with ``[k, k, C / groups, D]``; zeros around."""
    size, _, _, d_out = kernel.shape
    if size == 1 and stride == 1 and padding == 0 and groups == 1:
        return x @ kernel[0, 0]
    if size == stride and padding == 0 and dilation == 1 and groups == 1:
        return _patches(x, kernel)
    *lead, height, width, channels = x.shape
    folded = x.reshape(-1, height, width, channels)
    if groups == channels == d_out and jax.default_backend() == "cpu" and not is_plain():
        y = _depthwise(folded, kernel, stride, padding, dilation)
    else:
        y = lax.conv_general_dilated(
            folded,
            kernel,
            (stride, stride),
            [(padding, padding)] * 2,
            rhs_dilation=(dilation, dilation),
            dimension_numbers=_LAYOUT,
            feature_group_count=groups,
        )
    return y.reshape(*lead, *y.shape[1:])


def _patches(x, kernel):
    """Kernels that do not overlap: one product; what is left over at the end is not seen."""
    size, _, channels, d_out = kernel.shape
    *lead, height, width, _ = x.shape
    h, w = height // size, width // size
    x = x[..., : h * size, : w * size, :].reshape(*lead, h, size, w, size, channels)
    x = jnp.swapaxes(x, -4, -3).reshape(*lead, h, w, size * size * channels)
    return x @ kernel.reshape(-1, d_out)


def _depthwise(x, kernel, stride, padding, dilation):
    """Shifted multiply-adds: XLA's grouped convolution is about 20 times slower on CPU."""
    size = kernel.shape[0]
    x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    reach = dilation * (size - 1)
    h, w = (x.shape[i] - reach - 1 for i in (1, 2))
    total = None
    for i in range(size):
        for j in range(size):
            top, left = i * dilation, j * dilation
            window = x[:, top : top + h + 1 : stride, left : left + w + 1 : stride]
            term = window * kernel[i, j, 0][None, None, None]
            total = term if total is None else total + term
    return total


def conv_transpose(
    x: jax.Array,
    kernel: jax.Array,
    *,
    stride: int,
    padding: int = 0,
    output_padding: int = 0,
) -> jax.Array:
    """PyTorch's transposed convolution: ``[..., h, w, C]`` with ``[k, k, C, D]``.

    The size becomes ``(h - 1) * stride - 2 * padding + k + output_padding``. `kernel` is the
    adjoint's: tap (i, j) carries input (y, x) to output (y * stride + i - padding, ...).
    """
    size = kernel.shape[0]
    *lead, height, width, channels = x.shape
    before = size - 1 - padding
    y = lax.conv_general_dilated(
        x.reshape(-1, height, width, channels),
        kernel[::-1, ::-1],
        (1, 1),
        [(before, before + output_padding)] * 2,
        lhs_dilation=(stride, stride),
        dimension_numbers=_LAYOUT,
    )
    return y.reshape(*lead, *y.shape[1:])


def avg_pool(x: jax.Array, size: int) -> jax.Array:
    """Means of `size` x `size` blocks of ``[..., H, W, C]``; a last partial block counts itself."""
    *_, height, width, _ = x.shape
    for axis, length in ((x.ndim - 3, height), (x.ndim - 2, width)):
        blocks = -(-length // size)
        pad = [(0, 0)] * x.ndim
        pad[axis] = (0, blocks * size - length)
        shape = (*x.shape[:axis], blocks, size, *x.shape[axis + 1 :])
        total = jnp.pad(x, pad).reshape(shape).sum(axis + 1)
        real = jnp.clip(length - size * jnp.arange(blocks), 1, size).astype(x.dtype)
        rank = [1] * x.ndim
        rank[axis] = blocks
        x = total / real.reshape(rank)
    return x

"""The block of MLoRE, re-parameterised for inference."""

import jax
import jax.numpy as jnp
from flax import nnx

from mtl_vision.models.layers import gelu


def _affine(norm):  # gain and shift, [T, C], of a norm in evaluation
    gain = norm.scale[...] * jax.lax.rsqrt(norm.var[...] + norm.eps)
    return gain, norm.bias[...] - norm.mean[...] * gain


class MergedBlock(nnx.Module):
    """A `MoEBlock` in evaluation, re-parameterised: its 3x3 convolutions add up to one.

    Experts have no activation, so they, the task's own expert, the shared convolution and both
    norms are one 3x3 convolution, whose kernel depends on the gates of the image and the task. It
    costs ``9 C^2`` a pixel and task whatever the ranks, and keeps every expert's kernel.
    """

    def __init__(self, block: nnx.Module):
        (inner, inner_shift), (outer, outer_shift) = map(_affine, (block.experts_norm, block.norm))
        self.enter, self.router, self.leave = block.enter, block.router, block.leave
        kernels, biases = block.experts.products()
        self.experts, self.experts_bias = nnx.Param(kernels), nnx.Param(biases)
        self.gain = nnx.Param(inner * outer)
        up, gain = block.task_up.kernel[...], outer[:, None, None, None]
        own = jnp.einsum("tijcr,trd->tijcd", block.task_down.kernel[...], up)
        own_bias = jnp.einsum("tr,trd->td", block.task_down.bias[...], up)
        self.own = nnx.Param(own * gain)
        self.own_bias = nnx.Param((own_bias + block.task_up.bias[...]) * outer)
        self.fixed = nnx.Param(block.shared.kernel[None] * gain)
        shift = inner_shift + block.shared.bias[None]
        self.fixed_bias = nnx.Param(shift * outer + outer_shift)

    def __call__(
        self,
        x: jax.Array,
        *,
        noise: jax.Array | None = None,
        key: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """As `MoEBlock` without a key, which is not used."""
        del key
        z = self.enter(x)
        gates, gain = self.router(z, noise)
        y = jnp.moveaxis(_conv_each(jnp.moveaxis(z, -2, 1), *self._kernels(gates, gain, z)), 1, -2)
        return self.leave(gelu(y)), gates

    def merged(self) -> nnx.Module:
        """Returns itself."""
        return self

    def _kernels(self, gates, own, z):
        """Kernel ``[B, T, 3, 3, C, C]`` and bias ``[B, T, C]`` of every image and task."""
        parts = self.experts, self.own, self.fixed, self.experts_bias, self.own_bias
        experts, own_kernel, fixed, experts_bias, own_bias = (p.astype(z.dtype) for p in parts)
        gates, own, gain = (x.astype(z.dtype) for x in (gates, own, self.gain[...]))
        kernel = jnp.einsum("bte,eijcd->btijcd", gates, experts) * gain[None, :, None, None, None]
        kernel = kernel + own[..., None, None, None, None] * own_kernel[None] + fixed[None]
        bias = (gates @ experts_bias) * gain[None] + own[..., None] * own_bias[None]
        return kernel, bias + self.fixed_bias.astype(z.dtype)[None]


def _conv_each(x, kernel, bias):
    """``[B, T, h, w, C]`` with a kernel of its own for each: nine shifted products."""
    *_, h, w, _ = x.shape
    x = jnp.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)))
    shifts = [(i, j) for i in range(3) for j in range(3)]
    terms = [
        jnp.einsum("bthwc,btcd->bthwd", x[:, :, i : i + h, j : j + w], kernel[:, :, i, j])
        for i, j in shifts
    ]
    return sum(terms) + bias[:, :, None, None]

"""The maps inside of adapters against plain matrices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mtl_vision.models.adapters import generated
from mtl_vision.models.adapters.bottleneck import Bottleneck, PostNorm
from mtl_vision.models.adapters.hypernetwork import ORDERS
from mtl_vision.models.adapters.lora import LoRALinear, Pair
from mtl_vision.models.adapters.maps import Dense, Kronecker, Product
from mtl_vision.models.adapters.vpt import PromptedWindows, with_rows, without_rows
from mtl_vision.models.layers import Identity, Linear
from mtl_vision.models.windows import WindowAttention

KEY = jax.random.key(0)


def drawn(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def moved(module):
    """The module with all parameters drawn anew, so that none is zero."""
    state = nnx.to_pure_dict(nnx.state(module))
    nnx.update(module, jax.tree.map(lambda x: jnp.asarray(drawn(*x.shape)), state))
    return module


def affine(x, layer):
    """``x W + b`` of any layer with kernel and bias, in NumPy."""
    return x @ np.asarray(layer.kernel[...]) + np.asarray(layer.bias[...])


@pytest.mark.parametrize("C, D, rank", [(8, 4, 0), (4, 8, 0), (8, 4, 1)])
def test_kronecker_maps_equal_the_sum_of_products(C, D, rank):
    n, T, x = 2, 3, drawn(3, 2, 5, C)
    layer = moved(Kronecker(C, D, n=n, rank=rank, tasks=T, rngs=nnx.Rngs(params=KEY)))
    layer.rule = jnp.asarray(drawn(n, n, n))
    b = layer.b[...] if layer.a is None else layer.a[...] @ layer.b[...]
    bias = np.asarray(layer.bias[...])
    for t, y in enumerate(layer(jnp.asarray(x))):
        W = sum(np.kron(layer.rule[i], b[t, i]) for i in range(n))
        np.testing.assert_allclose(y, x[t] @ W + bias[t], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("order", ORDERS)
def test_a_template_is_enlarged_like_a_kronecker_product(order):
    p, q = drawn(2, 6, 3), drawn(2, 4, 3)  # [T, C0, R], [T, D0, R]
    for s in (1, 2, 4, 8):
        scaling, x = drawn(2, s, s)[: 1 + s % 2], drawn(2, 3, 6 * s)
        scaling = scaling if len(scaling) == 2 else scaling[0]  # per task, or for all
        y = generated.enlarged(x, p, q, jnp.asarray(scaling), order)
        for t in range(2):
            factors = [scaling if scaling.ndim == 2 else scaling[t], p[t] @ q[t].T]
            W = np.kron(*(factors if order == "scale_left" else factors[::-1]))
            np.testing.assert_allclose(y[t], x[t] @ W, rtol=1e-4, atol=1e-4)


def test_products_and_generated_maps_have_their_rank():
    low = moved(Product(6, 5, rank=2, bias=False, rngs=nnx.Rngs(params=KEY)))
    assert np.linalg.matrix_rank(low(jnp.eye(6)[None])[0]) == 2
    settings = generated.Settings(
        form="decomposed",
        embed=3,
        rank=2,
        ratio=1,
        sites=(),
        act="relu",
        norm="none",
        gain=0.0,
        bias="generated",
        affine=True,
        projection=(),
    )
    make = dict(role="down", base=(6, 5), tasks=2, zero=False, rngs=nnx.Rngs(params=KEY))
    layer = generated.GeneratedMap(6, 5, settings, **make)
    generator, e = moved(layer.generator), drawn(2, 3)
    layer.made = generator(jnp.asarray(e))
    y = layer(jnp.broadcast_to(jnp.eye(6), (2, 6, 6)))
    for t in range(2):
        # P [6, 2], Q [5, 2] and the bias are affine in the embedding, one after the other.
        made = affine(e[t], generator)
        P, Q, b = made[:12].reshape(6, 2), made[12:22].reshape(5, 2), made[22:]
        np.testing.assert_allclose(y[t], P @ Q.T + b, rtol=1e-5, atol=1e-5)


def test_a_bottleneck_by_hand():
    rngs = nnx.Rngs(params=KEY)
    down, up = (moved(Dense(*size, rngs=rngs)) for size in ((2, 1), (1, 2)))
    norm = PostNorm(2, gain=2.0, tasks=0, rngs=rngs)
    x = drawn(1, 3, 2)
    u = affine(np.maximum(affine(x, down), 0), up)
    layer = Bottleneck(Identity(), down, up, None, act="relu", shared=1)
    np.testing.assert_allclose(layer(x), x + u, rtol=1e-5)
    # Two channels normalise to -1 and 1.
    layer = Bottleneck(Identity(), down, up, norm, act="relu", shared=1)
    np.testing.assert_allclose(layer(x), x + 2 * np.sign(u - u.mean(-1, keepdims=True)), rtol=1e-2)


def test_lora_changes_q_and_v_and_folds_away():
    linear = Linear(4, 12, rngs=nnx.Rngs(params=KEY))
    pair = functools.partial(Pair, 4, 4, rank=2, bias=True, tasks=0)
    pairs = {site: moved(pair(rngs=nnx.Rngs(params=KEY))) for site in ("q", "v")}
    layer = LoRALinear(linear, pairs, scale=3.0, shared=1)
    x = jnp.asarray(drawn(1, 2, 4))
    change = np.array(layer(x) - linear(x))
    want = 3 * affine(affine(np.asarray(x), pairs["v"].a), pairs["v"].b)
    np.testing.assert_allclose(change[..., 8:], want, rtol=1e-4)
    assert np.abs(change[..., 4:8]).max() == 0 < np.abs(change[..., :4]).max()
    y = layer(x)
    np.testing.assert_allclose(layer.merged()(x), y, rtol=1e-4, atol=1e-5)


def test_every_window_sees_the_prompts_of_its_image():
    attn = moved(WindowAttention(2, 1, window=2, shift=1, shrink=True, rngs=nnx.Rngs(params=KEY)))
    x, prompts, n = drawn(1, 2, 4, 4, 2), drawn(1, 2, 3, 2), 3
    layer = PromptedWindows(attn, n, keep=True)
    y, out = without_rows(layer(with_rows(jnp.asarray(x), jnp.asarray(prompts))), n)
    # The first window of an image rolled by 1 is its rows and columns 1 and 2.
    tokens = np.concatenate([prompts[0], x[0, :, 1:3, 1:3].reshape(2, 4, 2)], 1)
    bias = np.zeros((7, 7))
    bias[3:, 3:] = attn.bias(2)[0]
    q, k, v = np.split(affine(tokens, attn.qkv), 3, -1)
    scores = np.exp(q @ np.swapaxes(k, 1, 2) / 2**0.5 + bias)
    mixed = affine(scores / scores.sum(-1, keepdims=True) @ v, attn.proj)
    np.testing.assert_allclose(y[0, :, 1:3, 1:3].reshape(2, 4, 2), mixed[:, 3:], rtol=1e-4)
    # Prompts become the mean over four windows, all of their own image.
    other = with_rows(jnp.asarray(x).at[:, 1].set(0), jnp.asarray(prompts))
    np.testing.assert_array_equal(without_rows(layer(other), n)[1][:, 0], out[:, 0])
    assert jnp.abs(without_rows(layer(other), n)[1][:, 1] - out[:, 1]).max() > 1e-3

"""Attention by all heads at once and one after the other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_vision.models import attention, convolution
from mtl_vision.models.attention import attend, by_heads, plain

KEY = jax.random.key(0)
LENGTHS = (2 * attention.QUERIES, 2 * attention.QUERIES + 44)


def test_attention_with_bias_by_hand():
    v = jnp.array([[[1.0], [3.0]]])
    q = k = jnp.zeros((1, 2, 4))
    bias = jnp.array([[0.0, -jnp.inf], [np.log(3.0), 0.0]])
    # First token sees itself only; the second weighs 3 : 1.
    np.testing.assert_allclose(attend(q, k, v, bias)[0, :, 0], [1.0, 1.5], rtol=1e-6)


@pytest.mark.parametrize("tokens", LENGTHS)
def test_head_by_head_equals_all_at_once_with_gradients(x64, tokens):
    q, k, v, weight = jax.random.normal(KEY, (4, 2, tokens, 8), jnp.float64)

    def measured(attention):
        def loss(*qkv):
            y = attention(*qkv)
            return (y * weight).sum(), y

        return jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(3 * q, k, v)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12),
        measured(by_heads),
        measured(lambda q, k, v: plain(q, k, v)),
    )


def test_half_precision_sums_in_float32():
    q, k, v = jax.random.normal(KEY, (3, 2, LENGTHS[1], 8), jnp.bfloat16)

    def gradients(attention, *qkv):
        def total(*qkv):
            return jnp.square(attention(*qkv).astype(jnp.float32)).sum()

        return jax.jit(jax.grad(total, (0, 1, 2)))(*qkv)

    exact = gradients(lambda q, k, v: plain(q, k, v), *(x.astype(jnp.float32) for x in (q, k, v)))
    for found, expected in zip(gradients(by_heads, q, k, v), exact, strict=True):
        assert found.dtype == jnp.bfloat16
        far = jnp.abs(found.astype(jnp.float32) - expected).max()
        assert far < 0.02 * jnp.abs(expected).max()


def test_one_cpu_keeps_no_scores_of_all_heads(monkeypatch):
    tokens = attention.LONG
    qkv = [jax.ShapeDtypeStruct((1, 3, 2, tokens, 8), jnp.float32)] * 3

    def squares():
        return f"{tokens},{tokens}" in str(jax.make_jaxpr(lambda *qkv: attend(*qkv))(*qkv))

    assert squares()  # the rows of the tests' eight devices may be sharded
    monkeypatch.setattr(attention.jax, "device_count", lambda: 1)
    assert not squares()
    with convolution.plain():
        assert squares()

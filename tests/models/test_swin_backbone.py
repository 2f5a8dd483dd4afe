"""Swin: any size, windows against plain attention, streams, remat, compute types, wrapping."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from mtl_vision import parallel
from mtl_vision.errors import ConfigError
from mtl_vision.models import mtl, windows
from mtl_vision.models.attention import attend
from mtl_vision.models.backbones import BACKBONES, swin
from mtl_vision.models.blocks import REMAT
from mtl_vision.train import program

KEY = jax.random.key(0)
TINY = dict(embed=8, depths=(2, 1), heads=(1, 2), window=4)


def build(**fields):
    return swin.Swin(**(TINY | fields), rngs=nnx.Rngs(params=jax.random.key(1)))


def image(height=32, width=32, batch=2):
    return jax.random.normal(KEY, (batch, height, width, 3))


def run(model, x, key=None):
    """Compiled: one small program instead of many."""
    graphdef, state = nnx.split(model)
    return jax.jit(lambda state: nnx.merge(graphdef, state)(x, key=key))(state)


@pytest.mark.parametrize("rule", swin.MAP_RULES)
@pytest.mark.parametrize("taps", swin.TAPS)
@pytest.mark.parametrize("size", [(33, 50), (5, 3)])
def test_any_size_runs(rule, taps, size):
    model = build(map_rule=rule, taps=taps)
    out = run(model, image(*size, batch=1))
    h, w = (-(-side // 4) for side in size)
    half = (-(-h // 2), -(-w // 2))
    expected = {"merged": [(*half, 16)] * 2, "stage": [(h, w, 8), (*half, 16)]}[taps]
    assert [x.shape for x in out] == [(1, 1, *shape) for shape in expected]
    assert model.channels == tuple(c for _, _, c in expected)
    assert model.strides == {"merged": (8, 8), "stage": (4, 8)}[taps]
    assert all(np.isfinite(x).all() for x in out)


def plain_attention(layer, x, neighbours, window):
    """Attention over all tokens of ``[H, W, C]`` at once, under a mask of who sees whom."""
    height, width, channels = x.shape
    heads = layer.heads
    qkv = layer.qkv(x.reshape(-1, channels)).reshape(height * width, 3, heads, -1)
    q, k, v = qkv.transpose(1, 2, 0, 3)
    at = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), -1)
    offset = (at.reshape(-1, 1, 2) - at.reshape(1, -1, 2)).clip(1 - window, window - 1) + window - 1
    table = np.asarray(layer.relative_position_bias_table[...])
    bias = table[offset[..., 0] * (2 * window - 1) + offset[..., 1]].transpose(2, 0, 1)
    out = attend(q, k, v, jnp.where(neighbours, bias, -jnp.inf))
    return layer.proj(out.transpose(1, 0, 2).reshape(height, width, channels))


@pytest.mark.devices8
def test_devices_exchange_one_gradient_of_the_bias_and_not_one_per_window():
    mesh, heads, tokens = parallel.make_mesh(data=8), 2, 16
    options = dict(window=4, shift=2, shrink=False, rngs=nnx.Rngs(params=KEY))
    graphdef, params = nnx.split(windows.WindowAttention(8, heads, **options))

    def loss(params, x):
        return jnp.square(nnx.merge(graphdef, params)(x)).sum()

    places = (parallel.NamedSharding(mesh, P()), parallel.NamedSharding(mesh, P(None, "data")))
    gradient = jax.jit(jax.grad(loss), in_shardings=places, out_shardings=places[0])
    text = gradient.lower(params, jnp.zeros((1, 8, 8, 8, 8))).compile().as_text()
    exchanged = sum(c.array for c in program.collectives(text, mesh.shape))
    weights = sum(x.size for x in jax.tree.leaves(params) if x.shape != (49, heads))
    assert exchanged == 4 * (weights + heads * tokens**2)


def window_of(size, window, shift):
    """Number of the window of every token along one axis: cuts at shift, shift + window, ..."""
    return (np.arange(size) - shift) // window


def attention(window, shift, shrink=False):
    layer = windows.WindowAttention(
        8, 2, window=window, shift=shift, shrink=shrink, rngs=nnx.Rngs(params=KEY)
    )
    table = layer.relative_position_bias_table  # large enough to matter
    table[...] = jax.random.normal(KEY, table.shape)
    return layer


@pytest.mark.parametrize("window, shift", [(4, 0), (4, 2), (2, 1)])
def test_windows_equal_masked_attention_over_all_tokens(window, shift):
    height, width = 8, 12
    layer = attention(window, shift)
    x = jax.random.normal(KEY, (height, width, 8))
    rows, columns = (window_of(n, window, shift) for n in (height, width))
    label = (100 * rows[:, None] + columns[None]).ravel()
    expected = plain_attention(layer, x, label[:, None] == label[None], window)
    np.testing.assert_allclose(layer(x[None, None])[0, 0], expected, atol=1e-5)


def test_a_small_map_is_one_window_with_the_bias_of_its_offsets():
    layer = attention(window=7, shift=3, shrink=True)
    x = jax.random.normal(KEY, (3, 3, 8))
    expected = plain_attention(layer, x, np.ones((9, 9), bool), 7)
    np.testing.assert_allclose(layer(x[None, None])[0, 0], expected, atol=1e-5)


class Open(nnx.Module):
    """Opens streams that differ by a factor."""

    def __init__(self, *factors):
        self.factors = factors

    def __call__(self, x):
        return jnp.concatenate([factor * x for factor in self.factors])


def test_streams_are_independent():
    model = build()
    factors = (1.0, 2.0, 3.0)
    model.entry = Open(*factors)
    together = run(model, image())
    for i, factor in enumerate(factors):
        model.entry = Open(factor)
        alone = run(model, image())
        for a, b in zip(together, alone, strict=True):
            np.testing.assert_allclose(a[i], b[0], rtol=1e-4, atol=1e-5)


def test_no_key_is_deterministic_and_a_key_drops_paths():
    model = build(drop_path=0.5)
    plain = [run(model, image(), key) for key in (None, None, KEY, KEY, jax.random.key(9))]
    deepest = [np.asarray(out[-1]) for out in plain]
    np.testing.assert_array_equal(deepest[0], deepest[1])
    np.testing.assert_array_equal(deepest[2], deepest[3])
    assert np.abs(deepest[0] - deepest[2]).max() > 1e-3
    assert np.abs(deepest[2] - deepest[4]).max() > 1e-3


def test_drop_path_rises_from_zero():
    model = mtl.abstract(lambda: build(depths=(2, 3), drop_path=0.2))
    assert np.allclose([r for s in model.stages for r in s.rates], [0, 0.05, 0.1, 0.15, 0.2])


def test_remat_changes_neither_value_nor_gradient():
    def value_and_grad(remat):
        graphdef, state = nnx.split(build(depths=(2,), heads=(1,), remat=remat, drop_path=0.2))

        def value(state):
            return sum(jnp.square(x).sum() for x in nnx.merge(graphdef, state)(image(), key=KEY))

        return jax.jit(jax.value_and_grad(value))(nnx.to_pure_dict(state))

    expected = jax.tree.leaves(value_and_grad("none"))
    for remat in set(REMAT) - {"none"}:
        for a, b in zip(jax.tree.leaves(value_and_grad(remat)), expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


def test_scanned_pairs_equal_unrolled_blocks_with_gradient():
    fields = dict(embed=4, depths=(5,), heads=(1,), window=2, remat="block", drop_path=0.3)

    def trace(scan):
        graphdef, state = nnx.split(build(scan=scan, **fields))

        def value(state, key):
            taps = nnx.merge(graphdef, state)(image(8, 16), key=key)
            return sum(jnp.square(x).sum() for x in taps)

        return jax.jit(jax.value_and_grad(value)), nnx.to_pure_dict(state)

    (plain, state), (scanned, same) = trace(False), trace(True)
    assert jax.tree.map(jnp.shape, same) == jax.tree.map(jnp.shape, state)
    assert "scan" in str(jax.make_jaxpr(scanned)(state, KEY))
    pairs = zip(*(jax.tree.leaves(f(state, KEY)) for f in (scanned, plain)), strict=True)
    for a, b in pairs:
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


def test_a_scan_leaves_out_blocks_that_open_streams():
    plain, scanned = build(depths=(6,), heads=(1,)), build(depths=(6,), heads=(1,), scan=True)
    for model in (plain, scanned):
        block = model.stages[0].blocks[1]
        block.mlp.fc2 = Widen(block.mlp.fc2, lambda _: None)
    for a, b in zip(run(scanned, image()), run(plain, image()), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_bfloat16_is_close_to_float32():
    pair = run(build(), image()), run(build(dtype="bfloat16"), image())
    for exact, short in zip(*pair, strict=True):
        assert short.dtype == jnp.bfloat16
        error = jnp.abs(exact - short.astype(jnp.float32)).max() / jnp.abs(exact).max()
        assert error < 0.05


class Widen(nnx.Module):
    """An adapter for the test: the wrapped layer, and a second stream that sees the key."""

    def __init__(self, layer, seen):
        self.layer, self.seen = layer, seen

    def __call__(self, x, *, key=None):
        self.seen(key is not None)
        y = self.layer(x, key=key)
        return jnp.concatenate([y[:1], y[:1] + 1]) if y.shape[0] == 1 else y


class SharedOnly(nnx.Module):
    """Ends the streams of a stage."""

    def __call__(self, x):
        return x[:1]


@pytest.mark.parametrize("place", ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"])
def test_a_wrapped_layer_may_widen_the_streams(place):
    model, seen = build(), []
    block = model.stages[0].blocks[-1]
    part, name = place.split(".")
    holder = getattr(block, part)
    setattr(holder, name, Widen(getattr(holder, name), seen.append))
    assert [x.shape[0] for x in run(model, image(), KEY)] == [2, 2] and seen == [True]
    model.handover = SharedOnly()
    assert [x.shape[0] for x in run(model, image())] == [2, 1] and seen == [True, False]


@pytest.mark.parametrize(
    "fields, fault",
    [
        (dict(depths=(2,)), "one entry per stage"),
        (dict(heads=(3, 2)), "3 heads do not divide 8"),
        (dict(map_rule="micro"), "backbone.map_rule"),
        (dict(taps="stages"), "Did you mean 'stage'"),
        (dict(remat="blocks"), "Did you mean 'block'"),
    ],
)
def test_faults_are_named(fields, fault):
    with pytest.raises(ConfigError, match=fault):
        build(**fields)


@pytest.mark.parametrize("name", BACKBONES)
def test_unknown_fields_are_refused(name):
    with pytest.raises(TypeError, match="windows"):
        BACKBONES[name](windows=7, rngs=nnx.Rngs(params=KEY))

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_vision import losses, tasks
from mtl_vision.errors import ConfigError

jit = cache(jax.jit)
LOSSES = {
    "cross_entropy": (losses.cross_entropy, 4),
    "balanced_cross_entropy": (partial(losses.cross_entropy, balanced=True), 2),
    "binary_cross_entropy": (losses.binary_cross_entropy, 1),
    "edge": (partial(losses.binary_cross_entropy, positive=0.95), 1),
    "normals": (losses.normals, 3),
    "normals_per_component": (partial(losses.normals, per="component", order=2), 3),
    "depth": (losses.depth, 1),
    "silog": (losses.silog, 1),
}
ALL = pytest.mark.parametrize("name", LOSSES)


def nhwc(x):
    return jnp.asarray(np.moveaxis(np.asarray(x), 1, -1), float)


def loss_mean(loss, *data):
    return losses.mean(*loss(*data))


@cache
def graded(name):
    return jax.jit(jax.value_and_grad(partial(loss_mean, LOSSES[name][0])))


def batch(name, B=3, seed=0, scale=1.0):
    rs = np.random.RandomState(seed)
    K = LOSSES[name][1]
    pred = scale * rs.standard_normal((B, 5, 7, K))
    label = rs.randint(0, max(K, 2), (B, 5, 7))
    if name in ("depth", "silog"):
        pred, label = np.abs(pred) + 0.1, 0.5 + 9 * rs.rand(B, 5, 7)
    if name.startswith("normals"):
        label = rs.standard_normal((B, 5, 7, 3))
        label /= np.linalg.norm(label, axis=-1, keepdims=True)
    dtype = jnp.uint8 if label.dtype.kind == "i" else jnp.float32
    return (
        jnp.asarray(pred, jnp.float32),
        jnp.asarray(label, dtype),
        jnp.asarray(rs.rand(B, 5, 7) < 0.7),
    )


def example_l():
    rs = np.random.RandomState(6)
    binary = (rs.rand(2, 1, 8, 10) < 0.3).astype(np.uint8)[:, 0]
    logits, logits2 = rs.standard_normal((2, 1, 8, 10)), rs.standard_normal((2, 2, 8, 10))
    label = rs.randint(0, 7, (2, 1, 8, 10))
    label[:, :, 0] = 255
    seg = rs.standard_normal((2, 7, 8, 10))
    return binary, nhwc(logits), nhwc(logits2), label[:, 0].astype(np.uint8), nhwc(seg)


def of(kind, protocol, pred, label, mask=None):
    options = {"classes": "abcdefg"} if kind == "semseg" else {}
    task = tasks.TASKS[kind]("x", protocol, **options)
    mask = jnp.asarray(label != 255 if mask is None else mask)
    return float(loss_mean(jit(task.loss), pred, jnp.asarray(label), mask))


def test_worked_numbers_of_protocol_a(x64):
    binary, logits, _, label, seg = example_l()
    # Printed from a mix of float32 and float64; good to 2e-8.
    assert of("edge", "A", logits, binary) == pytest.approx(0.2017265420, rel=3e-8)
    assert of("sal", "A", logits, binary) == pytest.approx(0.2913068743, rel=3e-8)
    assert of("semseg", "A", seg, label) == pytest.approx(2.4395151524, rel=3e-8)
    assert of("human_parts", "A", seg, label) == pytest.approx(2.4395151524, rel=3e-8)


def test_worked_numbers_of_protocol_b(x64):
    binary, logits, logits2, label, seg = example_l()
    void = binary.copy()
    void[:, :2] = 255
    assert of("edge", "B", logits, binary) == pytest.approx(0.2017265455, rel=3e-8)
    assert of("edge", "B", logits, void) == pytest.approx(0.2245493770, rel=3e-8)
    assert of("sal", "B", logits2, binary) == pytest.approx(0.3781702518, rel=3e-8)
    assert of("sal", "B", logits2, void) == pytest.approx(0.4101476967, rel=3e-8)
    assert of("semseg", "B", seg, label) == pytest.approx(2.4395151138, rel=3e-8)


def test_worked_numbers_of_normals_and_depth(x64):
    rs = np.random.RandomState(4)
    label = rs.standard_normal((2, 3, 8, 10))
    label /= np.linalg.norm(label, axis=1, keepdims=True)
    pred = nhwc(label + 0.3 * rs.standard_normal((2, 3, 8, 10)))
    valid = ~(rs.rand(2, 8, 10) < 0.2)
    label = nhwc(np.where(valid[:, None], label, 255))
    assert of("normals", "A", pred, label, valid) == pytest.approx(0.1746168181, abs=5e-11)
    assert of("normals", "B", pred, label, valid) == pytest.approx(0.5238504542, abs=5e-11)
    rs = np.random.RandomState(5)
    label = 0.5 + 9 * rs.rand(2, 1, 8, 10)
    pred = label + 0.5 * rs.standard_normal(label.shape)
    pred[0, 0, 0, 0:2] = -1
    label[rs.rand(2, 1, 8, 10) < 0.15] = 255
    assert of("depth", "B", nhwc(pred), label[:, 0]) == pytest.approx(0.4505043956, abs=5e-11)


def test_silog_by_hand():
    # e = ln 2 and -ln 2: mean of squares (ln 2)^2, mean 0. Scaling all predictions by 2 adds ln 2:
    # squares 0 and (2 ln 2)^2, mean ln 2, and 2 - 1/2 times (ln 2)^2 remain.
    label = jnp.array([[[1.0, 4.0]]])
    mask = jnp.ones((1, 1, 2), bool)
    pred = jnp.array([[[[2.0], [2.0]]]])
    ln2 = np.log(2)
    assert float(loss_mean(losses.silog, pred, label, mask)) == pytest.approx(ln2)
    found = float(loss_mean(losses.silog, 2 * pred, label, mask))
    assert found == pytest.approx(ln2 * np.sqrt(1.5), rel=1e-6)


def test_norms_by_hand():
    total, count = jnp.array([6.0, 4.0, 0.0]), jnp.array([2.0, 4.0, 0.0])
    found = [float(losses.mean(total, count, norm)) for norm in ("pixel", "sample", "batch")]
    assert found == pytest.approx([10 / 6, (3 + 1) / 2, (3 + 1) / 3])
    with pytest.raises(ConfigError, match="loss_norm='pixels'.*Did you mean 'pixel'"):
        losses.mean(total, count, "pixels")


@pytest.mark.parametrize("norm", losses.NORMS)
def test_nothing_valid_is_zero(norm):
    assert float(losses.mean(jnp.zeros(3), jnp.zeros(3), norm)) == 0


@ALL
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_value_and_gradient_are_finite(name, scale):
    value, gradient = graded(name)(*batch(name, scale=scale))
    assert np.isfinite(value) and value >= 0
    assert np.isfinite(gradient).all()


@ALL
def test_no_valid_pixel_gives_zero_and_no_gradient(name):
    pred, label, mask = batch(name)
    value, gradient = graded(name)(pred, label, jnp.zeros_like(mask))
    assert value == 0 and not gradient.any()


@ALL
def test_what_is_masked_is_not_read(name):
    pred, label, mask = batch(name)
    expected = graded(name)(pred, label, mask)
    spread = mask.reshape(*mask.shape, *[1] * (label.ndim - 3))
    bad_label = jnp.nan if label.dtype == jnp.float32 else 255
    found = graded(name)(
        jnp.where(mask[..., None], pred, jnp.nan), jnp.where(spread, label, bad_label), mask
    )
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.asarray(found[1])[~np.asarray(mask)].any()


@ALL
def test_zero_predictions_have_a_finite_gradient(name):
    pred, label, mask = batch(name)
    value, gradient = graded(name)(jnp.zeros_like(pred), label, mask)
    assert np.isfinite(value) and np.isfinite(gradient).all()


@ALL
def test_filler_rows_change_nothing(name):
    pred, label, mask = batch(name)
    total, count = jit(LOSSES[name][0])(pred, label, mask)
    more = [jnp.concatenate([x, x[:2]]) for x in (pred, label)]
    padded = jit(LOSSES[name][0])(*more, jnp.concatenate([mask, jnp.zeros_like(mask[:2])]))
    np.testing.assert_allclose(padded[0], [*total, 0, 0], rtol=1e-6)
    np.testing.assert_array_equal(padded[1], [*count, 0, 0])


@ALL
def test_bfloat16_is_summed_in_float32_and_float64_stays(name, x64):
    pred, label, mask = batch(name)
    for dtype, expected in ((jnp.bfloat16, jnp.float32), (jnp.float64, jnp.float64)):
        wide = label if label.dtype == jnp.uint8 else label.astype(expected)
        total, count = jit(LOSSES[name][0])(pred.astype(dtype), wide, mask)
        assert total.dtype == count.dtype == expected


@pytest.mark.devices8
@ALL
def test_eight_devices_equal_one(name):
    data = batch(name, B=16)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    one, eight = graded(name)(*data), graded(name)(*jax.device_put(data, rows))
    for a, b in zip(one, eight, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_class_balance_is_over_the_whole_batch():
    # One image all positive, one all negative: w = 1/2, every pixel weighs half.
    pred = jnp.zeros((2, 1, 4, 1))
    label = jnp.array([[[1] * 4], [[0] * 4]], jnp.uint8)
    value = loss_mean(losses.binary_cross_entropy, pred, label, jnp.ones((2, 1, 4), bool))
    assert float(value) == pytest.approx(np.log(2) / 2)


def test_normals_ignore_length_but_not_direction():
    label = jnp.array([[[[0.0, 0.0, 1.0]]]])
    mask = jnp.ones((1, 1, 1), bool)
    for length in (1e-6, 1.0, 1e6):
        pred = length * jnp.array([[[[0.6, 0.0, 0.8]]]])
        assert float(loss_mean(losses.normals, pred, label, mask)) == pytest.approx(0.8, rel=1e-6)
    with pytest.raises(ConfigError, match="per"):
        losses.normals(label, label, mask, per="image")

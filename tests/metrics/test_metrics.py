"""Worked numbers, and what all metrics have in common."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_vision import metrics
from mtl_vision.metrics import delta_m, depth, edge, normals, saliency, segmentation

METRICS = {
    "semseg": (segmentation.segmentation(5), 5),
    "depth": (depth.depth(), 1),
    "normals": (normals.normals(), 3),
    "edge": (edge.edge(), 1),
    "sal_1": (saliency.saliency(), 1),
    "sal_2": (saliency.saliency(), 2),
}
CONSTANTS = {
    "semseg": segmentation.constant(5),
    "depth": depth.constant(),
    "normals": normals.constant(),
    "sal_1": saliency.constant(),
}


jit = cache(jax.jit)


def nhwc(x):
    return jnp.asarray(np.moveaxis(np.asarray(x), 1, -1), float)


def finished(metric, pred, label, mask=None):
    """The metric of one batch; labels [B, H, W] may hold 255."""
    mask = label != 255 if mask is None else jnp.asarray(mask)
    sums = jit(metric.sums)(pred, label, mask, jnp.ones(len(pred), bool))
    return metric.finish(metrics.add({}, sums))


def one_hot(pred, classes):
    return jax.nn.one_hot(pred, classes)


def test_semseg_example_g():
    rs = np.random.RandomState(0)
    logits = rs.standard_normal((2, 21, 8, 10))
    label = rs.randint(0, 21, (2, 1, 8, 10))
    label[rs.rand(2, 1, 8, 10) < 0.1] = 255
    label = jnp.asarray(label[:, 0], jnp.uint8)
    metric = segmentation.segmentation(21)
    sums = jit(metric.sums)(nhwc(logits), label, label != 255, jnp.ones(2, bool))
    totals = metrics.add({}, sums)
    assert totals["confusion"].sum() == 2 * 80 - 13
    expected = (
        "0.071429 0 0.083333 0 0 0 0.222222 0 0.153846 0.090909 0 0.0625 0 0.066667 0.090909"
        " 0 0 0.117647 0 0.133333 0"
    )
    np.testing.assert_allclose(
        segmentation.class_iou(totals["confusion"]), [float(x) for x in expected.split()], atol=5e-7
    )
    assert metric.finish(totals)["mIoU"] == pytest.approx(5.20378820, abs=5e-9)


def test_semseg_example_g2_counts_absent_classes():
    rs = np.random.RandomState(1)
    label = rs.randint(0, 5, (2, 1, 8, 10))
    r, q = rs.rand(2, 8, 10), rs.randint(0, 21, (2, 8, 10))
    pred = np.where(r < 0.7, label[:, 0], q)
    label[rs.rand(2, 1, 8, 10) < 0.1] = 255
    label = jnp.asarray(label[:, 0], jnp.uint8)
    for classes, expected in ((21, 17.03116038), (40, 8.94135920)):
        found = finished(segmentation.segmentation(classes), one_hot(pred, classes), label)
        assert found["mIoU"] == pytest.approx(expected, abs=5e-9)


def test_human_parts_example_p():
    rs = np.random.RandomState(2)
    label = rs.randint(0, 7, (3, 1, 8, 10))
    r, q = rs.rand(3, 8, 10), rs.randint(0, 7, (3, 8, 10))
    pred = np.where(r < 0.6, label[:, 0], q)
    label[1] = 255
    found = finished(
        segmentation.segmentation(7), one_hot(pred, 7), jnp.asarray(label[:, 0], jnp.uint8)
    )
    assert found["mIoU"] == pytest.approx(48.72850635, abs=5e-9)


def example_s():
    rs = np.random.RandomState(3)
    label = (rs.rand(3, 1, 8, 10) < 0.4).astype(float)
    logit = rs.standard_normal((3, 1, 8, 10)) + 1.5 * (2 * label - 1)
    return nhwc(logit), jnp.asarray(label[:, 0], jnp.uint8)


def test_saliency_example_s_protocol_a(x64):
    pred, label = example_s()
    metric = saliency.saliency()
    totals = metrics.add({}, jit(metric.sums)(pred, label, label != 255, jnp.ones(3, bool)))
    found = metric.finish(totals)
    assert found["mIoU"] == pytest.approx(80.86309524, abs=5e-9)
    assert found["maxF"] == pytest.approx(89.52840926, abs=5e-9)
    expected = (
        "0.598665 0.682237 0.714229 0.724997 0.755617 0.798733 0.797701 0.793104 0.808631"
        " 0.808303 0.784599 0.684127 0.588624 0.431481 0.263492"
    )
    iou, f = saliency.curves(totals)
    np.testing.assert_allclose(iou, [float(x) for x in expected.split()], atol=5e-7)
    assert (saliency.A[iou.argmax()], saliency.A[f.argmax()]) == pytest.approx((0.6, 0.6))


def test_saliency_example_s_with_an_empty_image(x64):
    pred, label = example_s()
    found = finished(saliency.saliency(), pred, label.at[2].set(0))
    assert found["mIoU"] == pytest.approx(53.21127579, abs=5e-9)
    assert found["maxF"] == pytest.approx(59.13699498, abs=1e-8)


def test_saliency_example_s_protocol_b():
    logit, label = example_s()
    for pred in (logit, jnp.concatenate([jnp.zeros_like(logit), logit], -1)):
        found = finished(saliency.saliency(), pred, label)
        # The printed numbers were summed in float32: good to 1e-6 as fractions.
        assert found["maxF_atrc"] == pytest.approx(93.89510155, abs=1e-4)
        assert found["maxF_invpt"] == pytest.approx(92.93432236, abs=1e-4)
        found = finished(saliency.saliency(), pred, label.at[:, :2].set(255))
        assert found["maxF_invpt"] == pytest.approx(94.74812150, abs=1e-4)


@pytest.mark.parametrize("p,atrc,protocol_a", [(0.5, 10, 6), (0.25, 5, 1)])
def test_saliency_thresholds_are_strict_in_a_only(p, atrc, protocol_a):
    # The sigmoid of these logits is exactly p, the (protocol_a + 1)-th threshold of A.
    pred = jnp.full((1, 1, 1, 1), np.log(p / (1 - p)))
    assert float(saliency.probability(pred)[0, 0, 0]) == p
    one = jnp.ones((1, 1, 1), bool)
    passed = jit(saliency.saliency().sums)(pred, one, one, one[0, 0])["predicted"]
    assert (int(passed[:15].sum()), int(passed[15:34].sum())) == (protocol_a, atrc)


def test_normals_example_n(x64):
    rs = np.random.RandomState(4)
    label = rs.standard_normal((2, 3, 8, 10))
    label /= np.linalg.norm(label, axis=1, keepdims=True)
    pred = label + 0.3 * rs.standard_normal((2, 3, 8, 10))
    valid = ~(rs.rand(2, 8, 10) < 0.2)
    label[np.broadcast_to(~valid[:, None], label.shape)] = 255
    assert valid.sum() == 122
    found = finished(normals.normals(), nhwc(pred), nhwc(label), valid)
    assert found["mean"] == pytest.approx(20.1696072260, abs=5e-11)
    assert found["rmse"] == pytest.approx(22.9468343566, abs=5e-11)
    assert found["median"] == pytest.approx(18.5767329617, abs=0.005)  # half a bin
    assert found["11.25"] == pytest.approx(23.7704918, abs=5e-8)
    assert found["22.5"] == pytest.approx(62.2950820, abs=5e-8)
    assert found["30"] == pytest.approx(79.5081967, abs=5e-8)


def test_depth_example_d(x64):
    rs = np.random.RandomState(5)
    label = 0.5 + 9 * rs.rand(2, 1, 8, 10)
    pred = label + 0.5 * rs.standard_normal(label.shape)
    pred[0, 0, 0, 0:2] = -1
    label[rs.rand(2, 1, 8, 10) < 0.15] = 255
    label = jnp.asarray(label[:, 0])
    assert int((label != 255).sum()) == 139
    found = finished(depth.depth(), nhwc(pred), label)
    expected = {
        "rmse": 0.8616926539,
        "log_rmse": 3.6151455915,
        "abs_rel": 0.1478836864,
        "sq_rel": 0.1510469693,
    }
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, abs=5e-11), key


def test_angles_that_an_arc_cosine_cannot_tell():
    a = jnp.array([[0.0, 0.0, 1.0], [0.0, 0.0, 2.0], [0.0, 0.0, 0.0]])
    b = jnp.array([[1e-5, 0.0, 1.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
    np.testing.assert_allclose(normals.angle(a, b), [np.degrees(1e-5), 180, 90], rtol=1e-5)


def test_delta_m_of_published_rows():
    kinds = {"semseg": 1, "human_parts": 1, "sal": 1, "normals": -1}

    def of(values, base=delta_m.SWIN_T_PASCAL, signs=kinds):
        return delta_m.delta_m(dict(zip(signs, values, strict=True)), base, signs)

    assert of((67.90, 59.84, 65.40, 16.60)) == pytest.approx(2.5418531, abs=1e-7)  # MTLoRA r64
    assert of((67.56, 60.24, 65.21, 16.64)) == pytest.approx(2.45, abs=5e-3)  # full fine-tuning
    signs = {"edge": 1} | kinds  # ASTMT: its average drop is -6.81
    astmt = dict(zip(signs, (72.7, 68.30, 60.70, 65.40, 14.61), strict=True))
    found = of((69.2, 63.20, 55.10, 63.60, 16.04), astmt, signs)
    assert found == pytest.approx(-6.81, abs=5e-3)


def batch(name, B=4, seed=0):
    rs = np.random.RandomState(seed)
    channels = METRICS[name][1]
    pred = rs.standard_normal((B, 6, 9, channels))
    label = {
        "depth": lambda: 0.5 + rs.rand(B, 6, 9),
        "normals": lambda: rs.standard_normal((B, 6, 9, 3)),
    }.get(name, lambda: rs.randint(0, max(channels, 2), (B, 6, 9)).astype(np.uint8))()
    label = jnp.asarray(label, jnp.float32 if name in ("depth", "normals") else jnp.uint8)
    return jnp.asarray(pred, jnp.float32), label, jnp.asarray(rs.rand(B, 6, 9) < 0.8)


def assert_same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_allclose(a[key], b[key], rtol=2e-6, err_msg=key)


@pytest.mark.parametrize("name", METRICS)
def test_filler_rows_leave_no_trace(name):
    pred, label, mask = batch(name)
    valid = jnp.arange(7) < 4
    padded = [jnp.concatenate([pred, jnp.full_like(pred[:3], jnp.nan)])]
    padded += [jnp.concatenate([x, x[:3]]) for x in (label, mask)]
    sums = jit(METRICS[name][0].sums)
    assert_same(sums(pred, label, mask, valid[:4]), sums(*padded, valid))
    if name in CONSTANTS:
        sums = jit(CONSTANTS[name].sums)
        assert_same(sums(label, mask, valid[:4]), sums(*padded[1:], valid))


@pytest.mark.parametrize("name", METRICS)
def test_masked_pixels_leave_no_trace(name):
    pred, label, mask = batch(name)
    valid = jnp.ones(4, bool)
    wide = mask.reshape(*mask.shape, *[1] * (label.ndim - 3))
    other = jnp.where(wide, label, 255)
    changed = jnp.where(mask[..., None], pred, jnp.nan)
    sums = jit(METRICS[name][0].sums)
    assert_same(sums(pred, label, mask, valid), sums(changed, other, mask, valid))


@pytest.mark.parametrize("name", METRICS)
def test_two_batches_are_one(name):
    metric, (pred, label, mask) = METRICS[name][0], batch(name)
    valid = jnp.ones(4, bool)
    sums = jit(metric.sums)
    whole = metric.finish(metrics.add({}, sums(pred, label, mask, valid)))
    totals = {}
    for part in (slice(0, 1), slice(1, 4)):
        totals = metrics.add(totals, sums(pred[part], label[part], mask[part], valid[part]))
    assert_same(whole, metric.finish(totals))
    assert all(x.dtype in (np.int64, np.float64) for x in totals.values())


@pytest.mark.parametrize("name", METRICS)
def test_an_empty_split_has_no_score(name):
    pred, label, mask = batch(name)
    none = jnp.zeros_like(mask)
    found = finished(METRICS[name][0], pred, label, none)
    if name != "semseg":  # where an absent class counts as 0
        assert np.isnan([v for k, v in found.items() if k not in ("maxF_atrc", "maxF_invpt")]).all()
    if name in CONSTANTS:
        metric = CONSTANTS[name]
        metric.finish(metrics.add({}, jit(metric.sums)(label, none, jnp.ones(4, bool))))


@pytest.mark.devices8
@pytest.mark.parametrize("name", METRICS)
def test_eight_devices_count_what_one_counts(name):
    metric, data = METRICS[name][0], (*batch(name, 16), jnp.arange(16) < 13)
    axis = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((8,), ("data",), axis_types=axis)
    rows, everywhere = (
        jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*p)) for p in (("data",), ())
    )
    eight = jax.jit(metric.sums, out_shardings=everywhere)(*jax.device_put(data, rows))
    assert_same(jit(metric.sums)(*data), eight)


def test_long_sums_keep_their_digits():
    # 2e5 pixels of 0.1 m error: a float32 sum that adds one by one is off by 1e-3.
    label = jnp.ones((1, 448, 448), jnp.float32)
    found = finished(depth.depth(), label[..., None] + 0.1, label, label > 0)
    assert found["rmse"] == pytest.approx(0.1, rel=2e-6)
    assert found["abs_rel"] == pytest.approx(0.1, rel=2e-6)


def test_best_constant_class():
    label = jnp.array([[[0, 0, 0, 1, 4]]], jnp.uint8)
    found = finished_constant("semseg", label)
    assert found == {"mIoU": pytest.approx(100 * 3 / 5 / 5)}  # IoU 3/5 in one class of five
    best = max(
        finished(METRICS["semseg"][0], one_hot(jnp.full_like(label, k), 5), label)["mIoU"]
        for k in range(5)
    )
    assert found["mIoU"] == pytest.approx(best)


def finished_constant(name, label, mask=None):
    metric = CONSTANTS[name]
    mask = jnp.ones(label.shape[:3], bool) if mask is None else mask
    sums = jit(metric.sums)(label, mask, jnp.ones(len(label), bool))
    return metric.finish(metrics.add({}, sums))


def test_best_constant_depth_is_the_mean():
    _, label, mask = batch("depth")
    found = finished_constant("depth", label, mask)
    values = [0.9, float(label[mask].mean()), 1.1]
    scores = [
        finished(METRICS["depth"][0], jnp.full((*label.shape, 1), v), label, mask)["rmse"]
        for v in values
    ]
    assert found["rmse"] == pytest.approx(scores[1], rel=1e-5) and scores[1] == min(scores)


def test_best_constant_direction():
    rs = np.random.RandomState(0)
    label = np.array([0.3, -0.2, -0.93]) + 0.3 * rs.standard_normal((2, 20, 20, 3))
    label = jnp.asarray(label / np.linalg.norm(label, axis=-1, keepdims=True), jnp.float32)
    mean = jnp.broadcast_to(label.mean((0, 1, 2)), label.shape)
    score = finished(METRICS["normals"][0], mean, label, jnp.ones((2, 20, 20), bool))["mean"]
    assert finished_constant("normals", label)["mean"] == pytest.approx(score, rel=1e-3)
    # Two opposite directions have no mean; the axis between them is 90 degrees away from both.
    pair = jnp.array([[[[1.0, 0, 0], [-1.0, 0, 0]]]])
    assert finished_constant("normals", pair)["mean"] == pytest.approx(90)


@pytest.mark.parametrize("label", [[[1, 0, 0, 0], [0, 0, 0, 0]], [[1, 1, 1, 0], [1, 0, 0, 0]]])
def test_best_constant_saliency(label):
    label = jnp.array(label, jnp.uint8)[:, None]
    mask = jnp.ones(label.shape, bool)
    found = finished_constant("sal_1", label)
    tried = [
        finished(METRICS["sal_1"][0], jnp.full((*label.shape, 1), v), label, mask)
        for v in (-20.0, 20.0)
    ]
    for key, value in found.items():
        assert value == pytest.approx(max(t[key] for t in tried)), key

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_vision import metrics, tasks
from mtl_vision.errors import ConfigError


def make(kind, protocol="A", **options):
    if kind == "semseg":
        options.setdefault("classes", ("sky", "tree", "road"))
    return tasks.TASKS[kind]("city", protocol, **options)


def batch(task, B=2):
    rs = np.random.RandomState(0)
    pred = jnp.asarray(rs.standard_normal((B, 4, 6, task.channels)), jnp.float32)
    if task.kind in ("depth", "normals"):
        shape = (B, 4, 6, 3) if task.kind == "normals" else (B, 4, 6)
        label = jnp.asarray(0.5 + rs.rand(*shape), jnp.float32)
    else:
        label = jnp.asarray(rs.randint(0, max(2, task.channels), (B, 4, 6)), jnp.uint8)
    return pred, label, jnp.ones((B, 4, 6), bool)


def test_every_kind_has_a_constructor_in_the_one_order():
    assert tuple(tasks.TASKS) == tasks.KINDS
    assert tasks.KINDS == ("semseg", "depth", "normals", "edge", "sal", "human_parts")


@pytest.mark.parametrize(
    "kind,channels,weight,score,sign",
    [
        ("semseg", 3, 1, "mIoU", 1),
        ("depth", 1, 1, "rmse", -1),
        ("normals", 3, 10, "mean", -1),
        ("edge", 1, 50, "odsF", 1),
        ("sal", 1, 5, "mIoU", 1),
        ("human_parts", 7, 2, "mIoU", 1),
    ],
)
def test_protocol_a(kind, channels, weight, score, sign):
    task = make(kind)
    assert task.name == f"city/{kind}"
    assert (task.channels, task.weight, task.score, task.sign) == (channels, weight, score, sign)


def test_protocol_b_differs_in_saliency_and_in_the_normals_loss():
    sal = make("sal", "B")
    assert (sal.channels, sal.score, sal.weight) == (2, "maxF_invpt", 5)
    a, b = make("normals", "A"), make("normals", "B")
    data = batch(a)
    (total_a, count_a), (total_b, count_b) = a.loss(*data), b.loss(*data)
    np.testing.assert_array_equal(total_a, total_b)
    np.testing.assert_array_equal(count_a, 3 * count_b)


@pytest.mark.parametrize("protocol", "AB")
@pytest.mark.parametrize("kind", tasks.KINDS)
def test_loss_and_metric_fit_the_channels(kind, protocol):
    task = make(kind, protocol)
    pred, label, mask = batch(task)
    total, count = jax.jit(task.loss)(pred, label, mask)
    assert total.shape == count.shape == (2,)
    sums = jax.jit(task.metric.sums)(pred, label, mask, mask[:, 0, 0])
    found = task.metric.finish(metrics.add({}, sums))
    assert np.isfinite(list(found.values())).all()
    if kind == "edge":  # odsF is counted on the host
        assert set(found) == {"loss"} and task.constant is None and task.max_dist == 0.0075
        return
    assert task.score in found and task.max_dist == 0
    sums = jax.jit(task.constant.sums)(label, mask, mask[:, 0, 0])
    assert np.isfinite(task.constant.finish(metrics.add({}, sums))[task.score])


@pytest.mark.parametrize("kind", tasks.KINDS)
def test_an_unknown_protocol_is_explained(kind):
    with pytest.raises(ConfigError, match="protocol='C' is not one of A, B"):
        make(kind, "C")


def test_edge_options_reach_the_loss_and_the_matching():
    task = make("edge", positive=0.8, max_dist=0.011)
    pred, label, mask = jnp.zeros((1, 1, 2, 1)), jnp.array([[[1, 0]]]), jnp.ones((1, 1, 2), bool)
    total, _ = task.loss(pred, label, mask)
    assert float(total[0]) == pytest.approx(np.log(2))
    total, _ = task.loss(pred, jnp.ones_like(label), mask)
    assert float(total[0]) == pytest.approx(2 * 0.8 * np.log(2))
    assert task.max_dist == 0.011


def test_post_turns_outputs_into_what_is_shown():
    one = jnp.array([[[[1.0, 3.0, 2.0]]]])
    assert tasks.post(make("semseg"), one).tolist() == [[[1]]]
    assert tasks.post(make("semseg"), one).dtype == jnp.uint8
    np.testing.assert_allclose(
        tasks.post(make("normals"), jnp.array([[[[0.0, 3.0, -4.0]]]])), [[[[0, 0.6, -0.8]]]]
    )
    negative = jnp.array([[[[-2.0], [2.0]]]], jnp.bfloat16)
    assert tasks.post(make("depth"), negative).tolist() == [[[0, 2]]]
    p = 1 / (1 + np.exp(-2.0))
    for kind in ("edge", "sal"):
        np.testing.assert_allclose(tasks.post(make(kind), negative)[0, 0], [1 - p, p], rtol=1e-6)
    both = jnp.array([[[[1.0, 3.0], [0.0, -2.0]]]])
    np.testing.assert_allclose(tasks.post(make("sal", "B"), both)[0, 0], [p, 1 - p], rtol=1e-6)


def test_post_keeps_zero_normals_zero():
    assert not tasks.post(make("normals"), jnp.zeros((1, 2, 2, 3))).any()

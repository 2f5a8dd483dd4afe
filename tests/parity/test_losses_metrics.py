"""Every loss and every meter of the four reference code bases."""

import re
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_vision import losses, metrics, tasks
from mtl_vision.metrics import saliency, segmentation
from mtl_vision.metrics.delta_m import delta_m
from tests.parity import records

RECORDS = records.records("losses_metrics")
PLACES = [(f, family) for f in RECORDS for family in records.load(f)[0]["sources"]]
EACH = pytest.mark.parametrize("file,family", PLACES, ids=lambda x: getattr(x, "stem", x))
PRECISION = pytest.mark.parametrize("x64", [False, True], ids=["float32", "x64"])
DEPTH = {
    "mtlora": "depth_255",
    "invpt": "depth_255",
    "taskprompter": "depth_m1",
    "mlore": "depth_0",
}
ROUNDED = {"A": ("sal", "edge_adaptive"), "B": ("semseg", "semseg_nyud", "human_parts", "sal")}


def protocol(family):
    return "A" if family == "mtlora" else "B"


def task(form, kind, classes=21):
    options = {"classes": ["x"] * classes} if kind == "semseg" else {}
    return tasks.TASKS[kind]("x", form, **options)


def input_of(family, name):
    """The set of inputs that a loss or meter of a family reads."""
    if name.startswith("depth"):
        return DEPTH[family]
    if name.startswith("sal"):
        return "sal_1ch" if family == "mtlora" else "sal_2ch"
    if name.startswith("edge"):
        return "edge" if family == "mtlora" else "edge_void"
    if name.startswith("normals"):
        return "normals"
    return {"semseg": "semseg_pascal"}.get(name, name)


def loss_of(form, name):
    """Our loss for a reference loss; what nobody trains with is put together from our pieces."""
    balanced = losses.binary_cross_entropy
    special = {
        "edge_adaptive": balanced,
        "edge_adaptive_void": edge_adaptive_void,
        "edge_w0.95": task(form, "edge").loss,
        "sal_plain_bce": lambda *x: (2 * balanced(*x, positive=0.5)[0], x[2].sum((1, 2))),
        "normals_l2": partial(losses.normals, per="component", order=2),
        "depth_silog": losses.silog,
        "semseg_nyud": losses.cross_entropy,
    }
    return special[name] if name in special else task(form, name).loss


def edge_adaptive_void(pred, label, mask):
    """MTLoRA's defect: negatives are counted with the void pixels, all pixels without them.

    Its share of negatives can exceed 1; the sum is then divided by all pixels.
    """
    w = (label == 0).sum(dtype=jnp.float32) / mask.sum(dtype=jnp.float32)
    total, _ = losses.binary_cross_entropy(pred, label, mask, positive=w)
    return total, jnp.full(len(pred), mask[0].size)


def batch(arrays, name, b):
    """Returns (pred [B,H,W,K], label, mask) of a set of inputs; ignore values become a mask.

    Numbers are float32, or float64 where x64 is on.
    """
    pred = jnp.asarray(np.moveaxis(arrays[f"data/{name}.pred.batch{b}"], 1, -1), float)
    label = arrays[f"data/{name}.label.batch{b}"]
    if name == "normals":
        return (
            pred,
            jnp.asarray(np.moveaxis(label, 1, -1), float),
            jnp.asarray((label != 255).all(1)),
        )
    label = label[:, 0]
    if not name.startswith("depth"):
        return pred, jnp.asarray(label), jnp.asarray(label != 255)
    ignored = {"depth_255": 255, "depth_0": 0, "depth_m1": -1}[name]
    return pred, jnp.asarray(label, float), jnp.asarray(label != ignored)


def loss_batch(arrays, family, name, b):
    """Like `batch`; MTLoRA's void pixels come beside the label, not in it."""
    pred, label, mask = batch(arrays, input_of(family, name), b)
    if name == "edge_adaptive_void":
        mask = batch(arrays, "edge_void", b)[2]
    return pred, label, mask


def numbers(arrays, prefix):
    """Yields (name, batch, value) of the entries below a prefix."""
    for name, value in records.group(arrays, prefix).items():
        stem, b = re.fullmatch(r"(.+)\.batch(\d+)", name).groups()
        yield stem, int(b), value


@cache
def value_and_gradient(form, name):
    def value(pred, label, mask):
        return losses.mean(*loss_of(form, name)(pred, label, mask))

    return jax.jit(jax.value_and_grad(value))


@PRECISION
@EACH
def test_losses_and_their_gradients(file, family, x64):
    _, arrays = records.load(file)
    gradients = records.group(arrays, f"lossgrad/{family}")
    found = 0
    with jax.enable_x64(x64):
        for name, b, expected in numbers(arrays, f"loss/{family}"):
            value, gradient = value_and_gradient(protocol(family), name)(
                *loss_batch(arrays, family, name, b)
            )
            # In the references float32: B's cross-entropies, A's share of negatives.
            rounded = name in ROUNDED[protocol(family)]
            tolerance = 1e-5 if not x64 else 1e-6 if rounded else 1e-10
            records.assert_close(value, expected, tolerance, f"{family} {name} {b}")
            if (key := f"{name}.batch{b}") in gradients:
                # The record keeps gradients in float32, good to 6e-8.
                tolerance = 1e-7 if x64 else 1e-3
                gradient = np.moveaxis(gradient, -1, 1)
                records.assert_close(gradient, gradients.pop(key), tolerance, f"{family} {key}")
            found += 1
    assert found and not gradients


@cache
def figures(file, family, name, x64):
    """Totals and finished numbers of our metric over all batches of a record."""
    meta, arrays = records.load(file)
    kind = name.split("_")[0] if name.startswith("semseg") else name
    classes = arrays[f"data/{name}.pred.batch0"].shape[1] if kind == "semseg" else 0
    metric, totals = task(protocol(family), kind, classes).metric, {}
    for b in range(meta["batches"]):
        data = batch(arrays, input_of(family, name), b)
        pred, label, mask = data
        if name == "edge":  # the reference feeds its meter probabilities as if they were logits
            pred = jax.nn.sigmoid(pred)
        if name == "depth" and family in ("taskprompter", "mlore"):
            mask = (label > 0) & (label < 80)
        valid = jnp.ones(len(pred), bool)
        totals = metrics.add(totals, jax.jit(metric.sums)(pred, label, mask, valid))
    return totals, metric.finish(totals)


def our_figure(family, name, key, totals, ours):
    """Our number in the reference's form: its keys, its percent or fractions, its quirks."""
    if name == "sal_detail":
        return saliency.curves(totals)[{"mIoUs": 0, "F": 1}[key]]
    if key == "jaccards_all_categs":
        return segmentation.class_iou(totals["confusion"])
    if name == "normals":  # mtlora's rmse is its mean under another name
        return ours["mean"]
    if name == "sal" and (family != "mtlora" or key == "Beta maxF"):
        key = "maxF_invpt"
    percent = name.split("_")[0] in ("semseg", "human", "sal")
    return ours[key] / (100 if percent and family in ("mtlora", "invpt") else 1)


@PRECISION
@EACH
def test_metrics(file, family, x64):
    _, arrays = records.load(file)
    found = 0
    with jax.enable_x64(x64):
        for full, value in records.group(arrays, f"metric/{family}").items():
            name, key = full.split(".")
            totals, ours = figures(file, family, name.removesuffix("_detail"), x64)
            ours = our_figure(family, name, key, totals, ours)
            np.testing.assert_allclose(ours, value, rtol=1e-6, atol=1e-5 * (name == "normals"))
            found += 1
    assert found


POST = {
    # What the references keep, from what we keep.
    "semseg": lambda x: x,
    "depth": lambda x: x[..., None],
    "normals": lambda x: (x + 1) * 127.5,
    "edge": lambda x: 255 * x,
    "sal": lambda x: 255 * x,
}


@PRECISION
@pytest.mark.parametrize("file", RECORDS, ids=lambda f: f.stem)
def test_post_processing(file, x64):
    _, arrays = records.load(file)
    entries = records.group(arrays, "post")
    assert entries
    with jax.enable_x64(x64):
        for full, value in entries.items():
            family, rest = full.split("/")
            kind, b = rest.split(".batch")
            pred, _, _ = batch(arrays, input_of(family, kind), int(b))
            ours = POST[kind](tasks.post(task(protocol(family), kind), pred))
            records.assert_close(ours, value, 1e-10 if x64 else 5e-5, full)


@pytest.mark.parametrize("file", RECORDS, ids=lambda f: f.stem)
def test_delta_m(file):
    _, arrays = records.load(file)
    entries = records.group(arrays, "delta_m")
    run = {k.removeprefix("mtl."): v for k, v in entries.items() if k.startswith("mtl.")}
    base = {k.removeprefix("stl."): v for k, v in entries.items() if k.startswith("stl.")}
    signs = {kind: task("A", kind).sign for kind in run}
    records.assert_close(delta_m(run, base, signs), 100 * entries["value"], 1e-12)


@pytest.mark.parametrize("file", RECORDS, ids=lambda f: f.stem)
def test_no_group_of_a_record_is_left_out(file):
    """Each test above reads all of its group."""
    _, arrays = records.load(file)
    groups = {name.split("/")[0] for name in arrays.files}
    assert groups == {"data", "loss", "lossgrad", "metric", "post", "delta_m", "meta"}

"""Optimizers and schedules against PyTorch and the MTLoRA loop, in double precision."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mtl_vision import optim
from mtl_vision.optim.optimizers import clip
from tests.parity import records

META, ARRAYS = {}, {}  # of the record at hand

CASES = {
    "adam_coupled_wd": ("adam", dict(weight_decay=0.1)),
    "adamw": ("adamw", dict(weight_decay=0.05)),
    "sgd_momentum_wd": ("sgd", dict(weight_decay=0.1, momentum=0.9)),
    "sgd_nesterov": ("sgd", dict(momentum=0.9, nesterov=True)),
}


@pytest.fixture(
    params=records.records("torch_ops"), ids=lambda f: f.stem, scope="module", autouse=True
)
def record(request):
    """Repeats every test for each record."""
    global META, ARRAYS
    META, ARRAYS = records.load(request.param)


@pytest.mark.parametrize("case", CASES)
def test_four_steps(case, x64):
    name, fields = CASES[case]
    params = {"x": jnp.asarray(ARRAYS["optim/param0"], jnp.float64)}
    schedule = optim.SCHEDULES["constant"](lr=1e-2, steps=4)
    tx = optim.chain(optim.OPTIMIZERS[name](((".*", 1.0),), **fields), schedule)
    opt, trajectory = tx.init(params), []
    for grad in ARRAYS["optim/grads"]:
        updates, opt = tx.update({"x": jnp.asarray(grad, jnp.float64)}, opt, params)
        params = optax.apply_updates(params, updates)
        trajectory.append(params["x"])
    records.assert_close(np.stack(trajectory), ARRAYS[f"optim/{case}"], 1e-12, case)


def test_clipping(x64):
    grads = jnp.asarray(ARRAYS["optim/clip_input"])
    clipped, _ = clip(5.0).update(grads, optax.EmptyState())
    records.assert_close(clipped, ARRAYS["optim/clip_global_norm_5"], 1e-12)


def test_mtlora_cosine(x64):
    meta, expected = META["lr_mtlora"], ARRAYS["lr/mtlora_cosine_used"]
    schedule = optim.SCHEDULES["cosine"](
        lr=optim.scaled_lr(meta["base"], batch=meta["batch"], lr_batch=512),
        steps=meta["epochs"] * meta["iters_per_epoch"],
        warmup=meta["warmup_epochs"] * meta["iters_per_epoch"],
        start=meta["warmup_init"] / meta["base"],
        floor=meta["minimum"] / meta["base"],
        lag=1,
    )
    actual = [float(schedule(t)) for t in range(len(expected))]
    np.testing.assert_allclose(actual, expected, rtol=1e-12)


def test_poly(x64):
    meta, expected = META["lr_poly"], ARRAYS["lr/poly_used"]
    schedule = optim.SCHEDULES["poly"](lr=meta["base"], steps=meta["max_iter"], power=meta["power"])
    actual = [float(schedule(t)) for t in range(len(expected))]
    np.testing.assert_allclose(actual, expected, rtol=1e-12)

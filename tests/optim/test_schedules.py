import jax
import numpy as np
import pytest

from mtl_vision import optim
from mtl_vision.errors import ConfigError

NAMES = sorted(optim.SCHEDULES)


def rates(schedule, steps):
    return np.array([float(schedule(t)) for t in steps])


def test_cosine_by_hand():
    schedule = optim.SCHEDULES["cosine"](lr=2.0, steps=14, warmup=4, start=0.5, floor=0.1)
    # rise 1.0, 1.25, 1.5, 1.75; at a quarter of the fall cos(pi/2) = 0: 2 (0.1 + 0.9 / 2) = 1.1
    np.testing.assert_allclose(rates(schedule, range(5)), [1, 1.25, 1.5, 1.75, 2], rtol=1e-6)
    np.testing.assert_allclose(rates(schedule, [9, 14, 99]), [1.1, 0.2, 0.2], rtol=1e-6)


def test_linear_poly_and_stairs_by_hand():
    np.testing.assert_allclose(rates(optim.SCHEDULES["linear"](lr=1.0, steps=4), [1, 4]), [0.75, 0])
    poly = optim.SCHEDULES["poly"](lr=1.0, steps=4, power=2.0)
    np.testing.assert_allclose(rates(poly, [1, 2, 4]), [9 / 16, 1 / 4, 0])
    stairs = optim.SCHEDULES["stairs"](lr=1.0, steps=10, milestones=(0.6, 0.9), factor=0.1)
    np.testing.assert_allclose(rates(stairs, [0, 5, 6, 8, 9]), [1, 1, 0.1, 0.1, 0.01], rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_lag_repeats_the_first_rate(name):
    schedule = optim.SCHEDULES[name](lr=1.0, steps=10, warmup=3, start=0.1)
    lagged = optim.SCHEDULES[name](lr=1.0, steps=10, warmup=3, start=0.1, lag=1)
    expected = rates(schedule, [0, *range(9)])
    np.testing.assert_array_equal(rates(lagged, range(10)), expected)


@pytest.mark.parametrize("name", NAMES)
def test_peak_follows_the_warmup_and_jit_agrees(name):
    schedule = optim.SCHEDULES[name](lr=3.0, steps=20, warmup=5)
    values = rates(schedule, range(20))
    assert values[0] == 0 and values[5] == 3.0 and values.max() == 3.0
    np.testing.assert_allclose(jax.jit(jax.vmap(schedule))(np.arange(20)), values, atol=1e-6)


def test_lr_follows_the_batch():
    assert optim.scaled_lr(5e-4, batch=32, lr_batch=512) == 3.125e-5
    assert optim.scaled_lr(5e-4, batch=32, lr_batch=0) == 5e-4


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("cosine", dict(warmup=10), "config.schedule.warmup=10 is not below the 10 steps"),
        ("linear", dict(floor=2.0), "config.schedule.floor=2.0 is a fraction"),
        ("constant", dict(start=-1.0), "config.schedule.start=-1.0 is a fraction"),
        ("poly", dict(power=0.0), "config.schedule.power=0.0"),
        ("stairs", dict(milestones=(3.0,)), "config.schedule.milestones"),
        ("cosine", dict(lag=-1), "config.schedule.lag=-1"),
    ],
)
def test_wrong_fields_are_named(name, fields, message):
    with pytest.raises(ConfigError, match=message):
        optim.SCHEDULES[name](lr=1.0, steps=10, **fields)

import jax.numpy as jnp
import numpy as np
import pytest

from mtl_vision import optim
from mtl_vision.errors import ConfigError


def run(kind, decay, values):
    mean, average = {"x": jnp.float32(100.0)}, optim.averaging(decay, kind)
    for count, value in enumerate(values, 1):
        mean = average(mean, {"x": jnp.float32(value)}, jnp.int32(count))
    return float(mean["x"])


def test_plain_by_hand():
    # 100 -> 0.5 * 100 + 0.5 * 2 = 51 -> 0.5 * 51 + 0.5 * 4 = 27.5
    assert run("plain", 0.5, [2, 4]) == 27.5


def test_unbiased_forgets_the_start():
    # (0.5 * 2 + 4) / (0.5 + 1) = 10 / 3
    np.testing.assert_allclose(run("unbiased", 0.5, [2, 4]), 10 / 3, rtol=1e-6)


def test_unbiased_keeps_its_digits_near_one():
    # decay -> 1 is the plain mean of what came so far
    np.testing.assert_allclose(run("unbiased", 0.99999, [1, 2, 3, 4]), 2.5, rtol=1e-5)


def test_ramp_by_hand():
    # decays 2/11 and 3/12: 100 * 2/11 + 2 * 9/11 = 218/11, then a quarter of it and 3
    np.testing.assert_allclose(run("ramp", 0.9, [2, 4]), 218 / 44 + 3, rtol=1e-6)


@pytest.mark.parametrize("kind", sorted(optim.AVERAGES))
def test_equal_parameters_stay_fixed(kind):
    np.testing.assert_allclose(run(kind, 0.999, [100.0] * 5), 100.0, rtol=1e-6)


def test_unknown_kind():
    with pytest.raises(ConfigError, match="config.optim.ema_kind='ramps'.*Did you mean 'ramp'"):
        optim.averaging(0.9, "ramps")

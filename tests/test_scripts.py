"""What scripts compute, apart from what they print or draw."""

import jax.numpy as jnp
import numpy as np

from mtl_vision.optim.methods import AGGREGATORS
from scripts import plot_trajectories as plot

FRONT = plot.pareto_set(9)


def ends(name, starts, steps):
    path = plot.trajectories(name, starts, steps, steps // 2)
    assert path.shape == (len(starts), 3, 2)
    np.testing.assert_array_equal(path[:, 0], starts)
    return np.asarray(path[:, -1])


def test_losses_by_hand():
    # y > 0: tanh(1) (log|0.5 (2 - 7) + tanh(2)| + 6) and the same with |0.5 (2 + 3) + tanh(2) + 2|;
    # the first loss is a tenth. y < 0: tanh(1) ((7 + 2)^2 + 0.1 * 36) / 10 - 20), and with 5^2.
    c, t = np.tanh(1), np.tanh(2)
    above = [0.1 * c * (np.log(2.5 - t) + 6), c * (np.log(4.5 + t) + 6)]
    np.testing.assert_allclose(plot.losses(jnp.array([-2.0, 2.0])), above, rtol=1e-5)
    below = [0.1 * c * (84.6 / 10 - 20), c * (28.6 / 10 - 20)]
    np.testing.assert_allclose(plot.losses(jnp.array([-2.0, -2.0])), below, rtol=1e-5)


def test_mgda_stays_on_the_pareto_set_and_the_sum_leaves_for_its_minimum():
    np.testing.assert_allclose(FRONT[4], [0, -8.3552], atol=1e-3)
    still = ends("mgda", FRONT, 200)
    assert np.abs(still - FRONT).max() < 0.05
    moved = ends("sum", FRONT, 200)
    assert np.abs(moved - FRONT).max(1).min() > 0.15
    # The weights 0.1 and 1 put the minimum where 0.1 (x - 7) + (x + 7) = 0.
    before, after = (np.abs(points[:, 0] + 6.3 / 1.1) for points in (FRONT, moved))
    assert (after < before - 0.15).all()


def test_every_panel_is_a_method():
    assert len(plot.TITLES) == 10 and plot.TITLES.keys() <= AGGREGATORS.keys()

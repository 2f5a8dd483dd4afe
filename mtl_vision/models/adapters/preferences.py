"""Preferences between tasks: how PaLoRA draws them in training, and the front they make after it.

A preference lambda ``[T]`` lies on the simplex (arXiv 2407.08056).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from mtl_vision.errors import ConfigError, lookup

DRAWS = ("dirichlet", "narrowing", "spread")
# What the losses of tasks are divided by or reduced with, see `optim.prefer`.
BALANCES = {
    "none": (),
    "losses": ("losses",),
    "gradients": ("gradients",),
    "both": ("losses", "gradients"),
}
POINTS = 11  # of the grid of two tasks that "spread" draws from; of three 10


def check_draws(tasks: int, draws: str, concentration: float) -> None:
    """Raises ConfigError if preferences cannot be drawn so."""
    lookup(dict.fromkeys(DRAWS), draws, "adapter.draws")
    if concentration <= 0:
        raise ConfigError(f"config.adapter.concentration={concentration} must be above 0.")
    if draws == "spread":
        grid(tasks, POINTS)


def schedule(
    tasks: int, steps: int, *, draws: str = "dirichlet", concentration: float = 1.0
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Returns ``(key, step) -> preference [T]``, the preference of one training step.

    Args:
      tasks: T.
      steps: of the training.
      draws: ``dirichlet``; ``narrowing``, a Dirichlet distribution that goes to the corners; or
        ``spread``, a point of `grid` (2 or 3 tasks) that goes from the centre to where it is and
        on towards the corners.
      concentration: of the Dirichlet distributions.

    Raises:
      ConfigError: preferences cannot be drawn so.
    """
    check_draws(tasks, draws, concentration)
    points = grid(tasks, POINTS) if draws == "spread" else None

    def prefer(key: jax.Array, step: jax.Array) -> jax.Array:
        progress = step / steps
        if points is not None:
            point = jax.random.choice(key, points)
            return spread(point[None], progress)[0]
        made = dict(progress=progress, concentration=concentration, narrow=draws == "narrowing")
        return draw(key, tasks, 1, **made)[0]

    return prefer


def grid(tasks: int, count: int, *, margin: float = 0.0) -> jax.Array:
    """Returns evenly spaced preferences, ``[P, T]``.

    Args:
      tasks: 2 or 3.
      count: P for two tasks; for three P is ``(n + 1)(n + 2) / 2`` with n subdivisions of a side,
        ``n = int((sqrt(8 count - 1) - 1) / 2)``, and may differ from it a little.
      margin: for two tasks, how far the ends stay from the corners.

    Raises:
      ConfigError: more tasks, for which there is no grid, or no point.
    """
    if tasks == 2 and count >= 1:
        first = jnp.linspace(margin, 1 - margin, count)
        return jnp.stack([first, 1 - first], 1)
    sides = int((-1 + (8 * count - 1) ** 0.5) / 2) if count >= 1 else 0
    if tasks != 3 or sides < 1:
        raise ConfigError(
            f"preferences: no grid of {count} points for {tasks} tasks; it takes 2 tasks, or 3 "
            "and at least 2 points. Use `draw` for more tasks."
        )
    points = [(i, j, sides - i - j) for i in range(sides + 1) for j in range(sides + 1 - i)]
    return jnp.array(points, jnp.float32) / sides


def spread(preferences: jax.Array, progress: jax.Array | float, *, power: float = 5.0) -> jax.Array:
    """Returns preferences to the power of ``power * progress``, renormalised.

    All lie at the centre at the start of training and near the corners at its end.

    Args:
      preferences: ``[P, T]``.
      progress: of training, in [0, 1].
      power: at the end.
    """
    raised = preferences ** (power * progress)
    return raised / raised.sum(-1, keepdims=True)


def draw(
    key: jax.Array,
    tasks: int,
    count: int,
    *,
    progress: jax.Array | float = 0.0,
    concentration: float = 1.0,
    narrow: bool = False,
) -> jax.Array:
    """Draws preferences, ``[P, T]``, from a Dirichlet distribution.

    Args:
      key: randomness.
      tasks, count: T, P.
      progress: of training, in [0, 1].
      concentration: p.
      narrow: whether p becomes ``p (1 - progress) + 0.001``, which goes to the corners.
    """
    p = concentration * (1 - progress) + 0.001 if narrow else concentration
    return jax.random.dirichlet(key, jnp.full(tasks, p), (count,))


def front(
    evaluate: Callable[[jax.Array], np.ndarray], preferences: jax.Array
) -> dict[str, np.ndarray | float]:
    """Evaluates a network at many preferences.

    Args:
      evaluate: preference ``[T]`` -> scores ``[T]``, larger is better.
      preferences: ``[P, T]``, for instance 11 of `grid`, or the corners and the centre.

    Returns: ``scores`` ``[P, T]``, ``best`` ``[P]`` bool, whether no other point is better, and
      ``hypervolume``, with each task's scores moved to [0, 1].
    """
    scores = np.stack([np.asarray(evaluate(p), np.float64) for p in preferences])
    low, high = scores.min(0), scores.max(0)
    parts = (scores - low) / np.where(high > low, high - low, 1)
    best = undominated(scores)
    return dict(scores=scores, best=best, hypervolume=hypervolume(parts[best], 0 * low))


def undominated(scores: np.ndarray) -> np.ndarray:
    """Says of every row of ``[P, T]``, larger being better, whether no other one dominates it."""
    no_worse = (scores[:, None] >= scores[None]).all(-1)
    better = (scores[:, None] > scores[None]).any(-1)
    return ~(no_worse & better).any(0)


def hypervolume(scores: np.ndarray, reference: np.ndarray) -> float:
    """Returns the volume that the scores dominate above the reference, exactly.

    Args:
      scores: ``[P, T]``, larger is better.
      reference: ``[T]``.
    """
    gains = np.unique(np.maximum(np.asarray(scores, np.float64) - reference, 0), axis=0)
    if gains.shape[1] == 1:
        return float(gains.max())
    # Slices along the last score, from the highest down.
    levels = np.unique(np.append(gains[:, -1], 0))[::-1]
    total = 0.0
    for high, low in zip(levels, levels[1:], strict=False):
        above = gains[gains[:, -1] >= high, :-1]
        total += (high - low) * hypervolume(above, np.zeros(above.shape[1]))
    return total

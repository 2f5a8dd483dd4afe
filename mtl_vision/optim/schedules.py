"""Learning rates as pure functions of the number of updates done.

A schedule rises in a straight line for `warmup` steps and then falls by one of the shapes
below. `start` and `floor` are fractions of the peak, so one factor scales all of it.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from mtl_vision.errors import ConfigError

Schedule = Callable[[jax.typing.ArrayLike], jax.Array]
Shape = Callable[[jax.Array], jax.Array]


def scaled_lr(lr: float, *, batch: int, lr_batch: int) -> float:
    """Returns ``lr * batch / lr_batch``, or `lr` itself when `lr_batch` is 0.

    The linear scaling rule (arXiv 1706.02677).
    """
    return lr * batch / lr_batch if lr_batch else lr


def rise_and_fall(
    shape: Shape, *, lr: float, steps: int, warmup: int, start: float, floor: float, lag: int
) -> Schedule:
    """Returns the schedule that all others are made of.

    Update t (from 0) has, with ``u = max(t - lag, 0)``, the rate
    ``lr * (start + (1 - start) u / warmup)`` while ``u < warmup``, then
    ``lr * (floor + (1 - floor) shape(p))`` with ``p = (u - warmup) / (steps - warmup)``, held at
    ``p = 1`` afterwards.

    Args:
      shape: from progress ``p`` in [0, 1] to a factor, 1 at 0.
      lr: peak rate.
      steps: updates until the end, warm-up included.
      warmup: updates of the rise.
      start: rate of the first update, as a fraction of `lr`.
      floor: rate at the end, as a fraction of `lr`.
      lag: updates by which the rate trails; 1 is a loop that steps its schedule after the
        optimizer with the index of the update just done (the MTLoRA reference code).

    Raises:
      ConfigError: a field is out of range.
    """
    if not 0 <= warmup < max(steps, 1):
        raise ConfigError(
            f"config.schedule.warmup={warmup} is not below the {steps} steps of the run."
        )
    for name, value in (("start", start), ("floor", floor)):
        if not 0 <= value <= 1:
            raise ConfigError(
                f"config.schedule.{name}={value} is a fraction of the peak: use 0 to 1."
            )
    if lag < 0:
        raise ConfigError(f"config.schedule.lag={lag} is negative; use 0 or 1.")

    def rate(step: jax.typing.ArrayLike) -> jax.Array:
        t = jnp.maximum(jnp.asarray(step, float) - lag, 0.0)
        rising = start + (1 - start) * t / max(warmup, 1)
        progress = jnp.clip((t - warmup) / max(steps - warmup, 1), 0.0, 1.0)
        falling = floor + (1 - floor) * shape(progress)
        return lr * jnp.where(t < warmup, rising, falling)

    return rate


def constant(
    *, lr: float, steps: int, warmup: int = 0, start: float = 0.0, lag: int = 0
) -> Schedule:
    """The peak rate after the warm-up."""
    return rise_and_fall(
        jnp.ones_like, lr=lr, steps=steps, warmup=warmup, start=start, floor=0.0, lag=lag
    )


def linear(
    *,
    lr: float,
    steps: int,
    warmup: int = 0,
    start: float = 0.0,
    floor: float = 0.0,
    lag: int = 0,
) -> Schedule:
    """Falls by ``1 - p``."""
    return rise_and_fall(
        lambda p: 1 - p, lr=lr, steps=steps, warmup=warmup, start=start, floor=floor, lag=lag
    )


def cosine(
    *,
    lr: float,
    steps: int,
    warmup: int = 0,
    start: float = 0.0,
    floor: float = 0.0,
    lag: int = 0,
) -> Schedule:
    """Falls by ``(1 + cos(pi p)) / 2`` (arXiv 1608.03983, one cycle).

    MTLoRA (arXiv 2403.20320, its code): ``start=1e-3, floor=1e-2, lag=1``.
    """
    return rise_and_fall(
        lambda p: (1 + jnp.cos(jnp.pi * p)) / 2,
        lr=lr,
        steps=steps,
        warmup=warmup,
        start=start,
        floor=floor,
        lag=lag,
    )


def poly(
    *,
    lr: float,
    steps: int,
    power: float = 0.9,
    warmup: int = 0,
    start: float = 0.0,
    floor: float = 0.0,
    lag: int = 0,
) -> Schedule:
    """Falls by ``(1 - p)^power``; InvPT, TaskPrompter and TaskExpert use 0.9 without a warm-up.

    Raises:
      ConfigError: a field is out of range.
    """
    if power <= 0:
        raise ConfigError(f"config.schedule.power={power} is not positive.")
    return rise_and_fall(
        lambda p: (1 - p) ** power,
        lr=lr,
        steps=steps,
        warmup=warmup,
        start=start,
        floor=floor,
        lag=lag,
    )


def stairs(
    *,
    lr: float,
    steps: int,
    milestones: tuple[float, ...] = (0.6, 0.9),
    factor: float = 0.1,
    warmup: int = 0,
    start: float = 0.0,
    lag: int = 0,
) -> Schedule:
    """Falls by `factor` at each of the `milestones`, which are values of ``p``.

    Raises:
      ConfigError: a field is out of range.
    """
    if not all(0 < m < 1 for m in milestones):
        raise ConfigError(f"config.schedule.milestones={milestones} are not between 0 and 1.")
    return rise_and_fall(
        lambda p: _stairs(p, milestones, factor),
        lr=lr,
        steps=steps,
        warmup=warmup,
        start=start,
        floor=0.0,
        lag=lag,
    )


def _stairs(p: jax.Array, milestones: Sequence[float], factor: float) -> jax.Array:
    passed = sum(((p >= m).astype(p.dtype) for m in milestones), jnp.zeros_like(p))
    return factor**passed

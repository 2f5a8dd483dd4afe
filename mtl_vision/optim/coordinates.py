"""Aggregators that need the gradients themselves: coordinate by coordinate, or with memory of them.

Leaves of gradients and of memories are ``[T, *shape]``. They are never reshaped, and whatever is
elementwise stays so, numbers drawn at random included: a sharded leaf stays where it is. Sums
over the few tasks are written out, because XLA's CPU code reduces a leading axis slowly.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtl_vision.errors import ConfigError
from mtl_vision.optim import rows as R
from mtl_vision.optim.contracts import Aggregator, Tree, check_parity
from mtl_vision.optim.uniform import uniforms


def drop_signs(g: jax.Array, u: jax.Array, leak: tuple[float, ...] = ()) -> jax.Array:
    """GradDrop of one leaf with given numbers.

    With P and N the sums of the positive and of the negated negative entries at a coordinate, it
    keeps the positive ones where ``P / (P + N) > u``, the negative ones where it is less. The
    quotient is the paper's ``(1 + sum g / sum |g|) / 2``; it is not formed, so zeros need no care.

    Args:
      g: ``[T, *shape]``.
      u: ``[*shape]`` in [0, 1].
      leak: share of each task's gradient ``[T]`` that always passes; ``()`` for none.

    Returns: ``[*shape]`` in the type of `g`.
    """
    tasks = [R.wide(x) for x in g]
    rest = [(1 - a) * x for a, x in zip(leak, tasks, strict=True)] if leak else tasks

    def positive(tasks):
        return functools.reduce(jnp.add, (jnp.maximum(x, 0) for x in tasks))

    def negative(tasks):
        return functools.reduce(jnp.add, (jnp.maximum(-x, 0) for x in tasks))

    u = u.astype(tasks[0].dtype)
    up, down = positive(tasks) * (1 - u), negative(tasks) * u
    # NaN fails both comparisons and comes out of the last branch.
    kept = jnp.where(up > down, positive(rest), jnp.where(up == down, 0, -negative(rest)))
    if leak:
        kept += functools.reduce(jnp.add, (a * x for a, x in zip(leak, tasks, strict=True)))
    return kept.astype(g.dtype)


def graddrop(*, leak: tuple[float, ...] = ()) -> Aggregator:
    """GradDrop (arXiv 2010.06808): each coordinate keeps the entries of one sign, by chance.

    On the gradients of the parameters, without a constant in the quotient (as TorchJD; LibMTL
    applies it to the representation and adds 1e-7). All signs equal: the sum.

    Args:
      leak: share of each task's gradient ``[T]`` that always passes; ``()`` for none.

    Raises:
      ConfigError: a leak that has not T numbers (at init).
    """

    def init(params, T):
        del params
        if leak and len(leak) != T:
            raise ConfigError(
                f"graddrop: leak={tuple(leak)} has {len(leak)} numbers, but there are {T} tasks: "
                f"give one for each, in their order, or ()."
            )
        return ()

    def update(rows, state, *, losses=None, key=None):
        del losses
        leaves, treedef = jax.tree.flatten(rows)
        numbers = uniforms(key, [g.shape[1:] for g in leaves])
        merged = [drop_signs(g, u, leak) for g, u in zip(leaves, numbers, strict=True)]
        return jax.tree.unflatten(treedef, merged), state

    return Aggregator(init, update)


def trimmed_mean(*, trim: int = 1) -> Aggregator:
    """The mean at each coordinate without the `trim` smallest and largest (arXiv 1803.01498).

    A gradient of zero is a value like any other here.

    Args:
      trim: 0 or more, with ``2 trim < T``; a single task is passed on.

    Raises:
      ConfigError: nothing would be left (at init).
    """

    def init(params, T):
        del params
        if trim < 0 or (T > 1 and 2 * trim >= T):
            raise ConfigError(
                f"trimmed_mean: trim={trim} leaves nothing of {T} tasks; use 0 to {(T - 1) // 2}."
            )
        return ()

    def merge(g):
        tasks = [R.wide(x) for x in g]
        whole = functools.reduce(jnp.add, tasks)
        for pick, other in [(jnp.maximum, jnp.minimum), (jnp.minimum, jnp.maximum)] * trim:
            tasks = _without_extreme(tasks, pick, other)
        trimmed = functools.reduce(jnp.add, tasks) / len(tasks)
        return jnp.where(jnp.isfinite(whole), trimmed, jnp.nan).astype(g.dtype)

    def update(rows, state, *, losses=None, key=None):
        del losses, key
        return jax.tree.map(merge, rows), state

    return Aggregator(init, update)


def _without_extreme(tasks, pick, other):
    """Returns the arrays of a list without what `pick` picks at each coordinate."""
    extreme, *tasks = tasks
    rest = []
    for x in tasks:
        rest.append(other(extreme, x))
        extreme = pick(extreme, x)
    return rest or [extreme]


class MoCoState(NamedTuple):
    """State of `moco`: updates done, tracked gradients ``[T, *shape]``, weights ``[T]``."""

    count: jax.Array
    y: Tree
    w: jax.Array


def moco(*, beta: float = 0.5, gamma: float = 0.1, rho: float = 0.0) -> Aggregator:
    """MoCo (openreview dLAYGdKTi2): tracked gradients, weights that descend their common norm.

    At update t from 1: ``y_k += beta t^-1/2 (L_k g_k / |g_k| - y_k)``, ``w = softmax(w - gamma
    t^-1/2 (y y^T + rho I) w)``, ``d = y^T w``, as LibMTL. It holds a second set of T gradients. A
    task without a gradient keeps its y and takes no part in d.

    Args:
      beta: first share of the new gradient, 0 to 1.
      gamma: first step size of the weights.
      rho: pulls the weights together, 0 or more.
    """

    def init(params, T):
        return MoCoState(jnp.zeros((), jnp.int32), _memory(params, T), jnp.full(T, 1 / T))

    def update(rows, state, *, losses, key=None):
        del key
        count = state.count + 1
        decay = count**-0.5
        squared = _squares(rows)
        scale, here = losses * _inverse_root(squared), squared != 0

        def track(y, g):
            new = y + beta * decay * (_along(scale, y) * g - y)
            return jnp.where(_along(here, y), new, y)

        y = jax.tree.map(track, state.y, rows)
        gram = jnp.where(here[:, None] & here[None], R.gramian(y), 0)
        w = jax.nn.softmax(state.w - gamma * decay * (gram @ state.w + rho * state.w))
        merged = R.weighted_sum(jnp.where(here, w, 0), y)
        return _typed(merged, rows), MoCoState(count, y, w.astype(state.w.dtype))

    return Aggregator(init, update)


class TrackState(NamedTuple):
    """State of `db_mtl`: updates done, running means of the gradients ``[T, *shape]``."""

    count: jax.Array
    y: Tree


def db_mtl(*, beta: float = 0.9, sigma: float = 0.0) -> Aggregator:
    """DB-MTL (arXiv 2308.12029): running means of the gradients of log losses, at equal norms.

    At update t from 1: ``h_k = g_k / (L_k + 1e-8)``, ``y = h + beta t^-sigma (y - h)``,
    ``d = sum_k (max_j |y_j| / |y_k|) y_k``; y starts at zero, as in LibMTL. It holds a second set
    of T gradients. A task without a gradient keeps its y and takes no part in d.

    Args:
      beta: share of the memory, 0 to 1.
      sigma: how fast that share falls, 0 or more.
    """

    def init(params, T):
        return TrackState(jnp.zeros((), jnp.int32), _memory(params, T))

    def update(rows, state, *, losses, key=None):
        del key
        count = state.count + 1
        share = beta * count.astype(jnp.float32) ** -sigma
        here = _squares(rows) != 0

        def track(y, g):
            h = g / _along(losses + 1e-8, y)
            return jnp.where(_along(here, y), h + share * (y - h), y)

        y = jax.tree.map(track, state.y, rows)
        squared = jnp.where(here, _squares(y), 0)
        w = jnp.sqrt(squared.max()) * _inverse_root(squared)
        return _typed(R.weighted_sum(w, y), rows), TrackState(count, y)

    return Aggregator(init, update)


class ExcessState(NamedTuple):
    """State of `excess_mtl`.

    squares: sums of squared gradients ``[T, *shape]``.
    baseline: mean first excess ``[T]``.
    seen: how many that mean has ``[T]``.
    log_w: logarithms of the weights ``[T]``, their sum 1.
    """

    squares: Tree
    baseline: jax.Array
    seen: jax.Array
    log_w: jax.Array


def excess_mtl(*, step: float = 0.01, warmup: int = 1, parity: str = "") -> Aggregator:
    """ExcessMTL (ICML 2024): tasks that are far from their optimum gain weight, exponentially.

    ``S_k += g_k^2``, excess ``e_k = sum g_k^2 / sqrt(S_k)``, ``w <- w exp(step e / e_0)``, made to
    sum to T. During the first `warmup` updates the weights are equal and ``e_0`` is the mean
    excess. It holds a second set of T gradients.

    Args:
      step: of the exponent; 0.01 is LibMTL's, 1 is TorchJD's.
      warmup: at least 1; LibMTL has 1.
      parity: ``torchjd``: the weights sum to 1, 1e-7 is added to S and to ``e_0``, all tasks warm
        up together, and `warmup` may be 0: then the first exponent is ``step e``.

    Raises:
      ConfigError: an unknown parity, or a warm-up below its least.
    """
    check_parity(parity, ("torchjd",), "excess_mtl")
    if warmup < (least := 0 if parity else 1):
        raise ConfigError(f"excess_mtl: warmup={warmup}; at least {least} is expected.")
    floor = 1e-7 if parity else 0.0

    def init(params, T):
        zeros = jnp.zeros(T)
        seen = jnp.zeros(T, jnp.int32)
        return ExcessState(_memory(params, T), zeros, seen, jnp.full(T, -math.log(T)))

    def update(rows, state, *, losses=None, key=None):
        del losses, key
        squares = jax.tree.map(lambda s, g: s + jnp.square(R.wide(g)), state.squares, rows)
        excess = _excess(rows, squares, floor)
        here = (excess != 0) | bool(parity)
        early = here & (state.seen < max(warmup, 1))
        seen = state.seen + early
        mean = state.baseline + (excess - state.baseline) / jnp.maximum(seen, 1)
        baseline = jnp.where(early, mean, state.baseline)
        exponent = excess / jnp.where(baseline + floor == 0, 1, baseline + floor)
        exponent = jnp.where(early, 0.0 if warmup else excess, exponent)
        log_w = jax.nn.log_softmax(state.log_w + step * exponent)
        w = jnp.exp(log_w) * (1 if parity else len(log_w))
        return R.weighted_sum(w, rows), ExcessState(squares, baseline, seen, log_w)

    return Aggregator(init, update)


def _excess(rows, squares, floor):
    """Returns ``sum g^2 / sqrt(S)`` ``[T]``; nothing for coordinates that never had a gradient."""

    def of_leaf(g, s):
        s = s + floor
        ratio = jnp.square(R.wide(g)) / jnp.sqrt(jnp.where(s == 0, 1, s))
        return ratio.sum(tuple(range(1, g.ndim)))

    return functools.reduce(jnp.add, jax.tree.leaves(jax.tree.map(of_leaf, rows, squares)))


def _memory(params: Tree, T: int) -> Tree:
    """Returns zeros ``[T, *shape]`` in float32 or wider for every parameter."""

    def zeros(p):
        return jnp.zeros((T, *p.shape), jnp.promote_types(p.dtype, jnp.float32))

    return jax.tree.map(zeros, params)


def _squares(rows: Tree) -> jax.Array:
    """Returns ``|g_t|^2`` ``[T]`` over all leaves, in float32 or wider."""

    def of_leaf(g):
        return jnp.square(R.wide(g)).sum(tuple(range(1, g.ndim)))

    return functools.reduce(jnp.add, map(of_leaf, jax.tree.leaves(rows)))


def _inverse_root(squared):
    """Returns ``1 / sqrt``, and zero of zero."""
    return jnp.where(squared == 0, 0, 1 / jnp.sqrt(jnp.where(squared == 0, 1, squared)))


def _along(x, leaf):
    """Returns `x` ``[T]`` with the axes of `leaf`."""
    return jnp.expand_dims(x, tuple(range(1, leaf.ndim)))


def _typed(tree: Tree, like: Tree) -> Tree:
    return jax.tree.map(lambda x, y: x.astype(y.dtype), tree, like)

"""Strategies of per-task gradients: rows, or their Gramian and a way to their weighted sum.

The exact ones give the same rows and differ in time and memory: one forward pass for all tasks,
then back once per task: the trunk always, the decoder where its tasks see each other, while heads
that stand apart are taken back alone.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtl_vision.optim import rows as R
from mtl_vision.optim.rows import Deferred, Owners
from mtl_vision.train.gradients import (
    Aux,
    Parts,
    PartsOf,
    Tree,
    accumulated,
    additive,
    cut,
    halves_of,
)

Pull = Callable[[Tree], tuple[Tree, Tree]]


class _Pulled(NamedTuple):
    """One part, taken back to its features.

    pull: cotangent of the features -> (shared, own) gradients of the trunk.
    cotangents: of the features, leaves ``[t, ...]``.
    rows: of the shared leaves of the decoder, ``[t, *shape]``.
    own: gradients of the decoder's own leaves, plain.
    """

    pull: Pull
    cotangents: Tree
    rows: Tree
    own: Tree


def _pulled(
    parts: Parts, params: Tree, stats: Tree, owners: Owners, apart: bool, pull: str
) -> tuple[list[_Pulled], Aux]:
    trunk, head = halves_of(params)
    shared, own = _divided("backbone", trunk, owners)
    found, values = [], {}
    for part in parts:

        def encode(shared, own, part=part, stats=stats):
            return part.encode(R.either(shared, own), stats)

        features, back, encoded = jax.vjp(encode, shared, own, has_aux=True)

        def decode(head, features, part=part, stats=encoded):
            return part.decode(head, features, stats)

        take = _heads_alone if apart else partial(_heads_together, pull=pull)
        *heads, (new, stats) = take(decode, head, features, owners, len(part.tasks))
        values |= new
        found.append(_Pulled(back, *heads))
    return found, (values, stats)


def _divided(name: str, tree: Tree, owners: Owners) -> tuple[Tree, Tree]:
    """Returns the shared and the own part of what is below `name`."""
    return tuple(part({name: tree}, owners)[name] for part in (R.shared_part, R.own_part))


def _heads_alone(decode, head, features, owners, count):
    """Takes every head back by itself.

    What another task's loss does not touch is not computed, and the equal forward passes are
    merged by the compiler.

    Returns: cotangents of the features and rows as in `_Pulled`, own gradients, the aux.
    """
    taken, own = [], []
    for t in range(count):

        def one(head, features, t=t):
            losses, aux = decode(head, features)
            return losses[t], aux

        loss, back, aux = jax.vjp(one, head, features, has_aux=True)
        grads, cotangent = back(jnp.ones_like(loss))
        rows, plain = _divided("decoder", grads, owners)
        taken.append((cotangent, rows))
        own.append(plain)
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *taken)
    return *stacked, _sum(own), aux


def _heads_together(decode, head, features, owners, count, *, pull):
    """Takes the decoder back once per task, from one trace; for heads that see each other.

    Returns: as `_heads_alone`.
    """
    shared, own = _divided("decoder", head, owners)

    def whole(features, shared, own):
        return decode(R.either(shared, own), features)

    losses, back, aux = jax.vjp(whole, features, shared, own, has_aux=True)
    rows = PULLS[pull](lambda w: back(w)[:2], jnp.eye(count, dtype=losses.dtype))
    # One pass for all own leaves: no other task's loss reaches them.
    return *rows, back(jnp.ones_like(losses))[2], aux


def _vmapped(pull: Pull, cotangents: Tree) -> tuple[Tree, Tree]:
    return jax.vmap(pull)(cotangents)


def _scanned(pull: Pull, cotangents: Tree) -> tuple[Tree, Tree]:
    return jax.lax.map(pull, cotangents)


def _one_by_one(pull: Pull, cotangents: Tree) -> tuple[Tree, Tree]:
    count = len(jax.tree.leaves(cotangents)[0])
    rows = [pull(jax.tree.map(lambda x, t=t: x[t], cotangents)) for t in range(count)]
    return jax.tree.map(lambda *x: jnp.stack(x), *rows)


# How the trunk is taken back for every task.
PULLS: dict[str, Callable[[Pull, Tree], tuple[Tree, Tree]]] = {
    "vmap": _vmapped,
    "scan": _scanned,
    "passes": _one_by_one,
}


def per_task(
    parts: Parts,
    params: Tree,
    stats: Tree,
    *,
    owners: Owners,
    apart: bool = True,
    pull: str = "vmap",
) -> tuple[Tree, Aux]:
    """Exact per-task gradients: one forward, then back for every task.

    Args:
      parts: of the batch.
      params: the trained parameters, below ``backbone`` and ``decoder``.
      stats: running statistics.
      owners: of the leaves that are not shared.
      apart: whether no task's head reads what another's computes. Then every head is taken back
        alone and only the trunk once per task, else the decoder too.
      pull: ``vmap`` takes all tasks back at once, ``scan`` one after another in a loop with the
        memory of one, ``passes`` one after another as straight code.

    Returns: shared leaves ``[T, *shape]``, own leaves plain; and the aux.
    """
    pulled, aux = _pulled(parts, params, stats, owners, apart, pull)
    return _rows(pulled, params, pull), aux


def _rows(pulled: Sequence[_Pulled], params: Tree, pull: str) -> Tree:
    taken = [PULLS[pull](p.pull, p.cotangents) for p in pulled]
    shared = jax.tree.map(lambda *x: jnp.concatenate(x), *(rows for rows, _ in taken))
    own = _sum([jax.tree.map(_summed, own) for _, own in taken])
    rows = jax.tree.map(lambda *x: jnp.concatenate(x), *(p.rows for p in pulled))
    found = {
        "backbone": R.either(shared, own),
        "decoder": R.either(rows, _sum([p.own for p in pulled])),
    }
    return {name: found[name] for name in params}


def _summed(rows):
    return R.weighted_sum(jnp.ones(len(rows)), rows)


def at_points(
    parts_of: PartsOf,
    points: Callable[[jax.Array], Tree],
    stats: Tree,
    batch: Any,
    key: jax.Array,
    accumulate: int,
    *,
    owners: Owners,
    apart: bool = True,
    pull: str = "vmap",
) -> tuple[Tree, Aux]:
    """Exact per-task gradients, each at parameters of its own: a pass per task.

    Args:
      parts_of, stats, batch, key, accumulate: as any strategy of `train.gradients` takes them.
      points: from the number of a task, an int or an int32 scalar, to parameters.
      owners, apart: see `per_task`. Heads that stand apart run alone.
      pull: ``scan`` runs the passes of a dataset in a loop, which compiles faster and takes less
        memory; XLA's loops are slow on CPUs. Else they are straight code.

    Returns: as `per_task`, without losses.
    """

    def micro(_, stats, batch, key):
        def gradient(t, g, start):
            params = points(t)
            part = parts_of(params, batch, key)[g]

            def loss(params):
                trunk, head = halves_of(params)
                features, encoded = part.encode(trunk, stats)

                def of(head, features, i):
                    return part.decode(head, features, encoded)[0][i]

                if isinstance(t, int) or not apart:
                    return of(head, features, t - start)
                heads = [partial(of, i=i) for i in range(len(part.tasks))]
                return jax.lax.switch(t - start, heads, head, features)

            return jax.grad(loss)(params)

        own = R.own_part(jax.eval_shape(points, jnp.int32(0)), owners)
        own, rows, start = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), own), [], 0
        for g, part in enumerate(parts_of({}, batch, key)):

            def add(own, t, g=g, start=start):
                grads = gradient(t, g, start)
                # No other task's loss reaches what a task owns.
                own = jax.tree.map(jnp.add, own, R.own_part(grads, owners))
                return own, R.shared_part(grads, owners)

            numbers = range(start, start := start + len(part.tasks))
            if pull == "scan":
                own, found = jax.lax.scan(add, own, jnp.array(numbers))
            else:
                found = []
                for t in numbers:
                    own, row = add(own, t)
                    found.append(row)
                found = jax.tree.map(lambda *x: jnp.stack(x), *found)
            rows.append(found)
        return R.either(jax.tree.map(lambda *x: jnp.concatenate(x), *rows), own), ({}, stats)

    return accumulated(micro, {}, stats, batch, key, accumulate)


def two_pass(
    parts: Parts,
    params: Tree,
    stats: Tree,
    *,
    owners: Owners,
    apart: bool = True,
    gram: str = "rows",
) -> tuple[Deferred, Aux]:
    """A Gramian first, then one backward pass of the weighted sum of the tasks.

    Args:
      parts, params, stats, owners, apart: see `per_task`.
      gram: ``rows``: of the per-task gradients, each dropped as soon as its products are taken,
        so they are never held together. ``features``: of the gradients by the features, an
        approximation that costs a joint step only (MGDA-UB, arXiv 1810.04650 section 3.3; all
        samples and levels count; tasks of different datasets share no feature and count as
        orthogonal).
    """
    pulled, aux = _pulled(parts, params, stats, owners, apart, "vmap")
    if gram == "features":
        blocks = [R.gramian(p.cotangents) for p in pulled]
        found = jax.scipy.linalg.block_diag(*blocks)
    else:
        found = R.gramian(R.shared_part(_rows(pulled, params, "vmap"), owners))
    tasks = [part.tasks for part in parts]
    return Deferred(found, partial(_combined, pulled, params, owners, tasks)), aux


def _combined(pulled, params, owners, tasks, w, own):
    names, found, start = sum(tasks, ()), [], 0
    for p, group in zip(pulled, tasks, strict=True):
        here = slice(start, start := start + len(group))
        shared, _ = p.pull(R.weighted_sum(w[here], p.cotangents))
        _, plain = p.pull(R.weighted_sum(own[here], p.cotangents))
        head = R.scale_own({"decoder": p.own}, owners, own, names)["decoder"]
        found.append(
            {
                "backbone": R.either(shared, plain),
                "decoder": R.either(R.weighted_sum(w[here], p.rows), head),
            }
        )
    total = _sum(found)
    return {name: total[name] for name in params}


def independent_halves(
    parts_of: PartsOf,
    params: Tree,
    stats: Tree,
    batch: Any,
    key: jax.Array,
    accumulate: int,
    *,
    owners: Owners,
    tasks: Sequence[str],
    apart: bool = True,
    pull: str = "vmap",
) -> tuple[Deferred, Aux]:
    """``J1 J2^T`` of the two halves of the batch, and the weighted sum of their mean rows.

    For methods that want the Gramian of two independent mini-batches (MoDo, SDMGrad). The even
    rows of the batch are one, the odd rows the other.
    """
    strategy = additive(partial(per_task, owners=owners, apart=apart, pull=pull))
    halves, keys = cut(batch, 2), jax.random.split(key)
    rows, values = [], []
    for half in range(2):
        part = jax.tree.map(lambda x, half=half: x[half], halves)
        found, (new, stats) = strategy(parts_of, params, stats, part, keys[half], accumulate)
        rows.append(found)
        values.append(new)
    first, second = (R.shared_part(found, owners) for found in rows)

    def combine(w, own):
        merged = jax.tree.map(
            lambda a, b: R.weighted_sum(w / 2, a) + R.weighted_sum(w / 2, b), first, second
        )
        mean = _mean([R.own_part(found, owners) for found in rows])
        return R.either(merged, R.scale_own(mean, owners, own, tasks))

    return Deferred(R.gramian(first, second), combine), (_mean(values), stats)


def _sum(trees):
    return jax.tree.map(lambda *x: sum(x), *trees)


def _mean(trees):
    return jax.tree.map(lambda *x: sum(x) / len(x), *trees)

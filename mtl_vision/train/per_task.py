"""Strategies of per-task gradients: rows, or their Gramian and a way to their weighted sum.

The exact ones give the same rows and differ in time and memory: one forward pass for all tasks,
every head taken back alone, and the trunk once per task.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtl_vision.optim import rows as R
from mtl_vision.optim.rows import Deferred, Owners
from mtl_vision.train.gradients import Aux, Parts, PartsOf, Tree, additive, cut, halves_of


class _Pulled(NamedTuple):
    """One part, taken back to its features.

    pull: cotangent of the features -> (shared, own) gradients of the trunk.
    cotangents: of the features, leaves ``[t, ...]``.
    heads: for every task the gradients of the decoder.
    """

    pull: Callable[[Tree], tuple[Tree, Tree]]
    cotangents: Tree
    heads: list[Tree]


def _pulled(parts: Parts, params: Tree, stats: Tree, owners: Owners) -> tuple[list[_Pulled], Aux]:
    trunk, head = halves_of(params)
    shared = R.shared_part({"backbone": trunk}, owners)["backbone"]
    own = R.own_part({"backbone": trunk}, owners)["backbone"]
    found, values = [], {}
    for part in parts:

        def encode(shared, own, part=part, stats=stats):
            return part.encode(R.either(shared, own), stats)

        features, pull, encoded = jax.vjp(encode, shared, own, has_aux=True)
        heads, cotangents = [], []
        for t in range(len(part.tasks)):

            def one(head, features, t=t, part=part, stats=encoded):
                losses, aux = part.decode(head, features, stats)
                return losses[t], aux

            # Every head is taken back by itself: what another task's loss does not touch is
            # not computed, and the equal forward passes are merged by the compiler.
            loss, pull_head, (new, stats) = jax.vjp(one, head, features, has_aux=True)
            grads, cotangent = pull_head(jnp.ones_like(loss))
            heads.append(grads)
            cotangents.append(cotangent)
        values |= new
        found.append(_Pulled(pull, jax.tree.map(lambda *x: jnp.stack(x), *cotangents), heads))
    return found, (values, stats)


Pull = Callable[[Tree], tuple[Tree, Tree]]


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
    parts: Parts, params: Tree, stats: Tree, *, owners: Owners, pull: str = "vmap"
) -> tuple[Tree, Aux]:
    """Exact per-task gradients: one forward, every head taken back alone, the trunk once per task.

    Args:
      parts: of the batch.
      params: the trained parameters, below ``backbone`` and ``decoder``.
      stats: running statistics.
      owners: of the leaves that are not shared.
      pull: ``vmap`` takes all tasks back at once, ``scan`` one after another in a loop with the
        memory of one, ``passes`` one after another as straight code.

    Returns: shared leaves ``[T, *shape]``, own leaves plain; and the aux.
    """
    pulled, aux = _pulled(parts, params, stats, owners)
    return _rows(pulled, params, owners, pull), aux


def _rows(pulled: Sequence[_Pulled], params: Tree, owners: Owners, pull: str) -> Tree:
    taken = [PULLS[pull](p.pull, p.cotangents) for p in pulled]
    shared = jax.tree.map(lambda *x: jnp.concatenate(x), *(rows for rows, _ in taken))
    sums = [
        R.weighted_sum(jnp.ones(len(p.heads)), own)
        for p, (_, own) in zip(pulled, taken, strict=True)
    ]
    own = jax.tree.map(lambda *x: sum(x), *sums)
    heads = [{"decoder": grads} for p in pulled for grads in p.heads]
    stacked = jax.tree.map(lambda *g: jnp.stack(g), *(R.shared_part(g, owners) for g in heads))
    summed = jax.tree.map(lambda *g: sum(g), *(R.own_part(g, owners) for g in heads))
    found = {"backbone": R.either(shared, own)} | R.either(stacked, summed)
    return {name: found[name] for name in params}


def two_pass(
    parts: Parts, params: Tree, stats: Tree, *, owners: Owners, gram: str = "rows"
) -> tuple[Deferred, Aux]:
    """A Gramian first, then one backward pass of the weighted sum of the tasks.

    Args:
      parts, params, stats, owners: see `per_task`.
      gram: ``rows``: of the per-task gradients, each dropped as soon as its products are taken,
        so they are never held together. ``features``: of the gradients by the features, an
        approximation that costs a joint step only (MGDA-UB, arXiv 1810.04650 section 3.3; all
        samples and levels count; tasks of different datasets share no feature and count as
        orthogonal).
    """
    pulled, aux = _pulled(parts, params, stats, owners)
    if gram == "features":
        blocks = [R.gramian(p.cotangents) for p in pulled]
        found = jax.scipy.linalg.block_diag(*blocks)
    else:
        found = R.gramian(R.shared_part(_rows(pulled, params, owners, "vmap"), owners))
    return Deferred(found, partial(_combined, pulled, params, owners)), aux


def _combined(pulled, params, owners, w, own):
    total, start = None, 0
    for p in pulled:
        here = slice(start, start := start + len(p.heads))
        shared, _ = p.pull(R.weighted_sum(w[here], p.cotangents))
        _, plain_own = p.pull(R.weighted_sum(own[here], p.cotangents))
        found = {"backbone": R.either(shared, plain_own)}
        for t, grads in zip(range(here.start, here.stop), p.heads, strict=True):
            head = R.times({"decoder": grads}, owners, w[t], own[t])
            found = _add(found, head)
        total = found if total is None else _add(total, found)
    return {name: total[name] for name in params}


def _add(a: Mapping[str, Tree], b: Mapping[str, Tree]) -> dict[str, Tree]:
    both = {k: jax.tree.map(jnp.add, a[k], b[k]) for k in a.keys() & b.keys()}
    return {**a, **b, **both}


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
    pull: str = "vmap",
) -> tuple[Deferred, Aux]:
    """``J1 J2^T`` of the two halves of the batch, and the weighted sum of their mean rows.

    For methods that want the Gramian of two independent mini-batches (MoDo, SDMGrad). The even
    rows of the batch are one, the odd rows the other.
    """
    strategy = additive(partial(per_task, owners=owners, pull=pull))
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


def _mean(trees):
    return jax.tree.map(lambda *x: sum(x) / len(x), *trees)

"""SAM and task-wise SAM on recorded problems, in double precision."""

import jax
import jax.numpy as jnp
import optax
import pytest

from mtl_vision.optim.aggregate import aggregate
from mtl_vision.optim.methods import AGGREGATORS
from mtl_vision.optim.rows import Owner
from mtl_vision.optim.sam import sam, task_sam
from tests.parity import records

TOLERANCE = 1e-10
METHODS = {
    "sum": AGGREGATORS["sum"](),
    "mean": AGGREGATORS["mean"](),
    "mgda": AGGREGATORS["mgda"](parity="torchjd"),
    "upgrad": AGGREGATORS["upgrad"](parity="torchjd"),
    "imtlg": AGGREGATORS["imtl_g"](parity="torchjd"),
    "config": AGGREGATORS["config"](),
    "aligned_mtl": AGGREGATORS["aligned_mtl"](parity="torchjd"),
}
MODES = {"shared_decomposed": "separate", "shared_direct": "direct"}
SPY = optax.GradientTransformationExtraArgs(lambda _: (), lambda u, s, p=None, **extra: (u, u))


def problems():
    """Every recorded problem: file and name."""
    return [
        pytest.param(file, name, id=f"{file.stem}-{name}")
        for file in records.aggregators()
        for name in sorted({n.partition("/")[0] for n in records.load(file)[1].files})
        if name.startswith("flat")
    ]


@jax.jit
def losses(arrays, params):
    inside = jnp.einsum("tij,j->ti", arrays["A"], params["shared"])
    inside += jnp.einsum("tij,tj->ti", arrays["B"], params["own"]) - arrays["c"]
    return arrays["loss_scale"] * jnp.log(jnp.cosh(inside)).mean(1)


@jax.jit
def task_gradient(arrays, params, t):
    return jax.grad(lambda p: losses(arrays, p)[t])(params)


def every_method(tasks, owners):
    """The aggregates of all methods side by side, compiled once."""
    inners = [aggregate(method, tasks, owners) for method in METHODS.values()]

    @jax.jit
    def update(rows, states, params):
        merged = [
            tx.update(rows, state, params)[0] for tx, state in zip(inners, states, strict=True)
        ]
        return {"shared": jnp.stack([m["shared"] for m in merged]), "own": merged[0]["own"]}, states

    return optax.GradientTransformation(lambda p: [tx.init(p) for tx in inners], update)


class Problem:
    """A recorded problem: parameters, owners, and gradients at any parameters."""

    def __init__(self, arrays):
        self.arrays = {k: jnp.asarray(arrays[k]) for k in ("A", "B", "c", "loss_scale")}
        self.tasks = tuple(map(str, range(len(arrays["A"]))))
        self.owners = {"own": Owner(self.tasks, 0)}
        self.params = {"shared": arrays["theta_shared"], "own": arrays["theta_task"]}
        self.params = jax.tree.map(jnp.asarray, self.params)
        self.rows = self.rows_at(self.params)
        self.inner = every_method(self.tasks, self.owners)

    def rows_at(self, params):
        return self.at_points(lambda t: params)

    def at_points(self, points):
        grads = [task_gradient(self.arrays, points(t), t) for t in range(len(self.tasks))]
        return {
            "shared": jnp.stack([g["shared"] for g in grads]),
            "own": sum(g["own"] for g in grads),
        }


def single(problem, **fields):
    """SAM on the summed loss; the perturbation is seen by a gradient that is the parameters."""
    tx, rows = sam(SPY, problem.tasks, problem.owners, **fields), problem.rows
    there = tx.update(rows, (), problem.params, grad_fn=problem.rows_at)[0]
    moved = tx.update(rows, (), problem.params, grad_fn=lambda p: p)[0]
    eps = jax.tree.map(jnp.subtract, moved, problem.params)
    return {
        "grad_shared": there["shared"].sum(0),
        "grad_task": there["own"],
        "eps": jnp.concatenate([eps["shared"], eps["own"].ravel()]),
    }


def task_wise(problem, norm, rho, adaptive):
    """All that `task_sam` makes; `moved` are perturbed parameters, seen as if gradients."""
    fields = {"norm": norm, "adaptive": adaptive, "rho_shared": rho, "rho_task": rho}
    params, T = problem.params, len(problem.tasks)

    def run(inner, task_grads_fn, **mode):
        tx = task_sam(inner, problem.tasks, problem.owners, **fields, **mode)
        return tx.update(problem.rows, tx.init(params), params, task_grads_fn=task_grads_fn)

    def moved_to(points):
        moved = [points(t) for t in range(T)]
        own = jnp.stack([p["own"][t] for t, p in enumerate(moved)])
        return {"shared": jnp.stack([p["shared"] for p in moved]), "own": own}

    there, state = run(SPY, problem.at_points)
    moved, _ = run(SPY, moved_to)
    found = {
        "g_sam": there["shared"],
        "g_flat": state.flat["shared"],
        "g_task_sam": there["own"],
        "eps_shared": moved["shared"] - jnp.stack([params["shared"]] * T),
        "eps_task": moved["own"] - params["own"],
    }
    for kind, mode in MODES.items():
        merged, _ = run(problem.inner, problem.at_points, mode=mode)
        found |= {f"{kind}/{k}": d for k, d in zip(METHODS, merged["shared"], strict=True)}
    return found


@pytest.mark.parametrize(("file", "name"), problems())
def test_every_record(file, name, x64):
    arrays = records.group(records.load(file)[1], name)
    problem = Problem(arrays)
    ours = {"losses": losses(problem.arrays, problem.params)}
    ours |= {"g_loss": problem.rows["shared"], "g_task": problem.rows["own"]}
    cases = sorted({key.partition("/")[0] for key in arrays if "/" in key})
    for case in cases:
        kind, other, rho = case.split("_")
        fields = {"rho": float(rho.removeprefix("rho")), "adaptive": "asam" in case}
        if kind == "single":
            found = single(problem, **fields)
        else:
            found = task_wise(problem, other, **fields)
        ours |= {f"{case}/{key}": value for key, value in found.items()}
    given = {"A", "B", "c", "loss_scale", "theta_shared", "theta_task"}
    assert set(arrays) - given == set(ours)
    for key in ours:
        records.assert_close(ours[key], arrays[key], TOLERANCE, key)

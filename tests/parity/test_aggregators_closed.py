"""Closed-form, stateful and coordinate-wise aggregators against TorchJD, in double precision.

To compile little, cases run together: their gradients are padded with coordinates that are zero
for every task. Methods that tasks without a gradient do not touch run all cases at once, padded
with such tasks; the others run the cases of one K at once.
"""

import collections
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_vision.optim import coordinates
from mtl_vision.optim.weightings import balance, robust, simple, stateful, surgery
from mtl_vision.optim.weightings.cones import upgrad
from tests.parity import records

WEIGHTED = {  # name in the record -> method of the case's preference
    "mean": lambda p: simple.mean(),
    "sum": lambda p: simple.total(),
    "imtlg": lambda p: balance.imtl_g(parity="torchjd"),
    "imtlg own": lambda p: balance.imtl_g(sign_guard=False),
    "aligned_mtl_min": lambda p: balance.aligned_mtl(),
    "aligned_mtl_median": lambda p: balance.aligned_mtl(scale="median"),
    "aligned_mtl_rmse": lambda p: balance.aligned_mtl(scale="rmse"),
    "aligned_mtl_min_pref": lambda p: balance.aligned_mtl(preference=p),
    "config": lambda p: balance.config(),
    "config_pref": lambda p: balance.config(preference=p),
    "krum_0_1": lambda p: robust.krum(parity="torchjd"),
    "krum_1_2": lambda p: robust.krum(byzantine=1, selected=2, parity="torchjd"),
}
EXCESS = {
    "seq/excess_mtl_s1": coordinates.excess_mtl(step=1.0, warmup=0, parity="torchjd"),
    "seq/excess_mtl_s0.01_warm1": coordinates.excess_mtl(step=0.01, warmup=1, parity="torchjd"),
}
COORDINATES = ["graddrop", "graddrop_leak", "trimmed_mean_1"]
NAMES = [*WEIGHTED, *EXCESS, *COORDINATES, "pcgrad", "seq/gradvac_b0.5", "seq/crmogm_upgrad_a0.9"]
SINGULAR = {"low_rank", "pareto"}  # where pinv(G) and pinv(C) differ


@pytest.fixture(params=records.aggregators(), ids=lambda f: f.stem, scope="module")
def record(request):
    return request.param


@functools.cache
def load(file):
    """Returns the tolerances of the record and its cases ``(meta, arrays)``."""
    meta, arrays = records.load(file)
    cases = [(c, records.group(arrays, f"c{c['case']:02d}")) for c in meta["cases"]]
    return meta["rtol"], cases


@functools.cache
def results(file):
    """Returns (meta, arrays, name -> merged gradient) of every case."""
    _, cases = load(file)
    padded = run(touched_by_no_absent_task, cases, "float64")
    sized = {}
    for K in sorted({meta["K"] for meta, _ in cases}):
        group = [case for case in cases if case[0]["K"] == K]
        outs = run(of_one_size(group), group, "float64")
        sized |= {meta["case"]: out for (meta, _), out in zip(group, outs, strict=True)}
    return [
        (meta, arrays, out | sized[meta["case"]])
        for (meta, arrays), out in zip(cases, padded, strict=True)
    ]


def run(merge, cases, dtype):
    """Returns name -> merged gradient of every case, from one compilation for all of them."""
    K = max(meta["K"] for meta, _ in cases)
    d = max(meta["d"] for meta, _ in cases)
    padded = [inputs(arrays, K, d, dtype) for _, arrays in cases]
    out = jax.jit(jax.vmap(merge))(jax.tree.map(lambda *x: jnp.stack(x), *padded))
    out = jax.tree.map(np.asarray, out)

    def cut(i, meta, name, value):
        own = (
            (..., slice(meta["K"]), slice(meta["K"])) if name == "phi" else (..., slice(meta["d"]))
        )
        return value[i][own]

    return [
        {name: cut(i, meta, name, value) for name, value in out.items()}
        for i, (meta, _) in enumerate(cases)
    ]


def inputs(arrays, K, d, dtype):
    """Returns the inputs of one case for K tasks and d coordinates."""

    def pad(value, shape):
        gaps = [(0, full - own) for full, own in zip(shape, value.shape, strict=True)]
        return jnp.asarray(np.pad(value, gaps), dtype)

    def orders(own):  # others come after those of the record
        full = np.broadcast_to(np.arange(K), (*own.shape[:-2], K, K)).copy()
        full[..., : own.shape[-1], : own.shape[-1]] = own
        return jnp.asarray(full)

    steps = len(arrays["J_seq"])
    return {
        "J": pad(arrays["J"], (K, d)),
        "J_seq": pad(arrays["J_seq"], (steps, K, d)),
        "pref": pad(arrays["pref"], (K,)),
        "mean": pad(np.full_like(arrays["pref"], 1 / len(arrays["pref"])), (K,)),
        "leak": pad(arrays["leak"], (K,)),
        "u": pad(arrays["rand/graddrop_u"], (d,)),
        "leak_u": pad(arrays["rand/graddrop_leak_u"], (d,)),
        "orders": orders(arrays["rand/pcgrad_perm"]),
        "vac_orders": orders(of_all_tasks(arrays["rand/gradvac_perm"])),
    }


def of_all_tasks(perm):
    """Returns orders over all tasks, oneself last, from orders over the list of the others."""
    K = perm.shape[1]
    others = np.array([[j for j in range(K) if j != i] for i in range(K)])
    orders = np.take_along_axis(np.broadcast_to(others, perm.shape), perm, axis=2)
    itself = np.broadcast_to(np.arange(K)[:, None], (len(perm), K, 1))
    return np.concatenate([orders, itself], axis=2)


def touched_by_no_absent_task(x):
    J, sequence = x["J"], x["J_seq"]
    grams = jnp.einsum("skd,sld->skl", sequence, sequence)
    mean_upgrad = upgrad(preference=tuple(x["mean"]), parity="torchjd")
    smooth = stateful.cr_mogm(mean_upgrad, alpha=0.9, parity="torchjd")

    def step(state, now):
        w, inner = smooth.update(now[0], state[0])
        v, phi = surgery.gradvac_in_order(now[0], state[1], now[1], beta=0.5, floor=1e-8)
        return (inner, phi), (w, v, phi)

    start = (smooth.init(len(J)), jnp.zeros((len(J), len(J)), J.dtype))
    _, (smoothed, vaccinated, phi) = jax.lax.scan(step, start, (grams, x["vac_orders"]))
    return {
        "pcgrad": surgery.pcgrad_in_order(J @ J.T, x["orders"]) @ J,
        "graddrop": coordinates.drop_signs(J, x["u"]),
        "graddrop_leak": coordinates.drop_signs(J, x["leak_u"], tuple(x["leak"])),
        "seq/crmogm_upgrad_a0.9": jnp.einsum("sk,skd->sd", smoothed, sequence),
        "seq/gradvac_b0.5": jnp.einsum("sk,skd->sd", vaccinated, sequence),
        "phi": phi,
    }


def of_one_size(group):
    recorded = frozenset().union(*(arrays for _, arrays in group))

    def merge(x):
        J, K = x["J"], len(x["J"])
        gram, out = J @ J.T, {}
        for name, method in WEIGHTED.items():
            if f"out/{name.split()[0]}" in recorded:
                method = method(tuple(x["pref"]))
                w, _ = method.update(gram, method.init(K), losses=jnp.ones_like(x["pref"]))
                out[name] = w @ J
        if "out/trimmed_mean_1" in recorded:
            out["trimmed_mean_1"] = coordinates.trimmed_mean().update(J, ())[0]
        for name, method in EXCESS.items():

            def step(state, rows, method=method):
                return method.update(rows, state)[::-1]

            out[name] = jax.lax.scan(step, method.init(J[0], K), x["J_seq"])[1]
        return out

    return merge


def error(actual, expected, rows):
    """Returns the relative error, against the largest row where the expected output is zero."""
    largest = np.linalg.norm(rows, axis=-1).max(-1)
    size = np.linalg.norm(expected, axis=-1)
    size = np.where(size > 1e-10 * largest, size, largest)
    return (np.linalg.norm(actual - expected, axis=-1) / size).max()


@pytest.mark.parametrize("name", NAMES)
def test_merged_gradient(name, record, x64):
    compared, key = 0, name.split()[0]
    rtol = load(record)[0][key]
    for meta, arrays, out in results(record):
        stored, flag = key if "/" in key else f"out/{key}", f"check/{key.replace('/', '_')}"
        if not arrays.get(flag, 0) or (name == "imtlg own" and meta["kind"] in SINGULAR):
            continue
        rows = arrays["J_seq" if key.startswith("seq/") else "J"]
        worst = error(out[name], arrays[stored], rows)
        assert worst <= rtol, f"{name}, case {meta['case']}: off by {worst:.1e}, allowed {rtol}"
        compared += 1
    assert compared, f"no case of {name} was compared"


def test_targets_of_gradvac(record, x64):
    for meta, arrays, out in results(record):
        expected = arrays["seqstate/gradvac_b0.5_phi"]
        np.testing.assert_allclose(out["phi"], expected, atol=1e-9, err_msg=str(meta["case"]))


def test_single_precision(record):
    kinds = {"well", "conflict"}  # what the record's notes allow
    cases = [case for case in load(record)[1] if case[0]["kind"] in kinds]
    K = collections.Counter(meta["K"] for meta, _ in cases).most_common(1)[0][0]
    cases = [case for case in cases if case[0]["K"] == K]
    outs = run(of_one_size(cases), cases, "float32")
    for (meta, arrays), out in zip(cases, outs, strict=True):
        for name in {*WEIGHTED, *COORDINATES} & {*out}:
            off = error(out[name], arrays[f"out/{name.split()[0]}"], arrays["J"])
            assert off <= 1e-5, f"{name}, case {meta['case']}: off by {off:.1e}"

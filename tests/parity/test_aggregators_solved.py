"""Gramian methods that solve a small problem, against TorchJD and exact solutions.

Most methods see all cases at once, filled up to the largest K with tasks without a gradient, which
must not matter. Those that TorchJD lets them matter for run for each K.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_vision.optim.weightings import bargaining, cones, conflict_averse, min_norm
from tests.parity import records

NUMBER = r"([\d.e-]+)"
# Pattern of names in a record -> method of the case's preference and the numbers in the name.
OF_MEAN = {  # with tasks added up to T results are K / T times as long
    "out/upgrad": lambda p: cones.upgrad(parity="torchjd"),
    f"out/upgrad_reg{NUMBER}": lambda p, reg: cones.upgrad(
        reg_mode="trace", reg=reg, norm_eps=1e-4
    ),
    "out/dualproj": lambda p: cones.dualproj(parity="torchjd"),
    f"out/cagrad_c{NUMBER}": lambda p, c: conflict_averse.cagrad(
        c=c, rescale=0, zero_at_pareto=True
    ),
    f"zero row/out/cagrad_c{NUMBER}": lambda p, c: conflict_averse.cagrad(c=c, parity="torchjd"),
    f"exact/cagrad_c{NUMBER}": lambda p, c: conflict_averse.cagrad(c=c, rescale=0),
}
FILLED_UP = OF_MEAN | {
    "out/upgrad_pref": lambda p: cones.upgrad(preference=tuple(p), parity="torchjd"),
    "out/dualproj_pref": lambda p: cones.dualproj(preference=tuple(p), parity="torchjd"),
    f"(?:out|exact)/fairgrad_a{NUMBER}": lambda p, alpha: bargaining.fairgrad(alpha=alpha),
    f"out/nash_mtl_maxnorm{NUMBER}": lambda p, most: bargaining.nash_mtl(max_norm=most),
    "exact/mgda": lambda p: min_norm.mgda(),
    "zero row/exact/mgda": lambda p: min_norm.mgda(drop_zero_rows=False),
    "seq/pcd": lambda p: cones.pcd(parity="torchjd"),
}
ALONE = {
    "out/mgda": lambda p: min_norm.mgda(parity="torchjd"),
    f"seqw/modo_g{NUMBER}_r{NUMBER}": lambda p, gamma, rho: min_norm.modo(
        gamma=gamma, rho=rho, drop_zero_rows=False
    ),
    f"seqw/sdmgrad_lr{NUMBER}": lambda p, lr: min_norm.sdmgrad(
        solver="sgd", lr=lr, drop_zero_rows=False
    ),
}
EXACT = 1e-5
SINGLE = ("exact/mgda", "exact/cagrad", "exact/fairgrad", "out/upgrad", "out/dualproj", "out/nash")
EASY = {"well", "no_conflict", "conflict"}  # kinds of cases that float32 is good for
FLAGS = {"out": "check/", "seq": "check/seq_", "seqw": "check/seqw_"}


@pytest.fixture(params=records.aggregators(), ids=lambda f: f.stem, scope="module")
def record(request):
    return request.param


@functools.cache
def load(file):
    """Returns the tolerances of the record and its cases ``(meta, arrays)``."""
    meta, arrays = records.load(file)
    return meta["rtol"], [
        (case, records.group(arrays, f"c{case['case']:02d}")) for case in meta["cases"]
    ]


def inputs(arrays, T):
    """Returns the Gramians of a case, filled up to T tasks, and its preference."""
    J, steps = arrays["J"], arrays["J_seq"]
    gap = T - len(J)

    def fill(gram):
        return np.pad(gram, [(0, 0)] * (gram.ndim - 2) + [(0, gap)] * 2)

    return {
        "gram": fill(J @ J.T),
        "seq": fill(steps @ np.swapaxes(steps, 1, 2)),
        "seqw": fill(steps @ np.swapaxes(np.roll(steps, -1, axis=0), 1, 2)),
        "p": np.pad(arrays["pref"], (0, gap)),
    }


def weigh(methods, names, x):
    """Returns the weights of all methods of whom a name speaks; ``[steps, T]`` of sequences."""
    done, out = {}, {}
    for name in names:
        for pattern, make in methods.items():
            if match := re.fullmatch(pattern, name):
                key = pattern, match.groups()
                if key not in done:
                    done[key] = one(make(x["p"], *map(float, match.groups())), name, x)
                out[name] = done[key] * (len(x["p"]) if pattern in OF_MEAN else 1)
    return out


def one(method, name, x):
    state, steps = method.init(len(x["p"])), x.get(name.split("/")[0])
    if steps is None:
        return method.update(x["gram"], state)[0]
    return jax.lax.scan(lambda state, gram: method.update(gram, state)[::-1], state, steps)[1]


def together(methods, names, cases, T, dtype):
    """Returns the weights of every case by name, for all cases in one compilation."""
    stacked = [inputs(arrays, T) for _, arrays in cases]
    stacked = jax.tree.map(lambda *x: jnp.asarray(np.stack(x), dtype), *stacked)
    out = jax.jit(jax.vmap(functools.partial(weigh, methods, names)))(stacked)
    out = jax.tree.map(np.float64, out)
    of_mean = {name for name in out if any(re.fullmatch(pattern, name) for pattern in OF_MEAN)}
    return [
        {
            name: w[i][..., : meta["K"]] / (meta["K"] if name in of_mean else 1)
            for name, w in out.items()
        }
        for i, (meta, _) in enumerate(cases)
    ]


@functools.cache
def results(file):
    """Returns (meta, arrays, weights by name) of every case, in double precision."""
    _, cases = load(file)
    names = sorted(frozenset().union(*(arrays for _, arrays in cases)))
    names += [f"zero row/{name}" for name in names]
    most = max(meta["K"] for meta, _ in cases)
    found = together(FILLED_UP, names, cases, most, "float64")
    for K in {meta["K"] for meta, _ in cases}:
        places = [i for i, (meta, _) in enumerate(cases) if meta["K"] == K]
        own = together(ALONE, names, [cases[i] for i in places], K, "float64")
        for i, weights in zip(places, own, strict=True):
            found[i] |= weights
    return [(meta, arrays, w) for (meta, arrays), w in zip(cases, found, strict=True)]


def error(actual, expected, rows):
    """Returns the relative error, against the largest row where the expected output is zero."""
    size = np.linalg.norm(expected, axis=-1)
    largest = np.linalg.norm(rows, axis=-1).max(-1)
    size = np.where(size > 1e-12 * largest, size, largest)
    return (np.linalg.norm(actual - expected, axis=-1) / size).max()


def compare(group, cases, tolerance):
    """Compares what is stored of a group with the results; returns how many comparisons."""
    compared = 0
    for meta, arrays, weights in cases:
        rows = arrays["J_seq" if group == "seq" else "J"]
        for name, w in weights.items():
            kind, _, method = name.rpartition("/")
            flagged = group in FLAGS and not arrays.get(FLAGS[group] + method, 1)
            if kind != group or name not in arrays or flagged:
                continue
            w = weights.get(f"zero row/{name}", w) if not rows.any(-1).all() else w
            actual = w if group == "seqw" else np.einsum("...k,...kd->...d", w, rows)
            off, most = error(actual, arrays[name], rows), tolerance(name)
            assert off <= most, f"{name}, case {meta['case']}: off by {off:.1e}, allowed {most}"
            compared += 1
    return compared


@pytest.mark.parametrize("group", ["out", "seq", "seqw"])
def test_outputs_of_torchjd(group, record, x64):
    rtol, _ = load(record)
    assert compare(group, results(record), lambda name: rtol[name.removeprefix("out/")])


def test_weights_of_torchjd(record, x64):
    rtol, _ = load(record)
    for meta, arrays, weights in results(record):
        J = arrays["J"]
        for name in ("mgda", "upgrad", "upgrad_pref", "dualproj", "dualproj_pref"):
            off = error(weights[f"out/{name}"], arrays[f"w/{name}"], J)
            assert off <= rtol[name], f"{name}, case {meta['case']}: off by {off:.1e}"


def test_exact_solutions(record, x64):
    assert compare("exact", results(record), lambda name: EXACT)


def test_single_precision(record):
    cases = [case for case in load(record)[1] if case[0]["kind"] in EASY]
    names = sorted(frozenset().union(*(arrays for _, arrays in cases)))
    names = [min(filter(re.compile(pattern).match, names)) for pattern in SINGLE]
    most = max(meta["K"] for meta, _ in cases)
    found = together(FILLED_UP, names, cases, most, "float32")
    cases = [(*case, w) for case, w in zip(cases, found, strict=True)]
    assert compare("exact", cases, lambda name: EXACT)
    assert compare("out", cases, lambda name: EXACT)

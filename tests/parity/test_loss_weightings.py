"""Loss weightings against TorchJD and FAMO's code, in double precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_vision.optim.loss_weightings import LOSS_WEIGHTINGS, scalars
from tests.parity import records

SCALARS = {  # losses, log-variances -> the scalar
    "geometric_mean": lambda losses, s: scalars.geometric_mean(losses),
    "stch_mu0.1": lambda losses, s: scalars.chebyshev(losses, 0.1),
    "stch_mu1.0": lambda losses, s: scalars.chebyshev(losses, 1.0),
    "uw": scalars.uncertainty,
    "imtl_l": scalars.impartial,
}
FAMO = {"famo_lr0.025_wd1e-3": 1e-3, "famo_lr0.025_wd1e-5": 1e-5}  # weight decay
DWA = "dwa_T2_3batches_per_epoch"
METHODS = {
    "geometric_mean": LOSS_WEIGHTINGS["gls"](),
    "stch_mu0.1": LOSS_WEIGHTINGS["stch"](mu=0.1, parity="torchjd"),
    "stch_mu1.0": LOSS_WEIGHTINGS["stch"](mu=1.0, parity="torchjd"),
    "uw": LOSS_WEIGHTINGS["uw"](),
    "imtl_l": LOSS_WEIGHTINGS["imtl_l"](),
    DWA: LOSS_WEIGHTINGS["dwa"](steps_per_epoch=3),
} | {name: LOSS_WEIGHTINGS["famo"](weight_decay=decay) for name, decay in FAMO.items()}


def at_log_var(name, losses, log_var):
    """The weights, and the slope of what is learned, from Adam's first moment."""
    method = METHODS[name]
    state = method.init(len(losses))
    if name not in ("uw", "imtl_l"):
        return {f"lossw/{name}": method.update(losses, state)[0]}
    w, state = method.update(losses, state._replace(values=log_var))
    return {f"lossw/{name}": w, f"lossp/{name}": state.opt[0].mu / 0.1}


@jax.jit
@jax.vmap
def ours(sequence, log_var):
    """Everything the records hold, for cases ``[N]`` of one number of tasks."""

    def step(states, pair):
        losses, after = pair
        found, new = {}, {}
        for name, scalar in SCALARS.items():
            found[f"loss/{name}"] = scalar(losses, log_var)
            found |= at_log_var(name, losses, log_var)
        for name, state in states.items():
            found[f"lossw/{name}"], new[name] = METHODS[name].update(losses, state)
        for name in FAMO:
            z = jax.nn.softmax(states[name].logits.values)
            found[f"loss/{name}"] = scalars.famo_mean(losses, z)
            new[name] = METHODS[name].after(losses, after, new[name])
            found[f"lossstate/{name}_logits"] = new[name].logits.values
        return new, found

    start = {name: METHODS[name].init(sequence.shape[1]) for name in (DWA, *FAMO)}
    after = jnp.concatenate([sequence[1:], sequence[-1:]])
    return jax.lax.scan(step, start, (sequence, after))[1]


@pytest.mark.parametrize("file", records.aggregators(), ids=lambda f: f.stem)
def test_every_record(file, x64):
    arrays = records.load(file)[1]
    names = [name.partition("/") for name in arrays.files if "/loss" in name]
    recorded = {}  # (steps, T) -> case -> names
    for case, _, name in names:
        if f"{case}/loss_seq" in arrays and name not in ("losses", "loss_seq"):
            shape = arrays[f"{case}/loss_seq"].shape
            recorded.setdefault(shape, {}).setdefault(case, []).append(name)
    assert recorded
    for cases in recorded.values():
        inputs = (
            np.stack([arrays[f"{case}/{name}"] for case in cases])
            for name in ("loss_seq", "log_var")
        )
        found = jax.tree.map(np.asarray, ours(*map(jnp.asarray, inputs)))
        for i, (case, kept) in enumerate(cases.items()):
            for name in kept:
                expected = arrays[f"{case}/{name}"]  # FAMO's lack the step without a next one
                records.assert_close(
                    found[name][i, : len(expected)], expected, 1e-12, f"{case}/{name}"
                )

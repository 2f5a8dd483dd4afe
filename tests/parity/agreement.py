"""A network of `networks` against its record, aspect by aspect."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mtl_vision import optim, rules
from mtl_vision.models import mtl
from mtl_vision.models.layouts import padded
from mtl_vision.models.released import mtlora as released
from mtl_vision.optim.optimizers import decay_factors
from tests.parity import networks, records

# What decays and what does not, by a name and a shape that the optimizer treats so.
BOTH, SHAPE = (("kernel", True), ("bias", False)), {"kernel": (-1, 1), "bias": (-1,)}


def path_of(name, meta):
    """Returns (path, rule) of an array of the record."""
    for rule in released.checkpoint(networks.kinds_of(meta), networks.DATASET):
        if rule.path and (match := re.fullmatch(rule.pattern, name)):
            return match.expand(rule.path), rule
    raise KeyError(name)


def pick(name, tree, meta):
    """Returns the record's array `name` from a flat tree of ours; a task's from its slice."""
    path, rule = path_of(name, meta)
    return tree[path][rule.part] if rule.join is padded else tree[path]


def assert_named(tree, arrays, prefix, meta, tolerance):
    """Compares a flat tree of ours with the arrays below `prefix`; padding must be zero."""
    found = {n: a for n in arrays.files if n.startswith(prefix) for a in [arrays[n]]}
    assert found, prefix
    for name, expected in found.items():
        name = name.removeprefix(prefix)
        _, rule = path_of(name, meta)
        actual, expected = np.array(pick(name, tree, meta)), rule.transform(expected)
        real = tuple(slice(n) for n in expected.shape)
        records.assert_close(actual[real], expected, tolerance, prefix + name)
        actual[real] = 0
        assert not actual.any(), f"{prefix}{name}: padding is not zero"


def check(file, what):
    """Compares one aspect of a network with its record; see `CHECKS`."""
    CHECKS[what](*networks.measure(file))


def _features(network, found):
    arrays, shared = network.arrays, found["taps"]
    for i, level in enumerate(shared):
        streams = zip(("shared", *networks.kinds_of(network.meta)), level, strict=False)
        for stream, x in streams:
            name = f"eval/stage{i}.{stream}"
            if name in arrays:
                records.assert_close(x.reshape(arrays[name].shape), arrays[name], 1e-10, name)


def _outputs(network, found):
    arrays = network.arrays
    for kind in networks.kinds_of(network.meta):
        for mode in ("eval", "train"):
            x = np.moveaxis(found[mode]["heads"][kind], -1, 1)
            records.assert_close(x, arrays[f"{mode}/head.{kind}"], 1e-10, f"{mode} {kind}")
        x = np.moveaxis(found["eval"]["out"][kind][:, ::3, ::3], -1, 1)
        records.assert_close(x, arrays[f"eval/out_every3.{kind}"], 1e-10, kind)


def _losses(network, found):
    for mode in ("eval", "train"):
        for kind, value in found[mode]["losses"].items():
            records.assert_close(value, network.arrays[f"{mode}/loss.{kind}"], 1e-10, kind)


def _gradients(network, found):
    meta, arrays = network.meta, network.arrays
    for mode in ("eval", "train"):
        grads = found[mode]["grads"]
        names, whole = meta["grad_norm_names"], arrays[f"{mode}/grad_global_norm"]
        actual = [np.linalg.norm(pick(name, grads, meta)) for name in names]
        # The bias before a norm has a gradient of 0 in training, but for rounding.
        expected = arrays[f"{mode}/grad_norms"]
        np.testing.assert_allclose(actual, expected, rtol=1e-8, atol=1e-12 * whole)
        ours = np.linalg.norm([np.linalg.norm(g) for g in grads.values()])
        records.assert_close(ours, whole, 1e-8, mode)
        if mode == "train":  # recorded after the clipping, unlike the norms
            most = meta["step"]["clip_global_norm"]
            grads = {path: g * min(1, most / (whole + 1e-6)) for path, g in grads.items()}
        assert_named(grads, arrays, f"{mode}/grad.", meta, 1e-8)


def _statistics(network, found):
    named = {n: a for n, a in found["train"]["stats"].items()}
    flat = {f"decoder/{path}": x for path, x in rules.flatten(named).items()}
    assert_named(flat, network.arrays, "train/after.", network.meta, 1e-10)


def _step(network, found):
    step, params = network.meta["step"], rules.flatten(network.trainable)
    factors = decay_factors((), params)

    def joined(tree):  # two arrays instead of hundreds: the steps of the chain are elementwise
        parts = {
            name: [tree[p].ravel() for p in tree if bool(factors[p]) == yes] for name, yes in BOTH
        }
        return {name: jnp.concatenate(x).reshape(*SHAPE[name]) for name, x in parts.items()}

    with jax.enable_x64(True):
        adamw = optim.OPTIMIZERS["adamw"]((), weight_decay=step["weight_decay"])
        constant = optim.SCHEDULES["constant"](lr=step["lr"], steps=1)
        tx = optim.chain(adamw, constant, clip_norm=step["clip_global_norm"])
        before = joined(params)
        updates, _ = tx.update(joined(found["train"]["grads"]), tx.init(before), before)
        moved = optax.apply_updates(before, updates)
    after = {}
    for name, yes in BOTH:
        paths = [p for p in params if bool(factors[p]) == yes]
        cuts = np.cumsum([params[p].size for p in paths])[:-1]
        pieces = np.split(np.asarray(moved[name]).ravel(), cuts)
        after |= {p: x.reshape(params[p].shape) for p, x in zip(paths, pieces, strict=True)}
    assert_named(after, network.arrays, "step/param.", network.meta, 1e-8)


CHECKS = {
    "features": _features,
    "outputs": _outputs,
    "losses": _losses,
    "gradients": _gradients,
    "statistics": _statistics,
    "step": _step,
}


def check_names(file):
    """Compares what trains, what decays and how many there are, without an array."""
    meta, _ = records.load(file)
    model = mtl.abstract(lambda: networks.build(meta))
    chosen = rules.resolve(networks.trainable(meta), mtl.parameters(model), "trainable")
    trains = {path for path, yes in chosen.items() if yes}
    assert {path_of(name, meta)[0] for name in meta["trainable"]} == trains
    assert {path_of(name, meta)[0] for name in meta["all_parameters"]} == set(chosen)
    sizes = mtl.sizes(model)
    assert sum(sizes.values()) == meta["counts"]["total"]
    assert sum(sizes[path] for path in trains) == meta["counts"]["trainable"]
    params = {path: x for path, x in mtl.parameters(model).items() if path in trains}
    decays = decay_factors((), params)
    still = {path for path, factor in decays.items() if not factor}
    assert {path_of(name, meta)[0] for name in meta["no_weight_decay"]} == still

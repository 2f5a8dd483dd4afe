"""What every adapter keeps in a backbone: a task's outputs depend on its own parameters."""

import jax
import numpy as np
from flax import nnx

from mtl_vision import rules
from mtl_vision.models.adapters import streams
from mtl_vision.models.layers import TaskParam


def shaken(tree):
    """All parameters moved up at random, so that no branch is zero or off."""
    draws = np.random.default_rng(0)
    return jax.tree.map(lambda x: x + np.float32(draws.uniform(0, 0.4, x.shape)), tree)


def task_paths(model):
    return rules.flatten(nnx.to_pure_dict(nnx.state(model, TaskParam))).keys()


def own_outputs_only(model, run, params):
    """Asserts that every parameter moves the first task, and other tasks' slices do not.

    Args:
      model: the backbone.
      run: compiled, from parameters to taps.
      params: state of the parameters that adapters added, where no branch is off.
    """
    leaves, structure = jax.tree.flatten(params)
    paths = list(rules.flatten(nnx.to_pure_dict(params)))
    own, draws = task_paths(model), np.random.default_rng(1)

    def first(i=0, change=0.0):
        changed = [*leaves[:i], leaves[i] + change, *leaves[i + 1 :]]
        taps = run(jax.tree.unflatten(structure, changed))
        return np.concatenate([np.ravel(x[: model.shared + 1]) for x in taps])

    want = first()
    assert np.isfinite(want).all()
    for i, (path, leaf) in enumerate(zip(paths, leaves, strict=True)):
        change = np.float32(draws.uniform(-0.8, -0.6, leaf.shape))  # TAPS: to off
        assert np.abs(first(i, change) - want).max() > 0, path
        if path in own:
            np.moveaxis(change, streams.task_axis(path), 0)[0] = 0
            np.testing.assert_array_equal(first(i, change), want, err_msg=path)


def own_gradients_only(model, grads):
    """Asserts that every parameter has a gradient from the first task, others' slices none."""
    own = task_paths(model)
    for path, grad in rules.flatten(nnx.to_pure_dict(grads)).items():
        assert np.isfinite(grad).all() and np.abs(grad).max() > 0, path
        if path in own:
            others = np.moveaxis(np.asarray(grad), streams.task_axis(path), 0)[1:]
            assert not others.any(), path

"""Perturbations that need no more than the gradient of the summed loss."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtl_vision import rules
from mtl_vision.errors import ConfigError
from mtl_vision.optim.optimizers import norm
from mtl_vision.optim.rows import NOBODY, Owners, wide
from mtl_vision.optim.sam import perturb
from mtl_vision.optim.sam.perturb import Ball, Leaves


def sam(
    inner: optax.GradientTransformation,
    tasks: Sequence[str] | int = (),
    owners: Owners = NOBODY,
    *,
    rho: float = 0.05,
    adaptive: bool = False,
    eps: float = 1e-12,
) -> optax.GradientTransformationExtraArgs:
    """SAM on the summed loss: one perturbation of all parameters, then `inner`.

    Around an aggregator this is G-SAM of arXiv 2507.07883. Two passes per step.

    Args:
      inner: gets the gradients at the perturbed parameters, and all extra arguments.
      tasks: their names or number; only needed for `Deferred` gradients.
      owners: of the leaves that are not shared.
      rho: radius, >= 0; 0.05 is usual, or 2 if `adaptive`.
      adaptive: see `Ball`; for all parameters, biases too, without the paper's added constant.
      eps: added to the norm.

    Returns: a transform whose ``update(updates, state, params, *, grad_fn, **extra)`` takes plain
      gradients, rows or a `Deferred`; ``grad_fn: params -> updates``, of any form that `inner`
      takes. The state is that of `inner`.

    Raises:
      ConfigError: a bad `rho`; a missing argument of `update`.

    Source: arXiv 2010.01412, Algorithm 1; arXiv 2102.11600 as in the code of arXiv 2211.13723.
    """
    perturb.check_radii("sam", rho=rho)
    inner, ball = optax.with_extra_args_support(inner), Ball(rho, rho, adaptive, True, eps)
    names = perturb.names_of(tasks)

    def update(updates, state, params=None, *, grad_fn=None, **extra):
        perturb.check_given("sam", params=params, grad_fn=grad_fn)
        grads = rules.flatten(perturb.joint_gradient("sam", updates, params, owners, names))
        updates = grad_fn(perturb.ascend(ball, params, grads, NOBODY))
        return inner.update(updates, state, params, **extra)

    return optax.GradientTransformationExtraArgs(inner.init, update)


class SamoState(NamedTuple):
    """Updates done and the state of the inner transform."""

    count: jax.Array
    inner: Any


def samo(
    inner: optax.GradientTransformation,
    tasks: Sequence[str] | int,
    owners: Owners = NOBODY,
    *,
    rho: float = 0.05,
    beta: float = 0.5,
    mu: float = 0.01,
    adaptive: bool = False,
    seed: int = 0,
    eps: float = 1e-12,
) -> optax.GradientTransformationExtraArgs:
    """SAMO: the perturbation of the summed loss, bent towards each task by two forward passes.

    With g the joint gradient of a shared leaf and z normal noise over the shared parameters, drawn
    anew for every task, task t is perturbed along ``(1 - beta) g + beta |g| s_t z / |z|``, where
    ``s_t = sign(L_t(theta + mu z) - L_t(theta - mu z))``: a zeroth-order estimate whose every leaf
    is scaled to the norm of g. Its own leaves move along their gradient. Then `inner` merges
    the gradients at the perturbed parameters.

    Args:
      inner: `aggregate`. It gets all extra arguments.
      tasks: their names in the order of the losses, or their number.
      owners: of the leaves that are not shared.
      rho: radius over the shared leaves, and over a task's own, >= 0; the paper searched 0.01 to
        0.5, its scripts say 0.001.
      beta: share of the estimate, 0 to 1 (``1 - alpha`` in the paper).
      mu: length of the look to both sides, > 0.
      adaptive: see `Ball`.
      seed: of z; the number of the update is folded in.
      eps: added to norms.

    Returns: a transform whose ``update(updates, state, params, *, task_grads_fn, loss_fn,
      **extra)`` takes plain gradients, rows or a `Deferred`; `task_grads_fn` is as for `task_sam`,
      ``loss_fn: params -> [T]``.

    Raises:
      ConfigError: a number out of range; a missing argument of `update`.

    Source: arXiv 2507.07883, with the rescaling of the paper and of its CelebA code. That code
      evaluates `loss_fn` in evaluation mode; here it is what the caller gives.
    """
    perturb.check_radii("samo", rho=rho)
    if not (0 <= beta <= 1 and mu > 0):
        raise ConfigError(f"samo: beta={beta}, mu={mu}; beta is from 0 to 1, and mu above 0.")
    inner, ball = optax.with_extra_args_support(inner), Ball(rho, rho, adaptive, False, eps)
    names = perturb.names_of(tasks)

    def direction(t, grads, params, key, loss_fn):  # -> gradients by path
        shared = {path: g for path, g in grads.items() if path not in owners}
        noise = _normal(key, shared)
        ahead, behind = (loss_fn(_moved(params, noise, by))[t] for by in (mu, -mu))
        sign = jnp.sign(ahead - behind)

        def bend(path, g):
            z, g = noise[path], wide(g)
            return (1 - beta) * g + (beta * sign * norm(g) / norm(z)).astype(g.dtype) * z

        own = {path: g for path, g in grads.items() if path in owners}
        own = perturb.task_part(own, owners, names, t)
        return {path: bend(path, g) for path, g in shared.items()} | own

    def update(updates, state, params=None, *, task_grads_fn=None, loss_fn=None, **extra):
        perturb.check_given("samo", params=params, task_grads_fn=task_grads_fn, loss_fn=loss_fn)
        joint = perturb.joint_gradient("samo", updates, params, owners, names)
        grads, key = rules.flatten(joint), jax.random.fold_in(jax.random.key(seed), state.count)
        keys = jax.random.split(key, len(names))

        def point(t):
            along = direction(t, grads, params, keys[t], loss_fn)
            return perturb.ascend(ball, params, along, owners)

        merged, new = inner.update(task_grads_fn(point), state.inner, params, **extra)
        return merged, SamoState(state.count + 1, new)

    def init(params):
        return SamoState(jnp.zeros((), jnp.int32), inner.init(params))

    return optax.GradientTransformationExtraArgs(init, update)


def _normal(key: jax.Array, like: Leaves) -> Leaves:
    """Returns normal noise of the shapes of `like`, float32 or wider."""
    keys = jax.random.split(key, len(like))
    return {
        path: jax.random.normal(k, g.shape, wide(g).dtype)
        for (path, g), k in zip(like.items(), keys, strict=True)
    }


def _moved(params: Any, noise: Leaves, by: float) -> Any:
    return rules.map_with_path(
        lambda path, p: p + (by * noise[path]).astype(p.dtype) if path in noise else p, params
    )

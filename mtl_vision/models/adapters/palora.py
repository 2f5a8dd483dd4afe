"""PaLoRA: one network for a front of trade-offs between tasks (arXiv 2407.08056).

A preference lambda on the simplex chooses ``W + s sum_t lambda_t A_t B_t`` in every linear layer.
Every step draws preferences (`grid`, `spread`, `draw`), passes with one, and minimises
``sum_t lambda_t L_t``; afterwards a preference chooses a point of the front, see `front`.

In the paper W trains too, at 1/T of the adapters' learning rate. Here the adapter alone trains by
default; ``config.trainable=((".*", True),)`` is the paper's.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mtl_vision.errors import ConfigError
from mtl_vision.models.adapters.inject import edit_blocks, merged, name_tasks, widths, wrap
from mtl_vision.models.adapters.low_rank import check_rank
from mtl_vision.models.adapters.options import Numbers, per_stage
from mtl_vision.models.adapters.streams import copy, task_axis
from mtl_vision.models.layers import AdapterParam, Dtype, compute_type, torch_uniform

SITES = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
WINDOW = 25  # steps over which losses are balanced


class Preference(nnx.Variable):
    """A point of the simplex, ``[T]``, that a forward pass reads; no parameter."""


class PaLoRALinear(nnx.Module):
    """``x W + b + s sum_t x A_t B_t``: ``[S, ..., C]`` -> ``[S, ..., D]``.

    `Preferences` puts lambda_t into B_t. All A and B belong to all tasks: a preference mixes them.

    Args:
      linear: the layer, ``[..., C]`` -> ``[..., D]``.
      tasks: T.
      rank: R of A_t, uniform, ``[T, C, R]``, and B_t, zero, ``[T, R, D]``.
      alpha: s is alpha / R.
      dtype: compute type.
      rngs: of the parameters.
    """

    def __init__(
        self,
        linear: nnx.Module,
        tasks: int,
        *,
        rank: int,
        alpha: float,
        dtype: Dtype,
        rngs: nnx.Rngs,
    ):
        d_in, d_out = widths(linear)
        check_rank(rank, d_in, d_out)
        self.linear, self.scale, self.dtype = linear, alpha / rank, dtype
        self.palora_a = AdapterParam(torch_uniform(d_in)(rngs.params(), (tasks, d_in, rank)))
        self.palora_b = AdapterParam(jnp.zeros((tasks, rank, d_out), jnp.float32))
        self.fixed = False

    def __call__(self, x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        dtype = compute_type(self.dtype, self.palora_a)
        a, b = self.palora_a.astype(dtype), (self.scale * self.palora_b[...]).astype(dtype)
        z = jnp.einsum("...c,tcr->...tr", x.astype(dtype), a)
        return self.linear(x, key=key) + jnp.einsum("...tr,trd->...d", z, b)

    def merged(self) -> nnx.Module:
        """Returns the layer with its W(lambda), or itself before `at_preference`."""
        self.linear = merged(self.linear)
        if not self.fixed or not hasattr(self.linear, "kernel"):
            return self
        change = jnp.einsum("...tcr,...trd->...cd", self.palora_a[...], self.palora_b[...])
        self.linear.kernel[...] += self.scale * change
        return self.linear


class Preferences(nnx.Module):
    """Puts the preference of a forward pass into the layers; in the slot `generate`.

    Args:
      tasks: T; the preference starts at the centre.
      before: what was in the slot.
    """

    def __init__(self, tasks: int, before: nnx.Module):
        self.preference, self.before = Preference(jnp.full(tasks, 1 / tasks)), before

    def __call__(self, backbone: Any, *, key: jax.Array | None = None) -> Any:
        return weighted(self.before(backbone), self.preference[...])


def weighted(backbone: Any, preference: jax.Array) -> Any:
    """Returns a copy of the backbone with ``lambda_t B_t`` in place of B_t."""

    def scale(path, variable):
        if not path.endswith("palora_b"):
            return variable
        B, axis = variable[...], task_axis(path)
        axes = [i for i in range(B.ndim) if i != axis]
        return variable.replace(B * jnp.expand_dims(preference.astype(B.dtype), axes))

    return copy(backbone, scale)


def at_preference(backbone: Any, preference: jax.Array) -> Any:
    """Returns a copy of the backbone at one point of its front; `merge` folds it.

    Args:
      backbone: one that `palora` was put into.
      preference: ``[T]``, on the simplex.
    """
    made = weighted(backbone, preference)
    made.generate = made.generate.before
    for _, module in nnx.iter_modules(made):
        if isinstance(module, PaLoRALinear):
            module.fixed = True
    return made


def palora(
    backbone: Any,
    *,
    tasks: int | tuple[str, ...],
    rank: Numbers = 4,
    alpha: Numbers = 1.0,
    dtype: Dtype = None,
    rngs: nnx.Rngs,
) -> Any:
    """Puts PaLoRA on every linear layer of every block, in place; the start is the backbone.

    Swin-T gets ``T 16 R 4,416`` parameters. The preference is the variable
    ``generate/preference`` of the backbone, the centre until it is written.

    Args:
      backbone: Swin or ViT.
      tasks: their names, or their number, in order.
      rank: R, of every task.
      alpha: the factor is alpha / R.
      dtype: compute type.
      rngs: of the parameters.

    Returns: the backbone.

    Raises:
      ConfigError: numbers that do not fit stages or layers.
    """
    name_tasks(backbone, tasks)
    count, stages = len(backbone.tasks), len(backbone.channels)
    ranks, alphas = per_stage(rank, stages, "rank"), per_stage(alpha, stages, "alpha")

    def edit(block, place, rngs):
        made = dict(rank=ranks[place.stage], alpha=alphas[place.stage], dtype=dtype, rngs=rngs)
        for site in SITES:
            wrap(block, site, lambda x: PaLoRALinear(x, count, **made))

    edit_blocks(backbone, edit, rngs=rngs)
    backbone.generate = Preferences(count, backbone.generate)
    return backbone


def grid(tasks: int, count: int, *, margin: float = 0.0) -> jax.Array:
    """Returns evenly spaced preferences, ``[P, T]``.

    Args:
      tasks: 2 or 3.
      count: P for two tasks; for three P is ``(n + 1)(n + 2) / 2`` with n subdivisions of a side,
        ``n = int((sqrt(8 count - 1) - 1) / 2)``, and may differ from it a little.
      margin: for two tasks, how far the ends stay from the corners.

    Raises:
      ConfigError: more tasks, for which there is no grid, or no point.
    """
    if tasks == 2 and count >= 1:
        first = jnp.linspace(margin, 1 - margin, count)
        return jnp.stack([first, 1 - first], 1)
    sides = int((-1 + (8 * count - 1) ** 0.5) / 2) if count >= 1 else 0
    if tasks != 3 or sides < 1:
        raise ConfigError(
            f"preferences: no grid of {count} points for {tasks} tasks; it takes 2 tasks, or 3 "
            "and at least 2 points. Use `draw` for more tasks."
        )
    points = [(i, j, sides - i - j) for i in range(sides + 1) for j in range(sides + 1 - i)]
    return jnp.array(points, jnp.float32) / sides


def spread(preferences: jax.Array, progress: jax.Array | float, *, power: float = 5.0) -> jax.Array:
    """Returns preferences to the power of ``power * progress``, renormalised.

    All lie at the centre at the start of training and near the corners at its end.

    Args:
      preferences: ``[P, T]``.
      progress: of training, in [0, 1].
      power: at the end.
    """
    raised = preferences ** (power * progress)
    return raised / raised.sum(-1, keepdims=True)


def draw(
    key: jax.Array,
    tasks: int,
    count: int,
    *,
    progress: jax.Array | float = 0.0,
    concentration: float = 1.0,
    narrow: bool = False,
) -> jax.Array:
    """Draws preferences, ``[P, T]``, from a Dirichlet distribution.

    Args:
      key: randomness.
      tasks, count: T, P.
      progress: of training, in [0, 1].
      concentration: p.
      narrow: whether p becomes ``p (1 - progress) + 0.001``, which goes to the corners.
    """
    p = concentration * (1 - progress) + 0.001 if narrow else concentration
    return jax.random.dirichlet(key, jnp.full(tasks, p), (count,))


def balance_losses(history: jax.Array) -> jax.Array:
    """Returns weights ``1 - |m_t| / sum |m|`` by the means of the last losses, ``[T]``.

    Args:
      history: ``[steps, T]``; the weights are 1 until there are 25 steps.
    """
    steps, T = history.shape
    if steps < WINDOW:
        return jnp.ones(T)
    means = jnp.abs(history[-WINDOW:].mean(0))
    return 1 - means / means.sum()


def balance_gradients(norms: jax.Array) -> jax.Array:
    """Returns weights ``1 / (|g_t| + 1e-3)`` by the norms of the shared gradients, ``[T]``."""
    return 1 / (jax.lax.stop_gradient(norms) + 1e-3)


def alignment(backbone: Any) -> jax.Array:
    """Returns the mean cosine between tasks of their flattened A, and of their B, both added.

    A penalty with it keeps the tasks' adapters apart.
    """
    total = 0.0
    for name in ("palora_a", "palora_b"):
        flat = [
            jnp.moveaxis(v[...], task_axis("/".join(map(str, path))), 0)
            for path, v in nnx.to_flat_state(nnx.state(backbone, AdapterParam))
            if path[-1] == name
        ]
        rows = jnp.concatenate([part.reshape(part.shape[0], -1) for part in flat], 1)
        T = rows.shape[0]
        # The square root has no gradient at zero, where B starts.
        norms = jnp.sqrt(jnp.square(rows).sum(1, keepdims=True) + jnp.finfo(rows.dtype).tiny)
        cosines = (rows / norms) @ (rows / norms).T
        total = total + (cosines.sum() - jnp.trace(cosines)) / (T * (T - 1))
    return total


def front(
    evaluate: Callable[[jax.Array], np.ndarray], preferences: jax.Array, reference: np.ndarray
) -> dict[str, np.ndarray | float]:
    """Evaluates a network at many preferences.

    Args:
      evaluate: preference ``[T]`` -> scores ``[T]``, larger is better.
      preferences: ``[P, T]``, for instance 11 of `grid`, or the corners and the centre.
      reference: ``[T]``, scores that every useful point exceeds.

    Returns: ``scores`` ``[P, T]``, ``best`` ``[P]`` bool, whether no other point is better, and
      ``hypervolume``.
    """
    scores = np.stack([np.asarray(evaluate(p), np.float64) for p in preferences])
    return dict(scores=scores, best=undominated(scores), hypervolume=hypervolume(scores, reference))


def undominated(scores: np.ndarray) -> np.ndarray:
    """Says of every row of ``[P, T]``, larger being better, whether no other one dominates it."""
    no_worse = (scores[:, None] >= scores[None]).all(-1)
    better = (scores[:, None] > scores[None]).any(-1)
    return ~(no_worse & better).any(0)


def hypervolume(scores: np.ndarray, reference: np.ndarray) -> float:
    """Returns the volume that the scores dominate above the reference, exactly.

    Args:
      scores: ``[P, T]``, larger is better.
      reference: ``[T]``.
    """
    gains = np.unique(np.maximum(np.asarray(scores, np.float64) - reference, 0), axis=0)
    if gains.shape[1] == 1:
        return float(gains.max())
    # Slices along the last score, from the highest down.
    levels = np.unique(np.append(gains[:, -1], 0))[::-1]
    total = 0.0
    for high, low in zip(levels, levels[1:], strict=False):
        above = gains[gains[:, -1] >= high, :-1]
        total += (high - low) * hypervolume(above, np.zeros(above.shape[1]))
    return total

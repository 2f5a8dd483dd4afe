"""PaLoRA: one network for a front of trade-offs between tasks (arXiv 2407.08056).

A preference lambda on the simplex chooses ``W + s sum_t lambda_t A_t B_t`` in every linear layer.
Every step draws one, passes with it, and minimises ``sum_t lambda_t L_t``; afterwards a preference
chooses a point of the front. See `preferences`.

In the paper W trains too, at 1/T of the adapters' learning rate. Here the adapter alone trains by
default; ``config.trainable=((".*", True),)`` is the paper's.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from mtl_vision.errors import ConfigError, lookup
from mtl_vision.models.adapters.inject import edit_blocks, merged, name_tasks, widths, wrap
from mtl_vision.models.adapters.low_rank import check_rank
from mtl_vision.models.adapters.options import Numbers, per_stage
from mtl_vision.models.adapters.preferences import BALANCES, check_draws
from mtl_vision.models.adapters.streams import copy, task_axis
from mtl_vision.models.layers import AdapterParam, Dtype, Penalty, compute_type, torch_uniform

SITES = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")


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
      alignment: weight of the penalty on the `alignment` of the tasks' matrices.
    """

    def __init__(self, tasks: int, before: nnx.Module, *, alignment: float):
        self.preference, self.before = Preference(jnp.full(tasks, 1 / tasks)), before
        self.penalty = Penalty(jnp.zeros((), jnp.float32)) if alignment else None
        self.weight = alignment

    def __call__(self, backbone: Any, *, key: jax.Array | None = None) -> Any:
        if self.penalty is not None:
            self.penalty[...] = self.weight * alignment(backbone)
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
    draws: str = "dirichlet",
    concentration: float = 1.0,
    balance: str = "none",
    alignment: float = 0.0,
    dtype: Dtype = None,
    rngs: nnx.Rngs,
) -> Any:
    """Puts PaLoRA on every linear layer of every block, in place; the start is the backbone.

    Swin-T gets ``T 16 R 4,416`` parameters. The preference is the variable
    ``generate/preference`` of the backbone, the centre until it is written: a training step
    writes the one it draws, and evaluation finds the centre.

    Args:
      backbone: Swin or ViT.
      tasks: their names, or their number, in order.
      rank: R, of every task.
      alpha: the factor is alpha / R.
      draws, concentration: how a step draws its preference, see `preferences.schedule`.
      balance: what the losses are balanced by: ``none``; ``losses``, each times 1 less its share of
        the last 25; ``gradients``, each over the norm of its gradient; or ``both``. See
        `optim.prefer`.
      alignment: weight of a penalty, added in the pass of every dataset, that keeps the matrices
        of the tasks apart: see `alignment`.
      dtype: compute type.
      rngs: of the parameters.

    Returns: the backbone.

    Raises:
      ConfigError: an unknown choice, or numbers that do not fit stages, layers or tasks.
    """
    name_tasks(backbone, tasks)
    count, stages = len(backbone.tasks), len(backbone.channels)
    check_draws(count, draws, concentration)
    lookup(BALANCES, balance, "adapter.balance")
    if alignment < 0 or (alignment and count < 2):
        raise ConfigError(
            f"config.adapter.alignment={alignment} must be at least 0, and 0 for one task."
        )
    ranks, alphas = per_stage(rank, stages, "rank"), per_stage(alpha, stages, "alpha")

    def edit(block, place, rngs):
        made = dict(rank=ranks[place.stage], alpha=alphas[place.stage], dtype=dtype, rngs=rngs)
        for site in SITES:
            wrap(block, site, lambda x: PaLoRALinear(x, count, **made))

    edit_blocks(backbone, edit, rngs=rngs)
    backbone.generate = Preferences(count, backbone.generate, alignment=alignment)
    return backbone


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

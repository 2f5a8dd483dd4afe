"""Polytropon and multi-head routing: tasks mix low-rank skills (arXiv 2202.13914, 2211.03831).

A layer has S skills ``(A_s, B_s)`` that all tasks share, and a task weights them; the factors are
mixed first and multiplied then. With q heads, the inputs and outputs of a layer fall into q blocks
with weights of their own; q = 1 is Polytropon. Where codes differ this is huggingface/peft.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from mtl_vision.errors import ConfigError, lookup
from mtl_vision.models.adapters.inject import edit_blocks, merged, widths, wrap
from mtl_vision.models.adapters.low_rank import LowRank, check_rank
from mtl_vision.models.adapters.options import Numbers, per_stage
from mtl_vision.models.adapters.sharing import Owners, share_streams
from mtl_vision.models.layers import (
    AdapterParam,
    Dtype,
    TaskParam,
    compute_type,
    split,
    torch_uniform,
)

SITES = {"attn.qkv": False, "attn.proj": True, "mlp.fc1": True, "mlp.fc2": True}
SPREAD = 1e-3  # of the logits at the start


class Skills(nnx.Module):
    """``alpha / R x_t A_t B_t``, mixed from skills: ``[1 or T, ..., C]`` -> ``[T, ..., D]``.

    ``A_t = sum_s w_ts A_s`` and ``B_t`` likewise, in each head for itself, with
    ``w_ts = p_ts / sum_s p_ts`` and ``p = sigmoid(logits)``; with a key p is drawn, if it is
    `relaxed`, from the relaxed Bernoulli distribution of temperature 1.

    Args:
      d_in, d_out: C, D; multiples of `heads`.
      tasks: T.
      skills: S.
      heads: q.
      rank: R.
      alpha: numerator of the factor.
      relaxed: whether p is drawn.
      dtype: compute type.
      rngs: of the parameters.
    """

    def __init__(
        self,
        d_in: int,
        d_out: int,
        *,
        tasks: int,
        skills: int,
        heads: int,
        rank: int,
        alpha: float,
        relaxed: bool,
        dtype: Dtype,
        rngs: nnx.Rngs,
    ):
        check_rank(rank, d_in, d_out)
        if heads < 1 or d_in % heads or d_out % heads:
            raise ConfigError(
                f"config.adapter.heads={heads} does not divide a layer {d_in} -> {d_out}; use a "
                "number that divides both widths."
            )
        self.a = AdapterParam(torch_uniform(d_in)(rngs.params(), (skills, d_in, rank)))
        self.b = AdapterParam(jnp.zeros((skills, rank, d_out), jnp.float32))
        shape = tasks, heads, skills
        draw = jax.random.uniform(rngs.params(), shape, jnp.float32, -SPREAD, SPREAD)
        self.logits = TaskParam(draw)
        self.scale, self.relaxed, self.dtype = alpha / rank, relaxed, dtype

    def weights(self, key: jax.Array | None = None) -> jax.Array:
        """Returns w, ``[T, q, S]``."""
        logits = self.logits[...]
        if key is not None and self.relaxed:
            logits = logits + jax.random.logistic(key, logits.shape, logits.dtype)
        p = jax.nn.sigmoid(logits)
        return p / (p.sum(-1, keepdims=True) + 1e-12)

    def __call__(self, x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        w = self.weights(key)
        T, q, S = w.shape
        (_, C, R), D = self.a.shape, self.b.shape[-1]
        a = jnp.einsum("tqs,sqcr->tqcr", w, self.a[...].reshape(S, q, C // q, R))
        b = jnp.einsum("tqs,srqd->trqd", w, self.b[...].reshape(S, R, q, D // q))
        dtype = compute_type(self.dtype, self.a)
        a = a.reshape(T, C, R).astype(dtype)
        b = (self.scale * b).reshape(T, R, D).astype(dtype)
        x = x.astype(dtype)
        if x.shape[0] == 1:
            z = jnp.einsum("...c,tcr->t...r", x[0], a)
        else:
            z = jnp.einsum("t...c,tcr->t...r", x, a)
        return jnp.einsum("t...r,trd->t...d", z, b)


class MHRLinear(nnx.Module):
    """A linear layer with a low-rank branch, or with mixed skills: ``[1 or S, ..., C]`` -> same.

    Where both stand side by side, tasks add their part to the frozen response to the shared
    stream, as MTLoRA's do, unless streams are carried through the backbone.

    Args:
      linear: the layer, ``[..., C]`` -> ``[..., D]``.
      owners: who has parameters.
      skills, heads, rank, alpha, relaxed: of `Skills`; the common branch has the same rank and
        factor.
      dtype: compute type.
      rngs: of the parameters.
    """

    def __init__(
        self,
        linear: nnx.Module,
        owners: Owners,
        *,
        skills: int,
        heads: int,
        rank: int,
        alpha: float,
        relaxed: bool,
        dtype: Dtype,
        rngs: nnx.Rngs,
    ):
        size, made = widths(linear), dict(dtype=dtype, rngs=rngs)
        self.linear, self.owners, self.scale = linear, owners, alpha / rank
        self.lora = LowRank(*size, rank, **made) if owners.common else None
        own = dict(skills=skills, heads=heads, rank=rank, alpha=alpha, relaxed=relaxed, **made)
        self.skills = Skills(*size, tasks=owners.tasks, **own) if owners.tasks else None
        if owners.mixed:
            self.carried = owners.carried

    def __call__(self, x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        keys = split(key, 2)
        frozen = self.linear(x if getattr(self, "carried", True) else x[:1], key=keys[0])
        if self.skills is None:
            return frozen + self.lora(x, self.scale)
        shared = self.owners.shared
        own, rest = (part if part.shape[0] == 1 else part[shared:] for part in (x, frozen))
        tasks = rest + self.skills(own, key=keys[1])
        if not shared:
            return tasks
        first = frozen[:1]
        if self.lora is not None:
            first = first + self.lora(x[:1], self.scale)
        return jnp.concatenate([first, tasks])

    def merged(self) -> nnx.Module:
        """Returns the layer with ``W + alpha / R A B``, or itself where there are skills."""
        self.linear = merged(self.linear)
        if self.skills is not None or not hasattr(self.linear, "kernel"):
            return self
        self.linear.kernel[...] += self.scale * self.lora.product()
        return self.linear


def mhr(
    backbone: Any,
    *,
    tasks: int | tuple[str, ...],
    skills: int = 4,
    heads: int = 1,
    rank: Numbers = 8,
    alpha: Numbers = 1.0,
    relaxed: bool = True,
    share: str = "none",
    dtype: Dtype = None,
    rngs: nnx.Rngs,
) -> Any:
    """Puts mixtures of skills on every linear layer of every block, in place.

    The start is the backbone. A layer ``C -> D`` gets ``S R (C + D) + T q S`` parameters: Swin-T
    ``16 R S 4,416 + 48 T q S``. MHR-z trains the weights alone, ``.*skills/logits``.

    Args:
      backbone: Swin or ViT.
      tasks: their names, or their number, in order.
      skills: S.
      heads: q, which divides all widths; 1 for Polytropon.
      rank: R.
      alpha: the factor is alpha / R.
      relaxed: whether training draws the weights, as huggingface/peft does; microsoft/mttl trains
        with those it evaluates, and alpha 16. Draws of every step are another mixture than what is
        evaluated, which statistics of batch norms in decoders do not forgive.
      share: ``none`` for mixtures in all layers, or ``last`` for mixtures in the last block of a
        stage, in the place of MTLoRA's branches per task, and a branch for all everywhere.
      dtype: compute type.
      rngs: of the parameters.

    Returns: the backbone.

    Raises:
      ConfigError: an unknown `share`, numbers that do not fit stages or layers, or a backbone
        that it does not work on.
    """
    lookup(dict.fromkeys(("last", "none")), share, "adapter.share")
    owned = share_streams(backbone, tasks, share)
    stages = len(backbone.channels)
    ranks, alphas = per_stage(rank, stages, "rank"), per_stage(alpha, stages, "alpha")

    def edit(block, place, rngs):
        made = dict(skills=skills, heads=heads, relaxed=relaxed, dtype=dtype, rngs=rngs)
        made |= dict(rank=ranks[place.stage], alpha=alphas[place.stage])
        for site, late in SITES.items():
            owners = owned(place, late)
            wrap(block, site, lambda x, o=owners: MHRLinear(x, o, **made))

    edit_blocks(backbone, edit, rngs=rngs)
    return backbone

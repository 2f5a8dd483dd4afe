"""Maps whose weights are made from embeddings of the tasks; see `hypernetwork`."""

import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from mtl_vision.models.adapters.low_rank import check_rank
from mtl_vision.models.adapters.maps import SMALL, ZEROS, contract, parameter, spread
from mtl_vision.models.layers import AdapterParam, Dtype, compute_type

Shapes = tuple[tuple[str, tuple[int, ...]], ...]  # names and shapes
LAST = ("w", "q", "b")  # what is zero at the start of a map that is


class Settings(NamedTuple):
    """What the three methods differ in.

    Attributes:
      form: ``full``, ``decomposed`` or ``template``.
      embed: K, the size of what enters the generators.
      rank: R of the factors; unused in the form ``full``.
      ratio: of the width of a block to that of the bottleneck.
      sites: what adapters stand behind, of ``attn`` and ``mlp``.
      act: ``gelu_tanh``, ``swish`` or ``relu``.
      norm: after the adapter: ``none``, one ``shared`` by all tasks, or one per ``task``.
      gain: scale of the norms at the start.
      bias: biases are ``generated``, plain ones per ``task`` or ``shared``, or ``none``.
      affine: whether generators have a bias.
      projection: (K0, H): embeddings of K0 pass ``Linear - ReLU - Linear`` with H hidden units; ()
        for embeddings of K.
      scaling: kernels S are ``shared`` by tasks or there is one per ``task``.
      order: which factor of the Kronecker product is the left one.
    """

    form: str
    embed: int
    rank: int
    ratio: int
    sites: tuple[str, ...]
    act: str
    norm: str
    gain: float
    bias: str
    affine: bool
    projection: tuple[int, int] | tuple[()]
    scaling: str = "shared"
    order: str = "scale_left"


class Generator(nnx.Module):
    """``e G + g``: ``[T, K]`` -> ``[T, M]``; of a stack of L ``[L, T, M]``.

    Args:
      embed: K.
      shapes: of the arrays that the M outputs are cut into, see `named`.
      affine: whether there is g.
      zero: names of arrays that are zero at the start.
      rngs: of the parameters.
    """

    def __init__(
        self, embed: int, shapes: Shapes, *, affine: bool, zero: tuple[str, ...], rngs: nnx.Rngs
    ):
        columns = [
            (ZEROS if name in zero else SMALL)(rngs.params(), (embed, math.prod(shape)))
            for name, shape in shapes
        ]
        self.kernel = AdapterParam(jnp.concatenate(columns, -1).astype(jnp.float32))
        self.bias = AdapterParam(jnp.zeros(self.kernel.shape[-1:])) if affine else None

    def __call__(self, e: jax.Array) -> jax.Array:
        y = jnp.einsum("tk,...km->...tm", e, self.kernel[...])
        return y if self.bias is None else y + self.bias[..., None, :]


def named(made: jax.Array, shapes: Shapes) -> dict[str, jax.Array]:
    """Cuts what a generator made, ``[T, M]``, into ``{name: [T, *shape]}``."""
    ends = itertools.accumulate(math.prod(shape) for _, shape in shapes)
    parts = jnp.split(made, list(ends)[:-1], -1)
    return {name: x.reshape(-1, *shape) for (name, shape), x in zip(shapes, parts, strict=True)}


def weight_shapes(form: str, d_in: int, d_out: int, rank: int) -> Shapes:
    """Returns what makes up W of a map ``d_in -> d_out``."""
    if form == "full":
        return (("w", (d_in, d_out)),)
    check_rank(rank, d_in, d_out)
    return (("p", (d_in, rank)), ("q", (d_out, rank)))


class GeneratedMap(nnx.Module):
    """``x W_t + b_t`` for the streams of the tasks: ``[T, B, ..., C]`` -> ``[T, B, ..., D]``.

    Args:
      d_in, d_out: C and D.
      settings: of the method.
      role: ``down`` or ``up``, which template it takes.
      base: (C0, D0), the size of the template.
      tasks: T, of the parameters that are per task.
      zero: whether what is made is zero at the start.
      dtype: compute type.
      rngs: of the parameters.

    Attributes: `made` ``[T, M]`` and, in the form ``template``, `template`; `Hypernetwork` writes
      them in every forward pass.
    """

    def __init__(
        self,
        d_in: int,
        d_out: int,
        settings: Settings,
        *,
        role: str,
        base: tuple[int, int],
        tasks: int,
        zero: bool,
        dtype: Dtype = None,
        rngs: nnx.Rngs,
    ):
        form, bias = settings.form, settings.bias
        template = form == "template"
        self.weights = weight_shapes(form, *(base if template else (d_in, d_out)), settings.rank)
        self.own = () if template else self.weights
        if bias == "generated":
            self.own = (*self.own, ("b", (d_out,)))
        make = dict(affine=settings.affine, zero=LAST if zero else (), rngs=rngs)
        self.generator = Generator(settings.embed, self.own, **make) if self.own else None
        plain = bias in ("task", "shared")
        own = tasks if bias == "task" else 0
        self.bias = parameter(ZEROS, (d_out,), own, rngs) if plain else None
        s, own = d_in // base[0], tasks if settings.scaling == "task" else 0
        self.scaling = parameter(_identity, (s, s), own, rngs) if template else None
        self.made, self.template = nnx.data(None), nnx.data(None)
        self.role, self.order, self.dtype = role, settings.order, dtype

    @property
    def tasks(self) -> int:
        """T."""
        return (self.made if self.template is None else self.template).shape[0]

    def __call__(self, x: jax.Array) -> jax.Array:
        w = {} if self.made is None else named(self.made, self.own)
        if self.template is not None:
            w |= named(self.template, self.weights)
        x = x.astype(compute_type(self.dtype, next(iter(w.values()))))
        if self.scaling is not None:
            y = enlarged(x, w["p"], w["q"], self.scaling[...], self.order)
        elif "w" in w:
            y = contract("c,cd->d", x, w["w"])
        else:
            y = contract("r,dr->d", contract("c,cr->r", x, w["p"]), w["q"])
        bias = w.get("b") if self.bias is None else self.bias[...]
        return y if bias is None else y + spread(bias, y)


def enlarged(x: jax.Array, p: jax.Array, q: jax.Array, scaling: jax.Array, order: str) -> jax.Array:
    """``x (S (x) P Q^T)``, or with the factors of the Kronecker product in the other order.

    With ``scale_left``, channel ``a C0 + i`` is the i-th of copy a: the copies meet P, S mixes
    them, and Q^T expands them.

    Args:
      x: ``[T, B, ..., s C0]``.
      p, q: ``[T, C0, R]`` and ``[T, D0, R]``.
      scaling: ``[s, s]`` or ``[T, s, s]``.
      order: ``scale_left`` or ``template_left``.

    Returns: ``[T, B, ..., s D0]``.
    """
    *lead, _ = x.shape
    s, size = scaling.shape[-1], p.shape[-2]
    inner, outer = ("ai", "bm") if order == "scale_left" else ("ia", "mb")
    x = x.reshape(*lead, *((s, size) if order == "scale_left" else (size, s)))
    x = contract("ar,ab->br", contract(f"{inner},ir->ar", x, p), scaling)
    return contract(f"br,mr->{outer}", x, q).reshape(*lead, -1)


def _identity(key, shape, dtype):
    del key
    return jnp.broadcast_to(jnp.eye(shape[-1], dtype=dtype), shape)

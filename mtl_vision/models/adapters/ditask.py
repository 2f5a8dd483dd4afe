"""DiTASK: singular values warped by a diffeomorphism (arXiv 2502.06029).

The singular vectors of every linear layer stay, and its singular values are moved by the flow of
a piecewise linear velocity field: in every block by one field per layer that all tasks share, and
in the last block of a stage, behind the attention, by one per task.

Where paper and code (ipsitmantri/DiTASK) differ, the default is the code in what is warped, the
places in the sorted spectrum, and the paper in the start, which is the identity.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from mtl_vision.errors import ConfigError, lookup
from mtl_vision.models.adapters.inject import edit_blocks, wrap
from mtl_vision.models.adapters.sharing import (
    Owners,
    foldable,
    plain,
    share_streams,
)
from mtl_vision.models.adapters.streams import task_streams
from mtl_vision.models.layers import AdapterParam, Dtype, TaskParam, compute_type, torch_uniform

SITES = {"attn.qkv": False, "attn.proj": True, "mlp.fc1": True, "mlp.fc2": True}
STEPS = 32  # of the Runge-Kutta method


def displacement(theta: jax.Array, x: jax.Array) -> jax.Array:
    """Returns ``phi(x) - x``, phi being the flow at time 1 of ``dx/dt = v(x)``.

    v is continuous, linear on N equal cells of [0, 1] and 0 at its ends. Its value at the knot
    ``i / N`` is ``i / N * sum_(j >= i) theta_j``, the basis of the code.

    Args:
      theta: ``[N - 1]``.
      x: points of [0, 1], any shape.

    Returns: of the shape of `x`; exactly 0 if `theta` is.
    """
    N = theta.shape[0] + 1
    knots = jnp.arange(1, N)
    heights = knots / N * jnp.cumsum(theta[::-1])[::-1]
    knots = jax.lax.expand_dims(knots.astype(x.dtype), range(x.ndim))

    def velocity(moved):
        hats = jnp.maximum(1 - jnp.abs(N * (x + moved)[..., None] - knots), 0)
        return hats @ heights.astype(x.dtype)

    def step(moved, _):
        h = 1 / STEPS
        k1 = velocity(moved)
        k2 = velocity(moved + h / 2 * k1)
        k3 = velocity(moved + h / 2 * k2)
        k4 = velocity(moved + h * k3)
        return moved + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), None

    return jax.lax.scan(step, jnp.zeros_like(x), length=STEPS)[0]


def warp_places(theta: jax.Array, sigma: jax.Array) -> jax.Array:
    """Returns how sigma changes when it is read at the warped places of its own spectrum.

    Value i becomes that between its neighbours at ``phi(i / (p - 1)) (p - 1)``, so the largest
    and the smallest stay.

    Args:
      theta: ``[N - 1]``.
      sigma: ``[..., p]``, sorted.
    """
    last = sigma.shape[-1] - 1
    if last == 0:
        return jnp.zeros_like(sigma)
    places = jnp.arange(last + 1, dtype=sigma.dtype)
    moved = jnp.clip(places + displacement(theta, places / last) * last, 0, last)
    low = jnp.clip(jnp.floor(moved), 0, last - 1)
    part = jax.lax.expand_dims(moved - low, range(sigma.ndim - 1))
    low = low.astype(int)
    return (1 - part) * sigma[..., low] + part * sigma[..., low + 1] - sigma


def warp_values(theta: jax.Array, sigma: jax.Array) -> jax.Array:
    """Returns how sigma, ``[..., p]`` sorted, changes when its values are warped.

    They become ``top phi(sigma / top)``, top being the largest.
    """
    top = jnp.maximum(sigma[..., :1], jnp.finfo(sigma.dtype).tiny)
    return top * displacement(theta, sigma / top)


WARPS = {"places": warp_places, "values": warp_values}


class Warp(nnx.Module):
    """A velocity field for all, theta ``[N - 1]``, or with `tasks` one for each, ``[T, N - 1]``."""

    def __init__(self, cells: int, *, tasks: int = 0, random: bool, rngs: nnx.Rngs):
        if cells < 2:
            raise ConfigError(
                f"config.adapter: {cells} cells leave nothing to warp; use 2 or more."
            )
        shape, kind = ((tasks, cells - 1), TaskParam) if tasks else ((cells - 1,), AdapterParam)
        init = torch_uniform(cells - 1) if random else jax.nn.initializers.zeros
        self.theta = kind(init(rngs.params(), shape, jnp.float32))
        self.own = bool(tasks)

    @property
    def tasks(self) -> int:
        """T, or 0."""
        return self.theta.shape[-2] if self.own else 0


class DiTASKLinear(nnx.Module):
    """A linear layer with warped singular values: ``[1 or S, ..., C]`` -> ``[S, ..., D]``.

    ``y = x W + x U diag(sigma' - sigma) V + b`` with ``W = U diag(sigma) V``, for each of `parts`
    equal parts of the outputs. The factors are frozen parameters, so that no step factorises; see
    `factorize`.

    Args:
      linear: the layer, plain.
      owners: who has a field.
      cells, task_cells: N of the shared field and of those per task.
      parts: 3 for qkv.
      warp: a key of `WARPS`.
      random: whether theta starts at random.
      dtype: compute type.
      rngs: of the parameters.
    """

    def __init__(
        self,
        linear: nnx.Module,
        owners: Owners,
        *,
        cells: int,
        task_cells: int,
        parts: int,
        warp: str,
        random: bool,
        dtype: Dtype,
        rngs: nnx.Rngs,
    ):
        made = dict(random=random, rngs=rngs)
        self.linear, self.owners, self.parts, self.dtype = linear, owners, parts, dtype
        self.warp = warp
        self.ditask = Warp(cells, **made) if owners.common else None
        self.task_ditask = Warp(task_cells, tasks=owners.tasks, **made) if owners.tasks else None
        self.u, self.sigma, self.v = (nnx.Param(part) for part in self._factors())
        if owners.mixed:
            self.carried = owners.carried  # asks adapters after it to keep the shared stream

    def _factors(self):
        kernel = rearrange(self.linear.kernel[...], "... c (n d) -> ... n c d", n=self.parts)
        return jnp.linalg.svd(kernel, full_matrices=False)

    def factorize(self) -> None:
        """Writes the factors of the layer's weight as it is now."""
        for variable, part in zip((self.u, self.sigma, self.v), self._factors(), strict=True):
            variable[...] = part

    def __call__(self, x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        frozen, shared = self.linear(x, key=key), self.owners.shared
        dtype = compute_type(self.dtype, self.u)
        if self.task_ditask is None:
            return frozen + x @ self._change(self.ditask.theta[...]).astype(dtype)
        change = jax.vmap(self._change)(self.task_ditask.theta[...]).astype(dtype)
        own, rest = (task_streams(z, shared, self.task_ditask.tasks) for z in (x, frozen))
        tasks = rest + jnp.einsum("t...c,tcd->t...d", own, change)
        if not shared:
            return tasks
        first = frozen[:1]
        if self.ditask is not None:
            first = first + x[:1] @ self._change(self.ditask.theta[...]).astype(dtype)
        return jnp.concatenate([first, tasks])

    def _change(self, theta):
        """``U diag(sigma' - sigma) V``, ``[C, D]``."""
        return change(theta, self.u[...], self.sigma[...], self.v[...], WARPS[self.warp])

    def merged(self) -> nnx.Module:
        """Returns the layer with ``U diag(sigma') V``, or itself where tasks differ."""
        if not foldable(self.owners, self.task_ditask):
            return self
        field = self.ditask or self.task_ditask
        theta = field.theta[..., 0, :] if field.own else field.theta[...]
        parts = theta, self.u[...], self.sigma[...], self.v[...]
        fold = functools.partial(change, warp=WARPS[self.warp])
        self.linear.kernel[...] += (jax.vmap(fold) if theta.ndim > 1 else fold)(*parts)
        return self.linear


def change(theta: jax.Array, u: jax.Array, sigma: jax.Array, v: jax.Array, warp: Any) -> jax.Array:
    """Returns ``U diag(sigma' - sigma) V`` of all parts side by side, ``[C, n D]``.

    Args:
      theta: ``[N - 1]``.
      u, sigma, v: ``[n, C, p]``, ``[n, p]``, ``[n, p, D]``.
      warp: ``(theta, sigma) -> sigma' - sigma``.
    """
    made = jnp.einsum("ncp,np,npd->ncd", u, warp(theta, sigma), v)
    return rearrange(made, "n c d -> c (n d)")


def factorize(backbone: Any) -> None:
    """Computes the factors of all DiTASK layers again, in place: after weights were loaded.

    Args:
      backbone: one that `ditask` was put into.
    """
    for _, module in nnx.iter_modules(backbone):
        if isinstance(module, DiTASKLinear):
            module.factorize()


def ditask(
    backbone: Any,
    *,
    tasks: int | tuple[str, ...],
    cells: int = 64,
    task_cells: int = 4,
    share: str = "last",
    warp: str = "places",
    random: bool = False,
    dtype: Dtype = None,
    rngs: nnx.Rngs,
) -> Any:
    """Puts DiTASK on every linear layer of every block, in place.

    Its velocity fields start at zero and so leave the backbone as it is, unless `random`. The
    shipped configuration trains 3,024 + 144 parameters of Swin-T for four tasks, beside those of
    patch embedding, norms, bias tables and patch merging.

    Args:
      backbone: Swin or ViT.
      tasks: their names, or their number, in order.
      cells: of the shared fields, 2 at least.
      task_cells: of the fields per task, 2 at least.
      share: how tasks share, see `sharing`.
      warp: ``places`` in the spectrum, as in the code, or ``values``, as in the paper.
      random: whether theta starts uniform in ``+-1/sqrt(N - 1)``, as in the code.
      dtype: compute type.
      rngs: of the parameters.

    Returns: the backbone; call `factorize` on it when its weights change.

    Raises:
      ConfigError: an unknown `share` or `warp`, too few cells, layers that an adapter before has
        wrapped, or a backbone that it does not work on.
    """
    lookup(WARPS, warp, "adapter.warp")
    owned = share_streams(backbone, tasks, share)
    made = dict(cells=cells, task_cells=task_cells, warp=warp, random=random, dtype=dtype)

    def edit(block, place, rngs):
        for site, late in SITES.items():
            more = made | dict(parts=3 if site == "attn.qkv" else 1, rngs=rngs)
            owners = owned(place, late)
            wrap(block, site, lambda x, o=owners, m=more: DiTASKLinear(plain(x, "ditask"), o, **m))

    edit_blocks(backbone, edit, rngs=rngs)
    return backbone

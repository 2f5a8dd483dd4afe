"""What every task takes of every expert, noted while a model predicts."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from mtl_vision.models.adapters import mixture
from mtl_vision.models.decoders import mlore_block
from mtl_vision.models.decoders.task_expert import gates as task_expert
from mtl_vision.models.gates import scattered
from mtl_vision.models.mtl import MultiTask


class Note(NamedTuple):
    """The gates of one layer, means over the places of an image, ``[B or 1, T or 1, n]`` float32.

    gates: weights of the n experts, 0 for those that are not chosen.
    chosen: how often each is chosen; None where all always are.
    """

    gates: jax.Array
    chosen: jax.Array | None


def _dense(gates: jax.Array) -> Note:  # [T, B, h, w, n]
    return Note(jnp.swapaxes(gates.mean((2, 3)), 0, 1), None)


def _kept(out: tuple[jax.Array, jax.Array]) -> Note:  # [B, T, E], gain
    return Note(out[0], (out[0] > 0).astype(jnp.float32))


def _routed(routing: mixture.Routing) -> Note:  # [T or 1, B, ..., K]
    weights = scattered(routing.weights, routing.index, routing.load.shape[-1])
    parts = (x.mean(range(2, x.ndim - 1)) for x in (weights, routing.load))
    return Note(*(jnp.swapaxes(x, 0, 1) for x in parts))


# How the output of a gate is read.
READERS: dict[type[nnx.Module], Callable[[Any], Note]] = {
    task_expert.Gate: _dense,
    mlore_block.Router: _kept,
    mixture.Gate: _routed,
}


class _Watched(nnx.Module):
    """Stands in for a gate and notes what it says."""

    def __init__(self, gate: nnx.Module, keep: Callable[[Note], None]):
        self.gate, self.read = gate, READERS[type(gate)]
        self.keep, self.options = keep, getattr(gate, "options", None)

    def __call__(self, *args: Any, **options: Any) -> Any:
        out = self.gate(*args, **options)
        self.keep(self.read(out))
        return out


def watch(model: MultiTask) -> dict[str, list[Note]]:
    """Watches every gate of a model for evaluation, in place.

    Nothing is kept for a backward pass any more: `remat` is off, since it would hide the notes.

    Returns: lists that a call fills, layer after layer, for ``backbone`` and ``decoder``.
    """
    notes = {"backbone": [], "decoder": []}
    for path, holder in list(nnx.iter_modules(model)):
        for name in ("gate", "router"):
            gate = getattr(holder, name, None)
            if type(gate) in READERS:
                setattr(holder, name, _Watched(gate, notes[path[0]].append))
                model.backbone.remat = "none"
    return notes


def sums(
    notes: Mapping[str, Sequence[Note]], valid: jax.Array
) -> dict[str, dict[str, dict[str, jax.Array]]]:
    """Adds up notes over the images of a batch.

    Args:
      notes: of one call, see `watch`.
      valid: ``[B]``, False for images to leave out.

    Returns: ``{part: {"gates": [T, L, n], "chosen": [T, L, n]}}`` for L layers; T is 1 where the
      tasks share the gates. Parts without gates and gates that choose nothing have no entry.
    """
    found = {}
    for part, layers in notes.items():
        for what in Note._fields if layers else ():
            means = [getattr(note, what) for note in layers]
            if means[0] is not None:
                shape = (len(valid), *means[0].shape[1:])
                stacked = jnp.stack([jnp.broadcast_to(x, shape) for x in means])
                total = jnp.einsum("lbtn,b->tln", stacked, valid.astype(stacked.dtype))
                found.setdefault(part, {})[what] = total
    return found


def entries(model: MultiTask) -> dict[str, tuple[str, ...]]:
    """Returns names of what the gates weigh, by part, where it is not experts alone."""
    parts = {"backbone": model.backbone, "decoder": model.decoder}
    return {name: part.entries() for name, part in parts.items() if hasattr(part, "entries")}

"""Parameters of a ViT with its blocks in a list, and with them stacked between the taps."""

from typing import Any

import jax
import jax.numpy as jnp


def stack(tree: dict[str, Any], taps: tuple[int, ...]) -> dict[str, Any]:
    """Parameters of a ViT with `scan` off -> those of the same ViT with it on.

    Args:
      tree: nested dict with ``blocks/0`` to ``blocks/L-1``.
      taps: as in `ViT`; the blocks between two taps are stacked on a new leading axis.
    """
    rest = {name: value for name, value in tree.items() if name != "blocks"}
    segments = {}
    for i, (start, stop) in enumerate(zip((0, *taps), taps, strict=False)):
        parts = [tree["blocks"][j] for j in range(start, stop)]
        segments[i] = jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts)
    return rest | {"segments": segments}


def unstack(tree: dict[str, Any]) -> dict[str, Any]:
    """Undoes `stack`, and `ViT.detach`."""
    rest = {name: value for name, value in tree.items() if name not in ("segments", "tails")}
    segments, tails = tree.get("segments", {}), tree.get("tails", {})
    blocks = []
    for i in sorted({*segments, *tails}):
        length = jax.tree.leaves(segments[i])[0].shape[0] if i in segments else 0
        blocks += [_block(segments[i], j) for j in range(length)]
        blocks += [tails[i]] if i in tails else []
    return rest | {"blocks": dict(enumerate(blocks))}


def _block(stack: Any, index: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[index], stack)

"""What the parity tests of decoders share: watching modules, losses, and gradients of two modes."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mtl_vision import losses, rules, tasks

DATASET = "d"


class Watch(nnx.Module):
    """Stands in for a module and hands its first argument and its output to `keep`."""

    def __init__(self, module, keep):
        self.module, self.keep = module, keep

    def __call__(self, *args, **options):
        out = self.module(*args, **options)
        self.keep(args[0], out)
        return out


def kinds_of(meta):
    """The tasks in the project's order, which is not that of the record."""
    return tuple(kind for kind in tasks.KINDS if kind in meta["tasks"])


def target(meta, arrays, kind):
    """Returns (label, mask) of a task."""
    label = np.moveaxis(arrays[f"target/{kind}"], 1, -1)
    ignored = meta.get("depth_ignore", 255) if kind == "depth" else 255
    mask = jnp.asarray((label != ignored).all(-1))
    return jnp.asarray(label if kind == "normals" else label[..., 0]), mask


def losses_of(meta, arrays, preds, *, protocol="B", dataset=DATASET):
    """Unweighted losses by the names of `preds`, a kind or ``inter_<kind>``."""
    found, edge = {}, meta.get("config", {}).get("edge_w")
    for name, pred in preds.items():
        kind = name.removeprefix("inter_")
        options = {"classes": [""] * pred.shape[-1]} if kind == "semseg" else {}
        options |= {"positive": edge} if kind == "edge" and edge else {}
        task = tasks.TASKS[kind](dataset, protocol, **options)
        found[name] = losses.mean(*task.loss(pred, *target(meta, arrays, kind)))
    return found


def two_modes(encode, decode, trunk, head):
    """Runs evaluation and training on one encoding, with gradients.

    Args:
      encode: trunk -> taps.
      decode: ``(head, taps, key) -> (total loss, dict)``; without a key it evaluates.
      trunk, head: parameters.

    Returns: the taps, and for ``eval`` and ``train`` the dict of `decode` with ``grads`` by path.
    """
    taps, pull = jax.vjp(encode, trunk)
    modes, owns, ways = {}, [], []
    for mode, key in (("eval", None), ("train", jax.random.key(0))):
        step = jax.value_and_grad(decode, argnums=(0, 1), has_aux=True)
        (_, modes[mode]), (own, way) = step(head, taps, key)
        owns.append(own)
        ways.append(way)
    # One backward pass of the trunk for both.
    (trunks,) = jax.vmap(pull)(jax.tree.map(lambda *x: jnp.stack(x), *ways))
    for i, mode in enumerate(modes.values()):
        shared = jax.tree.map(lambda g, i=i: g[i], trunks)
        mode["grads"] = rules.flatten({"backbone": shared, "decoder": owns[i]})
    return taps, modes

"""One canvas for all datasets: the backbone runs once, the tasks read their own rows of it."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mtl_vision.models import mtl
from mtl_vision.models.hidden import Area, Hidden, hide
from mtl_vision.tasks import Task
from mtl_vision.train.gradients import Part
from mtl_vision.train.step import penalty_of, replaced, task_loss, without_penalties

Tree = Any


def parts_of(
    params: Tree,
    batch: Mapping[str, Mapping[str, Any]],
    key: jax.Array,
    *,
    graphdef: Any,
    frozen: Tree,
    groups: Mapping[str, Sequence[Task]],
    mask: bool,
) -> list[Part]:
    """Makes one part of all datasets; arguments as in `step.parts_of`.

    The canvas is as high and as wide as the largest images; all stand in its middle. First come
    the rows of the first dataset, then those of the next, so heads read static slices. The margin
    is 0 in the image and without labels, so no loss sees it.

    Args:
      mask: whether attention leaves out tokens that lie in a margin.
    """
    areas, canvas = areas_of({name: batch[name]["image"].shape for name in groups})
    rows = {name: placed(batch[name], areas[name], canvas) for name in groups}
    encode_key, *decode_keys = jax.random.split(key, 1 + len(groups))

    def encode(trunk: Tree, stats: Tree) -> tuple[Tree, Tree]:
        stats = without_penalties(stats)
        model = mtl.merge(graphdef, replaced(params, "backbone", trunk), frozen, stats)
        if mask:
            stride = model.backbone.strides[0]
            hide(model.backbone, Hidden(canvas, tuple(areas.values()), stride))
        images = jnp.concatenate([rows[name]["image"] for name in groups])
        return model.encode(images, dataset="", key=encode_key), mtl.statistics(model)

    def decode(head: Tree, features: Tree, stats: Tree) -> tuple[jax.Array, Any]:
        values, weighted, start = penalty_of("backbone", stats), [], 0
        for (name, group), decode_key in zip(groups.items(), decode_keys, strict=True):
            own = slice(start, start := start + areas[name].rows)
            stats = without_penalties(stats)
            model = mtl.merge(graphdef, replaced(params, "decoder", head), frozen, stats)
            here = [x[:, own] for x in features]
            preds = model.decode(here, canvas, dataset=name, key=decode_key)
            between = getattr(model.decoder, "intermediate_weight", 1.0)
            found = {t.name: task_loss(t, preds[t.kind], rows[name], between) for t in group}
            weighted += [t.weight * found[t.name] for t in group]
            stats = mtl.statistics(model)
            values |= found | penalty_of(name, stats)
        return jnp.stack(weighted), (values, stats)

    return [Part(tuple(t.name for group in groups.values() for t in group), encode, decode)]


def areas_of(shapes: Mapping[str, Sequence[int]]) -> tuple[dict[str, Area], tuple[int, int]]:
    """Returns where the images of each dataset, ``[B, H, W, 3]``, stand, and the canvas (H, W)."""
    H, W = (max(shape[axis] for shape in shapes.values()) for axis in (1, 2))
    areas = {
        name: Area(B, (H - h) // 2, (W - w) // 2, h, w) for name, (B, h, w, _) in shapes.items()
    }
    return areas, (H, W)


def placed(rows: Mapping[str, Any], area: Area, canvas: tuple[int, int]) -> dict[str, Any]:
    """Returns ``{image, labels, masks}`` on the canvas, zeros and False around."""
    down, across = canvas[0] - area.height - area.top, canvas[1] - area.width - area.left

    def place(x: jax.Array) -> jax.Array:
        margins = [(0, 0), (area.top, down), (area.left, across), (0, 0)]
        return jnp.pad(x, margins[: x.ndim])

    return jax.tree.map(place, {name: rows[name] for name in ("image", "labels", "masks")})

"""Public weights into our trees, and back, by ordered rules.

A rule says where the arrays whose name it matches go and how they change. Converting is strict:
every array is used or dropped by a rule on purpose, and every parameter is found.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from mtl_vision import rules as paths
from mtl_vision.errors import DataError
from mtl_vision.models.layouts import (
    TAKE_APART,
    UNDO,
    UNFIT,
    Fit,
    Join,
    Transform,
    conv,
    exact,
    last,
    linear,
    same,
)


@dataclass(frozen=True)
class Rule:
    """Where arrays of a public file go.

    Attributes:
      pattern: regex that matches a whole name.
      path: template of the target path, with ``\\1`` for groups; None drops the array.
      transform: changes layout, whatever the target's shape.
      part: of targets made of several arrays, such as a fused qkv: this one's place among them.
      join: how these become one.
      fit: changes size to the target's shape, where a table may be resized.
    """

    pattern: str
    path: str | None
    transform: Transform = same
    part: int = 0
    join: Join = last
    fit: Fit = exact


def convert(
    arrays: Mapping[str, np.ndarray], table: Sequence[Rule], targets: Any, *, zero: str = ""
) -> Any:
    """Converts named arrays to the tree of a module's parameters.

    Args:
      arrays: the public file, by name.
      table: rules; the first that matches a name decides.
      targets: nested dict of anything with a shape, such as `jax.ShapeDtypeStruct`.
      zero: regex of paths that are zero where the file has nothing for them; "" for none.

    Returns: a tree like `targets` of NumPy arrays.

    Raises:
      DataError: arrays that no rule or no target takes, targets without an array, shapes that
        differ, or arrays of other than finite real numbers; all of them in one message.
    """
    shapes = {path: tuple(leaf.shape) for path, leaf in paths.flatten(targets).items()}
    found, unused = _gather(arrays, table, shapes)
    made, faults = {}, []
    for path, shape in shapes.items():
        if path not in found:
            if re.fullmatch(zero, path):
                made[path] = np.zeros(shape, np.float32)
            continue
        try:
            made[path] = found[path][0].fit(_joined(*found[path]), shape)
        except (ValueError, IndexError) as e:
            made[path] = None
            faults.append(f"{path} cannot be made of what is there: {e}")
            continue
        faults += unfit(path, made[path], shape)
    missing = [path for path in shapes if path not in found and path not in made]
    _report(unused, missing, faults)
    return paths.map_with_path(lambda path, _: made[path], targets)


def unfit(path: str, array: np.ndarray, shape: tuple[int, ...]) -> list[str]:
    """Says why an array cannot become the parameter at `path`, if it cannot."""
    if array.shape != shape:
        return [f"{path} is {array.shape} and should be {shape}"]
    if not jnp.issubdtype(array.dtype, jnp.floating):
        return [f"{path} is {array.dtype} and should be of real numbers"]
    return [] if np.isfinite(array).all() else [f"{path} is not finite"]


def spread(arrays: Mapping[str, np.ndarray], table: Sequence[Rule]) -> dict[str, np.ndarray]:
    """Converts named arrays without a model to compare them with: ``{path: array}``.

    Raises:
      DataError: arrays that no rule takes, or that cannot be joined.
    """
    found, unused = _gather(arrays, table, None)
    _report(unused, [], [])
    try:
        return {path: _joined(*of_path) for path, of_path in found.items()}
    except (ValueError, IndexError) as e:
        raise DataError(f"The arrays are not laid out as their names say: {e}.") from e


def _joined(rule, parts):
    """Returns what the parts of a path, ``{part: (array, rule)}``, become."""
    return rule.join([how.transform(array) for _, (array, how) in sorted(parts.items())])


def _gather(arrays, table, shapes):
    """Returns ({path: (rule, {part: (array, rule)})}, names of arrays with no use).

    `shapes` are those of the known paths; None takes all.
    """
    compiled = [(re.compile(rule.pattern), rule) for rule in table]
    found, unused = {}, []
    for name, array in arrays.items():
        match, rule = next(((m, r) for p, r in compiled if (m := p.fullmatch(name))), (None, None))
        if rule is not None and rule.path is None:
            continue
        path = match.expand(rule.path) if match else None
        if path is None or (shapes is not None and path not in shapes):
            unused.append(name)
            continue
        _, parts = found.setdefault(path, (rule, {}))
        if rule.part in parts:
            unused.append(name)
        else:
            parts[rule.part] = np.asarray(array), rule
    return found, unused


def invert(tree: Any, table: Sequence[Rule]) -> dict[str, np.ndarray]:
    """Undoes `convert`: parameters here -> arrays by the names of the public file.

    Of several rules for one path the first is taken, with those for other parts of it. Nothing
    leads back from a pattern with more than names, escaped points and plain groups in it, nor from
    a transform without an entry in `layouts.UNDO`.

    Args:
      tree: nested dict of arrays.
      table: rules of one format.

    Raises:
      DataError: parameters that no rule leads back; all are named.
    """
    ways = [way for way in map(_backwards, table) if way]
    made, lost = {}, []
    for path, array in paths.flatten(tree).items():
        found = [(m.expand(name), rule) for p, name, rule in ways if (m := p.fullmatch(path))]
        if not found:
            lost.append(path)
            continue
        rule = found[0][1]
        parts = {r.part: (n, r) for n, r in reversed(found) if r.join is rule.join}
        array = UNFIT.get(rule.fit, same)(np.asarray(array))
        pieces = TAKE_APART[rule.join](array, len(parts))
        for (name, one), piece in zip((parts[i] for i in sorted(parts)), pieces, strict=False):
            made[name] = np.ascontiguousarray(UNDO[one.transform](piece))
    if lost:
        raise DataError(f"The file has no place for {len(lost)} parameters: {', '.join(lost)}.")
    return made


_GROUP = re.compile(r"\((?!\?)([^()]*)\)")


def _backwards(rule):
    """Returns (regex of paths, template of names, rule), or None where nothing leads back."""
    bare = _GROUP.sub("", rule.pattern).replace(r"\.", "")
    if rule.path is None or re.search(r"[\\.*+?|()\[\]]", bare):
        return None
    if rule.transform not in UNDO or rule.join not in TAKE_APART:
        return None
    groups = _GROUP.findall(rule.pattern)
    path = re.sub(r"\\(\d)", lambda m: f"(?P<g{m[1]}>{groups[int(m[1]) - 1]})", rule.path)
    counter = iter(range(1, len(groups) + 1))
    name = _GROUP.sub(lambda _: rf"\g<g{next(counter)}>", rule.pattern).replace(r"\.", ".")
    return re.compile(path), name, rule


def _report(unused, missing, faults):
    if len(faults) > 5:  # a model of another size
        faults = [*faults[:5], f"and {len(faults) - 5} more"]
    listed = [
        f"{len(names)} {what} ({', '.join(names)})"
        for names, what in ((unused, "arrays unused"), (missing, "missing"))
        if names
    ]
    listed += [f"unfit: {', '.join(faults)}"] if faults else []
    if listed:
        raise DataError(f"The weights do not fit the model: {'; '.join(listed)}.")


def under(table: Sequence[Rule], source: str, target: str) -> tuple[Rule, ...]:
    """Returns `table` for names below ``source`` and paths below ``target/``.

    Args:
      table: rules of a part of the model.
      source: regex without groups, such as ``backbone\\.``.
      target: path of the part.
    """
    return tuple(
        replace(
            rule,
            pattern=f"{source}(?:{rule.pattern})",
            path=None if rule.path is None else f"{target}/{rule.path}",
        )
        for rule in table
    )


def torch_layers(source: str, target: str) -> list[Rule]:
    """Weight and bias of linear layers whose names `source` matches."""
    return [
        Rule(rf"{source}\.weight", f"{target}/kernel", linear),
        Rule(rf"{source}\.bias", f"{target}/bias"),
    ]


def torch_norms(source: str, target: str) -> list[Rule]:
    return [
        Rule(rf"{source}\.weight", f"{target}/scale"),
        Rule(rf"{source}\.bias", f"{target}/bias"),
    ]


def torch_convs(source: str, target: str) -> list[Rule]:
    return [
        Rule(rf"{source}\.weight", f"{target}/kernel", conv),
        Rule(rf"{source}\.bias", f"{target}/bias"),
    ]


def torch_batch_norms(source: str, target: str) -> list[Rule]:
    return [
        *torch_norms(source, target),
        Rule(rf"{source}\.running_(mean|var)", rf"{target}/\{re.compile(source).groups + 1}"),
        Rule(rf"{source}\.num_batches_tracked", None),
    ]

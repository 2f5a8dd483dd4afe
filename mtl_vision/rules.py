"""Trees by path, and policies as ordered (path regex, value) rules.

A path is the chain of keys joined by ``/``: ``backbone/stages/0/blocks/1/attn/qkv/kernel``.
What trains, decays, loads or is sharded is decided by such rules and by nothing else.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import jax

from mtl_vision.errors import ConfigError

T = TypeVar("T")
Rules = Sequence[tuple[str, T]]


def path_of(key_path: tuple[Any, ...]) -> str:
    """Joins a `jax.tree_util` key path with ``/``."""
    return jax.tree_util.keystr(key_path, simple=True, separator="/")


def flatten(tree: Any) -> dict[str, Any]:
    """Returns ``{path: leaf}`` in tree order."""
    return {path_of(p): leaf for p, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def map_with_path(function: Any, tree: Any, *rest: Any) -> Any:
    """Returns the tree of ``function(path, leaf, *leaves of rest)``."""
    return jax.tree_util.tree_map_with_path(lambda p, *x: function(path_of(p), *x), tree, *rest)


def resolve(rules: Rules[T], paths: Iterable[str], field: str) -> dict[str, T]:
    """Gives every path the value of the first rule whose regex matches all of it.

    Args:
      rules: ordered (regex, value) pairs.
      paths: the paths to decide.
      field: the rules' name in messages, such as ``optim.decay``.

    Returns: ``{path: value}`` in the order of `paths`.

    Raises:
      ConfigError: a path that no rule matches, a rule that decides no path, or a regex that
        does not compile.
    """
    try:
        compiled = [(re.compile(pattern), value) for pattern, value in rules]
    except re.error as e:
        raise ConfigError(f"{field}: {e.pattern!r} is not a regular expression: {e}.") from e
    resolved, used = {}, set()
    for path in paths:
        for i, (pattern, value) in enumerate(compiled):
            if pattern.fullmatch(path):
                resolved[path] = value
                used.add(i)
                break
        else:
            raise ConfigError(f"{field}: no rule matches {path!r}. End the rules with ('.*', ...).")
    idle = [rules[i][0] for i in range(len(compiled)) if i not in used]
    idle = [pattern for pattern in idle if pattern != ".*"]
    if idle:
        raise ConfigError(
            f"{field}: the rule {idle[0]!r} decides no parameter. Remove it, or mend the regex; "
            f"paths look like {next(iter(resolved), '(none)')!r}."
        )
    return resolved


def resolve_tree(rules: Rules[T], tree: Any, field: str) -> Any:
    """Like `resolve`, as a tree of the structure of `tree`."""
    table: Mapping[str, T] = resolve(rules, flatten(tree), field)
    return map_with_path(lambda path, _: table[path], tree)

"""Multiply-adds of a model by component, counted from its jaxpr without making an array."""

import contextlib
import functools
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from mtl_vision.models.convolution import plain
from mtl_vision.models.resize import INTERPOLATION

RULE = (
    "Multiply-adds of one image in evaluation, each counted once: products of matrices and\n"
    "convolutions, with their padding and without the zeros inside a transposed one, in the form\n"
    "that papers write also where a faster one runs. Norms, activations, pooling, softmax and the\n"
    "interpolation of maps count nothing."
)


def _product(eqn: Any) -> int:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    shape = eqn.invars[0].aval.shape
    return _size(eqn) * math.prod(shape[axis] for axis in contracted)


def _convolution(eqn: Any) -> int:
    kernel, outputs = eqn.invars[1].aval.shape, eqn.params["dimension_numbers"].rhs_spec[0]
    each = math.prod(kernel) // kernel[outputs]
    # All but one in `lhs_dilation` of the inputs are zeros put between.
    return _size(eqn) * each // math.prod(eqn.params["lhs_dilation"])


def _size(eqn):
    return math.prod(eqn.outvars[0].aval.shape)


COUNTED: Mapping[str, Callable[[Any], int]] = {
    "dot_general": _product,
    "conv_general_dilated": _convolution,
}
# How often the jaxpr inside is run; that of any other primitive is run once.
REPEATED = {"scan": lambda eqn: eqn.params["length"]}
MARK = "@"


def multiply_adds(function: Callable[..., Any], *args: Any) -> dict[str, int]:
    """Counts the multiply-adds of a call; see `RULE`.

    Args:
      function: of arrays.
      args: arrays or their shapes.

    Returns: counts by the path of the innermost module that was called, "" outside of modules and
      without `named_calls`.
    """
    found: Counter[str] = Counter()
    with plain():
        _count(jax.make_jaxpr(function)(*args).jaxpr, "", 1, found)
    return dict(found)


def _count(jaxpr, scope, times, found):
    for eqn in jaxpr.eqns:
        here = f"{scope}/{eqn.source_info.name_stack}"
        name, inner = eqn.primitive.name, _inner(eqn)
        assert name != "while", f"a loop of unknown length cannot be counted: {here}"
        if name == "cond":
            inner = inner[-1:]
        for body in inner:
            _count(body, here, times * REPEATED.get(name, lambda _: 1)(eqn), found)
        if not inner and not re.search(rf"\b{INTERPOLATION}\b", here):
            if count := COUNTED.get(name, lambda _: 0)(eqn):
                found[_component(here)] += times * count


def _inner(eqn) -> list[Any]:
    values = jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda x: hasattr(x, "eqns"))
    return [getattr(v, "jaxpr", v) for v in values if hasattr(v, "jaxpr") or hasattr(v, "eqns")]


def _component(scope: str) -> str:
    marks = re.findall(rf"{MARK}([\w.]+)", scope)
    return marks[-1].replace(".", "/") if marks else ""


@contextlib.contextmanager
def named_calls(model: nnx.Module) -> Iterator[None]:
    """Inside, every call of a module of `model` is traced in a scope of its path."""
    names = {id(m): ".".join(map(str, path)) for path, m in nnx.iter_modules(model)}
    kinds = {type(m) for _, m in nnx.iter_modules(model)}
    calls = {kind: kind.__call__ for kind in kinds if "__call__" in vars(kind)}

    def named(call):
        @functools.wraps(call)
        def wrapper(self, *args, **options):
            if not (name := names.get(id(self))):
                return call(self, *args, **options)
            with jax.named_scope(MARK + name):
                return call(self, *args, **options)

        return wrapper

    try:
        for kind, call in calls.items():
            kind.__call__ = named(call)
        yield
    finally:
        for kind, call in calls.items():
            kind.__call__ = call


def backbone(model: nnx.Module, *, dataset: str, size: tuple[int, int]) -> int:
    """Counts the multiply-adds of the backbone of a `MultiTask` model; see `by_component`."""
    encode, *args = _encode(model, dataset, size)
    return sum(multiply_adds(encode, *args).values())


def by_component(model: nnx.Module, *, dataset: str, size: tuple[int, int]) -> dict[str, int]:
    """Counts the multiply-adds of a `MultiTask` model for one image of one dataset.

    Args:
      model: abstract or not.
      dataset: whose tasks.
      size: (H, W) of the image.

    Returns: counts by path: ``backbone`` as a whole, and modules below ``decoder``.
    """
    encode, state, image = _encode(model, dataset, size)
    graphdef = nnx.graphdef(model)

    def decode(state, features):
        model = nnx.merge(graphdef, state)
        with named_calls(model):
            return model.decode(features, size, dataset=dataset)

    with plain():  # what is traced here is what is counted below
        features = jax.eval_shape(encode, state, image)
    whole = {"backbone": sum(multiply_adds(encode, state, image).values())}
    return whole | multiply_adds(decode, state, features)


def _encode(model, dataset, size):
    graphdef, state = nnx.split(model)

    def encode(state, image):
        return nnx.merge(graphdef, state).encode(image, dataset=dataset)

    return encode, state, jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)

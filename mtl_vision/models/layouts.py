"""How public files lay arrays out and what that is here: transforms, joins, and their inverses.

A transform changes one array, a join makes one of several, and a fit gives a table the size that
the model has. `UNDO` and `TAKE_APART` lead back, for files that others are to read.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mtl_vision.models.resize import matrix

Transform = Callable[[np.ndarray], np.ndarray]
Fit = Callable[[np.ndarray, tuple[int, ...]], np.ndarray]
Join = Callable[[Sequence[np.ndarray]], np.ndarray]
Split = Callable[[np.ndarray, int], Sequence[np.ndarray]]


def same(array: np.ndarray) -> np.ndarray:
    """Returns the array."""
    return array


def linear(array: np.ndarray) -> np.ndarray:
    """PyTorch's ``[out, in]`` -> kernel ``[in, out]``."""
    return array.T


def conv(array: np.ndarray) -> np.ndarray:
    """PyTorch's ``[out, in, kh, kw]`` -> kernel ``[kh, kw, in, out]``."""
    return array.transpose(2, 3, 1, 0)


def torch_conv(array: np.ndarray) -> np.ndarray:
    """Undoes `conv`."""
    return array.transpose(3, 2, 0, 1)


def first(array: np.ndarray) -> np.ndarray:
    """Drops a leading axis of size 1."""
    return array.reshape(array.shape[1:]) if array.shape[:1] == (1,) else array


def lead(array: np.ndarray) -> np.ndarray:
    """Adds a leading axis of size 1."""
    return array[None]


def row(array: np.ndarray) -> np.ndarray:
    """A vector -> ``[1, C]``."""
    return array.reshape(1, -1)


def ravel(array: np.ndarray) -> np.ndarray:
    """Any array -> a vector."""
    return array.reshape(-1)


def scalar(array: np.ndarray) -> np.ndarray:
    """PyTorch's ``[1]`` -> ``[]``."""
    return array.reshape(())


def heads_out(array: np.ndarray) -> np.ndarray:
    """Kernel ``[C, heads, d]`` -> ``[C, heads d]``."""
    return array.reshape(array.shape[0], -1)


def heads_in(array: np.ndarray) -> np.ndarray:
    """Kernel ``[heads, d, C]`` -> ``[heads d, C]``."""
    return array.reshape(-1, array.shape[-1])


# What leads back; a transform that is not here has lost something.
UNDO: Mapping[Transform, Transform] = {
    same: same,
    linear: linear,
    conv: torch_conv,
    first: lead,
    row: ravel,
    scalar: ravel,
}


def last(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Joins arrays on the last axis; one alone may have none."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts, -1)


def rows(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Joins arrays on the first axis."""
    return np.concatenate(parts, 0)


def around_zero(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Biases of queries and values -> ``[3 C]``, zeros for those of keys."""
    return np.concatenate([parts[0], np.zeros_like(parts[0]), *parts[1:]])


def product(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Multiplies arrays, such as a bias and its mask."""
    return np.prod(np.stack(parts), 0, dtype=parts[0].dtype)


def padded(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Stacks arrays on a new first axis, each filled up with zeros to the largest."""
    shape = np.max([part.shape for part in parts], 0)
    return np.stack([np.pad(part, [(0, n) for n in shape - part.shape]) for part in parts])


# What takes an array apart into so many parts.
TAKE_APART: Mapping[Join, Split] = {
    last: lambda array, count: np.split(array, count, -1) if count > 1 else [array],
    rows: lambda array, count: np.split(array, len(array)),
    around_zero: lambda array, count: np.split(array, 3)[::2],
}


def exact(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Changes nothing; a shape that differs is an error of the conversion."""
    del shape
    return array


def resize_grid(grid: np.ndarray, size: tuple[int, int], method: str = "bicubic") -> np.ndarray:
    """Resizes ``[h, w, C]``, in float64."""
    rows, columns = (matrix(grid.shape[i], size[i], method) for i in range(2))
    wide = np.einsum("hp,wq,pqc->hwc", rows, columns, grid.astype(np.float64))
    return wide.astype(grid.dtype)


def side(count: int) -> int | None:
    """Returns the root of a square number from 1 on, None for others."""
    root = int(round(max(count, 0) ** 0.5))
    return root if root and root * root == count else None


def bias_table(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Resizes a relative position bias table ``[(2w - 1)^2, heads]`` to another window."""
    source, target = side(array.shape[0]), side(shape[0])
    if array.shape == shape or source is None or target is None:
        return array
    grid = array.reshape(source, source, -1)
    return resize_grid(grid, (target, target)).reshape(target**2, -1)


def table_rows(count: int) -> tuple[int, int] | None:
    """Returns (tokens before the grid, its side) of a table of positions; at most one fits."""
    fits = ((tokens, side(count - tokens)) for tokens in range(3))
    return next((fit for fit in fits if fit[1]), None)


def position_table(
    array: np.ndarray, shape: tuple[int, ...], method: str = "bicubic"
) -> np.ndarray:
    """Resizes ``[t + n*n, C]``, t tokens first, to another square grid.

    Tokens that the file gives no position get zeros.
    """
    source, target = table_rows(array.shape[0]), table_rows(shape[0])
    if array.shape == shape or source is None or target is None or source[0] not in (0, target[0]):
        return array
    tokens = array[: source[0]] if source[0] else np.zeros((target[0], *shape[1:]), array.dtype)
    grid = array[source[0] :]
    if source[1] != target[1]:
        grid = resize_grid(grid.reshape(source[1], source[1], -1), (target[1],) * 2, method)
    return np.concatenate([tokens, grid.reshape(target[1] ** 2, -1)])


def position_grid(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """``[n, C]`` of the wanted grid or, to be resized, of a square one -> ``[h, w, C]``."""
    if len(shape) != 3 or array.shape == shape:
        return array
    if array.ndim == 3:
        return resize_grid(array, shape[:2])
    if array.shape[0] == shape[0] * shape[1]:
        return array.reshape(*shape[:2], -1)
    source = side(array.shape[0])
    return array if source is None else resize_grid(array.reshape(source, source, -1), shape[:2])


def flat_grid(array: np.ndarray) -> np.ndarray:
    """Undoes the layout of `position_grid`: ``[h, w, C]`` -> ``[h w, C]``."""
    return array.reshape(-1, array.shape[-1])


UNFIT: Mapping[Fit, Transform] = {position_grid: flat_grid}

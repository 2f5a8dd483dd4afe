"""What a compiled step does per device: its communication and its products, loops counted.

XLA's own count of floating-point operations takes a loop once; this one reads the text of the
optimized program, where the numbers of iterations stand.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s64": 8, "u64": 8}
BYTES |= {"f64": 8, "s4": 1, "u4": 1}

_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
_LINE = re.compile(r"^\s+(?:ROOT )?%(\S+) = (\(.*?\)|\S+) ([\w-]+)\((.*)$")
_CALLED = re.compile(r"(?:body|calls|to_apply)=%([\w.-]+)|branch_computations=\{([^}]*)\}")


class Collective(NamedTuple):
    """One communication of a step.

    Attributes:
      kind: one of KINDS.
      array: bytes of the whole array: what an all-gather or all-reduce gives, what a
        reduce-scatter takes.
      group: devices that take part together.
      axes: of the mesh, along which these lie.
      times: how often a step runs it.
    """

    kind: str
    array: int
    group: int
    axes: tuple[str, ...]
    times: int

    @property
    def sent(self) -> float:
        """Bytes that a device sends in a step, by the ring algorithms."""
        factor = {"all-reduce": 2.0, "collective-permute": self.group / max(self.group - 1, 1)}
        share = (self.group - 1) / self.group
        return factor.get(self.kind, 1.0) * share * self.array * self.times


class _Op(NamedTuple):
    name: str
    shape: str
    kind: str
    rest: str


def collectives(text: str, mesh: Mapping[str, int]) -> list[Collective]:
    """Returns the communication of a step.

    Args:
      text: of the optimized program, ``compiled.as_text()``.
      mesh: sizes of the axes, in order.
    """
    found = []
    for op, times, _ in _ops(text):
        kind = op.kind.removesuffix("-start")
        if kind not in KINDS:
            continue
        groups = _groups(op, math.prod(mesh.values()))
        width = groups.shape[1]
        if width == 1 and kind != "collective-permute":
            continue
        size = _size(op.shape) * (width if kind == "reduce-scatter" else 1)
        # A started all-gather carries its operand beside its result.
        if op.kind.endswith("-start") and op.shape.startswith("("):
            size = max(_size(part[0]) for part in re.finditer(_ARRAY, op.shape))
        found.append(Collective(kind, size, width, _axes(groups, mesh), times))
    return found


def flops(text: str) -> float:
    """Returns the operations of all matrix products and convolutions of a step, on one device."""
    total = 0.0
    for op, times, shapes in _ops(text):
        if op.kind == "dot":
            left = _dims(shapes[_operands(op)[0]])
            cut = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", op.rest)[1]
            inner = math.prod(left[int(i)] for i in cut.split(",") if i)
            total += 2.0 * times * math.prod(_dims(op.shape)) * inner
        elif op.kind == "convolution":
            kernel = _dims(shapes[_operands(op)[1]])
            labels = re.search(r"dim_labels=\w+_(\w+)->", op.rest)[1]
            inner = math.prod(kernel) // kernel[labels.index("o")]
            total += 2.0 * times * math.prod(_dims(op.shape)) * inner
    return total


def _ops(text: str) -> Iterator[tuple[_Op, int, dict[str, str]]]:
    """Yields every operation, how often it runs, and the shapes of its computation by name."""
    bodies = _computations(text)
    entry = next(name for name in bodies if name.startswith("ENTRY "))
    waiting = [(entry, 1)]
    while waiting:
        name, times = waiting.pop()
        shapes = {op.name: op.shape for op in bodies[name]}
        for op in bodies[name]:
            yield op, times, shapes
            again = times
            if op.kind == "while":
                known = re.search(r'"known_trip_count":\{"n":"(\d+)"', op.rest)
                again = times * (int(known[1]) if known else 1)
            for one, several in re.findall(_CALLED, op.rest):
                names = [one] if one else [n.strip(" %") for n in several.split(",")]
                waiting += [(n, again) for n in names if n in bodies]


def _computations(text: str) -> dict[str, list[_Op]]:
    found: dict[str, list[_Op]] = {}
    ops: list[_Op] = []
    for line in text.splitlines():
        if line.endswith("{") and not line.startswith((" ", "HloModule")):
            head = line.split(" (")[0]
            name = head.replace("%", "") if head.startswith("ENTRY ") else head.lstrip("%")
            ops = found[name] = []
        elif match := _LINE.match(line):
            ops.append(_Op(*match.groups()))
    return found


def _operands(op: _Op) -> list[str]:
    return re.findall(r"%([\w.-]+)", op.rest.split(")")[0])


def _dims(shape: str) -> list[int]:
    return [int(n) for n in _ARRAY.search(shape)[2].split(",") if n]


def _size(shape: str) -> int:
    """Bytes of an array or of all arrays of a tuple."""
    return sum(
        BYTES.get(kind, 4) * math.prod(int(n) for n in dims.split(",") if n)
        for kind, dims in re.findall(_ARRAY, shape)
    )


def _groups(op: _Op, devices: int) -> np.ndarray:
    """Returns ``[groups, devices in one]``, in any of the ways in which XLA writes them."""
    if op.kind.startswith("collective-permute"):
        pairs = re.search(r"source_target_pairs=\{(.*?)\}\}", op.rest)[1]
        numbers = [int(n) for n in re.findall(r"\d+", pairs)]
        return np.array(numbers).reshape(-1, 2)
    spec = op.rest[op.rest.index("replica_groups=") + len("replica_groups=") :]
    if named := re.match(r"mesh\[(.*?)\](?:, device_ids=\((.*?)\))? \{(.*?)\}", spec):
        sizes = {k: int(n) for k, n in re.findall(r"'(\w+)'=(\d+)", named[1])}
        ids = _iota(named[2]) if named[2] else np.arange(devices)
        ids, across = ids.reshape(*sizes.values()), re.findall(r"'(\w+)'", named[3])
        last = [i for i, name in enumerate(sizes) if name in across]
        kept = [i for i in range(len(sizes)) if i not in last]
        width = math.prod(ids.shape[i] for i in last)
        return ids.transpose(*kept, *last).reshape(-1, width)
    if iota := re.match(r"\[(\d+),(\d+)\]<=(\[[\d,]+\](?:T\([\d,]+\))?)", spec):
        return _iota(iota[3]).reshape(int(iota[1]), int(iota[2]))
    listed = re.match(r"\{(\{.*?\})?\}", spec)[1]
    if not listed:
        return np.arange(devices)[None]
    return np.array([[int(n) for n in g.split(",")] for g in re.findall(r"\{([\d,]+)\}", listed)])


def _iota(text: str) -> np.ndarray:
    """Returns ``[4,2]T(1,0)`` as an array of device numbers."""
    dims = [int(n) for n in re.match(r"\[([\d,]+)\]", text)[1].split(",")]
    turned = re.search(r"T\(([\d,]+)\)", text)
    ids = np.arange(math.prod(dims)).reshape(dims)
    return ids.transpose(*map(int, turned[1].split(","))) if turned else ids


def _axes(groups: np.ndarray, mesh: Mapping[str, int]) -> tuple[str, ...]:
    places = np.unravel_index(groups, tuple(mesh.values()))
    moved = [(place != place[:, :1]).any() for place in places]
    return tuple(name for name, here in zip(mesh, moved, strict=True) if here)


def summed(found: list[Collective]) -> dict[tuple[str, tuple[str, ...]], float]:
    """Returns the bytes that a device sends in a step by kind and axes."""
    totals: dict[tuple[str, tuple[str, ...]], Any] = {}
    for one in found:
        place = (one.kind, one.axes)
        totals[place] = totals.get(place, 0.0) + one.sent
    return totals

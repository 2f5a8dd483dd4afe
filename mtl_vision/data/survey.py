"""What an archive holds: every split, image and label counted against the published numbers."""

import pathlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from mtl_vision.data.layout import LIST, Layout, fits, match
from mtl_vision.data.scan import Item, Key

SHOWN = 5  # examples in a line

Shape = tuple[int, int] | None


@dataclass
class Survey:
    """Files by what they are.

    Attributes:
      layout: of the dataset.
      path: the archive.
      ids: of every split, as far as its list is there.
      shapes: (part, id) -> (H, W), of whole files.
      names: (part, id) -> name in the archive.
      notes: (part, id) -> what `layout.Converted.note` says.
      faults: one line for every file that cannot be used.
    """

    layout: Layout
    path: pathlib.Path
    ids: dict[str, list[str]] = field(default_factory=dict)
    shapes: dict[Key, Shape] = field(default_factory=dict)
    names: dict[Key, str] = field(default_factory=dict)
    notes: dict[Key, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def add(self, item: Item) -> None:
        """Takes note of a file that was read."""
        if item.kept is None:
            self.faults.append(f"{item.name} {item.fault}")
        else:
            text = item.kept.data.decode() if item.key[0] == LIST else ""
            self.put(item.key, item.name, item.kept.shape, item.kept.note, text)

    def put(self, key: Key, name: str, shape: Shape, note: str, text: str = "") -> None:
        """Takes note of a whole file; `text` are the ids of a list."""
        if key[0] == LIST:
            self.ids[key[1]] = text.split("\n")
        self.names[key], self.shapes[key], self.notes[key] = name, shape, note


def lacks(survey: Survey, kind: str, id_: str) -> bool:
    """Whether an image has no label of a kind, or one of another image's proportions."""
    image = survey.shapes.get(("image", id_))
    if kind == "image":
        return image is None
    return any(
        label is None or (image and not fits(label, image)) for label in _labels(survey, kind, id_)
    )


def _labels(survey: Survey, kind: str, id_: str) -> list[Shape]:
    """The shapes of the files that a label is made of, None for one that is not there."""
    found = []
    for need in survey.layout.needs[kind]:
        shapes = (survey.shapes.get((part, id_)) for part in need.split("|"))
        found.append(next((shape for shape in shapes if shape), None))
    return found


def mismatches(survey: Survey) -> list[str]:
    """One line for every label whose sides are not in proportion to its image's."""
    lines = []
    for (part, id_), shape in survey.shapes.items():
        image = survey.shapes.get(("image", id_))
        if shape and image and not fits(shape, image):
            name, (h, w), (H, W) = survey.names[part, id_], shape, image
            lines.append(f"{name} is {h}x{w}, its image {H}x{W}")
    return lines


def resized(survey: Survey) -> int:
    """Number of labels that are their image at another scale."""
    shapes = survey.shapes.items()
    pairs = ((shape, survey.shapes.get(("image", id_))) for (_, id_), shape in shapes)
    return sum(bool(a and b and a != b and fits(a, b)) for a, b in pairs)


def variant(survey: Survey) -> str:
    """The packing that the file types belong to, ``""`` if there is only one."""
    left = dict(survey.layout.variants)
    for name in survey.names.values():
        part = survey.layout.parts[match(survey.layout, name).index].name
        kind = name.rpartition(".")[2]
        left = {v: types for v, types in left.items() if types.get(part, kind) == kind}
    return " or ".join(left)


def kinds(survey: Survey) -> tuple[str, ...]:
    """The labels of which there is at least one."""
    every = [id_ for ids in survey.ids.values() for id_ in ids]
    return tuple(k for k in survey.layout.needs if any(not lacks(survey, k, i) for i in every))


def whole(survey: Survey, wanted: Sequence[str]) -> dict[str, list[str]]:
    """The ids of every split that have an image and all wanted labels."""
    return {
        split: [
            i
            for i in survey.ids.get(split, ())
            if not any(lacks(survey, k, i) for k in ("image", *wanted))
        ]
        for split in survey.layout.counts
    }


def problems(survey: Survey) -> list[str]:
    """What keeps the archive from being the whole dataset, one line each."""
    layout, lines = survey.layout, []
    for split, count in layout.counts.items():
        ids = survey.ids.get(split)
        if ids is None:
            lines.append(f"{split}: the list of ids is missing")
            continue
        if len(ids) != count:
            lines.append(f"{split}: {len(ids)} ids, expected {count}")
        for kind in ("image", *layout.needs):
            without = [i for i in ids if lacks(survey, kind, i)]
            if len(without) == len(ids):
                lines.append(f"{split}: {kind} is missing altogether{_folders(layout, kind)}")
            elif without:
                lines.append(f"{split}: {kind} is missing for {_some(without)}")
    return [*lines, *survey.faults, *mismatches(survey)]


def _folders(layout: Layout, kind: str) -> str:
    """The folders that a kind is made from."""
    parts = {p for need in layout.needs.get(kind, ("image",)) for p in need.split("|")}
    folders = {part.pattern.split("/([^")[0] for part in layout.parts if part.name in parts}
    return f" ({', '.join(sorted(folders))})"


def report(survey: Survey) -> list[str]:
    """The counts as a table, one line per split and label, and what is wrong below it."""
    layout = survey.layout
    lines = [
        f"{survey.path}: {layout.dataset}" + (f", packing {v}" if (v := variant(survey)) else "")
    ]
    for split, count in layout.counts.items():
        ids = survey.ids.get(split, [])
        lines.append(f"  {split:6} ids          {len(ids):5} of {count}")
        for kind in ("image", *layout.needs):
            there = sum(not lacks(survey, kind, i) for i in ids)
            lines.append(f"  {split:6} {kind:12} {there:5} of {count}")
    if number := resized(survey):
        lines.append(f"  {number} labels are of another size than their image and will be resized")
    return lines


def listed(lines: Iterable[str], limit: int = 20) -> str:
    """At most `limit` lines, and how many more there are."""
    lines = list(lines)
    more = [f"... and {len(lines) - limit} more"] if len(lines) > limit else []
    return "".join(f"\n  {line}" for line in [*lines[:limit], *more])


def people(survey: Survey, ids: Mapping[str, Sequence[str]]) -> dict[str, list[int]]:
    """The positions of images with people in every split."""
    return {
        split: [n for n, i in enumerate(found) if survey.notes.get(("human_parts", i)) == "people"]
        for split, found in ids.items()
    }


def _some(ids: Sequence[str]) -> str:
    shown = ", ".join(ids[:SHOWN])
    return f"{len(ids)} images: {shown}" + (", ..." if len(ids) > SHOWN else "")

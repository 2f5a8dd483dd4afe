"""The parts of `benchmark.py` about input: transforms, and reading the batches of a config."""

import os
import pathlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from absl import flags
from benchmark_timing import timed

BATCHES = flags.DEFINE_integer("batches", 10, "Batches that `reading` times.", lower_bound=1)
ROUNDS = flags.DEFINE_integer("rounds", 3, "Turns of `reading`; medians count.", lower_bound=1)
MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
SMOOTH = ("image", "normals")
PADDING = {"image": 0.0, "normals": 0.0, "depth": 0.0}  # others 255


def example(height: int = 375, width: int = 500) -> dict:
    """Returns an example of PASCAL's size with five labels."""
    from mtl_vision.data.synthetic import render

    kinds = ("semseg", "normals", "edge", "sal", "human_parts")
    return render("synth_pascal", "test", 0, (height, width), kinds)


def inputs(side: int, against: str) -> None:
    """Times the training transforms of both protocols on one thread, without decoding."""
    import cv2

    from mtl_vision.data import transforms

    cv2.setNumThreads(1)
    one, rng = example(), np.random.default_rng(0)
    kinds, size = tuple(k for k in one if k not in ("id", "image")), (side, side)
    for protocol, augment in (("A", transforms.A_PASCAL), ("B", transforms.B)):
        ours = transforms.train_transform(protocol, size=size, kinds=kinds, augment=augment)
        plain = PLAIN[protocol]
        forms = [lambda f=ours: f(one, rng)]
        forms += [lambda f=plain: f(one, rng, size)] if against == "plain" else []
        seconds = timed(*forms)
        line = f"protocol {protocol}, {side}x{side}, {len(kinds)} labels: "
        line += f"{seconds[0] * 1e3:.3g} ms/image, {1 / seconds[0]:.3g} images/s"
        if len(seconds) > 1:
            line += f", plain {seconds[1] * 1e3:.3g} ms/image"
            line += f", ratio {seconds[0] / seconds[1]:.2f}"
        print(line)


def floats(one: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns every map in float32, as the loaders of ASTMT and ATRC hold them."""
    return {k: np.asarray(v, np.float32) for k, v in one.items() if k != "id"}


def mirrored(maps: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Flips all maps half of the time."""
    if rng.random() < 0.5:
        maps = {k: v[:, ::-1].copy() for k, v in maps.items()}
        if "normals" in maps:
            maps["normals"][..., 0] *= -1
    return maps


def plain_protocol_a(one: Mapping[str, Any], rng: np.random.Generator, size: Any) -> dict:
    """Protocol A, each map in float32 by itself."""
    import cv2

    maps = mirrored(floats(one), rng)
    height, width = one["image"].shape[:2]
    turn = cv2.getRotationMatrix2D(
        (width / 2, height / 2), 40 * rng.random() - 20, 0.75 + 0.5 * rng.random()
    )
    out = {}
    for name, value in maps.items():
        method = cv2.INTER_CUBIC if name in SMOOTH else cv2.INTER_NEAREST
        value = cv2.warpAffine(value, turn, (width, height), flags=method)
        value = cv2.resize(value, size[::-1], interpolation=method)
        if name == "normals":
            value /= np.linalg.norm(value, axis=-1, keepdims=True) + 2.2e-16
        out[name] = value
    out["image"] = (np.clip(out["image"], 0, 255) / 255 - MEAN) / STD
    return out


def plain_protocol_b(one: Mapping[str, Any], rng: np.random.Generator, size: Any) -> dict:
    """Protocol B, each map in float32 by itself."""
    import cv2

    maps, factor = floats(one), 0.5 + 1.5 * rng.random()
    height, width = (int(n * factor) for n in one["image"].shape[:2])
    maps = {
        name: cv2.resize(
            value,
            (width, height),
            interpolation=cv2.INTER_LINEAR if name == "image" else cv2.INTER_NEAREST,
        )
        for name, value in maps.items()
    }
    if "depth" in maps:
        maps["depth"] /= factor
    for _ in range(11):
        top, left = (
            int(rng.integers(max(n - m, 0) + 1)) for n, m in zip((height, width), size, strict=True)
        )
        window = maps["semseg"][top : top + size[0], left : left + size[1]]
        values, counts = np.unique(window[window != 255], return_counts=True)
        if len(values) > 1 and counts.max() / counts.sum() < 0.75:
            break
    maps = {k: v[top : top + size[0], left : left + size[1]] for k, v in maps.items()}
    maps = mirrored(maps, rng)
    maps["image"] = (plain_distortion(maps["image"], rng) / np.float32(255) - MEAN) / STD
    down, across = (n - m for n, m in zip(size, maps["image"].shape, strict=False))
    margins = (down // 2, down - down // 2, across // 2, across - across // 2)
    return {
        name: cv2.copyMakeBorder(
            np.ascontiguousarray(value),
            *margins,
            cv2.BORDER_CONSTANT,
            value=(PADDING.get(name, 255.0),) * 3,
        )
        for name, value in maps.items()
    }


def plain_distortion(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Photometric distortion step by step on the pixels."""
    import cv2

    def clipped(values):
        return np.clip(values, 0, 255).astype(np.uint8)

    def in_hsv(image, channel, change):
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        hsv[..., channel] = change(hsv[..., channel])
        return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)

    image = image.astype(np.uint8)
    brightness, contrast, saturation, hue, early = rng.random(5) < 0.5
    if brightness:
        image = clipped(image.astype(np.float32) + rng.uniform(-32, 32))
    if contrast and early:
        image = clipped(image.astype(np.float32) * rng.uniform(0.5, 1.5))
    if saturation:
        factor = rng.uniform(0.5, 1.5)
        image = in_hsv(image, 1, lambda s: clipped(s.astype(np.float32) * factor))
    if hue:
        turn = int(rng.integers(-18, 18))
        image = in_hsv(image, 0, lambda h: ((h.astype(int) + turn) % 180).astype(np.uint8))
    if contrast and not early:
        image = clipped(image.astype(np.float32) * rng.uniform(0.5, 1.5))
    return image


PLAIN = {"A": plain_protocol_a, "B": plain_protocol_b}


class Examples:
    """A map-style dataset of PyTorch: what `make` does to the examples of a source."""

    def __init__(self, source: Any, make: Callable[..., Any]):
        self.source, self.make = source, make

    def __len__(self) -> int:
        return 1 << 20

    def __getitem__(self, index: int) -> Any:
        made = self.make(self.source[index % len(self.source)], np.random.default_rng(index))
        return {k: v for k, v in made.items() if k not in ("id", "size")}


class Plain:
    """A plain protocol of a fixed size; a class, so that workers can take it along."""

    def __init__(self, protocol: str, size: tuple[int, int]):
        self.protocol, self.size = protocol, size

    def __call__(self, one: Mapping[str, Any], rng: np.random.Generator) -> dict:
        return PLAIN[self.protocol](one, rng, self.size)


class Reader(NamedTuple):
    """Something to read batches from: a name, how it begins, and its worker processes."""

    name: str
    start: Callable[[], Iterator[Any]]
    workers: Callable[[Any], list[int]] = lambda stream: []


def reading(config: Mapping[str, Any], against: str) -> None:
    """Times the training batches of every dataset of a config, decoding and all.

    Processor time is that of all threads and worker processes; a figure per core is one second
    over the processor time of an image.
    """
    from mtl_vision import build
    from mtl_vision.check import check
    from mtl_vision.data import pipeline, transforms

    cfg = check(config)
    for name, data in cfg.datasets.items():
        source = build.source(cfg, name, "train")
        ours = transforms.train_transform(
            cfg.protocol,
            size=data.size,
            kinds=data.tasks,
            augment=transforms.Augment(**data.augment),
        )

        def start(source=source, ours=ours, data=data, name=name):
            return pipeline.train_batches(
                source,
                ours,
                name=name,
                batch=data.batch,
                seed=0,
                threads=cfg.input.workers,
                processes=cfg.input.processes,
            )

        readers = [Reader("ours", start, children)]
        if against == "torch":
            plain = Plain(cfg.protocol, data.size)
            for title, make in (("torch", ours), ("torch, plain", plain)):
                readers.append(torch_reader(title, Examples(source, make), data.batch, cfg))
        found = [[measure(reader, data.batch) for reader in readers] for _ in range(ROUNDS.value)]
        report(name, data.size, readers, found)


def torch_reader(name: str, examples: Examples, batch: int, cfg: Any) -> Reader:
    """Returns a DataLoader with as many worker processes as ours has workers."""
    from torch.utils.data import DataLoader

    def start():
        count = max(cfg.input.workers, cfg.input.processes)
        # Record files that are open in this process would not survive a fork.
        options = {"num_workers": count, "multiprocessing_context": "spawn"}
        return iter(DataLoader(examples, batch, shuffle=True, **options))

    return Reader(name, start, children)


def children(stream: Any) -> list[int]:
    """Returns the processes that this one has started."""
    tasks = pathlib.Path("/proc/self/task").iterdir()
    return [int(pid) for task in tasks for pid in (task / "children").read_text().split()]


def busy(pids: list[int]) -> float:
    """Returns the processor seconds of this process and of others, so far."""
    ticks = 0
    for pid in pids:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def measure(reader: Reader, batch: int) -> tuple[float, float]:
    """Returns processor and wall seconds per image of some batches after the first two."""
    stream = reader.start()
    next(stream), next(stream)
    pids = reader.workers(stream)
    start, began = busy(pids), time.perf_counter()
    for _ in range(BATCHES.value):
        next(stream)
    images = BATCHES.value * batch
    found = (busy(pids) - start) / images, (time.perf_counter() - began) / images
    getattr(stream, "close", getattr(stream, "_shutdown_workers", None))()
    return found


def report(name: str, size: Any, readers: list[Reader], found: list) -> None:
    """Prints a line per reader."""
    columns = list(zip(*found, strict=True))
    medians = [[statistics.median(x) for x in zip(*column, strict=True)] for column in columns]
    for reader, (cpu, wall) in zip(readers, medians, strict=True):
        line = f"{name} {size[0]}x{size[1]}, {reader.name}: {cpu * 1e3:.3g} ms of a core per image"
        line += f", {1 / cpu:.3g} images/s and core, {1 / wall:.3g} images/s"
        if reader is not readers[0]:
            line += f"; ours over it {cpu / medians[0][0]:.2f} per core"
        print(line, flush=True)

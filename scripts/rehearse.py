r"""Makes archives of both real datasets, in their layout and size, of made-up images.

  python scripts/rehearse.py --out rehearsal --pascal 500 --nyud 795
  python scripts/prepare_data.py --dataset pascal_context --archive rehearsal/PASCAL_MT.tgz \
      --data_dir rehearsal --partial
  python scripts/prepare_data.py --dataset nyud_v2 --archive rehearsal/NYUDv2.tar \
      --data_dir rehearsal --partial

A few scenes are rendered; every image is one of them, mirrored or not, with another light, under
noise of all scales. So images, normals and depth are as hard to compress as photos and sensors
make them, and how long they take to read is what real files would take. A tenth of the images
are the split `val`.
"""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from absl import flags

from mtl_vision import cli

OUT = flags.DEFINE_string("out", "rehearsal", "Folder for the archives.")
PASCAL = flags.DEFINE_integer("pascal", 500, "Images of PASCAL-Context; 0 for none.")
NYUD = flags.DEFINE_integer("nyud", 795, "Images of NYUD-v2; 0 for none.")
SCENES = flags.DEFINE_integer("scenes", 16, "Scenes that are rendered.", lower_bound=1)
SIZES = {"synth_pascal": (375, 500), "synth_nyud": (425, 560)}
GRAIN = {"synth_pascal": 22.0, "synth_nyud": 8.0}  # grey levels of the noise


@dataclasses.dataclass(frozen=True)
class Varied:
    """Scenes over and over, never twice the same."""

    scenes: list[Mapping[str, Any]]
    noise: np.ndarray
    grain: float

    def example(self, n: int) -> dict[str, Any]:
        """Example number `n`, with labels as `data` has them."""
        rng = np.random.default_rng(n)
        one = dict(self.scenes[n % len(self.scenes)])
        if rng.random() < 0.5:
            one = {k: v if k == "id" else v[:, ::-1].copy() for k, v in one.items()}
            one["normals"][..., 0] *= -1
        shift = tuple(rng.integers(0, side) for side in self.noise.shape[:2])
        grain = self.grain * np.roll(self.noise, shift, (0, 1))
        light = rng.uniform(0.8, 1.1)
        one["image"] = np.clip(light * one["image"] + grain, 0, 255).astype(np.uint8)
        known = one["normals"].any(-1, keepdims=True)
        tilted = one["normals"] + 0.02 * rng.standard_normal(one["normals"].shape, np.float32)
        length = np.linalg.norm(tilted, axis=-1, keepdims=True)
        one["normals"] = np.where(known, tilted / length, np.float32(0))
        if "depth" in one:
            one["depth"] = one["depth"] * (1 + 0.002 * grain[..., 0]).astype(np.float32)
        return one


def scales(size: tuple[int, int]) -> np.ndarray:
    """Noise with the spectrum of photos, 1 over the frequency: ``[H, W, 3]``, variance 1."""
    rng = np.random.default_rng(0)
    down, across = np.fft.fftfreq(size[0]), np.fft.rfftfreq(size[1])
    frequency = np.maximum(np.hypot(down[:, None], across), 1 / max(size))
    planes = []
    for _ in range(3):
        phase = np.exp(2j * np.pi * rng.random(frequency.shape))
        planes.append(np.fft.irfft2(phase / frequency, s=size))
    noise = np.stack(planes, -1)
    return (noise / noise.std()).astype(np.float32)


def varied(domain: str) -> Varied:
    """Renders the scenes of one domain."""
    from mtl_vision.data.synthetic import KINDS, render

    size = SIZES[domain]
    found = [render(domain, "train", i, size, KINDS[domain]) for i in range(SCENES.value)]
    return Varied(found, scales(size), GRAIN[domain])


def pascal(count: int) -> Iterator[tuple[str, bytes]]:
    """Yields the files of a PASCAL-Context archive."""
    from tests import archives

    made = varied("synth_pascal")
    for split, numbers in halves(count).items():
        ids = [f"2008_{n:06d}" for n in numbers]
        for n, name in zip(numbers, ids, strict=True):
            files = archives._pascal_files(made.example(n), name, np.random.default_rng(n))
            yield from ((f"PASCAL_MT/{path}", data) for path, data in files)
        yield f"PASCAL_MT/ImageSets/Context/{split}.txt", archives._lines(ids)


def nyud(count: int) -> Iterator[tuple[str, bytes]]:
    """Yields the files of a NYUD-v2 archive."""
    from tests import archives

    made = varied("synth_nyud")
    for split, numbers in halves(count).items():
        ids = [f"{n:04d}" for n in numbers]
        for n, name in zip(numbers, ids, strict=True):
            yield from nyud_files(made.example(n), name)
        yield f"NYUDv2/gt_sets/{split}.txt", archives._lines(ids)


def nyud_files(one: Mapping[str, Any], name: str) -> Iterator[tuple[str, bytes]]:
    """Yields what an archive has of one image; PNGs by OpenCV, which is quicker than Pillow."""
    from mtl_vision.data import png
    from tests import archives

    labels = np.where(one["semseg"] == 255, 0, one["semseg"] + 1).astype(np.uint8)
    yield f"NYUDv2/images/{name}.png", png.encode("image", one["image"])
    yield f"NYUDv2/segmentation/{name}.png", png.encode("semseg", labels)
    yield f"NYUDv2/depth/{name}.npy", archives.npy(one["depth"])
    yield f"NYUDv2/normals/{name}.png", png.encode("image", archives.code(one["normals"]))
    yield f"NYUDv2/edge/{name}.png", png.encode("edge", one["edge"] * np.uint8(255))


def halves(count: int) -> dict[str, range]:
    """Numbers of the images by split."""
    val = max(1, count // 10)
    return {"train": range(1, count - val + 1), "val": range(count - val + 1, count + 1)}


def main() -> None:
    from tqdm import tqdm

    from tests import archives

    out = pathlib.Path(OUT.value)
    out.mkdir(parents=True, exist_ok=True)
    wanted = (("PASCAL_MT.tgz", pascal, PASCAL.value), ("NYUDv2.tar", nyud, NYUD.value))
    for name, make, count in wanted:
        if not count:
            continue
        files = make(count)
        path = archives.write(tqdm(files, desc=name, unit="file"), out / name)
        print(f"{path}: {path.stat().st_size / 2**20:.0f} MiB")


if __name__ == "__main__":
    cli.start(main)

r"""Measures, side by side in one run, and prints the ratio to what it is compared to.

  python scripts/benchmark.py step    --config configs/quickstart.py   # compile, step, dispatch
  python scripts/benchmark.py step    --config configs/mtl_swin_t_hrnet.py \
      --beside configs/mtlora_r64.py,configs/lora.py [--pixels 224|448x576] [--batch 2]
  python scripts/benchmark.py input   [--against plain]                # transforms, images/s/core
  python scripts/benchmark.py reading --config configs/joint_vit_b_conv.py [--against torch]
                                                                       # batches from files
  python scripts/benchmark.py metrics [--against plain]                # meters, ms per image
  python scripts/benchmark.py edges                                    # odsF, ms per image
  python scripts/benchmark.py render                                   # SynthScenes, ms per image
  python scripts/benchmark.py blocks  [--against torch] [--blocks vit_b,swin_t_0]
  python scripts/benchmark.py backbones [--against torch] [--models vit_l,swin_b]
  python scripts/benchmark.py optim   [--against torchjd] [--methods pcgrad,cagrad]
  python scripts/benchmark.py optim_step --config configs/joint_swin_t_hrnet.py \
      [--methods pcgrad,famo,sam] [--strategies vmap,scan,passes,two_pass,features]
  python scripts/benchmark.py scaling --config configs/taskexpert_vit_l.py \
      [--presets dp,fsdp,fsdp_tp,hybrid] [--devices 1,8,64] [--batch 1]  # compiled, not run

Times are medians over `--repeats`: of a step in wall time, of all else in processor time, where
there are two numbers in both.
`plain` is the textbook form of the same work: one map or class or threshold at a time.
"""

import platform
from collections.abc import Callable
from importlib import metadata

import benchmark_backbones
import benchmark_blocks
import benchmark_input
import benchmark_optim
import benchmark_optim_step
import benchmark_scaling
import benchmark_step
import numpy as np
from absl import flags
from benchmark_input import example
from benchmark_timing import timed
from ml_collections import config_flags

from mtl_vision import cli

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config of the step.", lock_config=False, accept_new_attributes=True
)
AGAINST = flags.DEFINE_enum(
    "against", "", ["", "plain", "torch", "torchjd"], "What to compare with."
)
SIDE = flags.DEFINE_integer("side", 448, "Pixels of a side, for input, metrics, edges, render.")


def compared(what: str, unit: str, scale: float, ours: Callable, plain: Callable) -> None:
    """Prints one line, with the ratio if there is something to compare with."""
    if AGAINST.value != "plain":
        (a,) = timed(ours)
        print(f"{what}: {a * scale:.3g} {unit}")
        return
    a, b = timed(ours, plain)
    print(f"{what}: {a * scale:.3g} {unit}, plain {b * scale:.3g} {unit}, ratio {a / b:.2f}")


def meters() -> None:
    """Times the four meters of protocol B together on one image."""
    import jax

    from mtl_vision.data import DATASETS

    tasks = DATASETS["synth_pascal"].tasks("B")
    kinds = ("semseg", "normals", "sal", "human_parts")
    side, rng = SIDE.value, np.random.default_rng(0)
    one = example(side, side)
    preds = {k: rng.standard_normal((1, side, side, tasks[k].channels), np.float32) for k in kinds}
    labels = {k: one[k][None] for k in kinds}
    masks = {k: np.ones((1, side, side), bool) for k in kinds}
    masks["semseg"] = labels["semseg"] != 255
    masks["normals"] = np.abs(labels["normals"]).sum(-1) > 0
    valid = np.ones(1, bool)
    sums = jax.jit(
        lambda preds: {k: tasks[k].metric.sums(preds[k], labels[k], masks[k], valid) for k in kinds}
    )
    on_device = jax.device_put(preds)
    compared(
        f"semseg, human_parts, sal and normals at {side}x{side}",
        "ms/image",
        1e3,
        lambda: jax.block_until_ready(sums(on_device)),
        lambda: plain_meters(preds, labels, masks),
    )


def plain_meters(preds: dict, labels: dict, masks: dict) -> None:
    """The same sums class by class and threshold by threshold, in numpy."""
    for kind in ("semseg", "human_parts"):
        shown, label, mask = preds[kind].argmax(-1), labels[kind], masks[kind]
        for c in range(preds[kind].shape[-1]):
            a, b = (shown == c) & mask, (label == c) & mask
            (a & b).sum(), (a & ~b).sum(), (~a & b).sum()
    x = preds["sal"]
    p, label = 1 / (1 + np.exp(x[..., 0] - x[..., 1])), labels["sal"] == 1
    for t in [*np.linspace(0.2, 0.9, 15), *np.arange(1, 20) / 20]:
        mask = p > t
        (mask & label).sum(), mask.sum(), label.sum(), (mask | label).sum()
    n, g = preds["normals"], labels["normals"]
    n = n / np.maximum(np.linalg.norm(n, axis=-1, keepdims=True), 1e-12)
    away, along = (np.linalg.norm(v, axis=-1) for v in (n - g, n + g))
    angle = np.degrees(2 * np.arctan2(away, along))[masks["normals"]]
    angle.sum(), (angle**2).sum(), np.median(angle)
    for limit in (11.25, 22.5, 30):
        (angle < limit).sum()


def edges() -> None:
    """Times the matching behind odsF on one soft prediction."""
    import cv2

    from mtl_vision.metrics import boundary

    truth = example(SIDE.value, SIDE.value)["edge"]
    noise = np.random.default_rng(0).random(truth.shape, np.float32)
    soft = cv2.GaussianBlur(truth.astype(np.float32) * 3 + 0.3 * noise, (0, 0), 1.5)
    shown = (255 * np.clip(soft, 0, 1)).astype(np.uint8)
    (seconds,) = timed(lambda: boundary.match_counts(shown, truth, max_dist=0.0075))
    print(f"odsF at {SIDE.value}x{SIDE.value}: {seconds * 1e3:.4g} ms/image and core")


def scenes() -> None:
    """Times rendering with all labels."""
    from mtl_vision.data.synthetic import render
    from mtl_vision.data.synthetic.labels import DOMAINS

    side = SIDE.value
    for domain in DOMAINS:
        size = (side, side) if domain == "synth_pascal" else (side * 7 // 8, side * 9 // 8)
        index = iter(range(10**9))
        (seconds,) = timed(lambda d=domain, s=size, i=index: render(d, "train", next(i), s))
        print(f"{domain} {size[0]}x{size[1]}: {seconds * 1e3:.4g} ms/image and core")


COMMANDS = {
    "step": lambda: benchmark_step.steps(cli.config_value(CONFIG)),
    "input": lambda: benchmark_input.inputs(SIDE.value, AGAINST.value),
    "reading": lambda: benchmark_input.reading(cli.config_value(CONFIG), AGAINST.value),
    "metrics": meters,
    "edges": edges,
    "render": scenes,
    "backbones": lambda: benchmark_backbones.backbones(AGAINST.value),
    "blocks": lambda: benchmark_blocks.blocks(AGAINST.value),
    "optim": lambda: benchmark_optim.merging(AGAINST.value),
    "scaling": lambda: benchmark_scaling.scaling(cli.config_value(CONFIG)),
    "optim_step": lambda: benchmark_optim_step.stepping(cli.config_value(CONFIG)),
}


def main(command: str) -> None:
    versions = ", ".join(f"{p} {metadata.version(p)}" for p in ("jax", "flax", "numpy"))
    print(f"Python {platform.python_version()}, {versions}, {platform.machine()}")
    COMMANDS[command]()


if __name__ == "__main__":
    cli.start(main, commands=COMMANDS)

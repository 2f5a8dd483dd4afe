r"""Draws how ten methods go down two conflicting losses of two parameters.

  python scripts/plot_trajectories.py --out docs/trajectories.png

The problem is CAGrad's (arXiv 2110.14048, toy example) with Nash-MTL's factor on the first loss
(arXiv 2202.01017, illustrative example): two narrow logarithmic valleys above, two bowls below,
where the gradients differ in direction and tenfold in size. Every method has its defaults.
"""

import pathlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags

from mtl_vision import cli
from mtl_vision.errors import ConfigError
from mtl_vision.optim.aggregate import aggregate
from mtl_vision.optim.methods import AGGREGATORS

OUT = flags.DEFINE_string("out", "docs/trajectories.png", "Picture to write.")
STEPS = flags.DEFINE_integer("steps", 35_000, "Steps of Adam.", lower_bound=100)

TITLES = {
    "sum": "Sum",
    "mgda": "MGDA",
    "pcgrad": "PCGrad",
    "cagrad": "CAGrad",
    "imtl_g": "IMTL-G",
    "nash_mtl": "Nash-MTL",
    "fairgrad": "FairGrad",
    "aligned_mtl": "Aligned-MTL",
    "upgrad": "UPGrad",
    "config": "ConFIG",
}
STARTS = ((-8.5, 7.5), (-8.5, 5.0), (0.0, 0.0), (9.0, 9.0), (10.0, -8.0))
SCALE = 0.1  # of the first loss
LR = 1e-3
TIME = "plasma"  # colours


def losses(theta: jax.Array) -> jax.Array:
    """Both losses ``[2]`` at `theta` ``[2]``."""
    x, y = theta
    above, below = jnp.maximum(jnp.tanh(y / 2), 0), jnp.maximum(jnp.tanh(-y / 2), 0)

    def valley(z: jax.Array) -> jax.Array:
        return jnp.log(jnp.maximum(jnp.abs(z), 5e-6)) + 6

    def bowl(middle: float) -> jax.Array:
        return ((middle - x) ** 2 + 0.1 * (-y - 8) ** 2) / 10 - 20

    first = above * valley(0.5 * (-x - 7) - jnp.tanh(-y)) + below * bowl(7)
    second = above * valley(0.5 * (-x + 3) - jnp.tanh(-y) + 2) + below * bowl(-7)
    return jnp.stack([SCALE * first, second])


def trajectories(name: str, starts: jax.Array, steps: int, every: int = 1) -> jax.Array:
    """Returns where Adam on a method's gradients goes.

    Args:
      name: entry of `AGGREGATORS`.
      starts: ``[S, 2]``.
      steps: of Adam at rate 1e-3.
      every: steps between two points that are kept; it divides `steps`.

    Returns: ``[S, 1 + steps / every, 2]``, the starts first.
    """
    tx = optax.chain(aggregate(AGGREGATORS[name](), 2), optax.adam(LR))

    def step(carry, _):
        theta, opt = carry
        updates, opt = tx.update(jax.jacrev(losses)(theta), opt, theta, losses=losses(theta))
        return (optax.apply_updates(theta, updates), opt), None

    def kept(carry, _):
        carry, _ = jax.lax.scan(step, carry, length=every)
        return carry, carry[0]

    def one(start):
        _, points = jax.lax.scan(kept, (start, tx.init(start)), length=steps // every)
        return jnp.concatenate([start[None], points])

    return jax.jit(jax.vmap(one))(starts)


def pareto_set(count: int = 101) -> np.ndarray:
    """Returns `count` points ``[count, 2]`` of the Pareto set, from one bowl's middle to the other.

    At x some weights ``a1 + a2 = 1`` cancel the slopes along x, ``a1 (x - 7) + a2 (x + 7) = 0``;
    y is the minimum of that weighted sum along y. The factor on a loss does not matter.
    """
    x = np.linspace(-7, 7, count)
    y = np.linspace(-9, -8, 10_001)  # in double precision: the minimum is flat
    bowls = (49 - x**2) / 10 - 20  # a1 (x - 7)^2 + a2 (x + 7)^2 = 49 - x^2
    sums = np.tanh(-y[None] / 2) * (bowls[:, None] + 0.01 * (y[None] + 8) ** 2)
    return np.stack([x, y[sums.argmin(1)]], 1).astype(np.float32)


def draw(paths: Mapping[str, np.ndarray], out: pathlib.Path) -> None:
    """Writes one panel per method.

    Args:
      paths: by name, ``[S, points, 2]``.
      out: the picture.

    Raises:
      ConfigError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as e:
        raise ConfigError(
            "matplotlib is missing; install it with: pip install -r requirements-dev.txt"
        ) from e
    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    plt.rcParams.update({"font.size": 8, "font.family": "serif", "mathtext.fontset": "cm"})
    plt.rcParams.update({"axes.linewidth": 0.6})
    figure, panels = plt.subplots(2, 5, figsize=(10, 4.5), sharex=True, sharey=True)
    for panel, (name, points) in zip(panels.flat, paths.items(), strict=True):
        draw_panel(panel, points)
        panel.set_title(TITLES[name], fontsize=9, pad=3)
    for panel in panels[:, 0]:
        panel.set_ylabel(r"$\theta_2$", labelpad=-3)
    for panel in panels[1]:
        panel.set_xlabel(r"$\theta_1$", labelpad=1)
    figure.subplots_adjust(0.04, 0.15, 0.995, 0.945, wspace=0.06, hspace=0.13)
    draw_legend(figure)
    figure.savefig(out, dpi=160)
    plt.close(figure)


def draw_panel(panel, points: np.ndarray) -> None:
    """Draws contours of the mean loss, the Pareto set and the trajectories of one method."""
    from matplotlib.collections import LineCollection

    side = np.linspace(-12, 12, 241)
    grid = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    mean = np.asarray(jax.vmap(losses)(grid).mean(1)).reshape(len(side), -1)
    levels = np.quantile(mean, np.linspace(0.01, 0.99, 22))
    shades = [str(grey) for grey in np.linspace(0.8, 1, len(levels) + 1)]
    panel.contourf(side, side, mean, levels, colors=shades, extend="both")
    panel.contour(side, side, mean, levels, colors="0.65", linewidths=0.35, linestyles="solid")
    panel.plot(*pareto_set().T, color="#4c9f70", linewidth=4, solid_capstyle="round", zorder=2)
    for path in points:
        pieces = np.stack([path[:-1], path[1:]], 1)
        line = LineCollection(pieces, cmap=TIME, linewidths=1.4, capstyle="round", zorder=3)
        line.set_array(np.linspace(0, 1, len(pieces)))
        panel.add_collection(line)
    panel.plot(*points[:, 0].T, "o", color="black", markersize=3.5, zorder=4)
    panel.plot(*points[:, -1].T, "*", color="#d62728", mec="white", mew=0.4, ms=8, zorder=5)
    panel.set(xlim=(-12, 12), ylim=(-12, 12), xticks=(-10, 0, 10), yticks=(-10, 0, 10))
    panel.tick_params(length=2, pad=2, width=0.6)


def draw_legend(figure) -> None:
    """Explains the marks and the colours below the panels."""
    from matplotlib import colors
    from matplotlib.cm import ScalarMappable
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], marker="o", ls="", color="black", ms=3.5, label="start"),
        Line2D([], [], marker="*", ls="", color="#d62728", mec="white", mew=0.4, ms=8, label="end"),
        Line2D([], [], color="#4c9f70", linewidth=4, label="Pareto set"),
        Line2D([], [], color="0.6", linewidth=0.6, label="contours of the mean loss"),
    ]
    place = dict(loc="center left", bbox_to_anchor=(0.03, 0.035))
    figure.legend(handles=handles, ncols=4, frameon=False, **place)
    bar = figure.add_axes((0.72, 0.027, 0.2, 0.018))
    time = ScalarMappable(colors.Normalize(0, STEPS.value), TIME)
    figure.colorbar(time, cax=bar, orientation="horizontal", ticks=[])
    bar.text(-0.02, 0.4, "step 0", ha="right", va="center", transform=bar.transAxes)
    bar.text(1.02, 0.4, f"{STEPS.value:,}", va="center", transform=bar.transAxes)


def main() -> None:
    starts = jnp.array(STARTS)
    every = max(1, STEPS.value // 700)
    steps = STEPS.value // every * every
    paths = {}
    for name in TITLES:
        paths[name] = np.asarray(trajectories(name, starts, steps, every))
        print(f"{name}: {np.round(paths[name][:, -1], 2).tolist()}")
    draw(paths, pathlib.Path(OUT.value))


if __name__ == "__main__":
    cli.start(main)

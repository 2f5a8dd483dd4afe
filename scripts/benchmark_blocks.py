"""The part of `benchmark.py` about single blocks of the backbones."""

import os
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags
from benchmark_optim import CLOCKS
from benchmark_timing import timed_by

from mtl_vision.errors import ConfigError, lookup

BLOCKS = flags.DEFINE_list("blocks", [], "Blocks that are timed; all if empty.")

# The channels, the heads, and the sides of the map (Swin) or the tokens (ViT), for one image.
SHAPES = {
    "vit_b": (768, 12, (1009,)),
    "swin_t_0": (96, 3, (112, 112)),
    "swin_t_1": (192, 6, (56, 56)),
    "swin_t_2": (384, 12, (28, 28)),
    "swin_t_3": (768, 24, (14, 14)),
}

Run = Callable[[], object]
Runs = tuple[Run, Run]


def blocks(against: str) -> None:
    """Times ViT-B's block at 448x576 and the shifted blocks of Swin-T's stages at 448x448.

    Forward, and forward and backward to input and parameters, in turns with the layers of
    transformers, on as many threads. First the wall milliseconds, then those of processor time.
    """
    import jax

    jax.config.update("jax_enable_compilation_cache", False)
    for name in BLOCKS.value or SHAPES:
        shape = lookup(SHAPES, name, "blocks")
        compared(name, ours(*shape), theirs(*shape) if against == "torch" else ())


def compared(name: str, ours: Sequence[Run], theirs: Sequence[Run]) -> None:
    """Times forward passes and gradients, in turns with the others if there are any."""
    times = [[1e3 * x for x in found] for found in timed_by(*ours, *theirs, clocks=CLOCKS)]
    for i, what in enumerate(("forward", "with gradients")):
        line = f"{name} {what}: " + " ".join(f"{found[i]:.4g}" for found in times)
        if theirs:
            line += ", torch " + " ".join(f"{found[i + 2]:.4g}" for found in times)
            ratios = " ".join(f"{found[i + 2] / found[i]:.2f}" for found in times)
            line += f", times as fast {ratios}"
        print(line, flush=True)


def ours(channels: int, heads: int, sides: tuple[int, ...]) -> Runs:
    """Returns our compiled block, and its gradient."""
    import jax
    from flax import nnx

    from mtl_vision import parallel
    from mtl_vision.models.backbones.vit import Attention
    from mtl_vision.models.blocks import Block, Mlp
    from mtl_vision.models.windows import WindowAttention

    rngs = nnx.Rngs(0)
    if len(sides) == 1:
        attn = Attention(channels, heads, rngs=rngs)
    else:
        attn = WindowAttention(channels, heads, window=7, shift=3, shrink=True, rngs=rngs)
    graph, params = nnx.split(Block(channels, attn, Mlp(channels, 4 * channels, rngs=rngs)))
    x = jax.random.normal(jax.random.key(0), (1, 1, *sides, channels))
    options = parallel.compiler_options(parallel.make_mesh(devices=jax.devices()[:1]))

    def block(params, x):
        return nnx.merge(graph, params)(x)

    def total(params, x):
        return block(params, x).sum()

    functions = block, jax.value_and_grad(total, argnums=(0, 1))
    made = [jax.jit(f, compiler_options=options) for f in functions]
    return tuple(lambda f=f: jax.block_until_ready(f(params, x)) for f in made)


def theirs(channels: int, heads: int, sides: tuple[int, ...]) -> Runs:
    """Returns the same of transformers."""
    try:
        import torch
        from transformers.models.swin.modeling_swin import SwinConfig, SwinLayer
        from transformers.models.vit.modeling_vit import ViTConfig, ViTLayer
    except ImportError as e:
        raise ConfigError(
            f"--against=torch: {e}. Install it with: pip install -r requirements-compare.txt"
        ) from e
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    count = sides[0] * sides[-1] if len(sides) == 2 else sides[0]
    x = torch.randn(1, count, channels, requires_grad=True)
    if len(sides) == 1:
        layer, given = ViTLayer(ViTConfig(attn_implementation="sdpa")).eval(), ()
    else:
        layer = SwinLayer(SwinConfig(), channels, sides, heads, shift_size=3).eval()
        given = (sides,)

    def block() -> Any:
        out = layer(x, *given)
        return out[0] if isinstance(out, tuple) else out

    def forward() -> None:
        with torch.no_grad():
            block()

    def both() -> None:
        layer.zero_grad()
        x.grad = None
        block().sum().backward()

    return forward, both

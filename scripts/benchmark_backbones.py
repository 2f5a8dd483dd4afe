"""The part of `benchmark.py` about whole backbones: compile time, memory, speed."""

import os
import time
from typing import Any

from absl import flags
from benchmark_blocks import Run, compared

from mtl_vision.errors import ConfigError, lookup

MODELS = flags.DEFINE_list("models", [], "Backbones that are measured; all if empty.")

# The size of the image, and what transformers calls the model.
SIZES = {
    "swin_t": ((448, 448), dict(embed_dim=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24))),
    "vit_b": ((448, 576), dict(hidden_size=768, num_hidden_layers=12, num_attention_heads=12)),
    "swin_b": ((448, 448), dict(embed_dim=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32))),
    "vit_l": ((512, 512), dict(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16)),
}


def backbones(against: str) -> None:
    """Compiles forward and backward of whole backbones with and without scan and remat.

    One image, float32. Then both passes of the plain form are timed, in turns with those of
    transformers: the wall milliseconds, then those of processor time.
    """
    import jax

    jax.config.update("jax_enable_compilation_cache", False)
    for name in MODELS.value or SIZES:
        size, config = lookup(SIZES, name, "--models")
        for scan in (False, True):
            for remat in ("none", "block"):
                *_, line = ours(name, size, scan, remat)
                print(f"{name} scan={scan} remat={remat}: {line}", flush=True)
        *runs, _ = ours(name, size, False, "none")
        compared(name, runs, theirs(name, size, config) if against == "torch" else ())


def ours(name: str, size: tuple[int, int], scan: bool, remat: str) -> tuple[Run, Run, str]:
    """Returns our compiled backbone, its gradient, and what compiling that told."""
    import jax
    from flax import nnx

    from mtl_vision import parallel
    from mtl_vision.models.backbones import BACKBONES

    graph, params = nnx.split(BACKBONES[name](scan=scan, remat=remat, rngs=nnx.Rngs(0)))
    x = jax.random.normal(jax.random.key(0), (1, *size, 3))
    options = parallel.compiler_options(parallel.make_mesh(devices=jax.devices()[:1]))

    def forward(params, x):
        return nnx.merge(graph, params)(x)

    def total(params, x):
        return sum(y.sum() for y in forward(params, x))

    start = time.perf_counter()
    both = jax.jit(jax.grad(total), compiler_options=options).lower(params, x).compile()
    seconds, memory = time.perf_counter() - start, both.memory_analysis().temp_size_in_bytes
    ahead = jax.jit(forward, compiler_options=options)
    line = f"compile {seconds:.1f} s, temporaries {memory / 2**30:.2f} GiB"
    return *(lambda f=f: jax.block_until_ready(f(params, x)) for f in (ahead, both)), line


def theirs(name: str, size: tuple[int, int], config: dict[str, Any]) -> tuple[Run, Run]:
    """Returns the same of transformers."""
    try:
        import torch
        from transformers import SwinConfig, SwinModel, ViTConfig, ViTModel
    except ImportError as e:
        raise ConfigError(
            f"--against=torch: {e}. Install it with: pip install -r requirements-compare.txt"
        ) from e
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    if name.startswith("swin"):
        model = SwinModel(SwinConfig(image_size=size, **config), add_pooling_layer=False)
    else:
        more = dict(image_size=size, intermediate_size=4 * config["hidden_size"])
        more |= dict(attn_implementation="sdpa")
        model = ViTModel(ViTConfig(**more, **config), add_pooling_layer=False)
    model.eval()
    x = torch.randn(1, 3, *size)

    def forward() -> None:
        with torch.no_grad():
            model(x)

    def both() -> None:
        model.zero_grad()
        model(x).last_hidden_state.sum().backward()

    return forward, both

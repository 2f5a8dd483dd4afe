"""The part of `benchmark.py` about what a step with a method costs."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from absl import flags
from benchmark_optim import CLOCKS, chosen
from benchmark_timing import losses_alone, random_batch, resized, timed_by

from mtl_vision.errors import ConfigError

STRATEGIES = flags.DEFINE_list("strategies", ["vmap"], "Values of optim.per_task in optim_step.")

# As many trained parameters as adapters have, in every block of the backbone, and the heads.
ADAPTER_SIZED = (
    (r"decoder/.*", True),
    (r"backbone/.*attn/proj/.*", True),
    (r"backbone/.*(bias|scale|bias_table|reduction/kernel)", True),
    (r".*", False),
)


def stepping(config: Mapping[str, Any]) -> None:
    """Times steps with every method in turns with the step of the plain summed gradient.

    `step` is the ratio of the two. `backward` is the ratio of what comes on top of the forward
    pass of all tasks; the optimizer is in both. Each in wall and in processor time.
    """
    import jax

    from mtl_vision.train import plan, setup

    jax.config.update("jax_enable_compilation_cache", False)
    cfg = changed(config)
    print(" ".join(plan.parameters(cfg).splitlines()[-1].split()), "(frozen, trained)")
    mesh, made = setup.start(cfg)
    batch = random_batch(plan.batch_shapes(cfg, mesh))
    forward, _ = losses_alone(cfg, mesh, made, batch)
    plain, cost = compiled_step(cfg, batch)
    print(f"plain: {cost}")
    for what, changes in cases():
        try:
            run, cost = compiled_step(changed(config, **changes), batch)
        except ConfigError as e:
            print(f"{what}: {e}")
            continue
        wall, busy = timed_by(forward, plain, run, clocks=CLOCKS)
        steps = [found[2] / found[1] for found in (wall, busy)]
        backward = [(found[2] - found[0]) / (found[1] - found[0]) for found in (wall, busy)]
        print(
            f"{what}: {wall[2]:.2f} s, forward {wall[0]:.2f} s, plain {wall[1]:.2f} s, "
            f"step {steps[0]:.3f} {steps[1]:.3f}, backward {backward[0]:.2f} {backward[1]:.2f}, "
            f"{cost}",
            flush=True,
        )
        del run
        jax.clear_caches()


def cases() -> Iterator[tuple[str, dict[str, str]]]:
    """Yields a title and the changes of the section `optim` for every step to time."""
    from mtl_vision.optim.loss_weightings import LOSS_WEIGHTINGS
    from mtl_vision.optim.methods import AGGREGATORS, SAMS

    for name in chosen(AGGREGATORS | LOSS_WEIGHTINGS | SAMS):
        if name in LOSS_WEIGHTINGS:
            yield name, {"weighting": name}
        elif name in SAMS:
            yield name, {"sam": name, "aggregator": "sum" if name == "sam" else "pcgrad"}
        else:
            for strategy in STRATEGIES.value:
                yield f"{name}, {strategy}", {"aggregator": name, "per_task": strategy}


def changed(
    config: Mapping[str, Any],
    *,
    aggregator: str = "sum",
    weighting: str = "equal",
    sam: str = "none",
    per_task: str = "vmap",
) -> Any:
    """Returns the checked config at 224 pixels, one image per dataset, few trained parameters."""
    from mtl_vision.check import check

    methods = {"aggregator": aggregator, "weighting": weighting, "sam": sam}
    optim = {kind: {"name": name} for kind, name in methods.items()} | {"per_task": per_task}
    values = resized(config, pixels=224, batch=1) | {"trainable": ADAPTER_SIZED}
    return check(values | {"optim": config["optim"] | optim})


def compiled_step(cfg: Any, batch: Any) -> tuple[Callable[[], None], str]:
    """Returns the compiled step, its state kept between calls, and what it took to compile."""
    import jax

    from mtl_vision.train import setup

    mesh, made = setup.start(cfg)
    step, state = setup.train_step(cfg, mesh, made), made.state
    start = time.process_time()
    compiled = step.lower(state, batch).compile()
    seconds = time.process_time() - start
    size = compiled.memory_analysis().temp_size_in_bytes / 2**30

    def run() -> None:
        nonlocal state
        state, out = compiled(state, batch)
        jax.block_until_ready(out)

    return run, f"temporaries {size:.3f} GiB, compile {seconds:.0f} processor s"

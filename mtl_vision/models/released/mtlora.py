"""The checkpoints of scale-lab/MTLoRA into our trees: rules for `convert`."""

from collections.abc import Sequence

from mtl_vision.models.convert import (
    Rule,
    torch_batch_norms,
    torch_convs,
    torch_layers,
    torch_norms,
    under,
)
from mtl_vision.models.layouts import linear, padded, scalar
from mtl_vision.models.pretrained import swin

_LAYERS = (
    (
        r"layers\.(\d+)\.blocks\.(\d+)\.(attn|mlp)\.(qkv|proj|fc1|fc2)",
        r"stages/\1/blocks/\2/\3/\4",
    ),
    (r"layers\.(\d+)\.downsample\.reduction", r"stages/\1/merging/reduction"),
)

# The heads, onto those of one dataset.
HEADS = (
    *torch_convs(r"downsampler\.(\w+)\.downsample_(\d+)", r"\1/downsample/\2"),
    *torch_convs(r"decoders\.decoders\.(\w+)\.last_layer\.0", r"\1/hidden"),
    *torch_batch_norms(r"decoders\.decoders\.(\w+)\.last_layer\.1", r"\1/norm"),
    *torch_convs(r"decoders\.decoders\.(\w+)\.last_layer\.3", r"\1/predict"),
)

# Paths that checkpoints made before 2024-06-06 lack: they had no shared branch outside the last
# block of a stage. For the argument `zero` of `convert`.
LACKING = r".*/lora/[ab]"


def backbone(kinds: Sequence[str]) -> tuple[Rule, ...]:
    """Returns the rules of the backbone with `mtlora`, without the prefix ``backbone.``.

    Args:
      kinds: the tasks, in the order of the model; the file names them, in its own order.
    """
    rules = []
    for source, target in _LAYERS:
        rules += [
            *torch_layers(rf"{source}\.linear", f"{target}/linear"),
            *torch_norms(rf"{source}\.lora_norm", f"{target}/lora_norm"),
            Rule(rf"{source}\.lora_shared_A", f"{target}/lora/a", linear),
            Rule(rf"{source}\.lora_shared_B", f"{target}/lora/b", linear),
            Rule(rf"{source}\.lora_shared_scale", f"{target}/lora_scale", scalar),
        ]
        for t, kind in enumerate(kinds):
            task = dict(part=t, join=padded)
            rules += [
                Rule(rf"{source}\.lora_tasks_A\.{kind}", f"{target}/task_lora/a", linear, **task),
                Rule(rf"{source}\.lora_tasks_B\.{kind}", f"{target}/task_lora/b", linear, **task),
                Rule(
                    rf"{source}\.lora_task_scale\.{kind}",
                    f"{target}/task_lora_scale",
                    scalar,
                    **task,
                ),
            ]
    return (*rules, *swin.MICROSOFT)


def checkpoint(kinds: Sequence[str], dataset: str) -> tuple[Rule, ...]:
    """Returns the rules of a whole `MultiTask` model: backbone and hrnet heads of one dataset.

    Args:
      kinds: the tasks, in order.
      dataset: whose heads these become.
    """
    return (
        *under(backbone(kinds), r"backbone\.", "backbone"),
        *under(HEADS, "", f"decoder/heads/{dataset}"),
    )

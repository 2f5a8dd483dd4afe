"""Decoders by name: pyramids of a dataset -> ``{kind: [B, h', w', K]}``."""

from mtl_vision.models.decoders import (
    all_mlp,
    aspp,
    conv,
    hrnet,
    invpt,
    linear,
    mlore,
    pup,
    task_expert,
    task_prompter,
    updecoder,
)

DECODERS = {
    "all_mlp": all_mlp.all_mlp,
    "aspp": aspp.aspp,
    "conv": conv.conv,
    "hrnet": hrnet.hrnet,
    "invpt": invpt.invpt,
    "linear": linear.linear,
    "mlore": mlore.mlore,
    "pup": pup.pup,
    "task_expert": task_expert.task_expert,
    "task_prompter": task_prompter.task_prompter,
    "updecoder": updecoder.updecoder,
}

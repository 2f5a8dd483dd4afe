"""Decoders by name: pyramids of a dataset -> ``{kind: [B, h', w', K]}``."""

from mtl_vision.models.decoders import all_mlp, conv, hrnet, invpt, mlore

DECODERS = {
    "all_mlp": all_mlp.all_mlp,
    "conv": conv.conv,
    "hrnet": hrnet.hrnet,
    "invpt": invpt.invpt,
    "mlore": mlore.mlore,
}

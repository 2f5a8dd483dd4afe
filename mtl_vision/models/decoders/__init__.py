"""Decoders by name: pyramids of a dataset -> ``{kind: [B, h', w', K]}``."""

from mtl_vision.models.decoders import conv, hrnet

DECODERS = {"conv": conv.conv, "hrnet": hrnet.hrnet}

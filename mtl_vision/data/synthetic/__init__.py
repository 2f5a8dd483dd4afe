"""SynthScenes: ray-cast scenes with exact labels, in two domains that mirror the real datasets."""

from mtl_vision.data.synthetic.labels import HUMAN_PARTS, KINDS, NYUD40, PASCAL21, SEMSEG
from mtl_vision.data.synthetic.scenes import render
from mtl_vision.data.synthetic.source import MemorySource, SceneSource, in_memory

__all__ = [
    "HUMAN_PARTS",
    "KINDS",
    "NYUD40",
    "PASCAL21",
    "SEMSEG",
    "MemorySource",
    "SceneSource",
    "in_memory",
    "render",
]

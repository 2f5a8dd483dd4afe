"""Backbones by name: ``[B, H, W, 3]`` -> a list of ``[S, B, h, w, C]``."""

from mtl_vision.models.backbones import swin

BACKBONES = {
    "swin": swin.Swin,
    "swin_t": swin.swin_t,
    "swin_s": swin.swin_s,
    "swin_b": swin.swin_b,
    "swin_l": swin.swin_l,
}

"""Backbones by name: ``[B, H, W, 3]`` -> a list of ``[S, B, h, w, C]``."""

from mtl_vision.models.backbones import swin, vit

BACKBONES = {
    "swin": swin.Swin,
    "swin_t": swin.swin_t,
    "swin_s": swin.swin_s,
    "swin_b": swin.swin_b,
    "swin_l": swin.swin_l,
    "vit": vit.ViT,
    "vit_s": vit.vit_s,
    "vit_b": vit.vit_b,
    "vit_l": vit.vit_l,
    "vit_h": vit.vit_h,
}

"""Backbones by name: ``[B, H, W, 3]`` -> a list of ``[S, B, h, w, C]``."""

from mtl_vision.models.backbones import swin, vit
from mtl_vision.models.backbones import vit_pretrained as pretrained

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
    "vit_s_dinov2": pretrained.dinov2_s,
    "vit_b_dinov2": pretrained.dinov2_b,
    "vit_l_dinov2": pretrained.dinov2_l,
    "vit_g_dinov2": pretrained.dinov2_g,
    "vit_s_dinov2_reg": pretrained.dinov2_reg_s,
    "vit_b_dinov2_reg": pretrained.dinov2_reg_b,
    "vit_l_dinov2_reg": pretrained.dinov2_reg_l,
    "vit_g_dinov2_reg": pretrained.dinov2_reg_g,
    "vit_s_dinov3": pretrained.dinov3_s,
    "vit_s_plus_dinov3": pretrained.dinov3_s_plus,
    "vit_b_dinov3": pretrained.dinov3_b,
    "vit_l_dinov3": pretrained.dinov3_l,
    "vit_h_plus_dinov3": pretrained.dinov3_h_plus,
    "vit_b_clip": pretrained.clip_b,
    "vit_l_clip": pretrained.clip_l,
    "vit_b_siglip": pretrained.siglip_b,
    "vit_l_siglip": pretrained.siglip_l,
    "vit_so400m_siglip": pretrained.siglip_so400m,
}

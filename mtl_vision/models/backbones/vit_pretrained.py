"""ViT as DINOv2, DINOv3, CLIP and SigLIP have it; AugReg, DeiT and MAE are `vit_s` to `vit_h`.

The grids are those of the published position tables, at the size named in the comments.
"""

import functools

from mtl_vision.models.backbones.vit import ViT, vit_b, vit_l, vit_s

# DINOv2 (arXiv 2304.07193), 518 pixels.
_DINOV2 = dict(patch=14, grid=(37, 37), layer_scale=1.0)
dinov2_s = functools.partial(vit_s, **_DINOV2)
dinov2_b = functools.partial(vit_b, **_DINOV2)
dinov2_l = functools.partial(vit_l, **_DINOV2)
dinov2_g = functools.partial(
    ViT, channels=1536, depth=40, heads=24, mlp_ratio=8 / 3, act="swiglu", **_DINOV2
)

# The same with registers (arXiv 2309.16588), whose table is resized with antialiasing.
_REGISTERS = dict(register_tokens=4, position_resize="bicubic_antialias")
dinov2_reg_s = functools.partial(dinov2_s, **_REGISTERS)
dinov2_reg_b = functools.partial(dinov2_b, **_REGISTERS)
dinov2_reg_l = functools.partial(dinov2_l, **_REGISTERS)
dinov2_reg_g = functools.partial(dinov2_g, **_REGISTERS)

# DINOv3 (arXiv 2508.10104), any size. S+ and H+ have a gated MLP.
_DINOV3 = dict(register_tokens=4, layer_scale=1.0, rotary=True, norm_eps=1e-5)
dinov3_s = functools.partial(vit_s, **_DINOV3)
dinov3_s_plus = functools.partial(vit_s, act="swiglu", **_DINOV3)
dinov3_b = functools.partial(vit_b, **_DINOV3)
dinov3_l = functools.partial(vit_l, **_DINOV3)
dinov3_h_plus = functools.partial(ViT, channels=1280, depth=32, heads=20, act="swiglu", **_DINOV3)

# CLIP (arXiv 2103.00020), 224 pixels.
_CLIP = dict(act="quick_gelu", pre_norm=True, norm_eps=1e-5, pixels="clip")
clip_b = functools.partial(vit_b, grid=(14, 14), **_CLIP)
clip_l = functools.partial(vit_l, patch=14, grid=(16, 16), **_CLIP)

# SigLIP (arXiv 2303.15343), 224 pixels, so400m 384.
_SIGLIP = dict(class_token=False, act="gelu_tanh", pixels="half")
siglip_b = functools.partial(vit_b, grid=(14, 14), **_SIGLIP)
siglip_l = functools.partial(vit_l, grid=(16, 16), **_SIGLIP)
siglip_so400m = functools.partial(
    ViT,
    channels=1152,
    depth=27,
    heads=16,
    patch=14,
    grid=(27, 27),
    mlp_ratio=4304 / 1152,
    **_SIGLIP,
)

"""Small models of transformers and timm, what is compared of them, and our options for them."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Case(NamedTuple):
    """A comparison.

    Attributes:
      make: -> a torch module.
      features: (module, image ``[B, 3, H, W]``) -> every compared array by name.
      backbone: options of ours, ``swin`` or ``vit`` under ``name``.
      size: height and width of the image.
      tolerance: what is equal.
    """

    make: Callable[[], Any]
    features: Callable[[Any, Any], Mapping[str, Any]]
    backbone: dict[str, Any]
    size: tuple[int, int]
    tolerance: float = 1e-10


def of_transformers(family: str, model: str, config: str, **fields: Any) -> Callable[[], Any]:
    """Returns what makes a model of transformers."""

    def make() -> Any:
        module = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
        settings = importlib.import_module(f"transformers.models.{family}.configuration_{family}")
        return getattr(module, model)(getattr(settings, config)(**fields))

    return make


def of_timm(name: str, **fields: Any) -> Callable[[], Any]:
    """Returns what makes a model of timm."""
    return lambda: importlib.import_module("timm").create_model(name, num_classes=0, **fields)


def hidden(model: Any, image: Any, **given: Any) -> dict[str, Any]:
    """The states of a ViT of transformers."""
    out = model(image, output_hidden_states=True, **given)
    return {f"state{i}": x for i, x in enumerate(out.hidden_states)}


def normed(model: Any, image: Any, **given: Any) -> dict[str, Any]:
    """`hidden`, and the last through the norm."""
    out = model(image, output_hidden_states=True, **given)
    return {f"state{i}": x for i, x in enumerate(out.hidden_states)} | {
        "normed": out.last_hidden_state
    }


def unmasked(model: Any, image: Any) -> dict[str, Any]:
    """`normed` of a masked autoencoder that sees all patches, in order."""
    import torch

    patch = model.config.patch_size
    count = (image.shape[2] // patch) * (image.shape[3] // patch)
    noise = torch.linspace(0, 1, count)[None].repeat(len(image), 1)
    return normed(model, image, noise=noise, interpolate_pos_encoding=True)


def maps(model: Any, image: Any) -> dict[str, Any]:
    """The maps of a SwinBackbone, as ``[B, h, w, C]``."""
    out = model(image, output_hidden_states=True)
    return {f"map{i}": x.movedim(1, -1) for i, x in enumerate(out.feature_maps)}


def blocks(model: Any, image: Any) -> dict[str, Any]:
    """The outputs of the blocks of a ViT of timm."""
    found: dict[str, Any] = {}
    for i, block in enumerate(model.blocks, start=1):
        block.register_forward_hook(lambda *a, i=i: found.update({f"state{i}": a[2]}))
    found["normed"] = model.forward_features(image)
    return found


def stages(model: Any, image: Any) -> dict[str, Any]:
    """The maps of a Swin of timm."""
    found: dict[str, Any] = {}
    for i, stage in enumerate(model.layers):
        stage.register_forward_hook(lambda *a, i=i: found.update({f"map{i}": a[2]}))
    model.forward_features(image)
    return found


VIT = dict(hidden_size=48, num_hidden_layers=3, num_attention_heads=4)
OURS = dict(name="vit", channels=48, depth=3, heads=4, taps=(1, 2, 3))
HF_VIT = VIT | dict(intermediate_size=112, image_size=80, patch_size=16)
HF_OURS = OURS | dict(mlp_ratio=112 / 48, grid=(5, 5), norm_eps=1e-12)
DINO = dict(patch=14, grid=(5, 5), layer_scale=1.0)
DINOV3 = dict(mlp_ratio=112 / 48, register_tokens=3, layer_scale=1.0, rotary=True, norm_eps=1e-5)
CLIP = dict(mlp_ratio=112 / 48, grid=(5, 5), act="quick_gelu", pre_norm=True, norm_eps=1e-5)
TIMM = dict(embed_dim=48, depth=3, num_heads=4)
SWIN = dict(embed_dim=24, depths=(2, 3, 2), num_heads=(2, 3, 4))
SWIN_OURS = dict(name="swin", embed=24, depths=(2, 3, 2), heads=(2, 3, 4), taps="stage")


def interpolated(features: Callable, **given: Any) -> Callable:
    """Returns `features` of a table of positions resized to the image."""
    return lambda model, image: features(model, image, interpolate_pos_encoding=True, **given)


def dinov3(gated: bool) -> Callable[[], Any]:
    """Returns what makes a DINOv3 of transformers."""
    fields = VIT | dict(intermediate_size=112, num_register_tokens=3, use_gated_mlp=gated)
    act = "silu" if gated else "gelu"
    return of_transformers(
        "dinov3_vit", "DINOv3ViTModel", "DINOv3ViTConfig", hidden_act=act, **fields
    )


CASES = {
    "swin_transformers": Case(
        of_transformers(
            "swin",
            "SwinBackbone",
            "SwinConfig",
            window_size=5,
            out_features=["stage1", "stage2", "stage3"],
            **SWIN,
        ),
        maps,
        SWIN_OURS | dict(window=5, map_rule="transformers", out_norm=True),
        (91, 122),
    ),
    "swin_timm": Case(
        of_timm("swin_tiny_patch4_window7_224", img_size=(96, 96), window_size=6, **SWIN),
        stages,
        SWIN_OURS | dict(window=6),
        (96, 96),
    ),
    "vit_transformers": Case(
        of_transformers("vit", "ViTModel", "ViTConfig", **HF_VIT),
        interpolated(normed),
        HF_OURS,
        (64, 112),
    ),
    "vit_mae": Case(
        of_transformers("vit_mae", "ViTMAEModel", "ViTMAEConfig", mask_ratio=0.0, **HF_VIT),
        unmasked,
        HF_OURS,
        (96, 64),
    ),
    "vit_deit": Case(
        of_transformers("deit", "DeiTModel", "DeiTConfig", **HF_VIT),
        interpolated(normed),
        HF_OURS | dict(distillation_token=True),
        (64, 48),
    ),
    "vit_timm": Case(
        of_timm("vit_tiny_patch16_224", img_size=(80, 80), **TIMM),
        blocks,
        OURS | dict(grid=(5, 5)),
        (80, 80),
    ),
    "vit_timm_deit3": Case(
        of_timm("deit3_small_patch16_224", img_size=(80, 80), **TIMM),
        blocks,
        OURS | dict(grid=(5, 5), layer_scale=1.0),
        (80, 80),
    ),
    "vit_timm_clip": Case(
        of_timm("vit_base_patch16_clip_quickgelu_224", img_size=(80, 80), **TIMM),
        blocks,
        OURS | dict(grid=(5, 5), act="quick_gelu", pre_norm=True, norm_eps=1e-5),
        (80, 80),
    ),
    "dinov2_transformers": Case(
        of_transformers(
            "dinov2", "Dinov2Model", "Dinov2Config", image_size=70, patch_size=14, **VIT
        ),
        normed,
        OURS | DINO,
        (84, 42),
        1e-5,
    ),
    "dinov2_gated_transformers": Case(
        of_transformers(
            "dinov2",
            "Dinov2Model",
            "Dinov2Config",
            image_size=70,
            patch_size=14,
            use_swiglu_ffn=True,
            **VIT,
        ),
        normed,
        OURS | DINO | dict(act="swiglu", mlp_ratio=128 / 48),
        (70, 98),
        1e-5,
    ),
    "dinov2_registers_transformers": Case(
        of_transformers(
            "dinov2_with_registers",
            "Dinov2WithRegistersModel",
            "Dinov2WithRegistersConfig",
            image_size=70,
            patch_size=14,
            num_register_tokens=3,
            **VIT,
        ),
        normed,
        OURS | DINO | dict(register_tokens=3, position_resize="bicubic_antialias"),
        (56, 112),
        1e-5,
    ),
    "dinov2_registers_timm": Case(
        of_timm("vit_small_patch14_reg4_dinov2", img_size=(70, 70), **TIMM),
        blocks,
        OURS | DINO | dict(register_tokens=4, position_resize="bicubic_antialias"),
        (70, 70),
    ),
    "dinov2_gated_timm": Case(
        of_timm("vit_giant_patch14_dinov2", img_size=(70, 70), mlp_ratio=4.0, **TIMM),
        blocks,
        OURS | DINO | dict(act="swiglu", mlp_ratio=2.0),
        (70, 70),
    ),
    "dinov3_transformers": Case(dinov3(False), normed, OURS | DINOV3, (64, 112), 1e-5),
    "dinov3_gated_transformers": Case(
        dinov3(True), normed, OURS | DINOV3 | dict(act="swiglu"), (48, 80), 1e-5
    ),
    "dinov3_timm": Case(
        of_timm("vit_small_patch16_dinov3_qkvb", img_size=(80, 80), **TIMM),
        blocks,
        OURS | DINOV3 | dict(register_tokens=4, mlp_ratio=4.0),
        (80, 112),
        1e-5,
    ),
    "dinov3_gated_timm": Case(
        of_timm("vit_small_plus_patch16_dinov3_qkvb", img_size=(80, 80), **TIMM),
        blocks,
        OURS | DINOV3 | dict(register_tokens=4, act="swiglu", mlp_ratio=4.0),
        (80, 112),
        1e-5,
    ),
    "clip_transformers": Case(
        of_transformers("clip", "CLIPVisionModel", "CLIPVisionConfig", **HF_VIT),
        interpolated(hidden),
        OURS | CLIP,
        (64, 112),
    ),
    "siglip_transformers": Case(
        of_transformers("siglip", "SiglipVisionModel", "SiglipVisionConfig", **HF_VIT),
        interpolated(normed),
        OURS | dict(mlp_ratio=112 / 48, grid=(5, 5), class_token=False, act="gelu_tanh"),
        (96, 48),
    ),
}

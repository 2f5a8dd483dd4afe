"""Published configurations of transformers, for the numbers of parameters of our backbones."""

from typing import Any

# Width, depth and heads.
SIZES = {
    "s": (384, 12, 6),
    "b": (768, 12, 12),
    "l": (1024, 24, 16),
    "h": (1280, 32, 16),
    "g": (1536, 40, 24),
    "h_plus": (1280, 32, 20),
    "so400m": (1152, 27, 16),
}
# Parameters that our backbones do not have.
APART = ("pooler.", "head.", "mask_token")


def _fields(size: str, hidden: int, **fields: Any) -> dict[str, Any]:
    width, depth, heads = SIZES[size]
    return fields | dict(
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        intermediate_size=hidden or 4 * width,
    )


def configurations() -> dict[str, tuple[str, str, str, dict[str, Any]]]:
    """Returns (module, model, config, fields) by the names of our backbones."""
    found = {}
    for size in "sblh":
        found[f"vit_{size}"] = ("vit", "ViTModel", "ViTConfig", _fields(size, 0, image_size=384))
    for size in "sblg":
        fields = _fields(size, 0, image_size=518, patch_size=14, use_swiglu_ffn=size == "g")
        del fields["intermediate_size"]
        found[f"vit_{size}_dinov2"] = ("dinov2", "Dinov2Model", "Dinov2Config", fields)
        names = "dinov2_with_registers", "Dinov2WithRegistersModel", "Dinov2WithRegistersConfig"
        found[f"vit_{size}_dinov2_reg"] = (*names, fields)
    for name, size in (("s", "s"), ("s_plus", "s"), ("b", "b"), ("l", "l"), ("h_plus", "h_plus")):
        # Keys get a bias, as here, where it stays zero.
        extra = dict(num_register_tokens=4, use_gated_mlp="plus" in name, key_bias=True)
        fields = _fields(size, 0, **extra)
        found[f"vit_{name}_dinov3"] = ("dinov3_vit", "DINOv3ViTModel", "DINOv3ViTConfig", fields)
    for size, patch in (("b", 16), ("l", 14)):
        fields = _fields(size, 0, image_size=224, patch_size=patch)
        found[f"vit_{size}_clip"] = ("clip", "CLIPVisionModel", "CLIPVisionConfig", fields)
    for size, hidden, image, patch in (
        ("b", 0, 224, 16),
        ("l", 0, 256, 16),
        ("so400m", 4304, 384, 14),
    ):
        fields = _fields(size, hidden, image_size=image, patch_size=patch)
        found[f"vit_{size}_siglip"] = ("siglip", "SiglipVisionModel", "SiglipVisionConfig", fields)
    return found


def theirs(model: Any) -> int:
    """Returns the parameters of a model of transformers that ours has too."""
    named = model.named_parameters()
    return sum(p.numel() for name, p in named if not any(part in name for part in APART))


def ours(name: str) -> int:
    """Returns the parameters of our backbone."""
    from flax import nnx

    from mtl_vision.models import mtl
    from mtl_vision.models.backbones import BACKBONES

    return sum(
        mtl.sizes(mtl.abstract(lambda: BACKBONES[name](scan=True, rngs=nnx.Rngs(0)))).values()
    )

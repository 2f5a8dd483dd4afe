r"""Compares backbones here with transformers and timm, weights passing through their own files.

  pip install -r requirements-compare.txt
  python scripts/check_against_torch.py [--only swin,dinov3] [--seed 7]

Every model is small, has random weights and an odd size, computes in float64, is saved the way its
library saves, and is loaded here from the file. Printed is the largest difference of a feature, as
a part of its largest value, over all blocks. Then our weights go back, under the names that
scripts/export.py gives them, into a new model whose parameters are NaN: every name must be one of
its own, and its features must be what they were. transformers resizes positions of DINOv2 in
float32 and makes angles of DINOv3 in float32.
"""

import importlib
import pathlib
import tempfile
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from mtl_vision import cli

ONLY = flags.DEFINE_list("only", [], "Beginnings of the names of cases; all by default.")
SEED = flags.DEFINE_integer("seed", 7, "Of weights and images.")

Features = dict[str, np.ndarray]


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
        of_timm("vit_small_plus_patch16_dinov3", img_size=(80, 80), **TIMM),
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


def shaken(model: Any, seed: int) -> Any:
    """Gives every parameter a value that no branch is off with, exact in float32."""
    import torch

    draws = torch.Generator().manual_seed(seed)
    for name, x in model.named_parameters():
        noise = torch.randn(x.shape, generator=draws)
        near = 1.0 if x.ndim == 1 and name.endswith(("weight", "gamma", "lambda1")) else 0.0
        spread = 0.2 if x.ndim < 2 else 0.5 * x[0].numel() ** -0.5 if x.ndim != 3 else 0.3
        x.data = near + spread * noise
    return model.eval()


def saved(model: Any, folder: pathlib.Path) -> pathlib.Path:
    """Writes a model as its library does; returns the file."""
    if hasattr(model, "save_pretrained"):
        model.save_pretrained(folder)
    else:
        from safetensors.torch import save_model

        save_model(model, str(folder / "model.safetensors"))
    return folder / "model.safetensors"


def states(vit: Any, image: Any) -> dict[str, Any]:
    """The tokens ``[B, N, C]`` of our ViT, block by block, and the last through the norm."""
    patches = vit.patches(image)
    given, x = vit.given(*patches.shape[1:3]), vit.embed(patches)[None]
    out = {"state0": x}
    for i, block in enumerate(vit.blocks, start=1):
        x = out[f"state{i}"] = block(x, **given)
    return out | {"normed": vit.norm(x)}


def ours(
    path: pathlib.Path, backbone: dict[str, Any], image: np.ndarray
) -> tuple[str, Any, Features]:
    """Returns the format of a file, our parameters of it, and the features that they give."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from mtl_vision import files
    from mtl_vision.models import mtl, pretrained
    from mtl_vision.models.backbones import BACKBONES

    options = dict(backbone)
    make = BACKBONES[options.pop("name")]
    model = mtl.abstract(lambda: make(**options, rngs=nnx.Rngs(0)))
    graphdef, targets = nnx.split(model)
    arrays, _ = files.read(path)
    resize = options.get("position_resize", "bicubic")
    tree = pretrained.load(arrays, nnx.to_pure_dict(targets), position_resize=resize)

    def run(weights: Any, image: jax.Array) -> Features:
        made = nnx.merge(graphdef, weights)
        if hasattr(made, "stages"):
            return {f"map{i}": x[0] for i, x in enumerate(made(image))}
        return states(made, image)

    wide = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), tree)
    found = jax.jit(run)(wide, jnp.asarray(image.transpose(0, 2, 3, 1)))
    return pretrained.recognise(arrays), tree, found


def given_back(model: Any, tree: Any, library: str) -> Any:
    """Loads our parameters into a model of a library, in which all others become NaN.

    Raises:
      DataError: one has a name that the model does not know.
    """
    import torch

    from mtl_vision.errors import DataError
    from mtl_vision.models import exported

    _, arrays = exported.export(tree, library)
    for x in model.parameters():
        x.data = torch.full_like(x, torch.nan)
    known = model.state_dict()
    prefix = next(p for p in ("", "vision_model.") if p + next(iter(arrays)) in known)
    weights = {prefix + name: torch.from_numpy(x.copy()) for name, x in arrays.items()}
    strange = model.load_state_dict(weights, strict=False).unexpected_keys
    if strange:
        raise DataError(f"{library} does not know {', '.join(strange)}.")
    return model.eval()


def difference(expected: Mapping[str, Any], found: Mapping[str, Any]) -> float:
    """Returns the largest difference of a feature, as a part of its largest value."""
    errors = []
    for name, x in expected.items():
        x = np.asarray(x)
        y = np.asarray(found[name]).reshape(x.shape)
        errors.append(np.abs(x - y).max() / np.abs(x).max())
    return float(np.max(errors))  # NaN, if one is


def compare(name: str, case: Case) -> tuple[str, int, float, float]:
    """Returns the format, how many features were compared, and their differences: here, back."""
    import torch

    torch.manual_seed(SEED.value)
    image = np.random.default_rng(SEED.value).normal(size=(2, 3, *case.size))
    model = shaken(case.make(), SEED.value)
    with tempfile.TemporaryDirectory() as folder:
        key, tree, found = ours(saved(model, pathlib.Path(folder)), case.backbone, image)
    again = given_back(case.make(), tree, "timm" if "timm" in name else "hf")
    with torch.no_grad():
        expected, back = (
            case.features(m.double(), torch.from_numpy(image)) for m in (model, again)
        )
    return key, len(expected), difference(expected, found), difference(expected, back)


def main() -> None:
    import jax

    jax.config.update("jax_enable_x64", True)
    chosen = {n: c for n, c in CASES.items() if not ONLY.value or n.startswith(tuple(ONLY.value))}
    apart = []
    for name, case in chosen.items():
        key, count, error, back = compare(name, case)
        print(f"{name:30s} {key:26s} {count:2d} features  {error:.1e}  back {back:.1e}", flush=True)
        apart += [] if error <= case.tolerance and back == 0 else [name]
    if apart:
        cli.fail(f"not equal: {', '.join(apart)}")


if __name__ == "__main__":
    cli.start(main)

r"""Compares backbones here with transformers and timm, weights passing through their own files.

  pip install -r requirements-compare.txt
  python scripts/check_against_torch.py [--only swin,dinov3] [--seed 7]
  python scripts/check_against_torch.py --sizes    # parameters of the published sizes

Every model is small, has random weights and an odd size, computes in float64, is saved the way its
library saves, and is loaded here from the file. Printed is the largest difference of a feature, as
a part of its largest value, over all blocks. Then our weights go back, under the names that
scripts/export.py gives them, into a new model of the library: every name must be one of its own,
and its features must be what they were. transformers resizes positions of DINOv2 in
float32 and makes angles of DINOv3 in float32.
"""

import pathlib
import re
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch_sizes
from absl import flags
from torch_cases import CASES, Case, of_transformers

from mtl_vision import cli

ONLY = flags.DEFINE_list("only", [], "Beginnings of the names of cases; all by default.")
SIZES = flags.DEFINE_bool("sizes", False, "Compare numbers of parameters instead.")
SEED = flags.DEFINE_integer("seed", 7, "Of weights and images.")


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
) -> tuple[str, Any, dict[str, Any]]:
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

    def run(weights: Any, image: jax.Array) -> dict[str, Any]:
        made = nnx.merge(graphdef, weights)
        if hasattr(made, "stages"):
            return {f"map{i}": x[0] for i, x in enumerate(made(image))}
        return states(made, image)

    wide = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), tree)
    found = jax.jit(run)(wide, jnp.asarray(image.transpose(0, 2, 3, 1)))
    return pretrained.recognise(arrays), tree, found


# What a model of transformers may lack in a file of ours: nothing that is compared needs it.
UNUSED = r".*(mask_token|pooler|head|relative_position_index).*"


def given_back(model: Any, tree: Any, library: str) -> Any:
    """Returns a model like `model` with our parameters, by way of a file as we export it.

    Raises:
      DataError: names that the model does not know, or that it lacks.
    """
    import torch

    from mtl_vision import files
    from mtl_vision.errors import DataError
    from mtl_vision.models import exported

    _, arrays = exported.export(tree, library)
    if hasattr(model, "from_pretrained"):
        with tempfile.TemporaryDirectory() as folder:
            model.config.save_pretrained(folder)
            files.write(pathlib.Path(folder) / "model.safetensors", arrays, {"format": "pt"})
            made, info = type(model).from_pretrained(folder, output_loading_info=True)
        strange, lacking = info["unexpected_keys"], info["missing_keys"]
    else:
        made = model
        for x in made.parameters():
            x.data = torch.full_like(x, torch.nan)
        tensors = {name: torch.from_numpy(x.copy()) for name, x in arrays.items()}
        strange, lacking = made.load_state_dict(tensors, strict=False).unexpected_keys, []
    lacking = [name for name in lacking if not re.fullmatch(UNUSED, name)]
    if strange or lacking:
        raise DataError(f"{library}: strange {', '.join(strange)}; lacking {', '.join(lacking)}.")
    return made.eval()


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


def sizes() -> None:
    """Prints the parameters of every published size, here and in transformers."""
    import torch

    apart = []
    for name, (family, model, config, fields) in torch_sizes.configurations().items():
        with torch.device("meta"):
            theirs = torch_sizes.theirs(of_transformers(family, model, config, **fields)())
        ours = torch_sizes.ours(name)
        print(f"{name:20s} {ours:15,d} {theirs:15,d}", flush=True)
        apart += [name] if ours != theirs else []
    if apart:
        cli.fail(f"not equal: {', '.join(apart)}")


def main() -> None:
    if SIZES.value:
        return sizes()
    import jax
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
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

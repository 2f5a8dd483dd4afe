"""How pretrained weights want the pixels of images."""

from mtl_vision.errors import lookup

Affine = tuple[tuple[float, ...], tuple[float, ...]]

# Mean and deviation in [0, 1] of the pixels that weights were trained with.
PIXELS: dict[str, Affine] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5,) * 3, (0.5,) * 3),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "satellite": ((0.43, 0.411, 0.296), (0.213, 0.156, 0.143)),
}


def from_imagenet(name: str) -> Affine | None:
    """Returns (gain, shift) of images normalised as ImageNet is; None where nothing changes.

    Args:
      name: a key of `PIXELS`.

    Raises:
      ConfigError: an unknown name.
    """
    mean, deviation = lookup(PIXELS, name, "backbone.pixels")
    if name == "imagenet":
        return None
    own_mean, own_deviation = PIXELS["imagenet"]
    gain = tuple(a / b for a, b in zip(own_deviation, deviation, strict=True))
    return gain, tuple((a - b) / c for a, b, c in zip(own_mean, mean, deviation, strict=True))

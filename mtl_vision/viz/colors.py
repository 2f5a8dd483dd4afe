"""Labels and predictions as pictures: one colour rule per task kind."""

import numpy as np

IGNORED = np.array([224, 224, 224], np.uint8)

# Near is dark blue, then cyan, green, yellow, far is dark red.
ANCHORS = np.array(
    [
        (48, 18, 59),
        (65, 82, 196),
        (50, 143, 240),
        (28, 200, 190),
        (92, 232, 112),
        (186, 228, 52),
        (248, 180, 50),
        (230, 88, 22),
        (122, 4, 3),
    ],
    np.float32,
)
NEAR, FAR = 0.5, 10.0


def class_palette(classes: int) -> np.ndarray:
    """Returns ``[classes, 3]`` uint8 colours, class 0 black, by the bit rule of PASCAL VOC."""
    index = np.arange(classes)
    palette = np.zeros((classes, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            palette[:, channel] |= (((index >> (3 * bit + channel)) & 1) << (7 - bit)).astype(
                np.uint8
            )
    return palette


def class_colors(index: np.ndarray, classes: int) -> np.ndarray:
    """Returns the colours ``[..., 3]`` uint8 of class indices ``[...]``.

    They are shifted by one for the 40-class sets, whose class 0 is an object and not background.
    """
    first = 1 if classes == 40 else 0
    return class_palette(256)[np.minimum(index.astype(np.int64), 254 - first) + first]


def ramp(x: np.ndarray) -> np.ndarray:
    """Maps ``[...]`` floats, clipped to 0..1, to ``[..., 3]`` uint8 colours."""
    position = np.clip(np.nan_to_num(x), 0, 1) * (len(ANCHORS) - 1)
    grid = np.arange(len(ANCHORS))
    channels = [np.interp(position, grid, ANCHORS[:, c]) for c in range(3)]
    return np.stack(channels, -1).round().astype(np.uint8)


def signed(x: np.ndarray) -> np.ndarray:
    """Maps ``[...]`` floats, clipped to -1..1, to uint8 colours: red, white at 0, blue."""
    x = np.clip(np.nan_to_num(x), -1, 1)[..., None]
    far = np.where(x < 0, (178, 24, 43), (33, 102, 172))
    return (255 + np.abs(x) * (far - 255)).round().astype(np.uint8)


def colorize(
    kind: str, value: np.ndarray, mask: np.ndarray | None = None, *, classes: int = 0
) -> np.ndarray:
    """Returns the picture of one label or post-processed prediction.

    Args:
      kind: task kind.
      value: ``[H, W]`` class index (semseg, human_parts), metres (depth, 0.5 to 10 shown) or
        probability in 0..1 (edge, sal); ``[H, W, 3]`` unit vectors (normals).
      mask: ``[H, W]`` bool; pixels where it is False are shown light grey.
      classes: number of classes, see `class_colors`.

    Returns: ``[H, W, 3]`` uint8.
    """
    if kind in ("semseg", "human_parts"):
        picture = class_colors(value, classes)
    elif kind == "depth":
        picture = ramp(np.log(np.maximum(value, 1e-3) / NEAR) / np.log(FAR / NEAR))
    elif kind == "normals":
        picture = np.clip((value + 1) * 127.5, 0, 255).astype(np.uint8)
    else:
        gray = np.clip(np.asarray(value, np.float32) * 255, 0, 255).astype(np.uint8)
        picture = np.repeat(gray[..., None], 3, -1)
    if mask is not None:
        picture = np.where(mask[..., None], picture, IGNORED)
    return picture

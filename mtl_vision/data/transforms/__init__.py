"""From a decoded example to arrays of one size: augmentation, normalisation, masks.

`train_transform` and `eval_transform` give functions on one example; `maps`, `geometry` and
`color` hold the steps they are made of.
"""

from mtl_vision.data.transforms.protocols import (
    A_NYUD,
    A_PASCAL,
    Augment,
    B,
    eval_transform,
    train_transform,
)

__all__ = ["A_NYUD", "A_PASCAL", "Augment", "B", "eval_transform", "train_transform"]

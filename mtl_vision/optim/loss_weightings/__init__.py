"""Weights from the losses alone: one backward pass of one scalar, no per-task gradients.

Every factory returns a `LossWeighting`; its weights are the derivative of a scalar by the losses,
see `scalars`, and float32 or wider. A loss of 0 is a task without labels in the batch: nothing is
learned from it, and it weighs 0 where the method takes its logarithm, as does a negative loss. NaN
reaches the weights of every method that looks at the losses.
"""

from collections.abc import Callable

from mtl_vision.optim.contracts import LossWeighting
from mtl_vision.optim.loss_weightings.epochs import dwa, stch
from mtl_vision.optim.loss_weightings.learned import famo, imtl_l, uw
from mtl_vision.optim.loss_weightings.simple import equal, fixed, gls, rlw, si

LOSS_WEIGHTINGS: dict[str, Callable[..., LossWeighting]] = {
    "equal": equal,
    "fixed": fixed,
    "si": si,
    "gls": gls,
    "rlw": rlw,
    "uw": uw,
    "imtl_l": imtl_l,
    "dwa": dwa,
    "stch": stch,
    "famo": famo,
}

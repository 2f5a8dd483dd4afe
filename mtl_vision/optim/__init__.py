"""From gradients to updates: optimizers, schedules, averages, and the chain that joins them."""

from mtl_vision.optim.averages import AVERAGES, averaging
from mtl_vision.optim.chain import chain, gradient_norm, learning_rate, updates_done
from mtl_vision.optim.conflict import conflict
from mtl_vision.optim.methods import first_link, methods
from mtl_vision.optim.optimizers import adam, adamw, norm, sgd
from mtl_vision.optim.schedules import constant, cosine, linear, poly, scaled_lr, stairs
from mtl_vision.optim.turns import Home, Turn, in_turn, optimizer_in_turn, weighting_in_turn

OPTIMIZERS = {"adam": adam, "adamw": adamw, "sgd": sgd}

SCHEDULES = {
    "constant": constant,
    "cosine": cosine,
    "linear": linear,
    "poly": poly,
    "stairs": stairs,
}

__all__ = [
    "AVERAGES",
    "Home",
    "OPTIMIZERS",
    "SCHEDULES",
    "Turn",
    "averaging",
    "chain",
    "conflict",
    "first_link",
    "gradient_norm",
    "in_turn",
    "learning_rate",
    "methods",
    "norm",
    "optimizer_in_turn",
    "scaled_lr",
    "updates_done",
    "weighting_in_turn",
]

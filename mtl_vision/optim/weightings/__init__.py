"""Gramian methods: from the Gramian of the tasks' gradients to one weight per task."""

from collections.abc import Callable

from mtl_vision.optim.contracts import Weighting
from mtl_vision.optim.weightings.balance import aligned_mtl, config, imtl_g, norm_balance
from mtl_vision.optim.weightings.bargaining import fairgrad, nash_mtl
from mtl_vision.optim.weightings.cones import dualproj, pcd, upgrad
from mtl_vision.optim.weightings.conflict_averse import cagrad, imgrad
from mtl_vision.optim.weightings.min_norm import mgda, modo, sdmgrad
from mtl_vision.optim.weightings.robust import krum
from mtl_vision.optim.weightings.simple import mean, total
from mtl_vision.optim.weightings.stateful import cr_mogm, gradnorm
from mtl_vision.optim.weightings.surgery import gradvac, pcgrad

WEIGHTINGS: dict[str, Callable[..., Weighting]] = {
    "sum": total,
    "mean": mean,
    "pcgrad": pcgrad,
    "gradvac": gradvac,
    "imtl_g": imtl_g,
    "config": config,
    "aligned_mtl": aligned_mtl,
    "norm_balance": norm_balance,
    "krum": krum,
    "gradnorm": gradnorm,
    "mgda": mgda,
    "modo": modo,
    "sdmgrad": sdmgrad,
    "cagrad": cagrad,
    "imgrad": imgrad,
    "upgrad": upgrad,
    "dualproj": dualproj,
    "pcd": pcd,
    "nash_mtl": nash_mtl,
    "fairgrad": fairgrad,
}

__all__ = ["WEIGHTINGS", "cr_mogm"]

"""Adapters keep the paths of what they wrap, so that a bare backbone's parameters fit."""

import pytest
from flax import nnx

from mtl_vision.models import adapters, mtl
from mtl_vision.models.backbones import BACKBONES
from mtl_vision.train.transfer import unwrapped

TASKS = ("a/semseg", "a/normals", "b/depth")
BACKBONE = {
    "swin": ("swin", dict(embed=32, depths=(2, 1), heads=(1, 2), window=2)),
    "vit": ("vit", dict(channels=32, depth=2, heads=2, patch=8, grid=(2, 2), taps=(1, 2))),
}
VPT = dict(prompts=2, deep=True)
PROMPTER = dict(size=(16, 16), embed=4, width=4, windows=1)
M3VIT = dict(experts=2, top=1, anchored=True)
OPTIONS = {"task_prompter": PROMPTER, "m3vit": M3VIT}
RANKED = ("mtlora", "dora", "tadformer", "low_rank_adapter", "mhr")
OPTIONS |= dict.fromkeys(RANKED, dict(rank=2)) | {"dora": dict(rank=2, task_rank=2)}
CASES = {
    kind: [(name, OPTIONS.get(name, {})) for name in adapters.ADAPTERS if name not in others]
    for kind, others in (("swin", ("m3vit", "task_prompter")), ("vit", ("tadformer",)))
}
# What they replace or leave out.
GONE = {"m3vit": {"norm/scale", "norm/bias"}, "task_prompter": {"cls_token"}}


def paths(kind, chosen=()):
    name, options = BACKBONE[kind]

    def build():
        rngs = nnx.Rngs(0)
        backbone = BACKBONES[name](**options, rngs=rngs)
        return adapters.adapt(backbone, chosen, tasks=TASKS, rngs=rngs)

    return list(mtl.parameters(mtl.abstract(build)))


@pytest.mark.parametrize(
    "kind, name, options",
    [(kind, *case) for kind, cases in CASES.items() for case in [*cases, ("vpt", VPT)]],
)
def test_a_bare_backbones_parameters_have_a_place_in_the_adapted_one(kind, name, options):
    found = {unwrapped(path) for path in paths(kind, [(name, options)])}
    assert set(paths(kind)) - found == GONE.get(name, set())

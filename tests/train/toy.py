"""A tiny model with the contract of `models.mtl.MultiTask`, and batches for it."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mtl_vision import optim, parallel, tasks
from mtl_vision.models.layers import BatchNorm, Linear, Penalty, split
from mtl_vision.train.state import Start, create_state

SIZES = {"pascal_context": (4, 6), "nyud_v2": (6, 4)}
GROUPS = {
    "pascal_context": (
        tasks.semseg("pascal_context", "B", classes=("a", "b", "c")),
        tasks.edge("pascal_context", "B"),
    ),
    "nyud_v2": (tasks.depth("nyud_v2", "B"), tasks.normals("nyud_v2", "B")),
}
# Cuts the two shared layers as in a Megatron MLP.
TABLE = (
    (r"backbone/fc1/kernel", parallel.P("fsdp", "tensor")),
    (r"backbone/fc1/bias", parallel.P("tensor")),
    (r"backbone/fc2/kernel", parallel.P("tensor", "fsdp")),
)


class Trunk(nnx.Module):
    def __init__(self, width: int, *, norm: bool, balance: float, rngs: nnx.Rngs):
        self.embed = Linear(3, width, rngs=rngs)
        self.fc1 = Linear(width, 2 * width, rngs=rngs)
        self.norm = BatchNorm(2 * width) if norm else None
        self.fc2 = Linear(2 * width, width, rngs=rngs)
        self.penalty = Penalty(jnp.full((), jnp.nan)) if balance else None  # to be overwritten
        self.balance = balance

    def __call__(self, x, key):
        x = self.embed(x)
        y = self.fc1(x)
        if key is not None and self.balance:
            self.penalty[...] = self.balance * jnp.square(y).mean()
        return x + self.fc2(jnp.tanh(y if self.norm is None else self.norm(y, key=key)))


class Toy(nnx.Module):
    def __init__(
        self,
        *,
        width: int = 8,
        norm: bool = False,
        rate: float = 0.0,
        balance: float = 0.0,
        mix: bool = False,
        seed: int = 0,
    ):
        rngs = nnx.Rngs(params=seed)
        self.backbone = Trunk(width, norm=norm, balance=balance, rngs=rngs)
        self.decoder = nnx.Dict(
            {
                dataset: nnx.Dict({t.kind: Linear(width, t.channels, rngs=rngs) for t in group})
                for dataset, group in GROUPS.items()
            }
        )
        if mix:
            self.decoder["mix"] = Linear(width, width, rngs=rngs)
        self.rate = rate

    def __call__(self, image, *, dataset, key=None):
        keys = split(key, 2)
        features = self.encode(image, dataset=dataset, key=keys[0])
        return self.decode(features, image.shape[1:3], dataset=dataset, key=keys[1])

    def encode(self, image, *, dataset, key=None):
        del dataset
        return [self.backbone(image, key)[None]]

    def decode(self, features, size, *, dataset, key=None):
        y = features[0][0]
        if key is not None and self.rate:
            y = jnp.where(jax.random.bernoulli(key, self.rate, y.shape), 0, y)
        if "mix" in self.decoder:
            y = y + jnp.tanh(self.decoder["mix"](y))
        return {kind: head(y) for kind, head in self.decoder[dataset].items()}


def batch(size: int = 8, seed: int = 0) -> dict:
    """Numbers for all tasks; some pixels of all images are masked."""
    rng = np.random.default_rng(seed)
    made = {}
    for dataset, (h, w) in SIZES.items():
        shape = (size, h, w)
        normal = rng.normal(size=(*shape, 3)).astype(np.float32)
        labels = {
            "semseg": rng.integers(0, 3, shape, np.uint8),
            "edge": rng.integers(0, 2, shape, np.uint8),
            "depth": rng.uniform(1, 5, shape).astype(np.float32),
            "normals": normal / np.linalg.norm(normal, axis=-1, keepdims=True),
        }
        kinds = [t.kind for t in GROUPS[dataset]]
        mask = np.ones(shape, bool)
        mask[:, 0, : 1 + seed] = False  # equally many in each image
        made[dataset] = {
            "image": rng.normal(size=(*shape, 3)).astype(np.float32),
            "labels": {kind: labels[kind] for kind in kinds},
            "masks": {kind: mask for kind in kinds},
            "valid": np.ones(size, bool),
        }
    return made


def chain(**fields):
    """AdamW whose epsilon keeps gradients of zero, up to rounding, from deciding a sign."""
    schedule = optim.SCHEDULES["cosine"](lr=1e-2, steps=10)
    return optim.chain(optim.OPTIMIZERS["adamw"](eps=1e-3), schedule, clip_norm=1.0, **fields)


def start(
    mesh, tx, *, trainable=((".*", True),), seed=0, ema=False, jitted=False, **model
) -> Start:
    return create_state(
        lambda: Toy(**model),
        trainable=trainable,
        tx=tx,
        mesh=mesh,
        key=jax.random.key(seed),
        table=TABLE,
        ema=ema,
        jitted=jitted,
    )

"""M3ViT: mixtures of expert MLPs that every task gates for itself (arXiv 2210.14793)."""

from typing import Any

from flax import nnx

from mtl_vision.errors import ConfigError, lookup
from mtl_vision.models import gates
from mtl_vision.models.adapters.inject import edit_blocks, name_tasks
from mtl_vision.models.adapters.mixture import Anchor, Gate, GateOptions, MixtureMlp, upcycle
from mtl_vision.models.adapters.streams import open_streams
from mtl_vision.models.blocks import Mlp
from mtl_vision.models.experts import DISPATCHES, Experts
from mtl_vision.models.layers import Dtype, Identity

ROUTERS = ("multi", "single", "conditioned", "conditioned_authors")


def m3vit(
    backbone: Any,
    *,
    tasks: int | tuple[str, ...],
    experts: int = 16,
    top: int = 4,
    ratio: float = 1.0,
    every: int = 2,
    router: str = "multi",
    gate: str = "vmoe",
    noise: float = 0.0,
    balance: float = 0.01,
    anchored: bool = False,
    anchor_share: tuple[float, float] = (0.5, 1.0),
    upcycled: bool = True,
    final_norm: bool = False,
    dispatch: str = "auto",
    dtype: Dtype = None,
    rngs: nnx.Rngs,
) -> Any:
    """Puts mixtures of experts in the place of the MLP of every second block, in place.

    For task t, ``y = sum over the K largest of p_k f_k(x)`` with ``p = softmax(x W_t)`` over all
    E experts, which all tasks share. Task streams open at the first mixture; before it the tasks
    share all. The start is not the backbone. The balance of the experts is a loss of no task:
    `balance` times ``cv^2(importance) + cv^2(load)`` of every gate, see `gates.balance`.

    A mixture of h hidden channels has ``E (2 D h + h + D) + T D E`` parameters. With ViT-S/16, a
    position table of 32x32 and 5 tasks that makes 43,463,040 without the last norm.

    Args:
      backbone: Swin, or ViT whose blocks are not scanned.
      tasks: their names, or their number, in order.
      experts: E.
      top: K.
      ratio: hidden over outer width of an expert.
      every: blocks ``every - 1``, ``2 every - 1``, ... become mixtures.
      router: ``multi``: a gate per task. ``single``: one for all, so there are no task streams.
        ``conditioned``: one for all that sees an embedding of the task too, see `TaskEmbedding`;
        ``conditioned_authors`` as in the authors' code.
      gate: ``vmoe``, as above; in training its logits get noise of deviation ``noise / E``.
        ``noisy`` (arXiv 1701.06538): a softmax over the K largest logits, with noise of a learned
        deviation. ``vmoe_authors`` is ``vmoe`` with the authors' slip in the load under noise.
      noise: see `gate`; the authors train with 0.0.
      balance: weight of the balance.
      anchored: whether the MLP stays, ``y = g MLP(x) + (1 - g) sum p_k f_k(x)`` with g learned per
        token (arXiv 2606.03444), which keeps what a trained backbone knows.
      anchor_share: least and largest g.
      upcycled: whether experts start as slices of the MLP, see `upcycle`, or at random.
      final_norm: whether the backbone keeps its last norm. As published, heads have their own.
      dispatch: see `Experts`.
      dtype: compute type.
      rngs: of the parameters.

    Returns: the backbone.

    Raises:
      ConfigError: an unknown choice, a number out of range, or a backbone that it does not work
        on.
    """
    for name, value, known in (
        ("router", router, ROUTERS),
        ("gate", gate, gates.KINDS),
        ("dispatch", dispatch, DISPATCHES),
    ):
        lookup(dict.fromkeys(known), value, f"adapter.{name}")
    _check(experts, top, ratio, every, noise, balance, anchor_share)
    name_tasks(backbone, tasks)
    _open(backbone, router)
    options = GateOptions(top, router, gate, noise)
    mean = 1 / top if gates.KINDS[gate].learned else 1 / experts
    seen = []

    def edit(block, place, rngs):
        del place
        seen.append(block)
        if len(seen) % every:
            return
        mlp = _plain(block.mlp)
        channels = mlp.fc1.kernel.shape[0]
        hidden = int(channels * ratio)
        made = Experts(experts, channels, hidden, dispatch=dispatch, dtype=dtype, rngs=rngs)
        if upcycled:
            upcycle(made, mlp, mean, top)
        router = Gate(channels, experts, tasks=len(backbone.tasks), options=options, rngs=rngs)
        rest = dict(linear=mlp, anchor=Anchor(channels, anchor_share, rngs=rngs))
        block.mlp = MixtureMlp(made, router, weight=balance, **(rest if anchored else {}))

    edit_blocks(backbone, edit, rngs=rngs)
    if len(seen) < every:
        raise ConfigError(
            f"config.adapter.every={every} leaves no mixture in {len(seen)} blocks; use at most "
            f"{len(seen)}."
        )
    if not final_norm and hasattr(backbone, "norm"):
        backbone.norm = Identity()
    return backbone


def _check(experts, top, ratio, every, noise, balance, share):
    if experts < 1 or not 1 <= top <= experts:
        raise ConfigError(
            f"config.adapter.top={top} of {experts} experts: use at least 1 expert, and top from 1 "
            "to their number."
        )
    for name, value, good in (
        ("ratio", ratio, ratio > 0),
        ("every", every, every > 0),
        ("noise", noise, noise >= 0),
        ("balance", balance, balance >= 0),
    ):
        if not good:
            least = "0 or more" if name in ("noise", "balance") else "more than 0"
            raise ConfigError(f"config.adapter.{name}={value} must be {least}.")
    if len(share) != 2 or not 0 <= share[0] <= share[1] <= 1:
        raise ConfigError(
            f"config.adapter.anchor_share={share} must be two numbers that rise within 0 to 1."
        )


def _open(backbone, router):
    if getattr(backbone, "scan", False):
        raise ConfigError(
            "config.adapter: m3vit changes every second block, so blocks are not alike; use "
            "config.backbone.scan=False."
        )
    if router == "single":
        return
    open_streams(backbone, trunk=False)
    if backbone.shared:
        raise ConfigError(
            "config.adapter: an adapter before m3vit keeps a shared stream, for which it has no "
            "gate; use m3vit without it, or router='single'."
        )


def _plain(mlp):
    if not isinstance(mlp, Mlp) or not hasattr(mlp.fc1, "kernel") or not hasattr(mlp.fc2, "kernel"):
        raise ConfigError(
            "config.adapter: m3vit replaces MLPs that an adapter before it has changed; put m3vit "
            "first."
        )
    if mlp.act != "gelu":
        raise ConfigError(
            f"config.adapter: the experts of m3vit have gelu, but config.backbone.act={mlp.act!r}."
        )
    return mlp

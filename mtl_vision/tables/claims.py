"""What the papers claim, as comparisons of runs on the small problem."""

from dataclasses import dataclass, replace

FULL, DECODERS = "full multi-task fine-tuning", "decoders only"


@dataclass(frozen=True)
class Claim:
    """A question with an answer that runs give.

    Attributes:
      name: short, for links and files.
      question: as a reader asks it.
      published: what the paper says, and where.
      rows: by label, the entries (see `tables.entries.load`) whose runs make it up.
      against: labels of rows that the others must beat; of several, the best one counts.
      match: whether no loss, rather than a gain, is the claim.
      beside: labels of rows that are compared too and are no part of what is claimed.
    """

    name: str
    question: str
    published: str
    rows: dict[str, tuple[str, ...]]
    against: tuple[str, ...]
    match: bool = False
    beside: tuple[str, ...] = ()

    def at(self, scale: str) -> "Claim":
        """Returns the claim about the runs of another scale, ``mini`` or ``mini_large``."""
        if scale == "mini":
            return self
        own = {x: tuple(e.replace("mini:", "mini:large.") for e in y) for x, y in self.rows.items()}
        return replace(self, rows=own)


def _swin(name: str) -> tuple[str, ...]:
    return (f"mini:swin.{name}",)


_ALONE = ("mini:swin.alone_pascal", "mini:swin.alone_nyud")

CLAIMS = (
    Claim(
        "mtlora",
        "Does MTLoRA beat full multi-task fine-tuning with a fraction of the parameters?",
        "3.6 times fewer trained parameters and a higher Δm: 2.55 against 2.23 "
        "(arXiv 2403.20320, abstract and Table 1).",
        {
            FULL: _swin("full"),
            DECODERS: _swin("decoders"),
            "MTLoRA, rank 16": _swin("mtlora_r16"),
            "MTLoRA, rank 64": _swin("mtlora_r64"),
        },
        (FULL,),
        beside=(DECODERS,),
    ),
    Claim(
        "polyhistor",
        "Does Polyhistor match Hyperformer with a tenth of the parameters?",
        "Competitive with the best multi-task method before it, at about 10 % of its trained "
        "parameters (arXiv 2210.03265, abstract).",
        {
            "Hyperformer": _swin("hyperformer"),
            DECODERS: _swin("decoders"),
            "Polyhistor": _swin("polyhistor"),
            "Polyhistor-Lite": _swin("polyhistor_lite"),
        },
        ("Hyperformer",),
        match=True,
        beside=(DECODERS,),
    ),
    Claim(
        "task_expert",
        "Does the decoder of task experts beat a plain one?",
        "Above the multi-task baseline in every task of PASCAL-Context with ViT-B, as reprinted "
        "(arXiv 2307.15324; rows in arXiv 2606.03444).",
        {
            "plain head": ("mini:vit.conv",),
            "plain head, twice as wide": ("mini:vit.conv_wide",),
            "task experts": ("mini:vit.task_expert",),
            "task experts, no memory": ("mini:vit.task_expert_no_memory",),
        },
        ("plain head",),
        beside=("plain head, twice as wide", "task experts, no memory"),
    ),
    Claim(
        "joint",
        "Does joint training on both datasets beat separate training?",
        "No paper of these methods trains PASCAL-Context and NYUD-v2 together.",
        {"separate": _ALONE, "joint": _swin("joint")},
        ("separate",),
    ),
    Claim(
        "conflicts",
        "Do gradient-conflict methods and task-wise SAM beat tuned fixed weights?",
        "F-CAGrad -3.78 against 5.59 of equal weights on NYUv2, lower is better "
        "(arXiv 2211.13723, Table 3).",
        {
            "fixed weights, even gradients": _swin("full"),
            "fixed weights, published": _swin("weights_published"),
            "fixed weights, one": _swin("weights_one"),
            "uncertainty": _swin("uncertainty"),
            "PCGrad": _swin("pcgrad"),
            "CAGrad": _swin("cagrad"),
            "Nash-MTL": _swin("nash_mtl"),
            "task-wise SAM": _swin("task_sam"),
            "CAGrad and task-wise SAM": _swin("cagrad_task_sam"),
        },
        ("fixed weights, even gradients", "fixed weights, published", "fixed weights, one"),
    ),
)

"""Presets of the mesh, and the rules of which parameter is cut along which of its axes.

A rule's value may be a list: the first spec that divides the parameter is taken. Where nothing may
be cut, the list ends with ``P()``.
"""

from collections.abc import Sequence

from jax.sharding import PartitionSpec as P

from mtl_vision import rules
from mtl_vision.errors import ConfigError, lookup

Specs = P | Sequence[P]

# Column layers are cut along their outputs, row layers along their inputs, so an attention or MLP
# needs one sum over `tensor`. The first entries are for stacked layers with a leading axis; a
# wrapped layer keeps its weights below `linear`.
COLUMN = [
    P(None, "fsdp", "tensor"),
    P("fsdp", "tensor"),
    P(None, "tensor"),
    P("fsdp", None),
    P(),
]
ROW = [P(None, "tensor", "fsdp"), P("tensor", "fsdp"), P("tensor", None), P(None, "fsdp"), P()]
TRANSFORMER: rules.Rules[Specs] = (
    (r".*/(attn/qkv|mlp/fc1)(/linear)?/kernel", COLUMN),
    (r".*/(attn/qkv|mlp/fc1)(/linear)?/bias", [P(None, "tensor"), P("tensor"), P()]),
    (r".*/(attn/proj|mlp/fc2)(/linear)?/kernel", ROW),
)

# Stacked experts, whole ones on every device.
EXPERTS: rules.Rules[Specs] = (
    (
        r".*/experts/fc[12]/(kernel|bias)",
        [P("tensor", None, "fsdp"), P("tensor", "fsdp"), P("tensor"), P(None, None, "fsdp"), P()],
    ),
)

# Outputs of convolutions and linear layers over `fsdp`, else their inputs; what has one axis is
# not worth a gather.
LAST = [P(None, None, None, "fsdp"), P(None, None, "fsdp"), P(None, "fsdp"), P("fsdp", None), P()]
DEFAULT: rules.Rules[Specs] = ((".*", LAST),)


def stacked(ndim: int, axis: int = 0) -> list[P]:
    """Returns the specs of a stack of layers: `axis` over `tensor`, a later one over `fsdp`.

    Args:
      ndim: axes of the parameter.
      axis: that of the experts or tasks.
    """
    lead = (*[None] * axis, "tensor")
    both = [P(*lead, *[None] * (i - axis - 1), "fsdp") for i in range(ndim - 1, axis + 1, -1)]
    return [*both, P(*lead), *LAST]


# The first rules of a model with a backbone of this family; `shardings` puts DEFAULT behind.
SHARDINGS: dict[str, rules.Rules[Specs]] = {"swin": TRANSFORMER, "vit": TRANSFORMER}
# What adapters and decoders put before them.
ADDED: dict[str, rules.Rules[Specs]] = {
    "m3vit": EXPERTS,
    "task_expert": ((r"decoder/experts/.*/kernel", stacked(5)),),
}


def preset(name: str, *, slices: int, tensor: int) -> dict[str, int]:
    """Returns the sizes of the mesh that a preset means, as `parallel.make_mesh` takes them.

    Args:
      name: ``dp`` keeps all of the model on every device. ``fsdp`` cuts it over all devices.
        ``fsdp_tp`` keeps `tensor` of them for widths, experts and tasks. ``hybrid`` keeps the
        model once in each of `slices` groups of devices, cut within the group.
      slices: groups; 1 for all but ``hybrid``.
      tensor: devices along `tensor`; 1 for ``dp`` and ``fsdp``.

    Raises:
      ConfigError: an unknown name, or a size that the preset does not have.
    """
    sizes = lookup(PRESETS, name, "mesh.preset")
    for field, size, used in (
        ("slices", slices, name == "hybrid"),
        ("tensor", tensor, name in ("fsdp_tp", "hybrid")),
    ):
        if size < 1 or (size > 1 and not used):
            allowed = "1 or more" if used else f"1: the preset {name!r} has no other"
            raise ConfigError(f"config.mesh.{field}={size}; use {allowed}.")
    return sizes | {"tensor": tensor} | ({"data": slices} if name == "hybrid" else {})


PRESETS: dict[str, dict[str, int]] = {
    "dp": {"data": -1, "fsdp": 1},
    "fsdp": {"data": 1, "fsdp": -1},
    "fsdp_tp": {"data": 1, "fsdp": -1},
    "hybrid": {"fsdp": -1},
}

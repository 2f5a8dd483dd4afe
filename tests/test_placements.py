from types import SimpleNamespace

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from mtl_vision import parallel, placements
from mtl_vision.errors import ConfigError


@pytest.mark.parametrize(
    "name, slices, tensor, shape",
    [("dp", 1, 1, (8, 1, 1)), ("fsdp", 1, 1, (1, 8, 1)), ("fsdp_tp", 1, 2, (1, 4, 2))]
    + [("hybrid", 2, 1, (2, 4, 1)), ("hybrid", 2, 4, (2, 1, 4))],
)
@pytest.mark.devices8
def test_a_preset_is_a_mesh(name, slices, tensor, shape):
    mesh = parallel.make_mesh(**placements.preset(name, slices=slices, tensor=tensor))
    assert tuple(mesh.shape.values()) == shape


@pytest.mark.parametrize(
    "name, slices, tensor, message",
    [
        ("ddp", 1, 1, "'ddp' is not one of dp, .* Did you mean 'dp'"),
        ("fsdp", 1, 2, "config.mesh.tensor=2; use 1: the preset 'fsdp' has no other"),
        ("fsdp_tp", 2, 2, "config.mesh.slices=2; use 1: "),
        ("hybrid", 0, 1, "config.mesh.slices=0; use 1 or more"),
    ],
)
def test_a_size_that_a_preset_does_not_have(name, slices, tensor, message):
    with pytest.raises(ConfigError, match=message):
        placements.preset(name, slices=slices, tensor=tensor)


def test_stacks_are_cut_along_their_own_axis_first():
    assert placements.stacked(3)[:2] == [P("tensor", None, "fsdp"), P("tensor")]
    found = placements.stacked(4, axis=1)[:2]
    assert found == [P(None, "tensor", None, "fsdp"), P(None, "tensor")]


def devices(count, *, per_host, per_slice):
    return [
        SimpleNamespace(
            id=i,
            process_index=i // per_host,
            slice_index=i // per_slice,
            platform="cpu",
            device_kind="none",
        )
        for i in range(count)
    ]


def arranged(monkeypatch, found, **sizes):
    monkeypatch.setattr(
        parallel, "Mesh", lambda grid, axes, axis_types: SimpleNamespace(devices=grid)
    )
    monkeypatch.setattr(
        jax,
        "make_mesh",
        lambda shape, axes, axis_types, devices: SimpleNamespace(
            devices=np.array(devices).reshape(shape)
        ),
    )
    made = parallel.make_mesh(devices=found, **sizes).devices
    return np.vectorize(lambda device: device.id)(made)


def test_slices_are_crossed_along_data(monkeypatch):
    mixed = devices(8, per_host=2, per_slice=4)[::-1]
    ids = arranged(monkeypatch, mixed, data=4, fsdp=2)
    assert [sorted(ids[:2].ravel()), sorted(ids[2:].ravel())] == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_tensor_stays_within_a_host(monkeypatch):
    found = devices(8, per_host=2, per_slice=8)
    assert arranged(monkeypatch, found, fsdp=4, tensor=2).shape == (1, 4, 2)
    with pytest.raises(ConfigError, match="tensor=4 does not lie within one host"):
        arranged(monkeypatch, found, data=2, tensor=4)

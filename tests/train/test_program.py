"""What the compiled step sends and keeps, and the reading of its text."""

import jax
import numpy as np
import pytest

from mtl_vision import build, rules
from mtl_vision.check import check
from mtl_vision.train import plan, program, setup
from tests import tiny

MESH = {"data": 2, "fsdp": 2, "tensor": 2}
TEXT = """HloModule jit_f

%add (x: f32[], y: f32[]) -> f32[] {
  ROOT %z = f32[] add(%x, %y)
}

%body.1 (p: (f32[8,4])) -> (f32[8,4]) {
  %w = f32[4,4]{1,0} parameter(0)
  %g = f32[8,4]{1,0} all-gather(%w), replica_groups=[4,2]<=[2,2,2]T(0,2,1), dimensions={0}
  %dot.1 = f32[8,4]{1,0} dot(%g, %w), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

ENTRY %main_spmd (a: f32[2,4,4,6], k: f32[3,3,6,5]) -> f32[] {
  %a = f32[2,4,4,6]{3,2,1,0} parameter(0)
  %k = f32[3,3,6,5]{3,2,1,0} parameter(1)
  %while.1 = (f32[8,4]) while(%a), body=%body.1, backend_config={"known_trip_count":{"n":"6"}}
  %conv = f32[2,4,4,5]{3,2,1,0} convolution(%a, %k), window={size=3x3}, dim_labels=b01f_01io->b01f
  %sum = (f32[5]{0}, bf16[3]{0}) all-reduce(%a, %k), replica_groups={{0,4},{1,5},{2,6},{3,7}}
  %all = f32[4]{0} all-reduce(%a), replica_groups={}
  %name = f32[4] reduce-scatter(%a), replica_groups=mesh['a'=2,'b'=2,'c'=2] {'b','c'}
  %turn = f32[4] all-to-all(%a), replica_groups=mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'a'}
  ROOT %move = f32[4]{0} collective-permute(%a), source_target_pairs={{0,1},{1,0}}
}
"""


def test_the_text_of_a_program_is_read():
    found = {c.kind + str(c.array): c for c in program.collectives(TEXT, MESH)}
    assert found["all-gather128"] == ("all-gather", 128, 2, ("fsdp",), 6)
    assert found["all-gather128"].sent == 6 * 128 / 2
    assert found["all-reduce26"] == ("all-reduce", 26, 2, ("data",), 1)
    assert found["all-reduce16"] == ("all-reduce", 16, 8, ("data", "fsdp", "tensor"), 1)
    assert found["all-reduce16"].sent == 2 * 7 / 8 * 16
    assert found["reduce-scatter64"] == ("reduce-scatter", 64, 4, ("fsdp", "tensor"), 1)
    assert found["all-to-all16"] == ("all-to-all", 16, 2, ("tensor",), 1)
    assert found["collective-permute16"].sent == 16
    assert program.flops(TEXT) == 6 * 2 * 8 * 4 * 4 + 2 * (2 * 4 * 4 * 5) * (3 * 3 * 6)


def compiled(**fields):
    cfg = check(tiny.small(data__batch=8, eval__batch=8, **fields))
    mesh = build.mesh(cfg)
    start = setup.planned(cfg, mesh)
    batch = plan.batch_shapes(cfg, mesh)
    step = setup.train_step(cfg, mesh, start).lower(start.state, batch).compile()
    images = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(batch)) // 8
    return start, step, images, mesh.shape


LORA = (dict(name="mtlora", rank=4, task_rank=2, scale=4.0, dropout=0.0),)


@pytest.mark.devices8
def test_an_adapter_run_under_dp_gathers_no_parameter():
    start, step, _, mesh = compiled(adapter=LORA)
    found = program.collectives(step.as_text(), mesh)
    assert not [c for c in found if c.kind == "all-gather"]
    # Every trained parameter is summed once, and beside it nothing of the size of the frozen ones.
    trained, frozen = (
        sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
        for tree in (start.state.trainable, start.state.frozen)
    )
    summed = sum(c.array * c.times for c in found if c.kind == "all-reduce")
    assert trained <= summed < trained + frozen / 2


@pytest.mark.slow
@pytest.mark.devices8
def test_fsdp_keeps_an_eighth_and_what_cannot_be_cut():
    start, step, images, _ = compiled(adapter=LORA, mesh__preset="fsdp")
    leaves, places = (rules.flatten(tree) for tree in (start.state, start.shardings))
    sizes = {path: x.size * x.dtype.itemsize for path, x in leaves.items()}
    whole = {path for path, place in places.items() if place.is_fully_replicated}
    kept = sum(sizes[path] for path in whole)
    cut = sum(size for path, size in sizes.items() if path not in whole)
    assert step.memory_analysis().argument_size_in_bytes <= images + cut / 8 + kept + 4096
    # What is kept whole has one axis, or none that eight divides, or belongs to no parameter.
    big = [
        p for p in whole if len(leaves[p].shape) > 1 and any(n % 8 == 0 for n in leaves[p].shape)
    ]
    assert not [p for p in big if "/stats" not in p and not p.startswith("stats/")], big


@pytest.mark.devices8
def test_the_table_of_a_plan_counts_bytes_per_device():
    cfg = check(tiny.small(data__batch=8, eval__batch=8, adapter=LORA, mesh__preset="fsdp"))
    planned = setup.planned(cfg, build.mesh(cfg))
    table = plan.placement(planned)
    assert "backbone/stages/*/blocks/*/attn/qkv/linear/kernel" in table and "fsdp" in table
    total = sum(
        np.prod(place.shard_shape(x.shape)) * 4
        for x, place in zip(
            jax.tree.leaves([planned.state.trainable, planned.state.frozen]),
            jax.tree.leaves([planned.shardings.trainable, planned.shardings.frozen]),
            strict=True,
        )
    )
    assert table.splitlines()[-1].split()[-1] == f"{total:,}"


@pytest.mark.devices8
def test_fsdp_gathers_parameters_and_computes_no_more_than_dp():
    made = {name: compiled(adapter=LORA, mesh__preset=name) for name in ("dp", "fsdp")}
    texts = {name: step.as_text() for name, (_, step, *_) in made.items()}
    assert program.flops(texts["fsdp"]) <= 1.01 * program.flops(texts["dp"])
    start, _, _, mesh = made["fsdp"]
    params = sum(x.size * 4 for x in jax.tree.leaves([start.state.trainable, start.state.frozen]))
    found = [c for c in program.collectives(texts["fsdp"], mesh) if c.kind == "all-gather"]
    assert sum(c.array * c.times for c in found) <= 1.5 * params

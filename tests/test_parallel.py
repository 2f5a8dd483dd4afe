import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from mtl_vision import parallel, placements, rules
from mtl_vision.errors import ConfigError
from mtl_vision.models import mtl
from mtl_vision.models.backbones import BACKBONES

pytestmark = pytest.mark.devices8


def params(width=16):
    block = {
        "attn": {
            "qkv": {"kernel": jnp.ones((width, 3 * width)), "bias": jnp.ones(3 * width)},
            "proj": {"kernel": jnp.ones((width, width)), "bias": jnp.ones(width)},
        },
        "norm1": {"scale": jnp.ones(width)},
    }
    return {"backbone": {"blocks": {0: block}}, "head": {"kernel": jnp.ones((3, 3, width, 5))}}


def specs(mesh, tree, table=placements.TRANSFORMER[:1]):
    return {k: s.spec for k, s in rules.flatten(parallel.shardings(mesh, table, tree)).items()}


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [({}, (8, 1, 1)), ({"fsdp": 2}, (4, 2, 1)), ({"data": 2, "fsdp": -1, "tensor": 2}, (2, 2, 2))],
)
def test_mesh_takes_what_is_left(sizes, expected):
    assert tuple(parallel.make_mesh(**sizes).shape.values()) == expected


@pytest.mark.parametrize("sizes", [{"data": 3}, {"fsdp": 3}, {"data": -1, "fsdp": -1}, {"fsdp": 0}])
def test_mesh_that_does_not_fit(sizes):
    with pytest.raises(ConfigError, match="config.mesh"):
        parallel.make_mesh(**sizes)


def test_transformer_layers_follow_megatron():
    mesh = parallel.make_mesh(data=2, fsdp=2, tensor=2)
    table = [rule for rule in placements.TRANSFORMER if "mlp/fc1)(/linear)?/bias" not in rule[0]]
    found = specs(mesh, params(), table)
    assert found["backbone/blocks/0/attn/qkv/kernel"] == P("fsdp", "tensor")
    assert found["backbone/blocks/0/attn/proj/kernel"] == P("tensor", "fsdp")
    assert found["backbone/blocks/0/norm1/scale"] == P()
    # 5 outputs do not divide by 2, the 16 inputs do
    assert found["head/kernel"] == P(None, None, "fsdp")


def test_first_spec_that_divides_is_taken():
    mesh = parallel.make_mesh(data=1, fsdp=2, tensor=4)
    tree = {"a": jnp.ones((6, 8)), "b": jnp.ones((6, 6)), "c": jnp.ones((7, 7))}
    table = [(".*", [P("fsdp", "tensor"), P(None, "fsdp"), P()])]
    assert specs(mesh, tree, table) == {"a": P("fsdp", "tensor"), "b": P(None, "fsdp"), "c": P()}


def test_no_spec_that_divides_is_an_error():
    mesh = parallel.make_mesh(data=1, fsdp=2, tensor=4)
    message = r"head/kernel \(3, 3, 16, 5\) cannot be cut by P.*fsdp=2, tensor=4"
    with pytest.raises(ConfigError, match=message):
        specs(mesh, params(), [("head/kernel", P(None, None, None, "tensor"))])


def test_rule_for_no_parameter_is_an_error():
    with pytest.raises(ConfigError, match="mesh.rules: the rule 'neck/.*' decides no parameter"):
        specs(parallel.make_mesh(), params(), [("neck/.*", P())])


def test_optimizer_state_follows_its_parameters():
    mesh = parallel.make_mesh(data=1, fsdp=4, tensor=2)
    tree = {"a": {"kernel": jnp.ones((8, 8))}, "b": {"a": {"kernel": jnp.ones((3, 3))}}}
    table = {"a/kernel": ((8, 8), P("fsdp")), "b/a/kernel": ((3, 3), P())}
    state = (optax.adam(1e-3).init(tree), {"rows": {"a": {"kernel": jnp.ones((5, 8, 8))}}})
    placed = parallel.derived(mesh, table, state)
    found = {k: s.spec for k, s in rules.flatten(placed).items()}
    assert found["0/0/mu/a/kernel"] == found["0/0/nu/a/kernel"] == P("fsdp")
    assert found["0/0/mu/b/a/kernel"] == found["0/0/count"] == P()
    assert found["1/rows/a/kernel"] == P(None, "fsdp")


def test_batches_must_divide():
    mesh = parallel.make_mesh(data=2, fsdp=2, tensor=2)
    parallel.check_batches(mesh, {"a": 8, "b": 4})
    message = "the batch of b is 4.*data=2, fsdp=2, tensor=2 in 2 micro-batches.* multiple of 8"
    with pytest.raises(ConfigError, match=message):
        parallel.check_batches(mesh, {"a": 8, "b": 4}, accumulate=2)


def test_batch_rows_are_cut_over_data_and_fsdp():
    mesh = parallel.make_mesh(data=2, fsdp=2, tensor=2)
    batch = parallel.to_global({"x": np.arange(8.0).reshape(8, 1), "valid": np.ones(8, bool)}, mesh)
    assert {s.data.shape for s in batch["x"].addressable_shards} == {(2, 1)}
    np.testing.assert_array_equal(batch["x"][:, 0], np.arange(8))
    assert batch["valid"].dtype == bool


def test_table_counts_bytes_per_device():
    mesh = parallel.make_mesh(data=2, fsdp=2, tensor=2)
    tree = {"attn": {"kernel": jnp.ones((4, 8)), "bias": jnp.ones(8, jnp.bfloat16)}}
    placed = parallel.shardings(mesh, [(".*kernel", P("fsdp", "tensor"))], tree)
    assert parallel.sharding_table(tree, placed) == [
        ("attn/bias", (8,), P(), 16),
        ("attn/kernel", (4, 8), P("fsdp", "tensor"), 4 * 8 * 4 // 4),
    ]
    arrays = jax.device_put(tree, placed)
    assert arrays["attn"]["kernel"].addressable_shards[0].data.nbytes == 32


def test_local_rows_come_back_in_order():
    mesh = parallel.make_mesh(data=2, fsdp=2, tensor=2)
    rows = np.arange(24).reshape(8, 3)
    np.testing.assert_array_equal(parallel.local_rows(parallel.to_global(rows, mesh)), rows)


@pytest.mark.parametrize("family", sorted(placements.SHARDINGS))
def test_rules_of_every_backbone_family_fit_its_parameters(family):
    small = {"swin": "swin_t", "vit": "vit_s"}[family]
    model = mtl.abstract(lambda: nnx.Dict(backbone=BACKBONES[small](rngs=nnx.Rngs(0))))
    mesh = parallel.make_mesh(data=2, fsdp=2, tensor=2)
    placed = parallel.shardings(mesh, placements.SHARDINGS[family], mtl.parameters(model))
    table = parallel.sharding_table(mtl.parameters(model), placed)
    whole = sum(np.prod(row.shape) * 4 for row in table)
    # Nearly all of it is in kernels, cut in 4 (attention, MLP) or 2 (the rest).
    assert whole / 4 < sum(row.bytes_per_device for row in table) < whole / 3.5
    cut = {row.path.rpartition("blocks/")[2][2:]: row.spec for row in table}
    assert cut["attn/qkv/kernel"][-2:] == cut["mlp/fc1/kernel"][-2:] == ("fsdp", "tensor")
    assert cut["attn/proj/kernel"][-2:] == cut["mlp/fc2/kernel"][-2:] == ("tensor", "fsdp")


def test_compiler_options_keep_rows_that_share_an_operand_right():
    mesh = parallel.make_mesh(devices=jax.devices()[:1])
    y = jax.random.normal(jax.random.key(0), (4096, 32))
    c = jax.random.normal(jax.random.key(1), (3, 4096, 32))

    def both(y, c):
        sums = c - y[None] * (y[None] * c).sum(-1, keepdims=True)
        return sums, c[:, :48] @ y[None, :48].repeat(3, 0).swapaxes(1, 2)

    found = jax.jit(both, compiler_options=parallel.compiler_options(mesh))(y, c)
    wanted = both(np.asarray(y, np.float64), np.asarray(c, np.float64))
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-3)

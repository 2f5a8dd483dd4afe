"""M3ViT: sparse dispatch, gates, streams, one task alone, counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mtl_vision import build, parallel, placements, rules
from mtl_vision.check import check
from mtl_vision.errors import ConfigError
from mtl_vision.models import adapters, experts, flops, gates, mtl
from mtl_vision.models.backbones import BACKBONES
from mtl_vision.models.decoders import DECODERS
from mtl_vision.models.single import for_task
from tests.test_check import CONFIGS, load

KEY = jax.random.key(0)
OUTPUTS = {"pascal": {"semseg": 4, "edge": 1}, "nyud": {"semseg": 3, "depth": 1}}
TASKS = tuple(f"{dataset}/{kind}" for dataset, kinds in OUTPUTS.items() for kind in kinds)
IMAGE = jax.random.normal(KEY, (2, 16, 16, 3))
SMALL = dict(experts=4, top=2, ratio=2.0)


def make_backbone(options=None, **fields):
    rngs = nnx.Rngs(params=KEY)
    fields = dict(channels=8, depth=2, heads=2, patch=8, taps=(2,), grid=(2, 2)) | fields
    backbone = BACKBONES["vit"](**fields, rngs=rngs)
    for block in getattr(backbone, "blocks", ()):
        for layer in (block.mlp.fc1, block.mlp.fc2):
            layer.bias[...] = jax.random.normal(KEY, layer.bias.shape)
    chosen = [] if options is None else [("m3vit", SMALL | options)]
    return adapters.adapt(backbone, chosen, tasks=TASKS, dtype=fields.get("dtype"), rngs=rngs)


def make(options=None, decoder="linear", **fields):
    backbone = make_backbone({} if options is None else options, **fields)
    sizes = dict(channels=backbone.channels, strides=backbone.strides, rngs=nnx.Rngs(params=KEY))
    return mtl.MultiTask(backbone, DECODERS[decoder](outputs=OUTPUTS, **sizes))


# Sparse dispatch.


def tokens(chosen):
    """Experts, inputs of one stream, and gates of two; `chosen`, ``[K]``, for all or None."""
    made = experts.Experts(5, 6, 7, rngs=nnx.Rngs(params=KEY))
    made.fc1.bias[...] = jax.random.normal(KEY, (5, 7))
    made.fc2.bias[...] = jax.random.normal(KEY, (5, 6))
    x = jax.random.normal(KEY, (1, 2, 45, 6))
    weights, index = jax.lax.top_k(jax.random.normal(KEY, (2, 2, 45, 5)), 2)
    if chosen is not None:
        index = jnp.broadcast_to(jnp.asarray(chosen, jnp.int32), index.shape)
    return made, x, weights, index


@jax.jit
def dispatches(graphdef, state, x, weights, index):
    def run(state, x, weights, dispatch):
        made = nnx.merge(graphdef, state)
        return getattr(made, dispatch)(jnp.broadcast_to(x, (2, *x.shape[1:])), weights, index)

    def loss(*args):
        return jnp.square(run(*args)).sum()

    return [
        (run(state, x, weights, d), jax.grad(loss, (0, 1, 2))(state, x, weights, d))
        for d in ("sorted", "dense", "each")
    ]


@pytest.mark.parametrize("chosen", [None, (4, 0), (2, 3)], ids=str)
def test_all_dispatches_agree_however_uneven_the_gates(chosen):
    made, *args = tokens(chosen)
    graphdef, state = nnx.split(made)
    by_sort, dense, each = dispatches(graphdef, nnx.to_pure_dict(state), *args)
    for found in (by_sort, each):
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(dense), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max())


def test_one_token_by_hand():
    made, x, weights, index = tokens(None)
    graphdef, state = nnx.split(made)

    @jax.jit
    def run(state):
        made, x1 = nnx.merge(graphdef, state), x[:, :1, :1]
        expected = 0.0
        for k in range(2):
            e = index[1, 0, 0, k]
            hidden = x1[0, 0, 0] @ made.fc1.kernel[e] + made.fc1.bias[e]
            y = jax.nn.gelu(hidden, approximate=False) @ made.fc2.kernel[e] + made.fc2.bias[e]
            expected += weights[1, 0, 0, k] * y
        return made(x1, weights[:, :1, :1], index[:, :1, :1])[1, 0, 0], expected

    np.testing.assert_allclose(*run(state), rtol=1e-5, atol=1e-6)


# Gates.


def test_gates_by_hand():
    # softmax over (0, log 2, log 3) is (1, 2, 3) / 6; over the two largest (2, 3) / 5
    logits = jnp.log(jnp.array([[[1.0, 2.0, 3.0]]]))
    found = {name: gates.route(logits, 2, kind) for name, kind in gates.KINDS.items()}
    np.testing.assert_allclose(found["vmoe"].weights[0, 0], [3 / 6, 2 / 6], rtol=1e-6)
    np.testing.assert_allclose(found["noisy"].weights[0, 0], [3 / 5, 2 / 5], rtol=1e-6)
    assert found["vmoe"].index[0, 0].tolist() == [2, 1]
    assert found["vmoe"].load[0, 0].tolist() == [0, 1, 1]
    # importance (0, 2, 3) / 6 and load (0, 1, 1): means 5/18, 2/3; variances 7/108, 1/3
    expected = 7 / 108 / (5 / 18) ** 2 + 1 / 3 / (2 / 3) ** 2
    np.testing.assert_allclose(gates.balance(found["vmoe"]), expected, rtol=1e-6)


def test_load_under_noise_by_hand():
    # Noisy logits (0, 1, 3), the first two without noise: of two chosen, expert 0 needs to pass 1
    # and has 1 - Phi(1 / 0.5); expert 1 needs to stay above 0, Phi(1 / 0.5).
    logits, noise = jnp.array([[[0.0, 1.0, 2.0]]]), jnp.array([[[0.0, 0.0, 2.0]]])
    routing = gates.route(logits, 2, gates.KINDS["vmoe"], deviation=jnp.asarray(0.5), noise=noise)
    low, high = 0.0227501, 0.9772499
    np.testing.assert_allclose(routing.load[0, 0, :2], [low, high], rtol=1e-5)
    assert routing.load[0, 0, 2] > 0.9999


# The whole model.


def test_one_task_alone_is_the_task_in_the_whole():
    graphdef, state = nnx.split(make())

    @jax.jit
    def run(state):
        model = nnx.merge(graphdef, state)
        alone = for_task(model, "nyud", "semseg")
        return model(IMAGE, dataset="nyud")["semseg"], alone(IMAGE, dataset="nyud")

    whole, alone = run(state)
    assert list(alone) == ["semseg"]
    np.testing.assert_allclose(alone["semseg"], whole, atol=1e-6)


@pytest.mark.parametrize("task", TASKS)
def test_one_task_alone_has_its_gate_and_its_head(task):
    alone = mtl.parameters(mtl.abstract(lambda: for_task(make(), *task.split("/"))))
    assert alone["backbone/blocks/1/mlp/gate/kernel"].shape == (1, 8, 4)
    assert {p.rpartition("/predict")[0] for p in alone if "heads" in p} == {f"decoder/heads/{task}"}


def test_a_task_alone_needs_heads_apart_and_a_head():
    with pytest.raises(ConfigError, match="see each other"):
        for_task(mtl.abstract(lambda: make(decoder="conv")), "nyud", "depth")
    with pytest.raises(ConfigError, match="no head for 'edgee'.*Did you mean 'edge'"):
        for_task(mtl.abstract(make), "pascal", "edgee")


def test_gates_belong_to_tasks_and_experts_to_all():
    model = mtl.abstract(make)
    found = mtl.owners(model, {dataset: list(kinds) for dataset, kinds in OUTPUTS.items()})
    backbone = {path: owner for path, owner in found.items() if path.startswith("backbone")}
    assert backbone == {"backbone/blocks/1/mlp/gate/kernel": (TASKS, 0)}


def training(remat):
    """The model, and ``parameters -> (loss, (features, penalty))`` of a training pass."""
    model = make({"noise": 1.0, "balance": 0.3}, remat=remat)
    graphdef, params, _, stats = mtl.split(model, dict.fromkeys(mtl.parameters(model), True))

    def loss(params, image=IMAGE):
        merged = mtl.merge(graphdef, params, {}, stats)
        (x,) = merged.encode(image, dataset="nyud", key=KEY)
        (penalty,) = jax.tree.leaves(mtl.statistics(merged))
        return penalty + jnp.square(x).sum(), (x, penalty)

    return params, loss


@pytest.fixture(scope="module")
def trained():
    """Features, penalty, and gradients by path."""
    params, loss = training("none")
    (_, found), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    assert found[0].shape == (2, 2, 2, 2, 8) and found[1] > 0
    return *found, rules.flatten(grads)


@pytest.mark.parametrize("remat", ["block", "stage"])
def test_the_balance_comes_out_of_what_is_computed_again(trained, remat):
    params, loss = training(remat)

    def balance(w):
        tree = jax.tree.map(lambda x: x, params)
        tree["backbone"]["blocks"][1]["mlp"]["gate"]["kernel"] = w
        return loss(tree)[1][1]

    gate = params["backbone"]["blocks"][1]["mlp"]["gate"]["kernel"]
    penalty, grad = jax.jit(jax.value_and_grad(balance))(gate)
    np.testing.assert_allclose(penalty, trained[1], rtol=1e-5)
    assert (jnp.abs(grad).max((1, 2)) > 0).tolist() == [False, False, True, True]


def test_tasks_train_their_own_gates_and_common_experts(trained):
    grads = trained[2]
    gate = np.abs(grads["backbone/blocks/1/mlp/gate/kernel"]).max((1, 2))
    assert (gate[:2] == 0).all() and (gate[2:] > 0).all()  # pascal's, nyud's
    assert np.abs(grads["backbone/blocks/1/mlp/experts/fc1/kernel"]).max((1, 2)).min() > 0


def test_equal_gates_make_of_an_upcycled_mixture_the_mlp():
    # Hidden 32 in 2 slices of 16; the gate's ties go to experts 0 and 1, one of each.
    plain, mixed = make_backbone(), make_backbone({"final_norm": True})
    mixed.blocks[1].mlp.gate.kernel[...] = jnp.zeros((4, 8, 4))
    (expected,), (actual,) = (jax.jit(lambda m: m(IMAGE))(m) for m in (plain, mixed))
    assert actual.shape == (4, 2, 2, 2, 8)
    np.testing.assert_allclose(actual, jnp.broadcast_to(expected, actual.shape), atol=1e-5)


def test_an_anchor_of_one_keeps_the_backbone():
    fixed = {"anchored": True, "anchor_share": (1.0, 1.0), "final_norm": True}
    plain, mixed = make_backbone(), make_backbone(fixed)
    assert "mlp/linear/fc1/kernel" in "".join(mtl.parameters(mixed))
    (expected,), (actual,) = (jax.jit(lambda m: m(IMAGE))(m) for m in (plain, mixed))
    np.testing.assert_allclose(actual, jnp.broadcast_to(expected, actual.shape), atol=1e-6)


@pytest.mark.parametrize("dispatch", ["sorted", "dense"])
def test_features_have_the_compute_type(dispatch):
    options = {"dispatch": dispatch, "anchored": True}
    model = mtl.abstract(lambda: make(options, dtype="bfloat16"))
    found = jax.eval_shape(lambda m, x: m.encode(x, dataset="nyud", key=KEY), model, IMAGE)
    assert [x.dtype for x in found] == ["bfloat16"]


@pytest.mark.parametrize(
    "router, added", [("single", 32), ("conditioned", 72 * 4 + 4 * 64 + 64 + 64 * 65)]
)
def test_other_routers(router, added):
    backbone = make_backbone({"router": router})
    found = {p: x.size for p, x in mtl.parameters(backbone).items() if "/gate/" in p}
    assert sum(found.values()) == added
    (x,) = jax.jit(lambda m: m(IMAGE))(backbone)
    if router == "single":
        assert x.shape[0] == 1
    else:
        assert x.shape[0] == 4 and jnp.abs(x[0] - x[1]).max() > 1e-5


@pytest.mark.devices8
def test_experts_over_devices_give_the_numbers_of_one(trained):
    mesh = parallel.make_mesh(data=2, fsdp=1, tensor=4)
    params, loss = training("none")
    table = (*placements.EXPERTS, *placements.TRANSFORMER)
    placed = jax.device_put(params, parallel.shardings(mesh, table, params))
    kernel = placed["backbone"]["blocks"][1]["mlp"]["experts"]["fc1"]["kernel"]
    assert kernel.addressable_shards[0].data.shape == (1, 8, 16)
    image = jax.device_put(IMAGE, parallel.batch_sharding(mesh))
    options = parallel.compiler_options(mesh)
    step = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=options)
    (_, (x, penalty)), grads = step(placed, image)
    expected, balance, gradient = trained
    np.testing.assert_allclose(x, expected, atol=1e-5)
    np.testing.assert_allclose(penalty, balance, rtol=1e-5)
    for path, grad in rules.flatten(grads).items():
        atol = 1e-5 * np.abs(gradient[path]).max()
        np.testing.assert_allclose(grad, gradient[path], rtol=1e-4, atol=atol, err_msg=path)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(top=5), "top=5 of 4 experts"),
        (dict(every=3), "every=3 leaves no mixture in 2 blocks"),
        (dict(ratio=0.0), "ratio=0.0 must be more than 0"),
        (dict(balance=-1.0), "balance=-1.0 must be 0 or more"),
        (dict(anchor_share=(1.0, 0.5)), "anchor_share"),
        (dict(router="mullti"), "Did you mean 'multi'"),
        (dict(gate="noisyy"), "Did you mean 'noisy'"),
        (dict(dispatch="sort"), "Did you mean 'sorted'"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        mtl.abstract(lambda: make_backbone(options))


def test_backbones_it_does_not_work_on():
    with pytest.raises(ConfigError, match="scan=False"):
        mtl.abstract(lambda: make_backbone({}, scan=True))


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("mhr", {}, "put m3vit first"),
        ("mtlora", {"rank": 2, "task_rank": 2}, "keeps a shared stream"),
    ],
)
def test_adapters_before_it_that_are_in_the_way(name, options, message):
    def both():
        backbone, rngs = make_backbone(), nnx.Rngs(params=KEY)
        adapters.adapt(backbone, [(name, options), ("m3vit", SMALL)], tasks=TASKS, rngs=rngs)

    with pytest.raises(ConfigError, match=message):
        mtl.abstract(both)


# The published sizes.

HEAD = 2_658_048  # without the last convolution
PASCAL = ("synth_pascal", (512, 512), ("semseg", "normals", "edge", "sal", "human_parts"))
NYUD = ("synth_nyud", (480, 640), ("semseg", "depth"))


def published(dataset, size, kinds):
    """Makes the model of the config for the tasks of another table."""
    (path,) = [path for path in CONFIGS if path.stem == "m3vit_vit_s"]
    values = load(path)
    values["loss_weights"]["depth"] = 1.0
    values["data"][dataset] = values["data"].pop("synth_pascal") | {"size": size, "tasks": kinds}
    return build.model(check(values))


def test_published_parameters():
    table = dict(mtl.parameter_table(mtl.abstract(published(*PASCAL)), depth=1))
    assert table["backbone"] == 43_463_040
    assert table["decoder"] == sum(HEAD + 257 * k for k in (21, 3, 1, 1, 7))


@pytest.mark.parametrize("backend", ["cpu", "gpu"])  # that of the run changes no count
@pytest.mark.parametrize("table, classes, total", [(PASCAL, 21, 83.8), (NYUD, 40, 100.5)])
def test_published_multiply_adds_of_one_task(table, classes, total, backend, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    dataset, size, _ = table
    one = mtl.abstract(lambda: for_task(published(*table)(), dataset, "semseg"))
    found = flops.by_component(one, dataset=dataset, size=size)
    patches, D = size[0] * size[1] // 256, 384
    N = patches + 1
    # Attention and an MLP, or four active experts of the same size; patches; six gates.
    block = N * D * 4 * D + 2 * N * N * D + 2 * N * D * 4 * D
    backbone = patches * 768 * D + 12 * block + 6 * N * D * 16
    assert found.pop("backbone") == backbone
    head = patches * (9 * 256 * (D + (4 + 16 + 64) * 256) + 64 * 256 * classes)
    assert sum(found.values()) == head
    assert round((backbone + head) / 1e9, 1) == total

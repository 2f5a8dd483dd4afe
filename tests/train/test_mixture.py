"""How datasets make up the steps: taking turns, one canvas; with the toy model of `toy`."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mtl_vision import build, optim, parallel, rules
from mtl_vision.check import check
from mtl_vision.errors import ConfigError
from mtl_vision.optim.turns import Home, Turn, apart
from mtl_vision.train import canvas, plan, setup
from mtl_vision.train.checkpoint import Checkpoints
from mtl_vision.train.step import jit_train_step
from tests import tiny
from tests.train import toy

NAMES = tuple(toy.GROUPS)
TURNS = {"pascal_context": Turn("pascal_context", slice(0, 2), 4)}
TURNS["nyud_v2"] = Turn("nyud_v2", slice(2, 4), 4)
ADAM = functools.partial(optax.scale_by_adam, 0.9, 0.999, 1e-8)


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    first = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *args: first)


def chain(turn):
    homes = {
        f"decoder/{dataset}/{task.kind}/{leaf}": Home(((dataset, 0, 0),))
        for dataset, group in toy.GROUPS.items()
        for task in group
        for leaf in ("kernel", "bias")
    }
    adamw = functools.partial(optim.OPTIMIZERS["adamw"], eps=1e-3)
    schedule = optim.SCHEDULES["cosine"](lr=1e-2, steps=10)
    return optim.chain(apart(adamw, (), homes, turn), schedule, clip_norm=1.0, turn=turn)


@functools.cache
def in_turn():
    mesh = parallel.make_mesh(devices=jax.devices()[:1])
    begin = toy.start(mesh, chain(TURNS["nyud_v2"]), norm=True, rate=0.3)
    steps = {
        name: jit_train_step(
            mesh,
            begin.shardings,
            graphdef=begin.graphdef,
            groups={name: toy.GROUPS[name]},
            tx=chain(turn),
            turn=turn,
        )
        for name, turn in TURNS.items()
    }
    return begin, steps


def take(begin, steps, state, names, first=0):
    """Runs one step for each of `names`; returns the state."""
    mesh = begin.shardings.step.mesh
    for seed, name in enumerate(names, first):
        state, metrics = steps[name](
            state, parallel.to_global({name: toy.batch(seed=seed)[name]}, mesh)
        )
        assert metrics["finite"]
        assert {k for k in metrics if k.startswith("loss/")} == {
            "loss/total",
            *(f"loss/{t.name}" for t in toy.GROUPS[name]),
        }
    return state


def host(state):
    leaves = rules.flatten(jax.device_get(state))
    leaves["key"] = jax.random.key_data(leaves["key"])
    return leaves


def test_what_belongs_to_the_other_dataset_stays_moments_included():
    begin, steps = in_turn()
    before = take(begin, steps, jax.tree.map(jnp.copy, begin.state), NAMES)
    old = host(before)
    new = host(take(begin, steps, before, ["nyud_v2"], first=2))
    theirs = [path for path in old if "pascal_context" in path.split("/")]
    assert len(theirs) == 4 + 2 * 4 + 1  # parameters, moments, and a count
    for path in theirs:
        np.testing.assert_array_equal(new[path], old[path], err_msg=path)
    ours = [p for p in old if p.split("/")[0] in ("trainable", "opt") and p not in theirs]
    assert all((new[path] != old[path]).any() for path in ours if np.size(old[path]))
    for steps in in_turn()[1].values():
        assert steps._cache_size() == 1


def test_turns_resume_bit_for_bit(tmp_path):
    begin, steps = in_turn()
    names = ["nyud_v2", "nyud_v2", "pascal_context", "nyud_v2", "pascal_context"]
    whole = take(begin, steps, jax.tree.map(jnp.copy, begin.state), names)
    state = take(begin, steps, jax.tree.map(jnp.copy, begin.state), names[:2])
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state)
    state = Checkpoints(tmp_path).restore(begin.state)
    state = take(begin, steps, state, names[2:], first=2)
    expected, actual = host(whole), host(state)
    for path, x in expected.items():
        np.testing.assert_array_equal(actual[path], x, err_msg=path)


def test_every_dataset_counts_its_own_updates():
    """As if each parameter had an optimizer that is only called in its own turns."""
    params = {"trunk": jnp.ones(3), "a": {"head": jnp.ones(2)}, "tasks": jnp.ones((3, 2))}
    homes = {"a/head": Home((("a", 0, 0),)), "tasks": Home((("a", 0, 2), ("b", 2, 3)), 0)}
    rng = np.random.default_rng(0)
    turns = {"a": Turn("a", slice(0, 2), 3), "b": Turn("b", slice(2, 3), 3)}
    tx = {name: apart(lambda decay: ADAM(), (), homes, turn) for name, turn in turns.items()}
    alone = {name: ADAM() for name in ("trunk", "a", "b")}
    own = {
        "trunk": lambda t: t["trunk"],
        "a": lambda t: (t["a"]["head"], t["tasks"][:2]),
        "b": lambda t: t["tasks"][2:],
    }
    state, states = tx["a"].init(params), {n: alone[n].init(own[n](params)) for n in alone}
    for name in "abaab":
        grads = jax.tree.map(lambda x: jnp.asarray(rng.standard_normal(x.shape)), params)
        updates, state = tx[name].update(grads, state, params)
        for n in ("trunk", name):
            expected, states[n] = alone[n].update(own[n](grads), states[n])
            jax.tree.map(np.testing.assert_array_equal, own[n](updates), expected)
        other = own["b" if name == "a" else "a"](updates)
        assert not any(x.any() for x in jax.tree.leaves(other))


@functools.cache
def on_canvas(mask=False):
    mesh, tx = parallel.make_mesh(devices=jax.devices()[:1]), toy.chain()
    begin = toy.start(mesh, tx)
    options = dict(graphdef=begin.graphdef, groups=toy.GROUPS, tx=tx)
    cut = functools.partial(canvas.parts_of, mask=mask)
    return begin, jit_train_step(mesh, begin.shardings, cut=cut, **options), options


def test_one_canvas_equals_pairs_where_pixels_do_not_meet():
    """The toy looks at single pixels, so the margin of the canvas can change nothing."""
    begin, step, options = on_canvas()
    mesh = begin.shardings.step.mesh
    paired = jit_train_step(mesh, begin.shardings, **options)
    found = []
    for run in (step, paired):
        state = jax.tree.map(jnp.copy, begin.state)
        for seed in range(2):
            state, metrics = run(state, parallel.to_global(toy.batch(seed=seed), mesh))
        found.append((host(state), jax.device_get(metrics)))
    (a, one), (b, two) = found
    assert one.keys() == two.keys()
    for path, x in b.items():
        np.testing.assert_allclose(a[path], x, rtol=1e-4, atol=1e-5, err_msg=path)
    np.testing.assert_allclose(one["loss/total"], two["loss/total"], rtol=1e-5)


def config(name, options=None, **fields):
    values = tiny.values(mixture={"name": name, **(options or {})}, data__batch=2, **fields)
    for dataset, kinds in (("synth_pascal", ("edge", "sal")), ("synth_nyud", ("depth",))):
        values["data"][dataset]["tasks"] = kinds
    return check(values)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, optimizer",
    [
        ("alternate", {"aggregator": "cagrad", "weighting": "famo"}),
        ("mixed_canvas", {"aggregator": "cagrad"}),
    ],
)
def test_the_programs_of_a_config_trace_and_keep_one_state(name, optimizer):
    cfg = config(name, **{f"optim__{k}": {"name": v} for k, v in optimizer.items()})
    mesh, start = setup.start(cfg)
    shapes = plan.batch_shapes(cfg, mesh)
    before = jax.tree.map(lambda x: (x.shape, x.dtype), start.state)
    programs = setup.train_programs(cfg, mesh, start)
    assert list(programs) == [tuple(b) for b in batches_of(cfg)]
    for names, step in programs.items():
        batch = {n: shapes[n] for n in names}
        state, metrics = jax.eval_shape(step, start.state, batch)
        assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == before
        T = sum(len(cfg.datasets[n].tasks) for n in names)
        assert metrics["tasks/gram"].shape == (T, T)


def batches_of(cfg):
    """One batch of each kind, in the order of the config."""
    found = {}
    for batch in itertools.islice(build.train_batches(cfg, 0), 20):
        found.setdefault(tuple(batch), batch)
    return [found[k] for k in sorted(found, key=lambda k: list(cfg.datasets).index(k[0]))]


def test_one_canvas_needs_a_backbone_for_all_tasks():
    cfg = config("mixed_canvas", adapter={"name": "mtlora", "rank": 2})
    with pytest.raises(ConfigError, match="'mixed_canvas' runs the backbone once"):
        setup.cutting(cfg)


@pytest.mark.parametrize(
    "name, options, text",
    [
        ("alternate", {"temperature": -1.0}, "temperature=-1.0 is negative"),
        ("alternate", {"temprature": 1.0}, "temprature is unknown.*temperature"),
        ("pairs", {}, "mixture.name='pairs' is not one of .*'paired'"),
    ],
)
def test_a_mixture_that_cannot_be_is_refused(name, options, text):
    with pytest.raises(ConfigError, match=text):
        config(name, options)

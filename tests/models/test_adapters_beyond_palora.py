"""PaLoRA: layers at a preference, schedules of preferences, fronts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_vision.errors import ConfigError
from mtl_vision.models import adapters
from mtl_vision.models.adapters.inject import merge, merged
from mtl_vision.models.adapters.palora import (
    PaLoRALinear,
    alignment,
    at_preference,
    weighted,
)
from mtl_vision.models.adapters.preferences import (
    draw,
    front,
    grid,
    hypervolume,
    schedule,
    spread,
)
from mtl_vision.models.backbones import BACKBONES
from tests.models.adapter_layers import KEY, T, agree, linear, moved, rngs, values, x


def palora_layer():
    return moved(PaLoRALinear(linear(), T, rank=2, alpha=3.0, dtype=None, rngs=rngs()))


def test_palora_at_a_corner_is_the_lora_of_one_task_and_linear_between():
    layer, u = palora_layer(), x(1)
    v, corners = values(layer), jnp.eye(T)
    at = jnp.stack([weighted(layer, corner)(u) for corner in corners])
    y = np.asarray(u) @ v["linear/kernel"] + v["linear/bias"]
    agree(at[1], y + 1.5 * np.asarray(u) @ v["palora_a"][1] @ v["palora_b"][1])
    between = jnp.array([0.2, 0.5, 0.3])
    agree(weighted(layer, between)(u), jnp.tensordot(between, at, 1))
    assert merged(layer) is layer


def test_palora_folds_at_a_preference_only():
    keys = rngs()
    vit = dict(channels=8, depth=2, heads=2, patch=8, grid=(2, 2), taps=(2,), scan=True)
    made = BACKBONES["vit"](**vit, rngs=keys)
    made = moved(adapters.adapt(made, [("palora", dict(rank=2))], tasks=2, rngs=keys))
    layer = made.segments[0].mlp.fc2
    folded = merge(at_preference(made, jnp.array([0.25, 0.75]))).segments[0].mlp.fc2
    v = values(layer)
    change = np.einsum("ltcr,ltrd,t->lcd", v["palora_a"], v["palora_b"], [0.25, 0.75]) / 2
    agree(folded.kernel[...], v["linear/kernel"] + change)
    assert type(merge(made).segments[0].mlp.fc2) is type(layer)


def test_preferences_start_at_the_centre_and_spread_to_the_corners():
    points = grid(2, 3)
    agree(points, [[0, 1], [0.5, 0.5], [1, 0]])
    agree(grid(2, 2, margin=0.1), [[0.1, 0.9], [0.9, 0.1]])
    assert grid(3, 6).shape == (6, 3) and grid(3, 9).shape == (10, 3)  # sides cut in 2, and in 3
    agree(spread(grid(2, 5), 0.0), np.full((5, 2), 0.5))
    agree(spread(jnp.array([[0.25, 0.75]]), 0.4), [[0.1, 0.9]])  # 1 : 3^2
    many = draw(KEY, 5, 64)
    agree(many.sum(1), np.ones(64))
    late = draw(KEY, 5, 64, progress=1.0, narrow=True)
    assert late.max(1).mean() > 0.95 > many.max(1).mean()
    with pytest.raises(ConfigError, match="no grid of 10 points for 4 tasks"):
        grid(4, 10)


def test_a_step_draws_the_preference_of_its_key_and_progress():
    keys = jax.random.split(KEY, 32)
    for draws, low, high in (("dirichlet", 0.6, 0.9), ("narrowing", 0.95, 1.0), ("spread", 0.8, 1)):
        prefer = jax.vmap(schedule(2, 100, draws=draws), (0, None))
        late = prefer(keys, 100)
        agree(late.sum(1), np.ones(32))
        assert low < late.max(1).mean() <= high and late.std(0).min() > 0.1
    agree(prefer(keys, 0), np.full((32, 2), 0.5))
    with pytest.raises(ConfigError, match="Did you mean 'spread'"):
        schedule(2, 100, draws="spred")
    with pytest.raises(ConfigError, match="no grid of 11 points for 4 tasks"):
        schedule(4, 100, draws="spread")


def test_alignment_is_the_cosine_between_tasks():
    layer = palora_layer()
    layer.palora_a[...] = jnp.stack([layer.palora_a[0]] * T)
    layer.palora_b[...] = jnp.stack([layer.palora_b[0], -layer.palora_b[0], 0 * layer.palora_b[0]])
    both = jax.jit(jax.value_and_grad(alignment))
    agree(both(layer)[0], 1 - 1 / 3)  # of A all are 1; of B one of three pairs is -1
    layer.palora_b[...] *= 0
    grads = both(layer)[1]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


def test_front_of_known_shapes():
    scores = np.array([[1.0, 3.0], [2.0, 2.0], [3.0, 1.0], [1.0, 1.0], [2.0, 2.0]])
    found = front(lambda p: scores[int(p[0])], jnp.arange(5.0)[:, None])
    np.testing.assert_array_equal(found["best"], [True, True, True, False, True])
    assert found["hypervolume"] == 1 / 4  # between 1 and 3 the point in the middle alone has some
    assert hypervolume(scores, np.zeros(2)) == 3 + 2 + 1  # rows of height 1, from below
    boxes = np.array([[1.0, 2.0, 3.0], [2.0, 1.0, 1.0], [-1.0, 9.0, 9.0]])
    assert hypervolume(boxes, np.zeros(3)) == 6 + 2 - 1  # they share a cube; one is below

"""The All-MLP decoder against its definition, and its published size."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mtl_vision.models import mtl
from mtl_vision.models.decoders import DECODERS
from mtl_vision.models.decoders.all_mlp import AllMLPHead, drop_channels

KEY = jax.random.key(0)
PASCAL = {"semseg": 21, "normals": 3, "sal": 1, "human_parts": 7}


def test_a_head_equals_its_definition():
    head = AllMLPHead((3, 5), 2, width=4, rate=0.1, rngs=nnx.Rngs(params=KEY))
    fine, coarse = (jax.random.normal(KEY, (2, n, n, c)) for n, c in ((8, 3), (3, 5)))

    @jax.jit
    def both(fine, coarse):
        wide = jax.image.resize(head.project[1](coarse), (2, 8, 8, 4), "bilinear")
        x = jnp.concatenate([wide, head.project[0](fine)], -1) @ head.join.kernel[0, 0]
        return head([fine, coarse]), head.predict(jax.nn.relu(head.join_norm(x)))

    np.testing.assert_allclose(*both(fine, coarse), atol=1e-5)


def test_whole_channels_are_dropped_per_sample():
    x = drop_channels(jnp.ones((4, 3, 3, 64)), 0.5, KEY)
    kept = x[:, 0, 0]
    np.testing.assert_array_equal(x, jnp.broadcast_to(kept[:, None, None], x.shape))
    assert set(np.unique(kept)) == {0.0, 2.0} and jnp.abs(kept[0] - kept[1]).max() == 2
    np.testing.assert_array_equal(drop_channels(x, 0.5, None), x)


def test_the_heads_of_polyhistor_have_their_published_size():
    make = dict(channels=(96, 192, 384, 768), strides=(4, 8, 16, 32), outputs={"pascal": PASCAL})
    sizes = mtl.sizes(mtl.abstract(lambda: DECODERS["all_mlp"](**make, rngs=nnx.Rngs(params=KEY))))
    assert sum(sizes.values()) == 4 * 632_320 + 257 * 32 == 2_537_504
    semseg = sum(n for path, n in sizes.items() if "semseg" in path)
    assert semseg == 632_320 + 257 * 21

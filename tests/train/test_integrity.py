import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_vision import parallel
from mtl_vision.train import integrity
from mtl_vision.train.integrity import Leaf, checksum

DTYPES = ["float32", "bfloat16", "float16", "int32", "uint8", "int8", "bool"]


def value(dtype, shape=(3, 4, 2)):
    return jax.random.normal(jax.random.key(0), shape).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_flipped_bit_changes_the_sum(dtype):
    x = np.asarray(value(dtype, (6,)))
    expected = int(checksum(jnp.asarray(x)))
    for byte in range(x.nbytes):
        for bit in range(1 if dtype == "bool" else 8):
            broken = bytearray(x.tobytes())
            broken[byte] ^= 1 << bit
            y = jnp.asarray(np.frombuffer(bytes(broken), x.dtype))
            assert int(checksum(y)) != expected


def test_two_words_in_each_others_place_change_the_sum():
    x = np.arange(12, dtype=np.float32)
    y = x.copy()
    y[[2, 7]] = y[[7, 2]]
    assert int(checksum(jnp.asarray(x))) != int(checksum(jnp.asarray(y)))


def test_double_precision_and_scalars(x64):
    x = jnp.asarray(np.float64(1.0))
    assert int(checksum(x)) != int(checksum(x + 1e-15))


def test_by_hand():
    def mix(h):
        h = (h ^ (h >> 16)) * 0x85EBCA6B % 2**32
        h = (h ^ (h >> 13)) * 0xC2B2AE35 % 2**32
        return h ^ (h >> 16)

    # A [2, 2] array: rows are 2 apart
    words = [5, 6, 7, 8]
    expected = sum(mix((w + i * 0x9E3779B9) % 2**32) for i, w in enumerate(words)) % 2**32
    assert int(checksum(jnp.array(words, jnp.int32).reshape(2, 2))) == expected


@pytest.mark.devices8
def test_sum_does_not_depend_on_the_mesh():
    mesh = parallel.make_mesh(data=2, fsdp=2, tensor=2)
    x = value("float32", (4, 8))
    expected = int(checksum(x))
    for spec in (parallel.P("fsdp", "tensor"), parallel.P(None, ("data", "tensor")), parallel.P()):
        placed = jax.device_put(x, jax.sharding.NamedSharding(mesh, spec))
        assert int(checksum(placed)) == expected


def test_differences_are_named():
    saved = {"a": Leaf((2,), "float32"), "b": Leaf((2,), "float32"), "c": Leaf((3,), "float32")}
    wanted = {"b": Leaf((4,), "float32"), "c": Leaf((3,), "bfloat16"), "d": Leaf((1,), "int32")}
    assert integrity.differences(saved, wanted) == [
        "a is not in the model",
        "b is (2,) in the checkpoint, (4,) in the model",
        "c is float32 in the checkpoint, bfloat16 in the model",
        "d is not in the checkpoint",
    ]
    assert integrity.differences(saved, saved) == []

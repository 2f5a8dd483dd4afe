"""Order, resume, hosts, workers, fillers and failures of the input streams."""

import itertools
import threading
import time
from dataclasses import dataclass

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from mtl_vision.data import pipeline, transforms
from mtl_vision.data.order import Order
from mtl_vision.data.transforms.maps import CLASS_MAPS
from mtl_vision.errors import ConfigError, DataError

LENGTH = 11


@dataclass(frozen=True)
class Numbers:
    """Tiny examples that carry their own index; record `damaged` cannot be read."""

    length: int = LENGTH
    damaged: int = -1

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        assert 0 <= index < self.length
        if index == self.damaged:
            raise ValueError("bad magic number")
        return {"id": f"r{index}", "index": index}


def transform(example, rng):
    return evaluate(example) | {"image": np.full((2, 3, 3), rng.random(), np.float32)}


def evaluate(example):
    index = example["index"]
    return {
        "id": example["id"],
        "image": np.full((2, 3, 3), index, np.float32),
        "labels": {"semseg": np.full((2, 3), index, np.uint8)},
        "masks": {"semseg": np.ones((2, 3), bool)},
        "size": (index + 5, 7),
    }


def stream(steps, *, length=LENGTH, damaged=-1, **options):
    options = {"name": "numbers", "batch": 4, "seed": 3} | options
    with_stop = pipeline.train_batches(Numbers(length, damaged), transform, **options)
    out = list(itertools.islice(with_stop, steps))
    with_stop.close()
    return out


def ids(batches):
    return np.concatenate([b["labels"]["semseg"][:, 0, 0] for b in batches])


def assert_same(a, b):
    assert len(a) == len(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_batch_contract():
    (batch,) = stream(1)
    assert batch.keys() == {"image", "labels", "masks", "valid"}
    assert batch["image"].shape == (4, 2, 3, 3) and batch["image"].dtype == np.float32
    assert batch["labels"]["semseg"].dtype == np.uint8
    assert batch["masks"]["semseg"].all() and batch["valid"].tolist() == [True] * 4


def test_every_epoch_is_another_permutation():
    seen = ids(stream(11)).reshape(4, LENGTH)  # 44 rows are four epochs; batches cross their ends
    for epoch in seen:
        assert sorted(epoch) == list(range(LENGTH))
    assert len({tuple(epoch) for epoch in seen}) == 4


def test_the_order_of_a_seed_stays_what_it_is():
    """Another order would break the resume of every run begun before the change."""
    order = Order("numbers", LENGTH, seed=3)
    assert [order.record(n) for n in range(13)] == [1, 2, 0, 3, 7, 6, 4, 5, 9, 10, 8, 4, 7]
    assert order.rng(5).random() == 0.6753010758048961


def test_augmentations_differ_between_epochs_and_rows():
    values = np.concatenate([b["image"][:, 0, 0, 0] for b in stream(11)])
    assert len(np.unique(values)) == 44


@pytest.mark.parametrize("other", [{"seed": 4}, {"name": "letters"}])
def test_seed_and_name_change_order_and_augmentation(other):
    one, two = stream(3), stream(3, **other)
    assert (ids(one) != ids(two)).any()
    assert (one[0]["image"] != two[0]["image"]).all()


@pytest.mark.parametrize("threads", [0, 2, 4])
@pytest.mark.parametrize("start_step", [0, 1, 5])
def test_resume_by_step_number(threads, start_step):
    expected = stream(9)
    assert_same(
        expected[start_step:], stream(9 - start_step, start_step=start_step, threads=threads)
    )


def test_worker_processes_change_nothing():
    expected = stream(7)[1:]
    assert_same(expected, stream(6, start_step=1, processes=2))


def test_a_damaged_record_in_a_worker_process_is_reported():
    with pytest.raises(DataError, match=r"numbers: record 5 of 11 .*bad magic number"):
        stream(4, damaged=5, processes=1)


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_hold_blocks_of_the_rows_of_one_host(hosts):
    parts = [stream(6, process_index=p, process_count=hosts) for p in range(hosts)]
    joined = [
        jax.tree.map(lambda *x: np.concatenate(x), *rows) for rows in zip(*parts, strict=True)
    ]
    assert_same(stream(6), joined)


@dataclass(frozen=True)
class Scenes:
    """Random images of several sizes with class maps, depth and normals."""

    def __len__(self):
        return 5

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        shape = 40 + 3 * index, 60 - index
        classes = {n: rng.integers(0, 2, shape, dtype=np.uint8) for n in CLASS_MAPS}
        return classes | {
            "id": f"s{index}",
            "image": rng.integers(0, 256, (*shape, 3), dtype=np.uint8),
            "depth": rng.uniform(1, 9, shape).astype(np.float32),
            "normals": rng.standard_normal((*shape, 3)).astype(np.float32),
        }


@pytest.mark.parametrize(("protocol", "augment"), [("A", transforms.A_PASCAL), ("B", transforms.B)])
def test_threads_augment_bit_for_bit_as_one_thread_does(protocol, augment):
    kinds = ("semseg", "depth", "normals", "edge", "sal", "human_parts")
    real = transforms.train_transform(protocol, size=(64, 64), kinds=kinds, augment=augment)

    def read(threads):
        batches = pipeline.train_batches(
            Scenes(), real, name="scenes", batch=4, seed=0, threads=threads
        )
        return list(itertools.islice(batches, 8))

    assert_same(read(0), read(4))


def test_step_far_away_is_read_at_once():
    (batch,) = stream(1, start_step=10**9, threads=2)
    assert batch["image"].shape[0] == 4


def test_an_unreadable_batch_is_refused():
    with pytest.raises(ConfigError, match="multiple of 3"):
        stream(1, process_count=3)
    with pytest.raises(DataError, match="no records"):
        stream(1, length=0)


@pytest.mark.parametrize("threads", [0, 2])
def test_a_damaged_record_ends_the_stream(threads):
    batches = pipeline.train_batches(
        Numbers(damaged=5), transform, name="numbers", batch=4, seed=3, threads=threads
    )
    bad = int(np.flatnonzero(ids(stream(3)) == 5)[0]) // 4
    good = list(itertools.islice(batches, bad))
    assert_same(good, stream(bad))
    with pytest.raises(DataError, match=r"numbers: record 5 of 11 .*ValueError: bad magic number"):
        next(batches)
    with pytest.raises(StopIteration):
        next(batches)


def evaluation(batch, **options):
    return list(pipeline.eval_batches(Numbers(), evaluate, name="numbers", batch=batch, **options))


@pytest.mark.parametrize("threads", [0, 2])
def test_evaluation_reads_all_in_order_and_fills_up(threads):
    out = evaluation(4, threads=threads)
    assert [len(info["id"]) for _, info in out] == [4, 4, 3]
    assert sum([info["id"] for _, info in out], []) == [f"r{i}" for i in range(LENGTH)]
    assert out[0][1]["size"][1] == (6, 7)
    last = out[-1][0]
    np.testing.assert_array_equal(last["valid"], [True, True, True, False])
    np.testing.assert_array_equal(last["masks"]["semseg"].all((1, 2)), last["valid"])
    np.testing.assert_array_equal(last["labels"]["semseg"][:, 0, 0], [8, 9, 10, 0])
    assert not last["image"][3].any()


def test_evaluation_hosts_have_equally_many_batches():
    whole = [batch for batch, _ in evaluation(8)]
    parts = [evaluation(8, process_index=p, process_count=4) for p in range(4)]
    joined = [
        jax.tree.map(lambda *x: np.concatenate(x), *(batch for batch, _ in rows))
        for rows in zip(*parts, strict=True)
    ]
    assert_same(whole, joined)
    assert parts[3][1][1] == {"id": [], "size": []}  # rows 14 and 15 of 11


def test_head_is_the_front_of_a_source():
    head = pipeline.Head(Numbers(), 3)
    assert [example["id"] for example in head] == ["r0", "r1", "r2"]
    assert len(pipeline.Head(Numbers(), 99)) == LENGTH


def test_paired_closes_all_streams():
    closed = []

    def counted(name, n):
        try:
            yield from range(n)
        finally:
            closed.append(name)

    pairs = pipeline.paired({"a": counted("a", 2), "b": counted("b", 3)})
    assert list(pairs) == [{"a": 0, "b": 0}, {"a": 1, "b": 1}]
    assert closed == ["a", "b"]


def sharding():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    return NamedSharding(mesh, PartitionSpec("data"))


def workers():
    return [t for t in threading.enumerate() if t.name in ("to_device",) or "grain" in t.name]


@pytest.mark.devices8
def test_to_device_shards_arrays_and_passes_the_rest():
    host = evaluation(8)
    out = list(pipeline.to_device(iter(host), sharding()))
    for (batch, info), (want, about) in zip(out, host, strict=True):
        assert info == about
        assert all(x.sharding == sharding() for x in jax.tree.leaves(batch))
        jax.tree.map(np.testing.assert_array_equal, batch, want)
    assert not workers()


@pytest.mark.devices8
def test_to_device_takes_a_tree_of_shardings():
    batches = (
        {"a": {"image": np.zeros((8, 2))}, "b": {"image": np.ones((16, 2))}} for _ in range(2)
    )
    out = list(pipeline.to_device(batches, {"a": sharding(), "b": sharding()}))
    assert [b["b"]["image"].shape for b in out] == [(16, 2)] * 2


@pytest.mark.devices8
def test_to_device_raises_what_the_stream_raised_and_ends():
    stream_ = pipeline.train_batches(
        Numbers(damaged=5), transform, name="numbers", batch=8, seed=3, threads=2
    )
    bad = int(np.flatnonzero(ids(stream(3)) == 5)[0]) // 8
    batches = pipeline.to_device(stream_, sharding())
    assert len(list(itertools.islice(batches, bad))) == bad
    with pytest.raises(DataError, match="record 5"):
        next(batches)
    assert list(batches) == []
    wait_for_no_workers()


@pytest.mark.devices8
def test_to_device_stops_its_thread_when_closed():
    closed = threading.Event()

    def endless():
        try:
            while True:
                yield np.zeros(8)
        finally:
            closed.set()

    batches = pipeline.to_device(endless(), sharding())
    next(batches)
    batches.close()
    assert closed.is_set()
    wait_for_no_workers()


def wait_for_no_workers():
    deadline = time.monotonic() + 10
    while workers() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not workers()


@pytest.mark.devices8
def test_to_device_reads_ahead_but_not_far():
    read = []

    def counted():
        for i in itertools.count():
            read.append(i)
            yield i

    batches = pipeline.to_device(counted(), sharding(), depth=2)
    next(batches)
    time.sleep(0.3)
    assert 2 <= len(read) <= 4
    batches.close()

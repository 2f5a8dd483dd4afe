import numpy as np

from mtl_vision.metrics.thinning import thin
from tests.parity import records


def laplacian(labels):
    x = np.pad(labels.astype(float), 1, mode="reflect")
    return x[:-2, 1:-1] + x[2:, 1:-1] + x[1:-1, :-2] + x[1:-1, 2:] - 4 * x[1:-1, 1:-1]


def test_two_squares_thin_to_eight_pixels():
    labels = np.full((8, 8), 187)
    labels[:, 4:] = 284
    labels[5:, :3] = 360
    binary = laplacian(labels) != 0
    assert binary.sum() == 24
    expected = [[1, 3], [2, 3], [3, 3], [4, 3], [5, 0], [5, 1], [5, 2], [6, 3]]
    assert np.argwhere(thin(binary)).tolist() == expected


def test_grid_of_random_labels():
    rs = np.random.RandomState(7)
    labels = np.kron(rs.randint(1, 460, (4, 4)), np.ones((6, 6))).astype(np.uint16)
    labels[3:9, 10:13] = 5
    binary = laplacian(labels) != 0
    thinned = thin(binary)
    assert (binary.sum(), thinned.sum()) == (262, 130)
    rows = "0 3 3 4 4 4 19 4 4 3 3 3 23 3 3 3 3 3 23 3 3 3 3 3"
    columns = "3 3 3 3 3 23 3 3 3 5 4 18 5 4 3 3 3 23 3 3 3 3 3 0"
    assert " ".join(map(str, thinned.sum(1))) == rows
    assert " ".join(map(str, thinned.sum(0))) == columns


def test_recorded_edges():
    for file in records.records("transforms"):
        arrays = records.group(records.load(file)[1], "edges")
        thinned = thin(arrays["laplacian"] != 0)
        np.testing.assert_array_equal(thinned, arrays["edge"].astype(bool))


def test_every_bit_of_a_word_is_a_map_of_its_own():
    rs = np.random.RandomState(0)
    bits = rs.rand(20, 17, 128) < np.linspace(0, 1, 128)
    words = np.packbits(bits, axis=-1, bitorder="little").view(np.uint64)
    thinned = np.unpackbits(thin(words).view(np.uint8), axis=-1, bitorder="little")
    for t in range(128):
        np.testing.assert_array_equal(thinned[..., t], thin(bits[..., t]))


def test_thinning_is_done_when_it_ends_and_only_deletes():
    mask = np.random.RandomState(1).rand(30, 40) < 0.7
    before = mask.copy()
    once = thin(mask)
    np.testing.assert_array_equal(mask, before)
    np.testing.assert_array_equal(thin(once), once)
    assert not (once & ~mask).any() and 0 < once.sum() < mask.sum()


def test_an_empty_map_stays_empty():
    assert not thin(np.zeros((3, 4), bool)).any()

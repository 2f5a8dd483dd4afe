import numpy as np

from mtl_vision.data.boundaries import boundaries


def test_three_regions_by_hand():
    labels = np.full((8, 8), 187, np.uint16)
    labels[:, 4:] = 284
    labels[5:, :3] = 360
    edge = boundaries(labels)
    assert edge.dtype == np.uint8
    expected = [(1, 3), (2, 3), (3, 3), (4, 3), (5, 0), (5, 1), (5, 2), (6, 3)]
    assert [tuple(p) for p in np.argwhere(edge)] == expected


def test_patches_match_the_reference_counts():
    # Counts made with the loaders' Laplacian and skimage.morphology.thin.
    rng = np.random.RandomState(7)
    labels = np.kron(rng.randint(1, 460, (4, 4)), np.ones((6, 6))).astype(np.uint16)
    labels[3:9, 10:13] = 5
    edge = boundaries(labels)
    assert edge.sum() == 130
    rows = [0, 3, 3, 4, 4, 4, 19, 4, 4, 3, 3, 3, 23, 3, 3, 3, 3, 3, 23, 3, 3, 3, 3, 3]
    columns = [3, 3, 3, 3, 3, 23, 3, 3, 3, 5, 4, 18, 5, 4, 3, 3, 3, 23, 3, 3, 3, 3, 3, 0]
    assert edge.sum(1).tolist() == rows
    assert edge.sum(0).tolist() == columns


def test_evenly_spaced_labels_cancel():
    labels = np.tile(np.repeat([1, 2, 3], [3, 1, 3]), (5, 1))
    assert not boundaries(labels)[:, 3].any()

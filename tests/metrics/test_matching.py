import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from mtl_vision.metrics.matching import Matching, matching_sizes


def brute(pixels, truth, radius):
    """Size of the largest matching by a dense assignment."""
    near = ((pixels[:, None] - truth[None]) ** 2).sum(-1) <= radius**2
    return near[linear_sum_assignment(-near.astype(int))].sum()


@pytest.mark.parametrize("seed", range(40))
def test_sizes_are_the_largest(seed):
    rs = np.random.RandomState(seed)
    shape, radius = rs.randint(4, 14, 2), rs.choice([1, 1.5, 2, 3.2])
    pixels, truth = (np.argwhere(rs.rand(*shape) < rs.rand()) for _ in range(2))
    there = rs.rand(6, len(pixels)) < rs.rand(6, 1)
    if seed % 2:  # nearly nested, as contours at rising thresholds
        there = (np.cumsum(there[::-1], 0)[::-1] > 0) & (rs.rand(*there.shape) < 0.9)
    sizes = matching_sizes(pixels, there, truth, radius)
    assert sizes.tolist() == [brute(pixels[now], truth, radius) for now in there]


def test_far_augmenting_paths_are_found_and_undone():
    # True pixels at 0..9, predicted at 1..9 and then, last, at 9 again (one row below): everybody
    # moves one to the left. When pixel 5 goes, nobody can take over without breaking the chain.
    truth = np.array([[0, x] for x in range(10)])
    pixels = np.array([[0, x] for x in range(1, 10)] + [[1, 9]])
    everything = np.ones(10, bool)
    without = np.arange(10) != 4
    late = np.arange(10) < 9
    there = np.stack([without, everything, late])
    assert matching_sizes(pixels, there, truth, 1.0).tolist() == [9, 10, 9]


def test_radius_is_inclusive_and_euclidean():
    truth = np.array([[5, 5]])
    for radius, sizes in ((5.0, [1, 0]), (4.99, [0, 0])):
        for pixel, size in zip(([8, 9], [9, 9]), sizes, strict=True):
            there = np.ones((1, 1), bool)
            assert matching_sizes(np.array([pixel]), there, truth, radius).tolist() == [size]


def test_nothing_to_match():
    none = np.zeros((0, 2), int)
    some = np.array([[1, 2], [3, 4]])
    assert matching_sizes(none, np.zeros((3, 0), bool), some, 2.0).tolist() == [0, 0, 0]
    assert matching_sizes(some, np.ones((3, 2), bool), none, 2.0).tolist() == [0, 0, 0]


def test_partners_agree_after_every_change():
    rs = np.random.RandomState(5)
    near = rs.rand(30, 25) < 0.1
    matching = Matching(
        [np.flatnonzero(x).tolist() for x in near], [np.flatnonzero(x).tolist() for x in near.T]
    )
    here = set()
    for p in rs.randint(0, 30, 400).tolist():
        if p in here:
            here.remove(p)
            matching.remove(p)
        else:
            here.add(p)
            matching.insert(p)
        pairs = [(a, b) for a, b in enumerate(matching.of_left) if b >= 0]
        assert all(a in here and near[a, b] and matching.of_right[b] == a for a, b in pairs)
        part = near[sorted(here)]
        assert len(pairs) == matching.size == part[linear_sum_assignment(-part.astype(int))].sum()

import math
import subprocess
import sys

import numpy as np
import pytest
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from mtl_vision.errors import RunError
from mtl_vision.metrics import boundary, contours
from mtl_vision.metrics.thinning import thin


def soft_edges(seed, shape=(26, 31)):
    """Label map of a few discs and a blurred, noisy uint8 map of its edges."""
    rs = np.random.RandomState(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    labels = np.zeros(shape, np.uint8)
    for i in range(4):
        labels[np.hypot(y - rs.rand() * shape[0], x - rs.rand() * shape[1]) < 4 + 6 * rs.rand()] = i
    edge = contours.label_boundaries(labels)
    noise = ndimage.gaussian_filter(rs.standard_normal(shape), 1)
    strength = np.clip(2 * ndimage.gaussian_filter(edge.astype(float), 1) + 0.5 * noise, 0, 1)
    return labels, edge, (255 * strength).astype(np.uint8)


def lines(*columns, shape=(40, 40)):
    """Vertical lines that stay clear of the border."""
    image = np.zeros(shape, np.uint8)
    image[8:-8, list(columns)] = 255
    return image


def score(probability, truth, **options):
    return boundary.ods(boundary.match_counts(probability, truth, **options)[None])


@pytest.mark.parametrize("reader", contours.READERS)
def test_identical_prediction_is_perfect(reader):
    found = score(lines(12, 24), lines(12, 24), max_dist=0.0075, reader=reader)
    assert (found["odsF"], found["oisF"]) == (100.0, 100.0)


def test_lines_match_up_to_the_largest_distance():
    # The diagonal of 40 x 40 is 56.57: 0.04 of it is 2.26 pixels.
    truth = lines(20)
    options = {"max_dist": 0.04, "reader": "plain"}
    assert [score(lines(20 + d), truth, **options)["odsF"] for d in (0, 2, 3)] == [100, 100, 0]


def test_two_predicted_lines_share_one_true_line():
    counts = boundary.match_counts(lines(18, 22), lines(20), max_dist=0.04, reader="plain")
    assert counts[50].tolist() == [24, 24, 24, 48]  # R = 1, P = 1/2, F = 2/3
    assert boundary.ods(counts[None])["odsF"] == pytest.approx(200 / 3)


@pytest.mark.parametrize("reader", contours.READERS)
@pytest.mark.parametrize("kind", contours.TRUTHS)
@pytest.mark.parametrize("seed", range(3))
def test_counts_equal_those_of_one_threshold_at_a_time(seed, kind, reader):
    labels, edge, image = soft_edges(seed)
    true = np.argwhere(contours.label_boundaries(labels))
    strength = image.astype(np.float32) / np.float32(255)
    if reader == "cont":
        strength = contours.suppress(strength)
    radius = 0.05 * math.hypot(*labels.shape)
    expected = []
    for threshold in contours.READERS[reader].thresholds:
        found = strength > threshold if reader == "cont" else strength >= threshold
        pixels = np.argwhere(thin(found))
        near = ((pixels[:, None] - true[None]) ** 2).sum(-1) <= radius**2
        matched = near[linear_sum_assignment(-near.astype(int))].sum()
        expected.append([matched, len(true), matched, len(pixels)])
    truth = labels if kind == "labels" else edge
    counts = boundary.match_counts(image, truth, max_dist=0.05, kind=kind, reader=reader)
    np.testing.assert_array_equal(counts, expected)


def naive_suppression(e):
    """The same with angles, pixel by pixel."""
    smooth = e.astype(float)
    for axis in (0, 1):
        smooth = ndimage.correlate1d(smooth, contours.TRIANGLE, axis, mode="reflect")
    dy, dx = np.gradient(smooth)
    dyy, dxy = np.gradient(dy)
    angle = np.arctan(dyy * np.sign(-dxy) / (np.gradient(dx, axis=1) + 1e-5)) % np.pi
    H, W = e.shape
    kept = np.zeros((H, W))
    for y, x in np.argwhere(e > 0):
        samples = []
        for sign in (-1, 1):
            v = min(max(y + sign * math.sin(angle[y, x]), 0), H - 1.001)
            u = min(max(x + sign * math.cos(angle[y, x]), 0), W - 1.001)
            samples.append(ndimage.map_coordinates(e.astype(float), [[v], [u]], order=1)[0])
        if e[y, x] * 1.01 >= max(samples):
            kept[y, x] = e[y, x] * min(y / 5, x / 5, (H - 1 - y) / 5, (W - 1 - x) / 5, 1)
    return kept


def test_suppression_follows_its_definition():
    e = soft_edges(0)[2].astype(np.float32) / np.float32(255)
    kept = contours.suppress(e)
    inner = (slice(5, -5), slice(5, -5))  # at corners the reference scales twice
    np.testing.assert_allclose(kept[inner], naive_suppression(e)[inner], rtol=1e-6)
    assert 0 < (kept > 0).sum() < 0.6 * (e > 0).sum()


def test_suppression_keeps_ridges_and_fades_towards_the_border():
    e = np.zeros((30, 30), np.float32)
    e[:, 12:17] = [0.2, 0.6, 0.8, 0.6, 0.2]
    kept = contours.suppress(e)
    assert (np.flatnonzero(kept.any(0)) == 14).all()
    np.testing.assert_allclose(kept[:7, 14], [0, 0.16, 0.32, 0.48, 0.64, 0.8, 0.8], rtol=1e-6)


def test_thresholds_are_strict_in_one_reader_and_not_in_the_other():
    flat = np.full((20, 20), 51, np.uint8)  # 51 / 255 = 0.2, nowhere suppressed
    for reader, passed in (("plain", 20), ("cont", 20)):  # 0.01 to 0.20; 0.001, 0.01 to 0.19
        thresholds, make = contours.READERS[reader]
        bits = np.unpackbits(make(flat)[10, 10].view(np.uint8), bitorder="little")
        assert bits.sum() == passed and bits[:passed].all()
        assert len(thresholds) == {"plain": 99, "cont": 101}[reader]


def test_label_boundaries_by_hand():
    # Where a pixel differs from its right, lower or lower right neighbour: the last column of the
    # left part. Thinning shortens lines at neither end.
    labels = np.zeros((4, 5), np.uint8)
    labels[:, 3:] = 7
    assert np.argwhere(contours.label_boundaries(labels)).tolist() == [[y, 2] for y in range(4)]
    assert not contours.label_boundaries(np.full((3, 3), 9)).any()


def test_padding_is_cropped_before_anything_else():
    labels, _, image = soft_edges(1)
    expected = boundary.match_counts(image, labels, max_dist=0.02, kind="labels")
    margin = ((3, 5), (4, 9))
    padded = (np.pad(x, margin, constant_values=255) for x in (image, labels))
    valid = np.pad(np.ones(labels.shape, bool), margin)
    found = boundary.match_counts(*padded, valid, max_dist=0.02, kind="labels")
    np.testing.assert_array_equal(found, expected)


def test_an_image_without_valid_pixels_counts_nothing():
    blank = np.zeros((8, 9), np.uint8)
    assert not boundary.match_counts(blank, blank, np.zeros((8, 9), bool), max_dist=0.01).any()


def test_edge_everywhere():
    truth = lines(20)
    expected = boundary.match_counts(np.full((40, 40), 255, np.uint8), truth, max_dist=0.05)
    np.testing.assert_array_equal(boundary.match_counts(None, truth, max_dist=0.05), expected)


def test_ods_by_hand():
    counts = np.zeros((2, 3, 4), np.int64)
    counts[0] = [[8, 10, 8, 16], [6, 10, 6, 8], [2, 10, 2, 2]]
    counts[1] = [[9, 10, 9, 10], [5, 10, 5, 5], [1, 10, 1, 1]]
    found = boundary.ods(counts)
    # Pooled: P 17/26, 11/13, 3/3; R 17/20, 11/20, 3/20; F = 2 TP / (true + predicted).
    assert found["odsF"] == pytest.approx(100 * 34 / 46)
    # Best alone: image 0 has F 16/26, 12/18, 4/12; image 1 18/20, ...
    assert found["oisF"] == pytest.approx(100 * 2 * (6 + 9) / (20 + 8 + 10))
    # Precision falls linearly from 1 at R 0.15 to 11/13 at 0.55, then to 17/26 at 0.85.
    first = np.interp(np.arange(15, 56) / 100, [0.15, 0.55], [1, 11 / 13]).sum()
    second = np.interp(np.arange(56, 86) / 100, [0.55, 0.85], [11 / 13, 17 / 26]).sum()
    assert found["AP"] == pytest.approx(first + second)


@pytest.mark.parametrize("counts", [[0, 0, 0, 7], [0, 7, 0, 0], [0, 0, 0, 0]])
def test_nothing_true_or_nothing_predicted_scores_zero(counts):
    found = boundary.ods(np.array([[counts] * 3]))
    assert (found["odsF"], found["oisF"], found["AP"]) == (0, 0, 0)


def test_no_images_have_no_score():
    counts = boundary.evaluate([], max_dist=0.01, reader="plain")
    assert counts.shape == (0, 99, 4) and math.isnan(boundary.ods(counts)["odsF"])


def test_workers_find_the_same_in_the_same_order():
    pairs = [(image, edge, None) for _, edge, image in map(soft_edges, range(7))]
    alone = boundary.evaluate(iter(pairs), max_dist=0.02)
    np.testing.assert_array_equal(boundary.evaluate(iter(pairs), workers=2, max_dist=0.02), alone)
    assert alone.shape == (7, 101, 4)


def test_a_worker_that_dies_is_reported():
    with pytest.raises(RunError, match="ended early"):
        boundary.evaluate([("not", "arrays", None)] * 3, workers=1, max_dist=0.02)


def test_workers_do_not_import_jax():
    code = "import mtl_vision.metrics.boundary, sys; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)

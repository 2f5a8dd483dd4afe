"""Whose turn it is, and that it depends on the step alone."""

import itertools

import numpy as np
import pytest

from mtl_vision.data.mixture import BLOCK, Alternate, MixedCanvas, Paired, Turns, shares

LENGTHS = {"pascal": 4998, "nyud": 795}


@pytest.mark.parametrize(
    "temperature, pascal", [(1, 0.863), (2, 0.715), (3, 0.649), (5, 0.591), (0, 0.5)]
)
def test_shares_of_the_two_real_datasets(temperature, pascal):
    found = shares(tuple(LENGTHS.values()), temperature)
    np.testing.assert_allclose(found, [pascal, 1 - pascal], atol=5e-4)


def test_turns_come_as_often_as_their_shares_and_are_counted():
    turns = Turns(shares(tuple(LENGTHS.values()), 2.0), seed=3)
    drawn = [turns.turn(step) for step in range(4 * BLOCK + 5)]
    assert abs(np.mean(drawn) - 0.285) < 0.02
    for step in (0, 1, BLOCK - 1, BLOCK, BLOCK + 1, len(drawn)):
        np.testing.assert_array_equal(turns.counts(step), np.bincount(drawn[:step], minlength=2))
    assert drawn != [Turns(turns.shares, seed=4).turn(step) for step in range(len(drawn))]


def test_the_turns_of_a_seed_stay_what_they_are():
    """Other turns would break the resume of every run begun before the change."""
    turns = Turns((0.5, 0.5), seed=0)
    assert [turns.turn(step) for step in range(12)] == [1, 1, 1, 1, 0, 0, 1, 0, 0, 0, 1, 0]


def stream(name, start):
    """Batches that say whose and which they are."""
    return ((name, step) for step in itertools.count(start))


@pytest.mark.parametrize("mixture", [Paired(), MixedCanvas(), Alternate(temperature=1.0)])
@pytest.mark.parametrize("first", [1, 7, 40])
def test_a_mixture_goes_on_by_the_step_number(mixture, first):
    def batches(start, count):
        found = mixture.batches(stream, LENGTHS, seed=5, first=start)
        return list(itertools.islice(found, count))

    assert batches(first, 30) == batches(0, first + 30)[first:]


def test_every_dataset_goes_through_its_stream_in_order():
    batches = itertools.islice(Alternate().batches(stream, LENGTHS, seed=0, first=0), 50)
    seen = {name: [b[name][1] for b in group] for name, group in by_name(batches)}
    assert seen == {name: list(range(len(steps))) for name, steps in seen.items()}
    assert len(seen) == 2


def by_name(batches):
    ordered = sorted(batches, key=lambda b: next(iter(b)))
    return itertools.groupby(ordered, key=lambda b: next(iter(b)))


def test_streams_are_closed_together():
    closed = []

    def closing(name, start):
        try:
            yield from stream(name, start)
        finally:
            closed.append(name)

    batches = Alternate().batches(closing, LENGTHS, seed=0, first=0)
    for _ in range(20):
        next(batches)
    batches.close()
    assert sorted(closed) == ["nyud", "pascal"]

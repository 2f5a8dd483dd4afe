"""A run that is killed without warning, and started again by the same command."""

import random

import jax

from tests import chaos


def test_a_killed_run_ends_bit_for_bit_like_one_that_was_not(tmp_path, monkeypatch):
    first = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *args: first)
    whole = chaos.attacked(tmp_path, 1, 1, random.Random(1))  # SIGKILL while it steps
    assert chaos.arrays(whole)["step"] == chaos.STEPS
    assert [x["step"] for x in whole.lines()][-1] == chaos.STEPS

"""Adapters one after another, and what they share with the rest of a model."""

import numpy as np
import pytest
from flax import nnx

from mtl_vision.errors import ConfigError
from mtl_vision.models import mtl
from mtl_vision.models.adapters import streams
from mtl_vision.models.adapters.taps import scores
from mtl_vision.models.layers import Penalty
from tests.models.test_adapters_beyond import TASKS, adapted, taken


def test_prompts_stay_where_streams_open_at_the_entry_of_a_scan():
    prompts = ("vpt", dict(prompts=2))
    more = [("ia3", dict(share="none")), ("ssf", dict(share="none", std=0.0))]
    run, _, params = taken(
        [adapted("vit_scan", chosen) for chosen in ([prompts], [prompts, *more])]
    )
    for (alone,), streams_ in zip(*run(params), strict=True):
        assert len(streams_) == len(TASKS)
        for stream in streams_:
            np.testing.assert_allclose(stream, alone, rtol=1e-6, atol=1e-6)


def test_adapters_that_end_streams_differently_are_named():
    own = ("ia3", dict(share="none"))
    for last, message in (
        (("mtlora", {}), "mtlora needs the shared stream, .* put mtlora first"),
        (("ssf", dict(share="last")), "share='last' needs .* or use share='none'"),
    ):
        with pytest.raises(ConfigError, match=message):
            mtl.abstract(lambda last=last: adapted("swin", [own, last]))
    for name, options in (own, ("ssf", dict(share="last"))):
        chosen = [("tadformer", dict(rank=2)), (name, options)]
        with pytest.raises(ConfigError, match="opens and ends the streams of tasks itself"):
            mtl.abstract(lambda chosen=chosen: adapted("swin", chosen))


def test_taps_keeps_its_penalty_for_all_datasets_in_one_place():
    def part():
        whole = adapted("vit_scan", [("taps", dict(penalty=0.5, warmup=3))])
        made = streams.select(whole, "b")
        assert made.generate.penalty is whole.generate.penalty
        made.generate(made)
        assert scores(made)["segments/0/attn/qkv/0"].shape == (1,)
        return whole

    whole = mtl.abstract(part)
    assert {path for path, _ in nnx.to_flat_state(nnx.state(whole, Penalty))} == {
        ("generate", "penalty")
    }
    assert (whole.generate.weight, whole.generate.warmup) == (0.5, 3)
    none = mtl.abstract(lambda: adapted("swin", [("taps", dict(penalty=0.0))]))
    assert not nnx.to_flat_state(nnx.state(none, Penalty))
    with pytest.raises(ConfigError, match="penalty=-1.0 and warmup=0 must be at least 0"):
        mtl.abstract(lambda: adapted("swin", [("taps", dict(penalty=-1.0))]))

"""A whole multi-task network of scale-lab/MTLoRA: plain Swin with hrnet heads, all trained."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_vision.models import mtl
from tests.parity import agreement, networks, records

RECORDS = records.records("swin_mtl_full")
EACH = pytest.mark.parametrize("file", RECORDS, ids=lambda file: file.stem)


@EACH
def test_names_and_counts_are_those_of_the_record(file):
    agreement.check_names(file)


@EACH
@pytest.mark.parametrize("what", agreement.CHECKS)
def test_network_matches_the_record_in_double_precision(file, what):
    agreement.check(file, what)


@EACH
def test_network_matches_the_record_in_single_precision(file):
    network = networks.load(file, jnp.float32)

    @jax.jit
    def forward(trainable):
        model = mtl.merge(network.graphdef, trainable, network.frozen, network.stats)
        return model(network.image, dataset=networks.DATASET)

    for kind, y in forward(network.trainable).items():
        actual = np.moveaxis(y[:, ::3, ::3], -1, 1)
        records.assert_close(actual, network.arrays[f"eval/out_every3.{kind}"], 5e-5, kind)

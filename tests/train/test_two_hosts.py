"""Two processes as two hosts: the same numbers as one, and checkpoints that both can read."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from mtl_vision import parallel
from mtl_vision.train import checkpoint, integrity
from mtl_vision.train.checkpoint import Checkpoints
from mtl_vision.train.state import abstract
from mtl_vision.train.step import jit_train_step
from tests.conftest import XLA_FLAGS
from tests.train import toy

TRAINABLE = ((".*embed/.*", False), (".*", True))
NYUD = {"nyud_v2": toy.GROUPS["nyud_v2"]}


def train(folder, mesh, *, host=0, hosts=1):
    """Two steps; after each the state is saved, and read again from shapes alone.

    Returns: the last loss, and a number for all that was read.
    """
    tx, loss = toy.chain(), 0.0
    begin = toy.start(mesh, tx, trainable=TRAINABLE, rate=0.3)
    step = jit_train_step(mesh, begin.shardings, graphdef=begin.graphdef, groups=NYUD, tx=tx)
    state, like = begin.state, abstract(begin.state)
    for seed in range(2):
        rows = {"nyud_v2": toy.batch(seed=seed)["nyud_v2"]}
        mine = jax.tree.map(lambda x: np.split(x, hosts)[host], rows)
        state, metrics = step(state, parallel.to_global(mine, mesh))
        loss = float(metrics["loss/total"])
        with Checkpoints(folder) as checkpoints:
            checkpoints.save(state)
        state = Checkpoints(folder).restore(like)
    leaves = checkpoint.flat(state, ("trainable", "frozen", "opt", "key", "step"))
    return loss, integrity.digest(integrity.table(leaves))


HOST = """
import json, pathlib, sys
import jax
host, port, folder = int(sys.argv[1]), sys.argv[2], pathlib.Path(sys.argv[3])
jax.distributed.initialize("127.0.0.1:" + port, 2, host)
from mtl_vision import parallel
from tests.train import test_two_hosts
mesh = parallel.make_mesh(data=2, fsdp=2)
print(json.dumps(test_two_hosts.train(folder, mesh, host=host, hosts=2)))
"""


@pytest.mark.devices8
def test_two_hosts_train_save_and_resume_like_one(tmp_path):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
    flags = f"--xla_force_host_platform_device_count=2 {XLA_FLAGS}"
    environment = os.environ | {"XLA_FLAGS": flags}
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", HOST, str(host), port, str(tmp_path / "two")],
            cwd=pathlib.Path(__file__).parents[2],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for host in range(2)
    ]
    first, second = (json.loads(run.communicate(timeout=300)[0].splitlines()[-1]) for run in runs)
    assert first == second
    mesh = parallel.make_mesh(data=2, fsdp=2, devices=jax.devices()[:4])
    loss, _ = train(tmp_path / "one", mesh)
    np.testing.assert_allclose(first[0], loss, rtol=1e-5)
    like = abstract(toy.start(mesh, toy.chain(), trainable=TRAINABLE).state)
    two, one = (checkpoint.load(tmp_path / name, like, 2).trainable for name in ("two", "one"))
    for a, b in zip(jax.tree.leaves(two), jax.tree.leaves(one), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)

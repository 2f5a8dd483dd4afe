import os
import pathlib
import socket
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_vision import hosts, watchdog
from mtl_vision.errors import ConfigError, DataError
from mtl_vision.train.checkpoint import Checkpoints
from mtl_vision.train.state import TrainState
from tests.conftest import XLA_FLAGS

NAMES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID", "SLURM_NTASKS")
NAMES = (*NAMES, "SLURM_STEP_NODELIST", "OMPI_COMM_WORLD_SIZE", "TPU_WORKER_HOSTNAMES")


def joined(monkeypatch, *args, **environment):
    """What JAX would be told, or None if nothing."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    calls = []
    monkeypatch.setattr(hosts, "_connect", lambda **explicit: calls.append(explicit))
    hosts.join(*args)
    return calls[0] if calls else None


GIVEN = dict(JAX_COORDINATOR_ADDRESS="a:1", JAX_NUM_PROCESSES="4", JAX_PROCESS_ID="3")


@pytest.mark.parametrize(
    "args, environment, told",
    [
        ((), {}, None),
        (("a:1", 1, 0), {}, None),
        (("a:1", 2, 0), {}, ("a:1", 2, 0)),
        ((), GIVEN, ("a:1", 4, 3)),
        (("b:2", 2, 1), GIVEN, ("b:2", 2, 1)),
        ((), dict(SLURM_NTASKS="2", SLURM_STEP_NODELIST="n[1-2]"), ()),
        ((), dict(SLURM_NTASKS="2"), None),  # in a batch script, not in a step
        ((), dict(SLURM_NTASKS="1", SLURM_STEP_NODELIST="n1"), None),
        ((), dict(TPU_WORKER_HOSTNAMES="a,b"), ()),
        ((), dict(TPU_WORKER_HOSTNAMES="localhost"), None),
    ],
)
def test_who_is_who_comes_from_flags_or_the_environment(monkeypatch, args, environment, told):
    names = ("coordinator_address", "num_processes", "process_id")
    expected = told and dict(zip(names, told, strict=True))
    assert joined(monkeypatch, *args, **environment) == ({} if told == () else expected)


@pytest.mark.parametrize("args", [("a:1", 0, -1), ("a:1", 2, 2), ("", 2, 1)])
def test_half_an_address_is_an_error(monkeypatch, args):
    with pytest.raises(ConfigError, match="--coordinator=.*give the address of process 0"):
        joined(monkeypatch, *args)


def test_one_process_has_all_rows():
    rows = np.arange(3, dtype=np.int64)
    assert hosts.together(rows) is rows
    hosts.barrier("alone")


def test_a_watchdog_shows_where_threads_stand(capfd):
    barked = threading.Event()
    with watchdog.Watchdog(0.05, "nothing came", barked.set):
        assert barked.wait(10)
    found = capfd.readouterr().err
    assert "error: nothing came for 0.05 s" in found
    assert "test_a_watchdog_shows_where_threads_stand" in found


def test_a_watchdog_is_quiet_as_long_as_it_is_told(capfd):
    with watchdog.Watchdog(0.5, "nothing came") as quiet:
        for _ in range(8):
            threading.Event().wait(0.1)
            quiet.beat()
    with watchdog.Watchdog(0, "nothing came"):
        pass
    assert not capfd.readouterr().err


TWO = """
import sys
import numpy as np
from mtl_vision import cli, hosts
from mtl_vision.errors import DataError

def main():
    index = int(sys.argv[2])
    hosts.join(f"127.0.0.1:{sys.argv[1]}", 2, index)
    print(hosts.together(np.arange(index + 1, dtype=np.int64) + 10 * index).tolist(), flush=True)
    if index == 1:
        raise DataError("a file of mine is damaged.")
    hosts.barrier("never reached by the other")

cli.start(main, ["train.py"])
"""


def test_a_process_that_fails_ends_the_other_with_a_message():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", TWO, port, str(i)],
            cwd=pathlib.Path(__file__).parents[1],
            env=os.environ | {"XLA_FLAGS": XLA_FLAGS},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    (rows, first), (same, second) = (run.communicate(timeout=120) for run in runs)
    assert rows.splitlines()[-1] == same.splitlines()[-1] == "[0, 10, 11]"
    assert [run.returncode for run in runs] == [hosts.REQUEUE, 1]
    assert second.splitlines()[-1] == "error: a file of mine is damaged."
    assert "error: another process is lost" in first


def test_a_save_that_the_others_do_not_finish_means_that_one_is_lost(monkeypatch):
    late = TimeoutError("Timeout waiting at barrier")
    assert not hosts.lost(late)  # alone, it is the disk
    monkeypatch.setattr(hosts, "joined", lambda: True)
    assert hosts.lost(late) and not hosts.lost(OSError("no space"))


def test_a_process_that_is_lost_during_a_save_is_no_bad_folder(monkeypatch, tmp_path):
    reset = jax.errors.JaxRuntimeError("UNKNOWN: Gloo AllGather failed: Connection reset by peer")

    def write():
        saved = Checkpoints(tmp_path)
        monkeypatch.setattr(saved, "_opened", lambda state: broken(reset))
        saved.save(TrainState(jnp.int32(1), {}, {}, {}, (), (), jax.random.key(0)))

    with pytest.raises(DataError, match="cannot be written: UNKNOWN: Gloo"):
        write()  # alone
    monkeypatch.setattr(hosts, "joined", lambda: True)
    with pytest.raises(jax.errors.JaxRuntimeError):
        write()


def broken(error):
    raise error

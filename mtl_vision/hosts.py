"""Several processes that are one program: how they meet, wait for each other and leave.

JAX's own runtime connects them and does all communication; this module only calls it. jax is
imported late, so that a mistyped option is answered at once.
"""

import os
import sys
from typing import Any, NoReturn

import numpy as np

from mtl_vision.errors import ConfigError
from mtl_vision.watchdog import Watchdog

# The exit code of a run that wants to be started again: EX_TEMPFAIL of sysexits.h.
REQUEUE = 75
# Seconds that processes wait for each other before the run begins.
PATIENCE = 600


def join(coordinator: str = "", count: int = 0, index: int = -1) -> None:
    """Makes this process one of several, before anything else uses a device.

    What is not given is taken from JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID;
    without these JAX looks at what Slurm, Open MPI or a TPU pod say. One process alone just
    returns.

    Args:
      coordinator: ``host:port`` of process 0.
      count: of processes.
      index: of this one.

    Raises:
      ConfigError: some of the three are missing.
    """
    env = os.environ.get
    given = (
        coordinator or env("JAX_COORDINATOR_ADDRESS", ""),
        count or int(env("JAX_NUM_PROCESSES", "0")),
        index if index >= 0 else int(env("JAX_PROCESS_ID", "-1")),
    )
    if given[0] and given[1] > 0 and 0 <= given[2] < given[1]:
        if given[1] > 1:
            _connect(coordinator_address=given[0], num_processes=given[1], process_id=given[2])
    elif coordinator or count or index >= 0 or given[0]:
        raise ConfigError(
            f"--coordinator={given[0]!r}, --processes={given[1]}, --process={given[2]}: give the "
            f"address of process 0 with its port, how many there are, and which this is, from 0."
        )
    elif several():
        _connect()


def several() -> bool:
    """Says whether the environment is that of one of several processes."""
    env = os.environ.get
    counts = [env(name, "1") for name in ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")]
    in_step = "SLURM_STEP_NODELIST" in os.environ or "OMPI_COMM_WORLD_SIZE" in os.environ
    # MEGASCALE_*: slices of a TPU. MTL_VISION_POD: workers that ask their metadata server.
    pod = "," in env("TPU_WORKER_HOSTNAMES", "") or int(env("MEGASCALE_NUM_SLICES", "1")) > 1
    return pod or env("MTL_VISION_POD") == "1" or (in_step and max(map(int, counts)) > 1)


def _connect(**explicit: Any) -> None:
    import jax

    with Watchdog(PATIENCE, "not all processes of the run have come", lambda: leave(REQUEUE)):
        # Later than the watchdog, for JAX says less.
        jax.distributed.initialize(**explicit, initialization_timeout=2 * PATIENCE)


def first() -> bool:
    """Says whether this is process 0, which alone writes files and speaks."""
    import jax

    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Returns when all processes have called it; where one does not, ends this one in time."""
    from jax.experimental import multihost_utils

    with Watchdog(PATIENCE, f"another process has not come to {name!r}", lambda: leave(REQUEUE)):
        multihost_utils.sync_global_devices(name)


def together(rows: np.ndarray) -> np.ndarray:
    """Concatenates arrays ``[n, ...]`` of all processes, which may differ in n.

    Args:
      rows: of this process; integers below 2^31, or floats.
    """
    import jax
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return rows
    small = rows.astype(np.int32) if rows.dtype == np.int64 else rows
    counts = multihost_utils.process_allgather(np.array(len(rows), np.int32))
    padded = np.zeros((counts.max(), *rows.shape[1:]), small.dtype)
    padded[: len(rows)] = small
    found = np.asarray(multihost_utils.process_allgather(padded))
    parts = [part[:count] for part, count in zip(found, counts, strict=True)]
    return np.concatenate(parts).astype(rows.dtype)


def joined() -> bool:
    """Says whether this process is connected to others."""
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized()


def lost(error: Exception) -> bool:
    """Says whether an exception means that another process cannot be reached any more."""
    import jax

    if not joined():
        return False
    if isinstance(error, TimeoutError):  # as of a save that the others do not finish
        return True
    return isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in str(error)


def leave(code: int) -> NoReturn:
    """Ends this process; one of several at once, for the others cannot go on without it."""
    if not joined():
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

"""Several processes in one run: start-up, barriers, and propagation of failures.

Processes find each other through `jax.distributed`. The first process, the primary, writes the
files that only one process may write. A process that fails leaves its error message in the
key-value store of `jax.distributed`; the others poll the store and exit with the same message.
"""

import atexit
import contextlib
import faulthandler
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax

from kdjax.errors import InputError

# A process that sends no heartbeat for this long is considered dead, and the others exit.
HEARTBEAT_SECONDS = 30
# Key of the error message that a failing process leaves for the others.
_FAILURE_KEY = "kdjax/failure"


def initialize(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Joins the other processes of the run; must come before anything else uses a device.

    Without arguments, JAX detects the cluster; if there is none, this is the only process.

    Args:
        coordinator: HOST:PORT of the first process.
        num_processes: number of processes in the run.
        process_id: 0 to num_processes - 1.

    Raises:
        InputError: if only some arguments are given, or they are inconsistent.
    """
    given = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if 0 < len(missing) < len(given):
        raise InputError(f"{' and '.join(missing)} must be given too")
    if coordinator is not None and not re.fullmatch(r".+:\d{1,5}", coordinator):
        raise InputError(f"--coordinator {coordinator!r}: must be HOST:PORT")
    if process_id is not None and not 0 <= process_id < (num_processes or 0):
        raise InputError(f"--process_id {process_id}: must lie in 0..{(num_processes or 0) - 1}")
    try:
        jax.distributed.initialize(
            coordinator, num_processes, process_id, heartbeat_timeout_seconds=HEARTBEAT_SECONDS
        )
    except ValueError as error:  # raised by JAX when it detects no cluster
        if not missing:
            raise InputError(f"--coordinator {coordinator!r}: {error}") from error
        return
    # When a process dies, JAX aborts the others with one line; Python would add the stacks of all
    # threads.
    faulthandler.disable()
    _watch_peers()


def is_primary() -> bool:
    """Returns whether this is the process that writes the shared files."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Waits until every process has reached the barrier of this name."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


@contextlib.contextmanager
def primary_first(name: str) -> Iterator[None]:
    """Runs the body in the primary process before the others, which then find its files.

    Args:
        name: of the barrier.
    """
    if not is_primary():
        barrier(name)
    yield
    if is_primary():
        barrier(name)


def _client() -> Any:
    # The key-value store of jax.distributed has no public name.
    from jax._src import distributed

    return distributed.global_state.client


def broadcast_failure(message: str, status: int) -> None:
    """Ends all processes of the run with this message and exit status.

    Does nothing in a run of one process.
    """
    if jax.distributed.is_initialized():
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # the store's process is gone
            value = f"{jax.process_index()}:{status}:{message}"
            _client().key_value_set(_FAILURE_KEY, value, True)
        _exit(status)


def _exit(status: int) -> None:
    if is_primary():
        time.sleep(3)  # the primary holds the store, which the others poll every second
    os._exit(status)  # sys.exit would wait for the other processes to finish


def check_peers() -> None:
    """Ends this process with the error of another process, if one has failed."""
    if not jax.distributed.is_initialized():
        return
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # no process has failed
        number, status, message = _client().key_value_try_get(_FAILURE_KEY).split(":", 2)
        if int(number) != jax.process_index():
            print(f"kdjax: error: process {number}: {message}", file=sys.stderr, flush=True)
            _exit(int(status))


def is_peer_failure(error: BaseException) -> bool:
    """Returns whether an error is what a process sees after another process has died."""
    if not jax.distributed.is_initialized() or jax.process_count() == 1:
        return False
    kinds = "Gloo", "NCCL", "UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED"
    broken = isinstance(error, jax.errors.JaxRuntimeError) and any(k in str(error) for k in kinds)
    return broken or isinstance(error, TimeoutError)  # Orbax timed out waiting for the others


def _watch_peers() -> None:
    """Starts a thread that calls `check_peers` every second."""
    stop = threading.Event()

    def poll() -> None:
        while not stop.wait(1):
            check_peers()

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()

    # The thread uses jax.distributed, so it must end first.
    @atexit.register
    def _stop() -> None:
        stop.set()
        thread.join()

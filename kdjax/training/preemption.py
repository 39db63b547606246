"""SIGTERM and Ctrl-C during training: a flag that the loop polls, agreed on by all processes."""

import contextlib
import itertools
import os
import signal
import threading
from typing import Any

import jax

from kdjax.errors import Preempted

# JAX stops all processes at one number, the first that none of them has passed. It must not be the
# step: steps start again with each stage, and a call may run several of them.
_polls = itertools.count(1)
_STOPPING = b"\nkdjax: stopping after this step; a second Ctrl-C stops at once\n"


class Preemption(contextlib.AbstractContextManager):
    """Records SIGTERM and the first Ctrl-C instead of ending the process; a context manager."""

    def __init__(self) -> None:
        """Starts without a request."""
        self._requested = False
        self._signal = signal.SIGTERM
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Preemption":
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def listen(self) -> None:
        """Records the signals from now on; before, they have their usual effect."""
        # With several processes JAX itself catches SIGTERM, on whichever host it arrives.
        self._distributed = jax.distributed.is_initialized()
        if threading.current_thread() is not threading.main_thread():
            return  # only the main thread can handle signals
        numbers = (signal.SIGINT,) if self._distributed else (signal.SIGINT, signal.SIGTERM)
        for number in numbers:
            if signal.getsignal(number) == signal.SIG_IGN:
                continue  # as for a process in the background
            self._previous[number] = signal.signal(number, self._record) or signal.SIG_DFL

    def _record(self, number: int, _: object) -> None:
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, self._previous[signal.SIGINT])
            with contextlib.suppress(OSError):  # print is not safe in a signal handler
                os.write(2, _STOPPING)
            if self._distributed:
                signal.raise_signal(signal.SIGTERM)  # stops all processes after the same step
                return
        self._signal, self._requested = signal.Signals(number), True

    def requested(self) -> bool:
        """Returns whether to save and stop now; once True, always True.

        All processes must call this after the same steps.
        """
        if self._distributed and not self._requested:
            from jax.experimental import multihost_utils

            self._requested = multihost_utils.reached_preemption_sync_point(next(_polls))
        return self._requested

    @property
    def recorded(self) -> bool:
        """Whether this process has recorded a signal."""
        return self._requested

    def stopped(self, stage: str, step: int) -> BaseException:
        """Returns the exception that ends the training after it is saved.

        Args:
            stage: `teacher` or `student`.
            step: finished steps, all saved.
        """
        by_user = self._signal == signal.SIGINT
        name, kind = ("Ctrl-C", KeyboardInterrupt) if by_user else ("SIGTERM", Preempted)
        return kind(
            f"{stage} stopped by {name} at step {step}, which is saved: the same command continues"
        )

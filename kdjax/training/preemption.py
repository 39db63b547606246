"""SIGTERM during training: a flag that the loop polls, agreed on by all processes."""

import contextlib
import signal
from typing import Any

import jax


class Preemption(contextlib.AbstractContextManager):
    """Records SIGTERM instead of ending the process; a context manager."""

    def __init__(self) -> None:
        """Starts without a request."""
        self._requested = False

    def __enter__(self) -> "Preemption":
        # With several processes JAX itself catches the signal, on whichever host it arrives.
        self._handles_signal = not jax.distributed.is_initialized()
        if self._handles_signal:
            self._previous: Any = signal.signal(signal.SIGTERM, self._record)
        return self

    def __exit__(self, *_: object) -> None:
        if self._handles_signal:
            signal.signal(signal.SIGTERM, self._previous)

    def _record(self, *_: object) -> None:
        self._requested = True

    def requested(self, step: int) -> bool:
        """Returns whether to save and stop after this step; once True, always True.

        Args:
            step: finished steps; all processes must call this after the same steps.
        """
        if not self._handles_signal and not self._requested:
            from jax.experimental import multihost_utils

            self._requested = multihost_utils.reached_preemption_sync_point(step)
        return self._requested

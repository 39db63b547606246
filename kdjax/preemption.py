"""SIGTERM while a stage trains: a flag that the loop looks at, agreed on by all processes."""

import contextlib
import signal
from typing import Any

import jax


class Preemption(contextlib.AbstractContextManager):
    """Notices SIGTERM instead of dying of it; a context manager."""

    def __init__(self) -> None:
        """Starts with nothing noticed."""
        self._asked = False

    def __enter__(self) -> "Preemption":
        # With several processes JAX itself notices the signal, on whichever host it comes.
        self._handles = not jax.distributed.is_initialized()
        if self._handles:
            self._before: Any = signal.signal(signal.SIGTERM, self._notice)
        return self

    def __exit__(self, *_: object) -> None:
        if self._handles:
            signal.signal(signal.SIGTERM, self._before)

    def _notice(self, *_: object) -> None:
        self._asked = True

    def asked(self, step: int) -> bool:
        """Returns whether to save and stop after this step: once True, always True.

        Args:
            step: finished steps, the same in all processes, which all ask after the same steps.
        """
        if not self._handles and not self._asked:
            from jax.experimental import multihost_utils

            self._asked = multihost_utils.reached_preemption_sync_point(step)
        return self._asked

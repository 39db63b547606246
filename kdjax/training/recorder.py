"""From the metrics of each step, still on the device, to the log; stops at a non-finite loss."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from kdjax.training.checkpoint import Checkpoints
from kdjax.training.stage_log import StageLog


class Recorder:
    """Buffers the metrics of steps on the device, and checks and logs them at intervals."""

    def __init__(
        self,
        log: StageLog,
        checkpoints: Checkpoints,
        *,
        every: int,
        learning_rate: Callable[[int], Any],
    ) -> None:
        """Starts with an empty buffer.

        Args:
            log: receives the metrics.
            checkpoints: to name the last good checkpoint when a loss is not finite.
            every: least number of steps of a log line; a line ends within a call if the call has
                several times as many.
            learning_rate: step -> learning rate.
        """
        self._log, self._checkpoints, self._every = log, checkpoints, every
        self._learning_rate = learning_rate
        self._buffer: list[tuple[int, dict[str, jax.Array]]] = []
        self._train: dict[str, float] = {}
        self._dev: dict[str, float] = {}

    def add(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Buffers the metrics `[count]` of a call that ended at `step`."""
        self._buffer.append((step, metrics))
        if sum(len(values["loss"]) for _, values in self._buffer) >= self._every:
            self.flush()
        elif self._log.live and (finished := self._finished_step()):
            self._log.move(finished)

    def _finished_step(self) -> int | None:
        """Returns the last step that the device has finished, without waiting for others."""
        for step, metrics in reversed(self._buffer):
            if metrics["loss"].is_ready():  # type: ignore[attr-defined]
                return step
        return None

    def flush(self) -> None:
        """Checks and logs the buffered metrics.

        Raises:
            FloatingPointError: naming the step, the loss terms and the last good checkpoint.
        """
        if not self._buffer:
            return
        last_step = self._buffer[-1][0]
        calls = jax.device_get([values for _, values in self._buffer])
        self._buffer = []
        names = sorted(calls[0], key=lambda name: name != "loss")  # the loss before its terms
        values = {name: np.concatenate([call[name] for call in calls]) for name in names}
        not_finite = np.flatnonzero(~np.isfinite(values["loss"]))
        if not_finite.size:
            first = int(not_finite[0])
            self._raise_not_finite(
                last_step - len(values["loss"]) + first + 1,
                {name: float(value[first]) for name, value in values.items()},
            )
        count = len(values["loss"])
        done = last_step - count
        for steps in np.array_split(np.arange(count), max(count // self._every, 1)):
            self._train = {
                name: float(value[steps].mean(dtype=np.float64)) for name, value in values.items()
            }
            last = done + int(steps[-1]) + 1
            rate = float(self._learning_rate(last - 1))
            self._log.write(last, "train", {**self._train, "learning_rate": rate})
        if self._log.live:
            self._log.move(last_step, {**self._train, **self._dev})

    def record_dev(self, step: int, metrics: Mapping[str, float]) -> None:
        """Logs the metrics of the development split and shows the progress."""
        self._log.write(step, "dev", metrics)
        self._dev = {"dev_accuracy": metrics["accuracy"]}
        self._log.show_epoch(step, {**self._train, **self._dev})

    def _raise_not_finite(self, step: int, values: Mapping[str, float]) -> None:
        terms = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        saved = self._checkpoints.steps()
        last = f"step {saved[-1]} in {self._checkpoints.folder}" if saved else "none yet"
        raise FloatingPointError(
            f"the {self._log.title}'s loss is not finite at step {step}: {terms}; "
            f"last good checkpoint: {last}; a lower {self._log.stage}.learning_rate may help"
        )

"""From the metrics of each step, still on the device, to the log; a bad loss stops here."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from kdjax.checkpoint import Checkpoints
from kdjax.report.logs import Log


class Recorder:
    """Takes the metrics of each call off the device, now and then, and refuses bad ones."""

    def __init__(
        self, log: Log, checkpoints: Checkpoints, *, every: int, rate: Callable[[int], Any]
    ) -> None:
        """Starts with nothing held.

        Args:
            log: where to.
            checkpoints: to name the last good one when a loss is not finite.
            every: steps between lines of the log.
            rate: the learning rate of a step.
        """
        self._log, self._checkpoints, self._every, self._rate = log, checkpoints, every, rate
        self._held: list[tuple[int, dict[str, jax.Array]]] = []
        self._train: dict[str, float] = {}
        self._dev: dict[str, float] = {}

    def add(self, done: int, metrics: dict[str, jax.Array]) -> None:
        """Holds the metrics `[count]` of the call that ended at step `done`."""
        self._held.append((done, metrics))
        if sum(len(values["loss"]) for _, values in self._held) >= self._every:
            self.flush()

    def flush(self) -> None:
        """Checks and logs what is held.

        Raises:
            FloatingPointError: naming the step, the parts and the last good checkpoint.
        """
        if not self._held:
            return
        done = self._held[-1][0]
        fetched = jax.device_get([values for _, values in self._held])
        self._held = []
        names = sorted(fetched[0], key=lambda name: name != "loss")  # the loss before its parts
        values = {name: np.concatenate([call[name] for call in fetched]) for name in names}
        bad = np.flatnonzero(~np.isfinite(values["loss"]))
        if bad.size:
            first = int(bad[0])
            self._refuse(
                done - len(values["loss"]) + first + 1,
                {name: float(value[first]) for name, value in values.items()},
            )
        means = {name: float(value.mean(dtype=np.float64)) for name, value in values.items()}
        rate = float(self._rate(done - 1))
        self._log.write(done, "train", {**means, "learning_rate": rate})
        self._train = means
        if self._log.live:
            self._show(done)

    def dev(self, done: int, metrics: Mapping[str, float]) -> None:
        """Logs the metrics of the development split and says where training stands."""
        self._log.write(done, "dev", metrics)
        self._dev = {"dev_accuracy": metrics["accuracy"]}
        self._show(done)

    def _show(self, done: int) -> None:
        self._log.show(done, {**self._train, **self._dev})

    def _refuse(self, number: int, values: Mapping[str, float]) -> None:
        parts = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        steps = self._checkpoints.steps()
        kept = f"step {steps[-1]} in {self._checkpoints.folder}" if steps else "none yet"
        raise FloatingPointError(
            f"the {self._log.stage}'s loss is not finite at step {number}: {parts}; "
            f"last good checkpoint: {kept}; a lower {self._log.stage}.learning_rate may help"
        )

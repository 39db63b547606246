"""The log of one network in training: its metric writers, its clock, its part of the progress."""

import pathlib
import time
from collections.abc import Mapping, Sequence

from kdjax.training import metric_writer
from kdjax.training.progress import Progress


class StageLog:
    """Writes metrics and measures time; a context manager.

    Attributes:
        stage: `teacher` or `student`.
        title: `teacher`, `student`, or `student NAME` where several are trained together.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        progress: Progress,
        *,
        done: int,
        clock: float,
        name: str = "",
        writers: Sequence[str] = ("tensorboard",),
        silent: bool = False,
    ) -> None:
        """Opens the metric writers.

        Args:
            folder: of the network.
            progress: of the stage, opened and closed by the caller.
            done: steps finished when this session starts.
            clock: seconds trained before this session.
            name: of the network among those that are trained together; empty if it is the only one.
            writers: names of metric writers beside JSON lines, see `metric_writer.METRIC_WRITERS`.
            silent: write nothing, because another process does.
        """
        self.stage, self.title = progress.stage, f"{progress.stage} {name}".strip()
        self._progress, self._name = progress, name
        self._before, self._start = clock, time.monotonic()
        self._writers = [] if silent else metric_writer.open_writers(writers, folder, done)

    def __enter__(self) -> "StageLog":
        return self

    def __exit__(self, *_: object) -> None:
        for writer in self._writers:
            writer.close()

    @property
    def clock(self) -> float:
        """Seconds trained so far, over all sessions."""
        return self._before + time.monotonic() - self._start

    @property
    def live(self) -> bool:
        """Whether there is a progress bar, which is worth moving within an epoch."""
        return self._progress.live

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Passes the metrics of a split to every metric writer."""
        for writer in self._writers:
            writer.write(step, split, self.clock, values)

    def move(self, step: int, values: Mapping[str, float] | None = None) -> None:
        """Moves the progress bar within an epoch; `values`: the latest metrics, if they are new."""
        self._progress.move(step, self._name, values)

    def show_epoch(self, step: int, values: Mapping[str, float]) -> None:
        """Shows the metrics at the end of an epoch."""
        self._progress.show_epoch(step, self._name, values)

"""The log of one stage: its metric writers, its clock, and its progress on the terminal."""

import pathlib
import sys
import time
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column

from kdjax.training.metric_writer import METRIC_WRITERS, MetricWriter

_BAR_WIDTH = 6
# The metrics that a progress bar shows first, and their names there.
_MAIN_METRICS: Mapping[str, str] = {"dev_accuracy": "dev", "loss": "loss"}


class StageLog:
    """Writes metrics, measures time and shows progress; a context manager.

    Attributes:
        stage: `teacher` or `student`.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        *,
        stage: str,
        steps_per_epoch: int,
        epochs: int,
        batch_size: int,
        done: int,
        clock: float,
        silent: bool = False,
    ) -> None:
        """Opens the metric writers.

        Args:
            folder: of the stage.
            stage: `teacher` or `student`.
            steps_per_epoch: optimizer steps in an epoch.
            epochs: of the whole stage.
            batch_size: images in a batch.
            done: steps finished when this session starts.
            clock: seconds trained before this session.
            silent: print and write nothing, because another process does.
        """
        self.stage, self._steps_per_epoch, self._epochs = stage, steps_per_epoch, epochs
        self._batch_size, self._before, self._start = batch_size, clock, time.monotonic()
        self._shown_at, self._shown_step, self._steps_per_second = self._start, done, 0.0
        self._silent = silent
        self._writers: Sequence[MetricWriter] = (
            [] if silent else [open_writer(folder, done) for open_writer in METRIC_WRITERS.values()]
        )
        self._bar = _progress_bar() if sys.stdout.isatty() and not silent else None

    def __enter__(self) -> "StageLog":
        if self._bar:
            self._bar.start()
            self._task = self._bar.add_task(
                self.stage, total=self._total_steps(), status="compiling"
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()
        for writer in self._writers:
            writer.close()

    @property
    def clock(self) -> float:
        """Seconds trained so far, over all sessions."""
        return self._before + time.monotonic() - self._start

    @property
    def live(self) -> bool:
        """Whether there is a progress bar, which is worth updating within an epoch."""
        return self._bar is not None

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Passes the metrics of a split to every metric writer."""
        for writer in self._writers:
            writer.write(step, split, self.clock, values)

    def show(self, step: int, values: Mapping[str, float]) -> None:
        """Updates the progress bar; without a terminal, prints a line.

        Args:
            step: finished steps.
            values: the latest metrics of train and dev.
        """
        now = time.monotonic()
        if step > self._shown_step:
            self._steps_per_second = (step - self._shown_step) / (now - self._shown_at)
            self._shown_at, self._shown_step = now, step
        epoch = f"epoch {-(-step // self._steps_per_epoch)}/{self._epochs}"
        rate = f"{self._steps_per_second * self._batch_size:,.0f} images/s"
        left = f"{self._time_left(step)} left"
        if self._bar:
            width = self._bar.console.width - len(self.stage) - _BAR_WIDTH - 2
            status = " ".join(
                [epoch, *_shown_metrics(values, [epoch, rate, left], width), rate, left]
            )
            self._bar.update(self._task, completed=step, status=status)
        else:
            numbers = [f"{name} {value:.4g}" for name, value in values.items()]
            self.note("  ".join([epoch, *numbers, rate, left]))

    def note(self, text: str) -> None:
        """Prints a line, beginning with the name of the stage."""
        if self._bar:
            self._bar.console.print(f"{self.stage}  {text}")
        elif not self._silent:
            print(f"{self.stage}  {text}", flush=True)

    def _time_left(self, step: int) -> str:
        if not self._steps_per_second:
            return "?"
        return _hours_minutes_seconds((self._total_steps() - step) / self._steps_per_second)

    def _total_steps(self) -> int:
        return self._epochs * self._steps_per_epoch


def _progress_bar() -> Progress:
    status = TextColumn("{task.fields[status]}", table_column=Column(no_wrap=True, overflow="crop"))
    bar = BarColumn(bar_width=_BAR_WIDTH)
    return Progress(TextColumn("{task.description}"), bar, status, console=Console())


def _shown_metrics(values: Mapping[str, float], others: Sequence[str], width: int) -> list[str]:
    """Returns the metrics for which a progress bar has room, the most important ones first.

    Args:
        values: by name.
        others: what is shown beside them.
        width: characters for both.
    """
    room = width - sum(len(text) + 1 for text in others)
    shown = []
    first = [name for name in _MAIN_METRICS if name in values]
    for name in [*first, *(name for name in values if name not in first)]:
        text = f"{_MAIN_METRICS.get(name, name)} {values[name]:.4g}"
        if len(text) + 1 <= room:
            shown.append(text)
            room -= len(text) + 1
    return shown


def _hours_minutes_seconds(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"

"""What a run says while it trains: metrics.jsonl, TensorBoard events and a line or a bar."""

import json
import os
import pathlib
import sys
import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from kdjax import files


class Log:
    """The log of one stage; a context manager.

    Attributes:
        stage: teacher or student.
        clock: seconds trained so far, over all sessions.
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
        """Opens the files; what they hold of steps after `done` is dropped.

        Args:
            folder: of the stage.
            stage: teacher or student.
            steps_per_epoch: optimizer steps.
            epochs: of the whole stage.
            batch_size: images a step.
            done: steps finished when this session starts.
            clock: seconds trained before this session.
            silent: say and write nothing: another process does.
        """
        from tensorboardX import SummaryWriter  # slow to import

        self.stage, self._steps_per_epoch, self._epochs = stage, steps_per_epoch, epochs
        self._batch_size, self._before, self._start = batch_size, clock, time.monotonic()
        self._shown_at, self._shown_step, self._pace = self._start, done, 0.0
        if not silent:
            _keep_until(folder / "metrics.jsonl", done)
        self._silent = silent
        lines = pathlib.Path(os.devnull) if silent else folder / "metrics.jsonl"
        self._file = lines.open("a")
        self._board = SummaryWriter(
            str(folder / "tensorboard"), purge_step=done + 1, write_to_disk=not silent
        )
        self._bar = _bar() if sys.stdout.isatty() and not silent else None

    def __enter__(self) -> "Log":
        if self._bar:
            self._bar.start()
            self._task = self._bar.add_task(self.stage, total=self._total(), status="compiling")
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()
        self._file.close()
        self._board.close()

    @property
    def clock(self) -> float:
        """Seconds trained so far, over all sessions."""
        return self._before + time.monotonic() - self._start

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Records the values of a split at a step: one line, one scalar each."""
        line = {"step": step, "split": split, "clock": round(self.clock, 3), **values}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(f"{split}/{name}", value, step)

    def show(self, step: int, values: Mapping[str, float]) -> None:
        """Says where training stands: on the bar, or as a line where there is no terminal.

        Args:
            step: finished steps.
            values: the latest of train and dev.
        """
        now = time.monotonic()
        if step > self._shown_step:
            self._pace = (step - self._shown_step) / (now - self._shown_at)
            self._shown_at, self._shown_step = now, step
        numbers = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        status = (
            f"epoch {-(-step // self._steps_per_epoch)}/{self._epochs}  {numbers}  "
            f"{self._pace * self._batch_size:,.0f} images/s  {self._left(step)} left"
        )
        if self._bar:
            self._bar.update(self._task, completed=step, status=status)
        else:
            self.note(status)

    def note(self, text: str) -> None:
        """Prints a line of the stage's own."""
        if self._bar:
            self._bar.console.print(f"{self.stage}  {text}")
        elif not self._silent:
            print(f"{self.stage}  {text}", flush=True)

    def _left(self, step: int) -> str:
        return _clock((self._total() - step) / self._pace) if self._pace else "?"

    def _total(self) -> int:
        return self._epochs * self._steps_per_epoch

    @property
    def live(self) -> bool:
        """Whether there is a bar, so that it is worth showing more often than once an epoch."""
        return self._bar is not None


def _bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), TimeElapsedColumn())
    return Progress(*columns, TextColumn("{task.fields[status]}"), console=Console())


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def _keep_until(path: pathlib.Path, step: int) -> None:
    """Drops the lines of later steps, and a last line that a kill has cut short."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if record["step"] <= step:
            kept.append(line + "\n")
    files.write(path, "".join(kept))  # a kill now must not lose the lines before

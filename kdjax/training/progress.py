"""The progress of a stage on the terminal: a bar within the epoch, or a line per epoch in a log."""

import collections
import sys
import time
from collections.abc import Mapping

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from kdjax.runtime import compiler

_BAR_WIDTHS = (6, 20)  # in up to 80 columns, and in wider terminals
# The metrics that a terminal shows first, and their names there.
_MAIN_METRICS: Mapping[str, str] = {"dev_accuracy": "dev", "loss": "loss"}


class Progress:
    """Shows the progress of the networks that are trained together; a context manager.

    Attributes:
        stage: `teacher` or `student`.
    """

    def __init__(
        self,
        stage: str,
        *,
        steps_per_epoch: int,
        epochs: int,
        batch_size: int,
        done: int,
        silent: bool = False,
    ) -> None:
        """Describes the stage; entering the context starts the bar and the measurement of time.

        Args:
            stage: `teacher` or `student`.
            steps_per_epoch: optimizer steps in an epoch.
            epochs: of the whole stage.
            batch_size: images in a batch.
            done: steps finished when this session starts.
            silent: print nothing, because another process does.
        """
        self.stage, self._steps_per_epoch, self._epochs = stage, steps_per_epoch, epochs
        self._batch_size, self._silent = batch_size, silent
        self._step = done
        self._steps_per_second = 0.0
        self._shown: dict[str, Mapping[str, float]] = {}
        # Working seconds and finished steps at the start and at the ends of the last two epochs.
        self._marks = collections.deque([(_working_seconds(), done)], maxlen=2)
        self._console = Console()
        terminal = sys.stdout.isatty() and not silent
        self._bar = Live(console=self._console, get_renderable=self.render) if terminal else None

    def __enter__(self) -> "Progress":
        self._marks[0] = _working_seconds(), self._step
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    @property
    def live(self) -> bool:
        """Whether there is a bar, which is worth moving within an epoch."""
        return self._bar is not None

    def move(self, step: int, name: str = "", values: Mapping[str, float] | None = None) -> None:
        """Moves the bar; does nothing without a terminal.

        Args:
            step: finished steps.
            name: of the network, as in `show_epoch`.
            values: its latest metrics, if they are new.
        """
        if self._bar:
            self._measure(step, self._marks[0])
            if values is not None:
                self._shown[name] = values

    def show_epoch(self, step: int, name: str, values: Mapping[str, float]) -> None:
        """Shows the metrics at the end of an epoch; without a terminal, prints them as a line.

        Args:
            step: finished steps.
            name: of the network; empty if it is the only one of the stage.
            values: the latest metrics of train and dev.
        """
        self._measure(step, self._marks[-1])
        if step > self._marks[-1][1]:
            self._marks.append((_working_seconds(), step))
        if self._bar:
            self._shown[name] = values
        elif not self._silent:
            metrics = [f"{metric} {value:.4g}" for metric, value in values.items()]
            print("  ".join([name or self.stage, self._epoch(), *metrics, *self._speed()]))
            sys.stdout.flush()

    def note(self, text: str) -> None:
        """Prints a line, beginning with the name of the stage."""
        if self._bar:
            self._bar.console.print(f"{self.stage}  {text}", highlight=False)
        elif not self._silent:
            print(f"{self.stage}  {text}", flush=True)

    def _measure(self, step: int, mark: tuple[float, int]) -> None:
        """Computes the speed since a mark; without new steps, the last one stays."""
        seconds, steps = _working_seconds() - mark[0], step - mark[1]
        if steps > 0 and seconds > 0:
            self._steps_per_second = steps / seconds
        self._step = step

    def _epoch(self) -> str:
        return f"epoch {self._epoch_number()}/{self._epochs}"

    def _epoch_number(self) -> int:
        return max(1, -(-self._step // self._steps_per_epoch))

    def _speed(self) -> list[str]:
        """Returns the images per second, and the time left at this speed."""
        rate = self._steps_per_second
        left = self._steps_per_epoch * self._epochs - self._step
        time_left = _hours_minutes_seconds(left / rate) if rate else "?"
        return [f"{rate * self._batch_size:,.0f} images/s", f"{time_left} left"]

    def render(self) -> Table:
        """Returns the bar with its text, and below it a line for each of several networks."""
        width = self._console.width
        bar_width = _BAR_WIDTHS[width > 80]
        compiling = not self._steps_per_second and not self._shown
        status = [self._epoch(), *(["compiling"] if compiling else self._speed())]
        room = width - len(self.stage) - bar_width - 2
        if metrics := self._shown.get(""):
            status[1:1] = _fitting_metrics(metrics, room - len(" ".join(status)) - 1)
        finished = self._step - (self._epoch_number() - 1) * self._steps_per_epoch
        bar = ProgressBar(total=self._steps_per_epoch, completed=finished, width=bar_width)
        table = Table.grid(padding=(0, 1, 0, 0))
        table.add_row(self.stage, bar, _line(" ".join(status)))
        return self._add_networks(table, width)

    def _add_networks(self, table: Table, width: int) -> Table:
        outer = Table.grid()
        outer.add_row(table)
        for name, values in self._shown.items():
            if name:
                metrics = _fitting_metrics(values, width - len(name) - 4)
                outer.add_row(_line("  ".join([f"  {name}", *metrics])))
        return outer


def _working_seconds() -> float:
    """Returns a clock that stands still while programs are compiled."""
    return time.monotonic() - compiler.compile_seconds()


def _line(text: str) -> Text:
    return Text(text, no_wrap=True, overflow="crop")


def _fitting_metrics(values: Mapping[str, float], room: int) -> list[str]:
    """Returns the metrics for which there is room, the most important ones first.

    Args:
        values: by name.
        room: characters, with a space after each metric.
    """
    first = [name for name in _MAIN_METRICS if name in values]
    shown: list[str] = []
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

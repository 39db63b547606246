"""Where the metrics of training are written: JSON lines and TensorBoard.

To add another destination, write a class with the methods of `MetricWriter` and add it to
`METRIC_WRITERS`; see "Add a metric writer" in docs/design.md.
"""

import json
import os
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from kdjax.runtime import atomic_io


class MetricWriter(Protocol):
    """A destination for the metrics of one stage."""

    def write(self, step: int, split: str, clock: float, values: Mapping[str, float]) -> None:
        """Writes the metrics of a split.

        Args:
            step: finished steps.
            split: `train` or `dev`.
            clock: seconds trained so far, over all sessions of the run.
            values: by the name of the metric.
        """
        ...

    def close(self) -> None:
        """Writes what is buffered and releases the destination."""
        ...


class JsonLinesWriter:
    """Appends one JSON object per call to `metrics.jsonl`."""

    def __init__(self, folder: pathlib.Path, done: int) -> None:
        """Opens the file and drops the lines of steps after `done`.

        Args:
            folder: of the stage.
            done: steps finished when this session starts.
        """
        path = folder / "metrics.jsonl"
        _drop_after(path, done)
        self._file = path.open("a")

    def write(self, step: int, split: str, clock: float, values: Mapping[str, float]) -> None:
        """Appends a line; see `MetricWriter.write`."""
        line = {"step": step, "split": split, "clock": round(clock, 3), **values}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class TensorBoardWriter:
    """Writes scalars `<split>/<metric>` as TensorBoard events in `tensorboard/`."""

    def __init__(self, folder: pathlib.Path, done: int) -> None:
        """Opens an event file; TensorBoard hides what older files hold of steps after `done`.

        Args:
            folder: of the stage.
            done: steps finished when this session starts.
        """
        from tensorboardX import SummaryWriter  # slow to import

        # The names of tensorboardX differ only by the second; TensorBoard reads them in this order.
        suffix = f".{time.time_ns()}.{os.getpid()}"
        self._writer = SummaryWriter(
            str(folder / "tensorboard"), purge_step=done + 1, filename_suffix=suffix
        )

    def write(self, step: int, split: str, clock: float, values: Mapping[str, float]) -> None:
        """Adds the scalars; see `MetricWriter.write`."""
        for name, value in values.items():
            self._writer.add_scalar(f"{split}/{name}", value, step)

    def close(self) -> None:
        """Closes the event file."""
        self._writer.close()


# `(folder of the stage, steps already done) -> MetricWriter`; a run opens all of them.
METRIC_WRITERS: dict[str, Callable[[pathlib.Path, int], MetricWriter]] = {
    "jsonl": JsonLinesWriter,
    "tensorboard": TensorBoardWriter,
}


def _drop_after(path: pathlib.Path, step: int) -> None:
    """Removes the lines of later steps and damaged ones, such as one cut off by a kill."""
    if path.exists():
        lines = path.read_bytes().splitlines()
        kept = [line + b"\n" for line in lines if 0 <= _step(line) <= step]
        atomic_io.write_file(path, b"".join(kept))


def _step(line: bytes) -> int:
    """Returns the step of a line of `metrics.jsonl`; -1 if it is damaged."""
    try:
        return int(json.loads(line.decode())["step"])
    except (ValueError, TypeError, KeyError, IndexError):
        return -1

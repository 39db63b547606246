"""Progress and logs with a clock that stands still until a test sets it; readers of their files."""

import contextlib
import pathlib
import struct
import types
from collections.abc import Iterator
from typing import Any

import pytest
import tensorboardX.event_file_writer
from tensorboardX.proto.event_pb2 import Event, SessionLog

from kdjax.training import progress, stage_log
from kdjax.training.progress import Progress
from kdjax.training.stage_log import StageLog


def frozen_clock(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """Replaces the clocks of progress, log and event files by `clock.now`, in seconds."""
    clock = types.SimpleNamespace(now=1e9)
    for module in (progress, stage_log):
        monkeypatch.setattr(module, "time", types.SimpleNamespace(monotonic=lambda: clock.now))
    event_time = types.SimpleNamespace(time=lambda: clock.now)
    monkeypatch.setattr(tensorboardX.event_file_writer, "time", event_time)
    return clock


def make_progress(*, done: int = 0, silent: bool = False) -> Progress:
    """Returns the progress of students with 3 epochs of 4 steps of 16 images."""
    sizes = {"steps_per_epoch": 4, "epochs": 3, "batch_size": 16}
    return Progress("student", **sizes, done=done, silent=silent)


@contextlib.contextmanager
def open_log(
    folder: pathlib.Path, done: int = 0, clock: float = 0.0, silent: bool = False, **options: Any
) -> Iterator[StageLog]:
    """Opens the log of a student with 3 epochs of 4 steps of 16 images."""
    with (
        make_progress(done=done, silent=silent) as shown,
        StageLog(folder, shown, done=done, clock=clock, silent=silent, **options) as log,
    ):
        yield log


def tensorboard_scalars(folder: pathlib.Path) -> list[tuple[int, str, float]]:
    """Returns the scalars that TensorBoard shows: later sessions hide steps of earlier ones."""
    scalars: list[tuple[int, str, float]] = []
    for path in sorted((folder / "tensorboard").iterdir()):
        content = path.read_bytes()
        while content:  # length, its checksum, the event, its checksum
            (length,) = struct.unpack_from("<Q", content)
            event = Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]
            if event.session_log.status == SessionLog.START:
                scalars = [scalar for scalar in scalars if scalar[0] < event.step]
            scalars += [(event.step, v.tag, v.simple_value) for v in event.summary.value]
    return scalars

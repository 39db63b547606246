"""Where the metrics of training are written: JSON lines, TensorBoard, Weights & Biases, MLflow.

To add another destination, write a class with the methods of `MetricWriter` and add it to
`METRIC_WRITERS`; see "A metric writer" in docs/design.md.
"""

import contextlib
import json
import os
import pathlib
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from flax.traverse_util import flatten_dict

from kdjax import extras
from kdjax.errors import unknown_name_error
from kdjax.runtime import atomic_io

ALWAYS = "jsonl"  # the report reads it
PROJECT = "kdjax"  # default project of Weights & Biases, and default experiment of MLflow


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
        # Not SummaryWriter: its thread dies on a full disk, and the training would wait for it.
        from tensorboardX.event_file_writer import EventsWriter  # slow to import
        from tensorboardX.proto.event_pb2 import SessionLog

        (folder / "tensorboard").mkdir(parents=True, exist_ok=True)
        # The names of tensorboardX differ only by the second; TensorBoard reads them in this order.
        suffix = f".{time.time_ns()}.{os.getpid()}"
        self._events = EventsWriter(str(folder / "tensorboard" / "events"), suffix)
        self._add(step=done + 1, session_log=SessionLog(status=SessionLog.START))
        self._events.flush()

    def write(self, step: int, split: str, clock: float, values: Mapping[str, float]) -> None:
        """Adds the scalars; see `MetricWriter.write`.

        Raises:
            OSError: if they cannot be written.
        """
        from tensorboardX.summary import scalar

        for name, value in values.items():
            self._add(step=step, summary=scalar(f"{split}/{name}", value))
        self._events.flush()

    def _add(self, **fields: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._events.write_event(Event(wall_time=time.time(), **fields))

    def close(self) -> None:
        """Closes the event file."""
        self._events.close()


class WandbWriter:
    """Logs `<split>/<metric>` to a run of Weights & Biases, which a resumed stage continues.

    `WANDB_PROJECT` (default `kdjax`), `WANDB_MODE` and the other variables of wandb apply.
    """

    def __init__(self, folder: pathlib.Path, done: int) -> None:
        """Starts the run, or continues it; wandb ignores the steps that it already has.

        Args:
            folder: of the stage.
            done: steps finished when this session starts.
        """
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=_run_id(folder, "wandb", lambda: uuid.uuid4().hex),
            resume="allow",
            name=_run_name(folder),
            config=_stored_config(folder),
            dir=str(folder),
            reinit="create_new",  # students that are trained together have a run each
            settings=wandb.Settings(console="off"),  # what the terminal shows is not captured
        )

    def write(self, step: int, split: str, clock: float, values: Mapping[str, float]) -> None:
        """Logs the metrics; see `MetricWriter.write`."""
        metrics = {f"{split}/{name}": value for name, value in values.items()}
        self._run.log({**metrics, "clock": clock}, step=step)

    def close(self) -> None:
        """Sends what is left, and ends the run."""
        self._run.finish()


class MlflowWriter:
    """Logs `<split>/<metric>` to a run of MLflow, which a resumed stage continues.

    `MLFLOW_TRACKING_URI` and `MLFLOW_EXPERIMENT_NAME` (default `kdjax`) apply.
    """

    def __init__(self, folder: pathlib.Path, done: int) -> None:
        """Starts the run, or continues it.

        Args:
            folder: of the stage.
            done: steps finished when this session starts.
        """
        import mlflow

        self._entities, self._client = mlflow.entities, mlflow.MlflowClient()
        self._id = _run_id(folder, "mlflow", lambda: self._start(_run_name(folder)))
        self._client.update_run(self._id, status="RUNNING")
        # The limits of MLflow: 500 characters in a value, 100 parameters in a request.
        params = [
            self._entities.Param(name, str(value)[:500])
            for name, value in flatten_dict(_stored_config(folder), sep=".").items()
        ]
        for first in range(0, len(params), 100):
            self._client.log_batch(self._id, params=params[first : first + 100])

    def _start(self, name: str) -> str:
        """Starts a run, and returns its id."""
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        known = self._client.get_experiment_by_name(experiment)
        number = known.experiment_id if known else self._client.create_experiment(experiment)
        return str(self._client.create_run(number, run_name=name).info.run_id)

    def write(self, step: int, split: str, clock: float, values: Mapping[str, float]) -> None:
        """Logs the metrics; see `MetricWriter.write`."""
        now = int(1000 * time.time())
        metrics = {**{f"{split}/{name}": value for name, value in values.items()}, "clock": clock}
        self._client.log_batch(
            self._id,
            metrics=[
                self._entities.Metric(name, float(value), now, step)
                for name, value in metrics.items()
            ],
        )

    def close(self) -> None:
        """Ends the run."""
        self._client.set_terminated(self._id)


# `(folder of the stage, steps already done) -> MetricWriter`. Every stage opens `ALWAYS`, and those
# that the config field `metric_writers` names.
METRIC_WRITERS: dict[str, Callable[[pathlib.Path, int], MetricWriter]] = {
    "jsonl": JsonLinesWriter,
    "tensorboard": TensorBoardWriter,
    "wandb": WandbWriter,
    "mlflow": MlflowWriter,
}


def check_names(names: Sequence[str]) -> None:
    """Raises if a name is not one of `METRIC_WRITERS`.

    Raises:
        InputError: with the nearest name.
    """
    for name in names:
        if name not in METRIC_WRITERS:
            raise unknown_name_error("metric_writers", name, METRIC_WRITERS)


def open_writers(names: Sequence[str], folder: pathlib.Path, done: int) -> list[MetricWriter]:
    """Returns the writer of JSON lines, and those of the names.

    Training does not depend on the others: one that fails is closed with a warning.

    Args:
        names: keys of `METRIC_WRITERS`.
        folder: of the stage.
        done: steps finished when this session starts.
    """
    optional = [name for name in dict.fromkeys(names) if name != ALWAYS]
    writers = [OptionalWriter(name, folder, done) for name in optional]
    return [METRIC_WRITERS[ALWAYS](folder, done), *writers]


class OptionalWriter:
    """A metric writer that warns once when it fails, and then does nothing."""

    def __init__(self, name: str, folder: pathlib.Path, done: int) -> None:
        """Opens the writer.

        Args:
            name: a key of `METRIC_WRITERS`.
            folder: of the stage.
            done: steps finished when this session starts.
        """
        self._name = name
        self._writer: MetricWriter | None = None
        with self._warning():
            self._writer = METRIC_WRITERS[name](folder, done)

    def write(self, step: int, split: str, clock: float, values: Mapping[str, float]) -> None:
        """Passes the metrics on; see `MetricWriter.write`."""
        if self._writer:
            with self._warning():
                self._writer.write(step, split, clock, values)

    def close(self) -> None:
        """Closes the writer."""
        if self._writer:
            with self._warning():
                self._writer.close()

    @contextlib.contextmanager
    def _warning(self) -> Iterator[None]:
        """Turns an error into a warning, after which the writer is not used any more."""
        try:
            yield
        except Exception as error:
            self._writer = None
            reason = isinstance(error, ModuleNotFoundError) and extras.missing_library_error(error)
            text = str(reason or error).strip().splitlines() or [type(error).__name__]
            warnings.warn(
                f"the metric writer {self._name!r} is off, training goes on: {text[0]}",
                RuntimeWarning,
                stacklevel=2,
            )


def _run_id(folder: pathlib.Path, service: str, start: Callable[[], str]) -> str:
    """Returns the id of the folder's run in a service; the first session starts the run."""
    path = folder / "metric_runs.json"
    runs: dict[str, str] = atomic_io.read_json(path) if path.exists() else {}
    if service not in runs:
        runs[service] = start()
        atomic_io.write_json(path, runs)
    return runs[service]


def _run_name(folder: pathlib.Path) -> str:
    """Returns the last two parts of the folder, such as `digits/teacher`."""
    return "/".join(folder.absolute().parts[-2:])


def _stored_config(folder: pathlib.Path) -> dict[str, Any]:
    """Returns the config of the stage, from its workdir."""
    path = folder / "config.json"
    return atomic_io.read_json(path)["config"] if path.exists() else {}


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

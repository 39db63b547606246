"""Checkpoints of one training stage, written and read with Orbax.

A checkpoint holds the train state (its step is also the position in the data), the seconds trained
so far and the config. Once it is complete, a file of checksums is added. The newest two and the
best are kept: if the newest is damaged, training continues from the one before it.
"""

import contextlib
import dataclasses
import errno
import glob
import json
import logging
import math
import os
import pathlib
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from etils.epath.gpath import PosixGPath
from flax.traverse_util import flatten_dict
from orbax.checkpoint import v1 as ocp

from kdjax.errors import InputError
from kdjax.runtime import multihost, sharding
from kdjax.runtime.atomic_io import write_json

# Prefix of the folders of checkpoints that Orbax cannot list.
_DAMAGED_PREFIX = "damaged-"
_CHECKSUMS = "kdjax_crc32.json"
_POLICIES = ocp.training.preservation_policies


class _LiteralPath(PosixGPath):
    """A path of Orbax in which brackets and stars of the folder are not patterns."""

    def glob(self, pattern: str) -> Iterator["_LiteralPath"]:
        yield from map(type(self), PosixGPath(glob.escape(str(self))).glob(pattern))


@jax.jit
def _copy(state: Any) -> Any:
    """Returns a copy of each array, in one program."""
    return jax.tree.map(jnp.copy, state)


class RestoredCheckpoint(NamedTuple):
    """The content of a checkpoint.

    Attributes:
        step: finished steps.
        state: the train state.
        clock: seconds trained so far.
        metrics: on the development split at that step, and `score`; empty within an epoch.
    """

    step: int
    state: Any
    clock: float
    metrics: Mapping[str, float]


class Checkpoints(contextlib.AbstractContextManager):
    """The checkpoints of one stage; a context manager that waits for the last save."""

    def __init__(
        self, folder: pathlib.Path, config: Mapping[str, Any], *, read_only: bool = False
    ) -> None:
        """Opens the folder.

        Args:
            folder: created if it is missing.
            config: stored with every checkpoint.
            read_only: keep unfinished checkpoints, which another process may be writing; otherwise
                they are removed.
        """
        for logger in ("absl", "asyncio"):  # Orbax logs every file, and repeats its errors
            logging.getLogger(logger).setLevel(logging.CRITICAL)
        if multihost.is_primary():
            _rename_unlistable(folder)
        multihost.barrier("checkpoints can be listed")
        self.folder = folder
        self.config = dict(config)
        best = _POLICIES.BestN(
            get_metric_fn=lambda metrics: metrics.get("score", -math.inf),
            n=1,
            keep_checkpoints_without_metrics=False,
        )
        self._pending_step: int | None = None
        self._bytes = 0  # of the state that was saved last
        self._orbax = ocp.training.Checkpointer(
            _LiteralPath(folder.absolute()),
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=_POLICIES.AnyPreservationPolicy([_POLICIES.LatestN(2), best]),
            cleanup_tmp_directories=not read_only,
        )

    def __exit__(self, *_: object) -> None:
        try:
            self._finish_pending_save()
        finally:
            with contextlib.suppress(Exception):  # repeats the error of the failed save
                self._orbax.close()

    def save(
        self,
        step: int,
        state: Any,
        *,
        score: float | None,
        clock: float,
        metrics: Mapping[str, float],
    ) -> None:
        """Writes a checkpoint in the background, completely or not at all.

        Args:
            step: finished steps.
            state: copied on the device first, because the next step reuses its buffers.
            score: on the development split, higher is better; None if the checkpoint must not be
                chosen as the best while a scored one exists.
            clock: seconds trained so far.
            metrics: on the development split.

        Raises:
            OSError: if this checkpoint or the previous one cannot be written.
        """
        self._finish_pending_save()
        self._bytes = sum(getattr(leaf, "nbytes", 0) for leaf in jax.tree.leaves(state))
        with _name_checkpoint(self.folder / str(step), self._bytes):
            self._orbax.save_async(
                step,
                _copy(state),
                force=True,
                overwrite=True,  # a damaged checkpoint of this step, which was skipped
                metrics=({} if score is None else {"score": score}) | dict(metrics) or None,
                custom_metadata={"clock": clock, "config": self.config},
            )
        self._pending_step = step

    def _finish_pending_save(self) -> None:
        """Waits for the save in the background and adds its checksums."""
        # A failed save must not get checksums, so the pending step is forgotten first.
        step, self._pending_step = self._pending_step, None
        if step is not None:
            with _name_checkpoint(self.folder / str(step), self._bytes):
                self._orbax.wait()
                if multihost.is_primary():
                    _write_checksums(self.folder / str(step))

    def steps(self) -> list[int]:
        """Returns the steps of the existing checkpoints, oldest first."""
        return sorted(checkpoint.step for checkpoint in self._orbax.checkpoints)

    def latest(self, template: Any, at_most: int | None = None) -> RestoredCheckpoint | None:
        """Returns the newest readable checkpoint; None if there is none up to `at_most`.

        A damaged checkpoint is skipped with a warning.

        Args:
            template: a state of the same structure, arrays or shapes.
            at_most: ignore the checkpoints of later steps.

        Raises:
            InputError: if the folder holds checkpoints and none of them can be read.
        """
        steps = [step for step in self.steps() if at_most is None or step <= at_most]
        for step in reversed(steps):
            try:
                return self._restore(step, template)
            except InputError:
                raise
            except Exception as error:  # its type depends on which file is damaged
                _warn_damaged(self.folder / str(step), error)
        renamed = [path.name for path in self.folder.glob(f"{_DAMAGED_PREFIX}*")]
        if (steps or renamed) and steps == self.steps():
            raise InputError(
                f"none of the checkpoints in {self.folder} can be read: "
                f"{', '.join([*map(str, steps), *renamed])}; remove the folder to train from the "
                "start"
            )
        return None

    def best(self, template: Any) -> RestoredCheckpoint | None:
        """Returns the checkpoint with the highest score.

        The latest one if the best is damaged, or if no checkpoint has a score.

        Args:
            template: a state of the same structure, arrays or shapes.

        Raises:
            InputError: if there are checkpoints and none can be read.
        """
        scored = [
            (checkpoint.metrics["score"], checkpoint.step)
            for checkpoint in self._orbax.checkpoints
            if checkpoint.metrics and "score" in checkpoint.metrics
        ]
        if not scored:
            return self.latest(template)
        step = max(scored)[1]
        try:
            return self._restore(step, template)
        except InputError:
            raise
        except Exception as error:
            _warn_damaged(self.folder / str(step), error)
            return self.latest(template)

    def _restore(self, step: int, template: Any) -> RestoredCheckpoint:
        _verify_checksums(self.folder / str(step))
        metadata = self._orbax.metadata(step)
        _check_shapes(self.folder / str(step), metadata.metadata, template)
        # The checkpoint may have been written on other devices than those of this process.
        replicated = sharding.replicated_sharding()
        abstract = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=replicated),
            template,
        )
        state = _load(abstract, metadata.metadata, lambda item: self._orbax.load(step, item))
        clock = float(metadata.custom_metadata["clock"])
        return RestoredCheckpoint(step, state, clock, dict(metadata.metrics or {}))


def _load(abstract: Any, stored: Any, load: Callable[[Any], Any]) -> Any:
    """Returns a state from a checkpoint, which may be older than some of the state's fields.

    Orbax refuses a checkpoint without a field, even if the field has no arrays. Such fields are
    left out.

    Args:
        abstract: the state with shapes in place of arrays.
        stored: the shapes in the checkpoint, as Orbax gives them.
        load: reads what it is given from the checkpoint.
    """
    if not dataclasses.is_dataclass(abstract) or not isinstance(stored, Mapping):
        return load(abstract)
    fields = {field.name: getattr(abstract, field.name) for field in dataclasses.fields(abstract)}
    new = {name for name in fields.keys() - stored.keys() if not jax.tree.leaves(fields[name])}
    if not new:
        return load(abstract)
    loaded = load({name: value for name, value in fields.items() if name not in new})
    return dataclasses.replace(abstract, **loaded)  # type: ignore[type-var]


def _check_shapes(path: pathlib.Path, stored: Any, template: Any) -> None:
    """Raises if the variables of a checkpoint are not those of the network.

    Args:
        path: of the checkpoint, for the message.
        stored: the shapes in the checkpoint, as Orbax gives them.
        template: the state of the network.

    Raises:
        InputError: naming a variable that differs.
    """
    stored = _shapes(stored.get("variables") if isinstance(stored, Mapping) else None)
    needed = _shapes(getattr(template, "variables", None))
    for name in sorted(stored.keys() | needed.keys()) if stored and needed else ():
        if stored.get(name) != needed.get(name):
            raise InputError(
                f"checkpoint {path} does not fit the network: {name} is "
                f"{stored.get(name, 'missing')} in the checkpoint, and "
                f"{needed.get(name, 'missing')} in the network; its code has changed since the "
                "training"
            )


def _shapes(variables: Any) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each array in nested dicts, by its path."""
    if not isinstance(variables, Mapping):
        return {}
    leaves = flatten_dict(variables, sep=".").items()
    return {name: tuple(leaf.shape) for name, leaf in leaves if hasattr(leaf, "shape")}


def _checksums(folder: pathlib.Path) -> dict[str, int]:
    """Returns the CRC-32 of every file of a checkpoint, by its path in the folder."""
    paths = (
        path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != _CHECKSUMS
    )
    return {path.relative_to(folder).as_posix(): zlib.crc32(path.read_bytes()) for path in paths}


def _write_checksums(folder: pathlib.Path) -> None:
    write_json(folder / _CHECKSUMS, _checksums(folder))


def _verify_checksums(folder: pathlib.Path) -> None:
    """Raises if a file of a checkpoint has changed; Orbax stores no checksums of the arrays.

    If the process was killed before it wrote the checksums, only Orbax checks the files.
    """
    if (folder / _CHECKSUMS).exists():
        stored, actual = json.loads((folder / _CHECKSUMS).read_text()), _checksums(folder)
        changed = sorted(name for name in stored if stored[name] != actual.get(name))
        if changed:
            raise ValueError(f"{changed[0]} has changed since it was written")


@contextlib.contextmanager
def _name_checkpoint(path: pathlib.Path, size: int) -> Iterator[None]:
    """Turns an error of Orbax, of any type, into an OSError that names the checkpoint.

    Args:
        path: of the checkpoint.
        size: of its arrays, in bytes.
    """
    try:
        yield
    except Exception as error:
        if multihost.is_peer_failure(error):
            raise
        raise OSError(
            f"checkpoint {path} cannot be written: {_reason(error, path.parent, size)}; earlier "
            "checkpoints are intact, and the same command resumes from them"
        ) from error


def _reason(error: Exception, folder: pathlib.Path, size: int) -> str:
    """Returns why a checkpoint could not be written.

    Orbax writes in several threads. Which of their errors it raises depends on their order, and
    may be one that follows from another, as a missing file on a full disk. So the system is asked
    first whether it has the space.
    """
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, max(size, 1))
    except OSError as refused:
        if refused.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            return str(refused.strerror)
    lines = str(error).strip().splitlines()
    return lines[-1].rpartition('": ')[2] if lines else type(error).__name__


def _warn_damaged(path: pathlib.Path, error: BaseException) -> None:
    while error.__cause__ is not None:
        error = error.__cause__
    reason = (str(error).strip().splitlines() or [""])[0][:160]
    warnings.warn(
        f"checkpoint {path} is damaged ({type(error).__name__}: {reason}); using another one",
        RuntimeWarning,
        stacklevel=3,
    )


def _rename_unlistable(folder: pathlib.Path) -> None:
    """Renames checkpoints with damaged metrics: Orbax could not list any checkpoint with them."""
    for metrics in sorted(folder.glob("[0-9]*/metrics/metrics")):
        if not metrics.parent.parent.name.isdigit():
            continue  # Orbax gives an unfinished checkpoint a name with a suffix
        try:
            json.loads(metrics.read_text())
        except ValueError as error:
            step = metrics.parent.parent
            _warn_damaged(step, error)
            step.rename(step.with_name(f"{_DAMAGED_PREFIX}{step.name}-{time.time_ns()}"))

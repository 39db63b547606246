"""Checkpoints of one training stage: all that touches Orbax.

A checkpoint holds the train state (whose step is the position in the data), the seconds trained so
far and the config; a seal of checksums closes it. The newest two and the best are kept, so that a
damaged newest one has another before it, and choosing the best never costs the latest.
"""

import contextlib
import json
import logging
import pathlib
import time
import warnings
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from orbax.checkpoint import v1 as ocp

from kdjax import parallel
from kdjax.errors import InputError
from kdjax.workdir import write_json

_DAMAGED = "damaged-"
_SEAL = "kdjax_crc32.json"
_POLICIES = ocp.training.preservation_policies


class Restored(NamedTuple):
    """What a checkpoint gives back.

    Attributes:
        step: finished steps.
        state: the train state.
        clock: seconds trained so far.
        metrics: of the development split at that step.
    """

    step: int
    state: Any
    clock: float
    metrics: Mapping[str, float]


class Checkpoints(contextlib.AbstractContextManager):
    """The checkpoints of one stage; a context manager that waits for the last save."""

    def __init__(self, folder: pathlib.Path, config: Mapping[str, Any]) -> None:
        """Opens the folder.

        Args:
            folder: made if it is missing.
            config: stored with every checkpoint.
        """
        for chatty in ("absl", "asyncio"):  # Orbax reports each file, and damage many times over
            logging.getLogger(chatty).setLevel(logging.CRITICAL)
        if parallel.primary():
            _set_aside_unlistable(folder)
        parallel.wait("checkpoints can be listed")
        self.folder = folder
        self.config = dict(config)
        best = _POLICIES.BestN(get_metric_fn=lambda metrics: metrics["score"], n=1)
        self._unsealed: int | None = None
        self._orbax = ocp.training.Checkpointer(
            folder.absolute(),
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=_POLICIES.AnyPreservationPolicy([_POLICIES.LatestN(2), best]),
            cleanup_tmp_directories=True,
        )

    def __exit__(self, *_: object) -> None:
        try:
            self._settle()
        finally:
            with contextlib.suppress(Exception):  # of a save that failed, told above already
                self._orbax.close()

    def save(
        self,
        step: int,
        state: Any,
        *,
        score: float,
        clock: float,
        metrics: Mapping[str, float],
    ) -> None:
        """Writes a checkpoint in the background; atomic.

        Args:
            step: finished steps.
            state: copied on the device first, because the next step reuses its buffers.
            score: of the development split; the highest is the best.
            clock: seconds trained so far.
            metrics: of the development split.

        Raises:
            OSError: if this one, or the one before, cannot be written.
        """
        self._settle()
        with _named(self.folder / str(step)):
            self._orbax.save_async(
                step,
                jax.tree.map(jnp.copy, state),
                force=True,
                overwrite=True,  # of a damaged checkpoint that the run fell back behind
                metrics={"score": score, **metrics},
                custom_metadata={"clock": clock, "config": self.config},
            )
        self._unsealed = step

    def _settle(self) -> None:
        """Waits for the last save, and seals it."""
        step, self._unsealed = self._unsealed, None  # what has failed is never sealed
        if step is not None:
            with _named(self.folder / str(step)):
                self._orbax.wait()
                if parallel.primary():
                    _seal(self.folder / str(step))

    def steps(self) -> list[int]:
        """Returns the steps that a checkpoint exists of, oldest first."""
        return sorted(checkpoint.step for checkpoint in self._orbax.checkpoints)

    def latest(self, template: Any, at_most: int | None = None) -> Restored | None:
        """Returns the newest checkpoint that can be read, or None where there is none at all.

        A damaged one is passed over with a warning.

        Args:
            template: a state of the same structure, arrays or shapes.
            at_most: the step beyond which none is wanted.

        Raises:
            InputError: if there are checkpoints and none can be read.
        """
        steps = [step for step in self.steps() if at_most is None or step <= at_most]
        for step in reversed(steps):
            try:
                return self._restore(step, template)
            except Exception as error:  # a damaged file raises whatever its reader meets
                _warn_damaged(self.folder / str(step), error)
        set_aside = [path.name for path in self.folder.glob(f"{_DAMAGED}*")]
        if steps or set_aside:
            raise InputError(
                f"none of the checkpoints in {self.folder} can be read: "
                f"{', '.join([*map(str, steps), *set_aside])}; remove the folder to start afresh"
            )
        return None

    def best(self, template: Any) -> Restored | None:
        """Returns the checkpoint with the highest score, or the latest if that one is damaged.

        Args:
            template: a state of the same structure, arrays or shapes.
        """
        scored = [(c.metrics["score"], c.step) for c in self._orbax.checkpoints if c.metrics]
        if not scored:
            return self.latest(template)
        step = max(scored)[1]
        try:
            return self._restore(step, template)
        except Exception as error:
            _warn_damaged(self.folder / str(step), error)
            return self.latest(template)

    def _restore(self, step: int, template: Any) -> Restored:
        _verify(self.folder / str(step))
        # Whatever devices wrote it: it is read onto those that there are now.
        place = parallel.replicated()
        abstract = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), template
        )
        state = self._orbax.load(step, abstract)
        found = self._orbax.metadata(step)
        return Restored(
            step, state, float(found.custom_metadata["clock"]), dict(found.metrics or {})
        )


def _files(step: pathlib.Path) -> dict[str, int]:
    """Returns the checksum of every file of a checkpoint, by its path within."""
    paths = (path for path in sorted(step.rglob("*")) if path.is_file() and path.name != _SEAL)
    return {path.relative_to(step).as_posix(): zlib.crc32(path.read_bytes()) for path in paths}


def _seal(step: pathlib.Path) -> None:
    write_json(step / _SEAL, _files(step))


def _verify(step: pathlib.Path) -> None:
    """Raises where a sealed checkpoint has changed: Orbax has no checksum over the arrays.

    One that was killed before it was sealed is left to Orbax's own checks.
    """
    if (step / _SEAL).exists():
        sealed, found = json.loads((step / _SEAL).read_text()), _files(step)
        changed = sorted(name for name in sealed if sealed[name] != found.get(name))
        if changed:
            raise ValueError(f"{changed[0]} has changed since it was written")


@contextlib.contextmanager
def _named(path: pathlib.Path) -> Iterator[None]:
    """Names the checkpoint that could not be written; Orbax raises whatever its writer met."""
    try:
        yield
    except Exception as error:
        if parallel.lost(error):
            raise
        reason = str(error).strip().splitlines()[-1].rpartition('": ')[2]
        raise OSError(
            f"checkpoint {path} cannot be written: {reason}; those before it are whole, and the "
            "same command continues from them"
        ) from error


def _warn_damaged(path: pathlib.Path, error: BaseException) -> None:
    while error.__cause__ is not None:
        error = error.__cause__
    reason = (str(error).strip().splitlines() or [""])[0][:160]
    warnings.warn(
        f"checkpoint {path} is damaged ({type(error).__name__}: {reason}); taking another",
        RuntimeWarning,
        stacklevel=3,
    )


def _set_aside_unlistable(folder: pathlib.Path) -> None:
    """Renames checkpoints whose metrics are damaged, because Orbax cannot list past them."""
    for metrics in sorted(folder.glob("[0-9]*/metrics/metrics")):
        try:
            json.loads(metrics.read_text())
        except ValueError as error:
            step = metrics.parent.parent
            _warn_damaged(step, error)
            step.rename(step.with_name(f"{_DAMAGED}{step.name}-{time.time_ns()}"))

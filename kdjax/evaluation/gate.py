"""The gate of a run: which images are stopped because they are unlike those of training."""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from kdjax import selective
from kdjax.errors import InputError, unknown_name_error
from kdjax.evaluation.predictions import SPLITS, Predictions
from kdjax.runtime import atomic_io
from kdjax.selective import outliers, validation
from kdjax.selective.outliers import ENERGY, GATES, MAHALANOBIS, NONE, ClassGaussian

_FITTED = ClassGaussian._fields


class Gate(NamedTuple):
    """A rule by which an image is stopped, whatever the confidence of its prediction.

    Attributes:
        name: `energy` or `mahalanobis`.
        threshold: an image passes if its gate score is at least this; None: every image passes.
    """

    name: str
    threshold: float | None

    @property
    def stops(self) -> bool:
        """Whether there are images that do not pass."""
        return self.threshold is not None

    def scores(self, logits: Any, given: Any = None) -> Any:
        """Returns the gate score of each image, [n]; higher = more like those of training.

        Args:
            logits: [n, m+1], of numpy or JAX, also traced.
            given: the scores if the logits do not determine them, `Predictions.gate`.

        Raises:
            InputError: without `given` if that is needed.
        """
        if self.name == ENERGY:
            return selective.energy(logits, abstention=True)
        if given is None:
            raise InputError(
                f"predictions without the scores of the gate {self.name}: evaluate the run again"
            )
        return given

    def passes(self, logits: Any, given: Any = None) -> Any:
        """Returns whether each image passes, bool [n]; see `scores`."""
        return self.scores(logits, given) >= self._least

    def scores_of(self, split: Predictions) -> np.ndarray:
        """Returns the gate score of each image of a split, [n], numpy; see `scores`."""
        if self.name == ENERGY:
            return selective.numpy_score(selective.energy, split.logits)
        return np.asarray(self.scores(split.logits, split.gate))

    def passed(self, split: Predictions) -> np.ndarray:
        """Returns whether each image of a split passes, bool [n], numpy."""
        return self.scores_of(split) >= self._least

    @property
    def _least(self) -> np.float32:
        """The lowest score that passes."""
        return np.float32(-np.inf) if self.threshold is None else least_float32(self.threshold)


def least_float32(threshold: float) -> np.float32:
    """Returns the least float32 number that is not below a threshold."""
    rounded = np.float32(threshold)
    return np.nextafter(rounded, np.float32(np.inf)) if float(rounded) < threshold else rounded


def kept(gate: Gate | None, split: Predictions) -> Predictions:
    """Returns the predictions for the images that pass; all of them without a gate."""
    if gate is None or not gate.stops:
        return split
    return split.select(gate.passed(split))


def gated(gate: Gate | None, confidence: np.ndarray, split: Predictions) -> np.ndarray:
    """Returns the confidences [n] of a split, -inf for images that the gate stops."""
    return confidence if gate is None else np.where(gate.passed(split), confidence, -np.inf)


def gate_of(results: Mapping[str, Any]) -> Gate | None:
    """Returns the gate of a run from its `results.json`; None without one."""
    values = results.get("gate")
    return Gate(values["name"], values["threshold"]) if values else None


class Request(NamedTuple):
    """A gate as it is requested.

    Attributes:
        name: of `outliers.GATES`.
        acceptance: share of images that should pass, in (0, 1).
    """

    name: str
    acceptance: float


def request(
    config: ConfigDict, *, name: str | None = None, acceptance: float | None = None
) -> Request:
    """Returns the gate that a config requests.

    Args:
        config: of the run.
        name: instead of the config's.
        acceptance: instead of the config's.

    Raises:
        InputError: for an unknown name, a share outside (0, 1), or a share without a gate.
    """
    fields = config.selective
    wanted = Request(
        fields.gate if name is None else name,
        fields.gate_acceptance if acceptance is None else acceptance,
    )
    if wanted.name not in GATES:
        raise unknown_name_error("gate", wanted.name, GATES)
    validation.probability("gate_acceptance", wanted.acceptance)
    if acceptance is not None and wanted.name == NONE:
        raise InputError(f"gate_acceptance {acceptance:g} has no effect without a gate")
    return wanted


def choose(
    name: str, outputs: Mapping[str, Predictions], *, acceptance: float, delta: float
) -> Gate | None:
    """Returns the gate whose acceptance the calibration split will probably certify.

    Its threshold comes from dev. Of the calibration split only the number of images is used, so
    that the gate is fixed before that split is seen.

    Args:
        name: `none`, `energy` or `mahalanobis`.
        outputs: of dev and calibration, for `mahalanobis` with the scores of the gate.
        acceptance: share of images that should pass, in (0, 1).
        delta: in (0, 1), at which the share is certified.
    """
    if name == NONE:
        return None
    threshold = outliers.threshold_to_certify(
        Gate(name, None).scores_of(outputs["dev"]),
        acceptance=acceptance,
        examples=len(outputs["calibration"].labels),
        delta=delta,
    )
    return Gate(name, threshold)


def measure(
    gate: Gate, outputs: Mapping[str, Predictions], *, acceptance: float, delta: float
) -> dict[str, Any]:
    """Returns `gate` of `results.json`.

    Args:
        gate: of `choose`.
        outputs: of dev, calibration and test.
        acceptance: that was requested.
        delta: probability that a smaller share than `bound` passes.

    Returns:
        `name`; `threshold`, None if every image passes; `acceptance` and `delta`, as requested;
        `bound`, the certified share of images that pass; by split, `examples` and how many of them
        `passed`.
    """
    passed = {split: gate.passed(outputs[split]) for split in SPLITS}
    bound = outliers.acceptance_bound(passed["calibration"], delta=delta)
    return {
        **gate._asdict(),
        "acceptance": acceptance,
        "delta": delta,
        "bound": 1.0 if gate.threshold is None else bound.bound,
        **{
            split: {"examples": len(flags), "passed": int(flags.sum())}
            for split, flags in passed.items()
        },
    }


def save_fitted(folder: pathlib.Path, fitted: ClassGaussian | None) -> None:
    """Writes the distributions of the features in a workdir; removes earlier ones for None."""
    if fitted is None:
        _path(folder).unlink(missing_ok=True)
        return
    _path(folder).parent.mkdir(parents=True, exist_ok=True)
    arrays = {name: np.asarray(value) for name, value in fitted._asdict().items()}
    atomic_io.write_npz(_path(folder), arrays)


def load_fitted(folder: pathlib.Path, gate: Gate | None) -> ClassGaussian | None:
    """Returns the distributions of the features that the gate of a workdir needs; None if none.

    Raises:
        FileNotFoundError: if the file is missing.
        InputError: if it is damaged.
    """
    if gate is None or gate.name != MAHALANOBIS:
        return None
    center, whitening, means, shrinkage = atomic_io.read_npz(_path(folder), *_FITTED)
    return ClassGaussian(center, whitening, means, float(shrinkage))


def _path(folder: pathlib.Path) -> pathlib.Path:
    return folder / "predictions" / "gate.npz"

"""What a promise is computed from, and what report, console and model card show of it."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from kdjax import selective
from kdjax.evaluation.certification import OperatingPoint, operating_point, scores_of
from kdjax.evaluation.predictions import Predictions, accepts


class Extras(NamedTuple):
    """What only some runs have.

    Attributes:
        teacher: the outputs of the teacher, logits [n, m], by split.
        fallback: the teacher as the fallback of a cascade, see `evaluation.fallback.describe`.
        groups: the groups of the images, str [n], by split.
    """

    teacher: Mapping[str, Predictions] = MappingProxyType({})
    fallback: Mapping[str, Any] | None = None
    groups: Mapping[str, np.ndarray] = MappingProxyType({})

    def select(self, rows: Mapping[str, np.ndarray]) -> "Extras":
        """Returns the extras of some images, given by split as bool [n]."""
        return self._replace(
            teacher={
                split: outputs.select(rows[split]) if split in rows else outputs
                for split, outputs in self.teacher.items()
            },
            groups={
                split: groups[rows[split]] if split in rows else groups
                for split, groups in self.groups.items()
            },
        )


class Evidence(NamedTuple):
    """Predictions of a run and its choices, from which promises are computed.

    Attributes:
        dev: logits [n, m+1] and labels [n] of the split by which everything was chosen.
        calibration: of the split that was used for nothing else.
        test: of the test split.
        confidence: the score of the run, logits [n, m+1] -> [n], numpy.
        threshold: the lowest accepted confidence of the operating point; infinite if nothing is
            accepted.
        source: of the threshold, see `certification.OperatingPoint`.
        risk: the requested risk, in (0, 1).
        delta: probability that a promise may fail, in (0, 1).
        runs: number of runs among which one may be chosen after a look at their promises.
        class_names: m names, by label.
        settings: fields of the group `selective` of the config, by name without the group.
        extras: what only some runs have.
        class_thresholds: of each predicted class, if the operating point has them, see
            `certification.OperatingPoint`.
        gate: of `gate.measure`; None without a gate. The other promises then get the images that
            pass.
        samples: what `sample` returns, by split, where it is already known.
    """

    dev: Predictions
    calibration: Predictions
    test: Predictions
    confidence: Callable[[np.ndarray], np.ndarray]
    threshold: float
    source: str
    risk: float
    delta: float
    runs: int
    class_names: Sequence[str]
    settings: Mapping[str, Any]
    extras: Extras = Extras()
    class_thresholds: Sequence[float] | None = None
    gate: Mapping[str, Any] | None = None
    samples: Mapping[str, tuple[np.ndarray, np.ndarray]] = MappingProxyType({})

    def sample(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns the confidence [n] and whether predictions are correct, bool [n], of a split."""
        if split in self.samples:
            return self.samples[split]
        outputs: Predictions = getattr(self, split)
        return self.confidence(outputs.logits), outputs.correct

    def images(self, split: str) -> int:
        """Returns the number of images of a split, with those that a gate stops."""
        return self.gate[split]["examples"] if self.gate else len(getattr(self, split).labels)

    def accepted(self, split: str) -> np.ndarray:
        """Returns which images of a split the operating point accepts, bool [n]."""
        if self.class_thresholds is None:
            return accepts(self.sample(split)[0], self.threshold)
        predicted = selective.predicted_classes(getattr(self, split).logits)
        return self.sample(split)[0] >= np.asarray(self.class_thresholds)[predicted]


class Table(NamedTuple):
    """A table of a statement.

    Attributes:
        heading: what it shows.
        columns: headings of the columns.
        rows: cells as text, as many as there are columns.
    """

    heading: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class Statement(NamedTuple):
    """What report, console and model card show of a promise.

    Attributes:
        title: such as "Risk and coverage together".
        sentences: with the numbers in them, readable without knowing the terms.
        scope: which statements hold together, such as "holds alone".
        table: or None.
    """

    title: str
    sentences: tuple[str, ...]
    scope: str
    table: Table | None = None


class Promise(NamedTuple):
    """A promise by its two functions.

    Attributes:
        compute: evidence -> values for JSON; None if the run lacks what the promise needs.
        statement: these values -> what is shown.
    """

    compute: Callable[[Evidence], dict[str, Any] | None]
    statement: Callable[[Mapping[str, Any]], Statement]


def evidence_of(
    results: Mapping[str, Any],
    outputs: Mapping[str, Predictions],
    *,
    class_names: Sequence[str],
    settings: Mapping[str, Any],
    extras: Extras = Extras(),  # noqa: B008 - immutable
    point: OperatingPoint | None = None,
    delta: float | None = None,
) -> Evidence:
    """Returns the evidence of an evaluated run, or of a model that is exported from it.

    Args:
        results: content of `results.json`, with a `guarantee`.
        outputs: logits [n, m+1] and labels of dev, calibration and test.
        class_names: m names, by label.
        settings: fields of the group `selective` of the config.
        extras: what only some runs have.
        point: the operating point of the model; None: that of the run.
        delta: of a model whose threshold has no guarantee; None: that of the guarantee.
    """
    chosen = point or operating_point(results)
    guarantee = chosen.guarantee or results["guarantee"]
    return Evidence(
        outputs["dev"],
        outputs["calibration"],
        outputs["test"],
        confidence=scores_of(results)[chosen.score],
        threshold=chosen.threshold,
        source=chosen.source,
        risk=guarantee["risk"],
        delta=guarantee["delta"] if delta is None else delta,
        runs=guarantee.get("runs", 1),
        class_names=class_names,
        settings={**settings, "coverage": results["guarantee"].get("coverage", 0.0)},
        extras=extras,
        class_thresholds=chosen.class_thresholds,
        gate=results.get("gate"),
    )

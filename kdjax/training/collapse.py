"""Detection of students that have collapsed: they abstain outright on nearly every image."""

import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from kdjax.objectives import METHODS
from kdjax.training.metric_writer import ALWAYS
from kdjax.training.spec import STUDENT, TrainSpec

# Share of images on which the abstention output is the largest, above which a student has
# collapsed.
LIMIT = 0.95
# Consecutive evaluations on dev above `LIMIT` after which it is reported, at least two, and this
# share of those after pre-training: early in training, all students abstain for a while.
_LEAST_EVALUATIONS, _PATIENCE = 2, 0.1


def trains_abstention(stage: str, config: Mapping[str, Any]) -> bool:
    """Returns whether a network is a student whose method trains the abstention output.

    Args:
        stage: `teacher` or `student`.
        config: nested, of the run.
    """
    return stage == STUDENT and METHODS[config["objective"]["method"]].abstains


def abstained_share(logits: np.ndarray) -> float:
    """Returns the share of examples on which the abstention output is the largest one.

    Args:
        logits: [n, m+1], the last column abstention.
    """
    return float((logits.argmax(axis=-1) == logits.shape[-1] - 1).mean())


def advice(config: Mapping[str, Any]) -> str:
    """Returns what to change in a config with which the student collapses.

    Args:
        config: nested, of the run, with a method that abstains.
    """
    fields = config["objective"]
    method, changes = METHODS[fields["method"]], []
    if fields["method"] == "ka_gambler_soft" and fields["temperature"] > 1:
        changes.append("set objective.temperature to 1")
    if "payoff" in method.fields:
        changes.append(f"raise objective.payoff ({fields['payoff']:g})")
    elif method.needs_teacher:  # the abstention output learns how often the teacher is wrong
        changes.append("take a better teacher")
    changes.append(f"raise objective.pretrain_epochs ({fields['pretrain_epochs']})")
    return " or ".join(changes)


def warning(share: float, config: Mapping[str, Any]) -> str:
    """Returns one line about a student that has collapsed, to follow its name.

    Args:
        share: of `abstained_share` on dev.
        config: nested, of the run.
    """
    return (
        f"has collapsed: after pre-training it abstains outright on {100 * share:.4g} % of the dev "
        f"images; {advice(config)}"
    )


class Monitor:
    """Counts the evaluations on dev in which a student abstains on nearly every image."""

    def __init__(self, spec: TrainSpec) -> None:
        """Starts without an evaluation.

        Args:
            spec: of the student.
        """
        self._spec = spec
        evaluations = (spec.epochs - spec.pretrain_epochs) / spec.eval_every
        self._patience = max(_LEAST_EVALUATIONS, math.ceil(_PATIENCE * evaluations))
        self._count, self._reported = 0, False

    def replay(self, folder: pathlib.Path) -> None:
        """Counts the evaluations of earlier sessions, so that a collapse is reported once.

        Args:
            folder: with the `metrics.jsonl` of the student.
        """
        path = folder / f"metrics.{ALWAYS}"
        # Opening the log has removed damaged lines, and those of later steps.
        for line in map(json.loads, path.read_text().splitlines() if path.exists() else ()):
            if line.get("split") == "dev" and "abstained" in line:
                self.update(line["step"], line["abstained"])

    def update(self, step: int, share: float) -> bool:
        """Counts an evaluation; returns whether the collapse is to be reported now, once per run.

        Args:
            step: finished steps.
            share: of `abstained_share` on dev.
        """
        spec = self._spec
        epochs = step // spec.batches.steps_per_epoch
        if epochs <= spec.pretrain_epochs:
            return False
        self._count = self._count + 1 if share > LIMIT else 0
        enough = self._count >= self._patience or (self._count and epochs == spec.epochs)
        if not enough or self._reported:
            return False
        self._reported = True
        return True

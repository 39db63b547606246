"""The rule by which a model makes the prediction sets of the images that it rejects."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kdjax.errors import unknown_name_error
from kdjax.selective.prediction_sets import prediction_sets
from kdjax.selective.rejected_sets import RejectedQuantile
from kdjax.selective.set_scores import SET_METHODS, Floats, aps, lac, raps


class SetRule(NamedTuple):
    """A score, and the quantile that it must not exceed.

    Attributes:
        method: of `SET_METHODS`; `aps` and `raps` without random numbers.
        k_reg: of `raps`; None for the others.
        penalty: of `raps`; None for the others.
        quantile: of the scores; infinite: all classes are in a set.
        below: confidence from which all classes are in a set, see `RejectedQuantile`.
    """

    method: str
    k_reg: int | None = None
    penalty: float | None = None
    quantile: float = math.inf
    below: float = math.inf

    def scores(self, class_logits: ArrayLike) -> Floats:
        """Returns the scores of the classes, `[n, m]`.

        Args:
            class_logits: `[n, m]`, without an abstention column.

        Raises:
            ValueError: for an unknown method, or logits that are not finite.
        """
        if self.method == "lac":
            return lac(class_logits, abstention=False)
        if self.method == "aps":
            return aps(class_logits, abstention=False)
        if self.method == "raps" and self.k_reg is not None and self.penalty is not None:
            return raps(class_logits, k_reg=self.k_reg, penalty=self.penalty, abstention=False)
        raise unknown_name_error("set method", self.method, SET_METHODS)

    def sets(
        self, class_logits: ArrayLike, confidence: ArrayLike | None = None
    ) -> NDArray[np.bool_]:
        """Returns the set of each image, bool `[n, m]`; it always has the predicted class.

        Args:
            class_logits: `[n, m]`.
            confidence: `[n]`, on the scale of the threshold; None: below `below`.

        Raises:
            ValueError: as `scores`.
        """
        rule = RejectedQuantile(self.quantile, self.below, 0)
        quantile = self.quantile if confidence is None else rule.at(confidence)
        predicted = np.asarray(class_logits).argmax(axis=1)
        return prediction_sets(self.scores(class_logits), quantile, include=predicted)


def set_rule(values: Mapping[str, Any]) -> SetRule:
    """Returns the rule for rejected images from the values that a results file or a card holds.

    Args:
        values: `method`, `k_reg`, `penalty`, and `rejected` with `quantile` and `below`, where None
            is infinite.
    """
    ends = (values["rejected"][name] for name in ("quantile", "below"))
    return SetRule(
        *(values[name] for name in ("method", "k_reg", "penalty")),
        *(math.inf if end is None else end for end in ends),
    )

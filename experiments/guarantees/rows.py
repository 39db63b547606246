"""The rows of the tables of violations, and what they allow."""

import math
from typing import NamedTuple


class Row(NamedTuple):
    """How often a guarantee was violated in one setting.

    Attributes:
        setting: distribution and sizes.
        draws: number of simulated calibration splits (or streams).
        delta: largest allowed probability of a violation.
        violations: number of draws in which what was promised is false.
        note: of the table's last column, such as a mean coverage.
        assumed: whether the assumptions of the guarantee hold; else the row is for information.
    """

    setting: str
    draws: int
    delta: float
    violations: int
    note: str = ""
    assumed: bool = True

    @property
    def frequency(self) -> float:
        """Frequency of violations."""
        return self.violations / self.draws

    def limit(self, standard_errors: float = 2) -> float:
        """Returns delta and some standard errors of the frequency."""
        return self.delta + standard_errors * math.sqrt(self.delta * (1 - self.delta) / self.draws)

    def exceeds(self, standard_errors: float = 2) -> bool:
        """Returns whether the frequency is above delta by more than some standard errors."""
        return self.assumed and self.frequency > self.limit(standard_errors)

"""Certified thresholds for several risks that hold together.

Each certificate of `learn_then_test` fails with probability at most delta. That any of those for
five risks fails is about twice as likely, so that a risk must not be chosen by a look at them.

The thresholds of one risk are tested in a fixed order at full delta. Going on from one risk to the
next, from loose to strict, at full delta would be valid only if every threshold of the first risk
had passed: its sequence is then completed and cannot be in error. Holm's method does just that and
divides delta among the sequences that are not completed. It certifies at least what delta / L for
each of L risks certifies (Bonferroni), and more where the largest risks are completed, which they
usually are, as they exceed the error rate without abstention.

Why it holds. Call a risk r bad if the true risk exceeds it when all examples are accepted. With b
bad risks, let P_r be the p-value of the first tested threshold whose true risk exceeds r. With
probability at least 1 - delta all of them exceed delta / b (union bound). Then the sequence of no
bad risk is completed, at least b sequences share delta, the level is at most delta / b, and no
sequence passes a threshold whose risk exceeds r. No independence is needed.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import bdtr

from kdjax.errors import InputError
from kdjax.selective import certificates, validation
from kdjax.selective.certificates import LEAST_ACCEPTED, Certificate, FixedSequence


class Ladder(NamedTuple):
    """Certificates for several risks, all of which hold with probability at least 1 - delta.

    Attributes:
        risks: the largest first.
        certificates: one for each risk.
        level: at which they are certified.
        tested: number of risks that take part; the smallest may need more examples.
        delta: probability that any of them fails.
    """

    risks: tuple[float, ...]
    certificates: tuple[Certificate, ...]
    level: float
    tested: int
    delta: float


def certified_ladder(
    confidence: ArrayLike, correct: ArrayLike, *, risks: Sequence[float], delta: float = 0.05
) -> Ladder:
    """Learn then Test for several risks, with delta divided among them by Holm's method.

    With M_r = max_k p_r(k) over the sequence of `learn_then_test` for risk r at delta / j, for the
    j risks that are tested: a risk with M_r <= delta / j is completed, as all examples are
    accepted; the others share delta, so that the next one is completed if M_r <= delta / (j - 1),
    and so on. With e completed risks in the end, all thresholds are those certified at
    delta / (j - e).

    With probability at least 1 - delta over samples, the selective risk of every threshold is at
    most its r. So one of them may be chosen after a look at all. The j risks are the largest ones,
    as many as can all pass without an error at delta / j; the smaller ones could not be certified.
    A threshold that is certified for a risk is one for every larger risk, too.

    Args:
        confidence: `[n]`, finite or -inf, higher = more confident.
        correct: `[n]`, boolean or 0 and 1.
        risks: different, in (0, 1), in any order.
        delta: in (0, 1), the probability that any of the certificates fails.

    Returns:
        The ladder. That of a single risk has the certificate of `learn_then_test`.

    Raises:
        ValueError: for n = 0, unequal lengths, NaN, infinite confidence, a `correct` that is not
            boolean, a risk or delta outside (0, 1), no risk, or one that is given twice.
        TypeError: for a dtype that is not real.

    Example:
        >>> correct = [True] * 900 + [True, False] * 50
        >>> ladder = certified_ladder(range(1000, 0, -1), correct, risks=(0.1, 0.02, 0.01))
        >>> ladder.level, [round(one.coverage, 3) for one in ladder.certificates]
        (0.025, [1.0, 0.921, 0.907])

    Sources: Angelopoulos et al., "Learn then Test", arXiv 2110.01052; Holm, "A simple sequentially
    rejective multiple test procedure", Scandinavian Journal of Statistics 1979; Bretz et al., "A
    graphical approach to sequentially rejective multiple test procedures", Statistics in Medicine
    2009.
    """
    total = validation.probability("delta", delta)
    ordered = _risks(risks)
    groups = certificates.finite_tie_groups(confidence, correct)
    tested = _tested(ordered, int(groups.accepted[-1]), total)
    level = total / max(1, tested)
    sequences = [
        certificates.sequence_of_groups(groups, risk=risk, level=level, highest=total)
        for risk in ordered[: max(1, tested)]
    ]
    level = certificates.final_level(sequences[:tested], total)
    certificates_found = _certificates(sequences, level)
    none = Certificate(np.inf, 0.0, 1.0)
    missing = len(ordered) - len(certificates_found)
    return Ladder(ordered, (*certificates_found, *[none] * missing), level, tested, total)


def _risks(risks: Sequence[float]) -> tuple[float, ...]:
    """Returns the risks, the largest first."""
    if np.ndim(risks) != 1:
        raise InputError(f"risks {risks}: need a sequence of numbers")
    ordered = sorted((validation.probability("risks", risk) for risk in risks), reverse=True)
    if not ordered or len(set(ordered)) < len(ordered):
        raise InputError(f"risks {list(risks)}: need at least one, and each only once")
    return tuple(ordered)


def _tested(risks: Sequence[float], examples: int, delta: float) -> int:
    """Returns the most risks, the largest first, that can all pass without an error."""
    for number in range(len(risks), 0, -1):
        if bdtr(0, examples, risks[number - 1]) <= delta / number and examples >= LEAST_ACCEPTED:
            return number
    return 0


def _certificates(sequences: Sequence[FixedSequence], level: float) -> list[Certificate]:
    """Returns the certificates of risks, the largest first, each at least as loose as the next."""
    found: list[Certificate] = []
    for sequence in reversed(sequences):
        certificate = sequence.certificate(level)
        if found and found[-1].coverage > certificate.coverage:
            certificate = found[-1]._replace(risk_bound=sequence.risk)
        found.append(certificate)
    return found[::-1]

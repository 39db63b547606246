"""Prediction sets: how often the true class of a new image is not in its set.

Each draw is a calibration split and one new image. The threshold is certified on the same split, by
which the new image may be rejected; a row for rejected images counts only the draws in which it is.
In most settings errors, confidences and scores of the true classes are drawn directly, so that the
scores can depend on errors in ways that the logits of a network would not show.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from scipy.special import softmax

from experiments.guarantees.rows import Row
from kdjax import selective

ALPHA, DELTA = 0.1, 0.05
CLASSES = 5
BATCH = 500  # draws that are held in memory at once


class Images(NamedTuple):
    """Images of several draws, [draws, n + 1] each; the last one of each draw is new.

    Attributes:
        scores: of the true classes.
        confidence: of the predictions.
        correct: whether the predicted class is the true one.
    """

    scores: np.ndarray
    confidence: np.ndarray
    correct: np.ndarray


Draw = Callable[[np.random.Generator, tuple[int, int]], Images]


class Setting(NamedTuple):
    """A population, a number of calibration images, and the risk that is certified."""

    name: str
    draw: Draw
    examples: int
    risk: float


def _logits(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Returns logits [..., CLASSES] of an overconfident network, and labels."""
    logits = rng.normal(size=(*shape, CLASSES)) * rng.choice([0.5, 6.0], size=(*shape, 1))
    sums = softmax(0.7 * logits, axis=-1).cumsum(axis=-1)
    labels = (sums < rng.random((*shape, 1))).sum(axis=-1)
    return logits, np.minimum(labels, CLASSES - 1)


def network(rng: np.random.Generator, shape: tuple[int, int]) -> Images:
    """Draws images with the LAC scores of logits."""
    logits, labels = _logits(rng, shape)
    scores = selective.lac(logits, abstention=False)
    own = np.take_along_axis(scores, labels[..., None], axis=-1)[..., 0]
    return Images(own, -scores.min(axis=-1), logits.argmax(axis=-1) == labels)


def errors(rate: Callable[[np.ndarray], np.ndarray], *, high: bool, levels: int = 0) -> Draw:
    """Returns a population with an error rate, and scores that are high or low for errors.

    Args:
        rate: probability of an error at each rank in (0, 1), the most confident at 0.
        high: whether the score of an error is above that of every correct prediction, or below.
        levels: number of different confidences; 0: no ties.
    """

    def draw(rng: np.random.Generator, shape: tuple[int, int]) -> Images:
        ranks = rng.random(shape)
        if levels:
            ranks = np.floor(ranks * levels) / levels
        correct = rng.random(shape) >= rate(ranks)
        scores = rng.random(shape) + np.where(correct == high, 0, 1)
        # The more confident an error, the lower its score: the first ones are of no use.
        scores = np.where(correct, scores, scores / 2 + ranks)
        return Images(scores, 1 - ranks, correct)

    return draw


def _rising(ranks: np.ndarray) -> np.ndarray:
    return 0.9 * ranks**3


def _waves(ranks: np.ndarray) -> np.ndarray:
    return 0.2 + 0.19 * np.sin(6 * np.pi * ranks)


def _constant(ranks: np.ndarray) -> np.ndarray:
    return np.full_like(ranks, 0.2 + 1e-6)


SETTINGS = (
    Setting("LAC of a network", network, 300, 0.25),
    Setting("LAC of a network, tiny split", network, 40, 0.3),
    Setting("errors rise", errors(_rising, high=True), 200, 0.1),
    Setting("errors rise, 12 confidences", errors(_rising, high=True, levels=12), 200, 0.1),
    Setting("errors rise and fall", errors(_waves, high=True), 200, 0.2),
    Setting("risk just above the certified one", errors(_constant, high=True), 100, 0.2),
    Setting("the same, 7 confidences", errors(_constant, high=True, levels=7), 100, 0.2),
    Setting("the same, errors look usual", errors(_constant, high=False), 100, 0.2),
)


def simulate(draws: int, seed: int) -> list[Row]:
    """Returns the misses of all sets, of those of rejected images, and of simpler quantiles.

    Args:
        draws: number of calibration splits in each setting.
        seed: of the random numbers.
    """
    rows = []
    for index, setting in enumerate(SETTINGS):
        rng = np.random.default_rng((seed, index))
        rows += _rows(setting, np.array([*_outcomes(setting, rng, draws)]))
    return [*rows, *_randomized(draws, seed), _by_class(draws, seed)]


def _rows(setting: Setting, outcomes: np.ndarray) -> list[Row]:
    """Returns the rows of a setting from the outcomes of `_outcomes`, [draws, 6]."""
    rejected, missed, full, naive, marginal, every = outcomes.T.astype(bool)
    sizes = f"{setting.name}, n = {setting.examples}, risk {setting.risk:g}"
    count = int(rejected.sum())
    note = f"{100 * full[rejected].mean():.1f} % with all classes"

    def row(statement: str, misses: np.ndarray, note: str = "", assumed: bool = True) -> Row:
        violations = int(misses[rejected].sum())
        return Row(f"{statement}: {sizes}", count, ALPHA, violations, note, assumed)

    return [
        Row(f"all images: {sizes}", len(outcomes), ALPHA, int(every.sum())),
        row("rejected images", missed, note=note),
        row("with all rejected of calibration", naive, assumed=False),
        row("with all of calibration", marginal, assumed=False),
    ]


def _outcomes(setting: Setting, rng: np.random.Generator, draws: int) -> Iterator[tuple[bool, ...]]:
    """Yields whether the new image of each draw is rejected, and is missed by several sets."""
    for start in range(0, draws, BATCH):
        shape = min(BATCH, draws - start), setting.examples + 1
        for one in zip(*setting.draw(rng, shape), strict=True):
            yield outcome(Images(*one), setting.risk)


def outcome(images: Images, risk: float) -> tuple[bool, ...]:
    """Returns what happens to the last image of one draw, [n + 1].

    Whether it is rejected; missed by the set for rejected images; has all classes in it; missed by
    a set from all rejected calibration images, and by one from all calibration images, with the
    predicted class; and without it.
    """
    scores, confidence, correct = (values[:-1] for values in images)
    score, at, hit = (values[-1] for values in images)
    threshold = selective.learn_then_test(confidence, correct, risk=risk, delta=DELTA).threshold
    found = selective.certified_rejected_quantile(
        scores, confidence, correct, risk=risk, delta=DELTA, alpha=ALPHA
    )
    quantile = found.at(at[None])[0, 0]
    naive = selective.set_quantile(scores[confidence < threshold], alpha=ALPHA)
    marginal = selective.set_quantile(scores, alpha=ALPHA)
    return (
        at < threshold,
        score > quantile and not hit,
        np.isinf(quantile),
        score > naive and not hit,
        score > marginal and not hit,
        score > marginal,
    )


def _randomized(draws: int, seed: int) -> list[Row]:
    """Returns the misses of APS and RAPS with random numbers, whose coverage is exact."""
    rows = []
    # APS is RAPS without a penalty.
    for name, penalty in (("APS", 0.0), ("RAPS", 0.1)):
        rng = np.random.default_rng((seed, 100))
        n, missed = 50, 0
        for start in range(0, draws, BATCH):
            logits, labels = _logits(rng, (min(BATCH, draws - start), n + 1))
            uniform = rng.random(labels.shape)
            scores = selective.raps(
                logits, abstention=False, uniform=uniform, k_reg=2, penalty=penalty
            )
            own = np.take_along_axis(scores, labels[..., None], axis=-1)[..., 0]
            missed += sum(row[-1] > selective.set_quantile(row[:-1], alpha=ALPHA) for row in own)
        rows.append(Row(f"all images: randomized {name}, n = {n}", draws, ALPHA, int(missed)))
    return rows


def _by_class(draws: int, seed: int) -> Row:
    """Returns the misses within the class with the fewest images, by the quantile of the class."""
    rng = np.random.default_rng((seed, 200))
    n, count, missed = 60, 0, 0
    for _ in range(draws):
        rare = rng.random(n + 1) < 1 / 3
        scores = rng.random(n + 1) + rare
        if rare[-1]:
            count += 1
            missed += scores[-1] > selective.set_quantile(scores[:-1][rare[:-1]], alpha=ALPHA)
    return Row(f"images of one class, a third of all: own quantile, n = {n}", count, ALPHA, missed)

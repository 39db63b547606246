"""What is watched: settings of the user, and what the card of the model permits."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from kdjax.errors import InputError, unknown_name_error
from kdjax.export import monitoring
from kdjax.predict import outcome_file
from kdjax.predict.outcome_file import Format
from kdjax.selective.monitor import COVERAGE, DRIFT, RISK, TESTS, Monitor

_WHY = {
    RISK: "the model has no certificate: --risk watches a risk of your own",
    COVERAGE: "the card has no acceptance on calibration: --least_coverage watches a share of your "
    "own",
    DRIFT: "the card has no confidences of calibration, as it is of an earlier version: export the "
    "model again with this version",
}
_EQUAL = "the confidences of the dev split do not differ, so that they make no groups to compare"


class Settings(NamedTuple):
    """What is watched, as the user says; None: as the card says.

    Attributes:
        watch: names of the tests; None: all that the card permits.
        risk: the largest selective risk, in (0, 1).
        least_coverage: the least share of accepted images, in (0, 1).
        delta: in (0, 1), the probability that any test ever raises a false alarm.
        seed: of the order of equal confidences.
        truth: name of the column of true labels.
        time: name of the column of times.
        count_unknown: count accepted images of other classes as errors.
    """

    watch: Sequence[str] | None = None
    risk: float | None = None
    least_coverage: float | None = None
    delta: float = 0.05
    seed: int = 0
    truth: str | None = None
    time: str | None = None
    count_unknown: bool = False


def monitor_of(model_card: Mapping[str, Any], settings: Settings) -> tuple[Monitor, dict[str, str]]:
    """Returns the monitor that a card and the settings determine, and why a test is left out.

    Args:
        model_card: of any version.
        settings: of the user.

    Raises:
        InputError: for an unknown test, one that cannot be watched, or a value out of range.
    """
    stored = model_card.get("monitoring")
    bounds = stored or monitoring.bounds(model_card)
    given = {RISK: settings.risk, COVERAGE: settings.least_coverage}
    available: dict[str, Any] = {
        RISK: given[RISK] if given[RISK] is not None else _bound(bounds[RISK]),
        COVERAGE: given[COVERAGE] if given[COVERAGE] is not None else _bound(bounds[COVERAGE]),
        DRIFT: monitoring.reference_of(stored),
    }
    why = _WHY | ({DRIFT: _EQUAL} if stored else {})
    for name in settings.watch or ():
        if name not in TESTS:
            raise unknown_name_error("test", name, TESTS)
        if available[name] is None:
            raise InputError(f"{name} cannot be watched: {why[name]}")
    watched = settings.watch or [name for name in TESTS if available[name] is not None]
    for name, flag in ((RISK, "--risk"), (COVERAGE, "--least_coverage")):
        if given[name] is not None and name not in watched:
            raise InputError(f"{flag} is given, but --watch={','.join(watched)} leaves it out")
    if not watched:
        raise InputError(f"nothing can be watched: {'; '.join(why.values())}")
    chosen = {name: available[name] for name in watched}
    monitor = Monitor(
        risk=chosen.get(RISK),
        coverage=chosen.get(COVERAGE),
        reference=chosen.get(DRIFT),
        delta=settings.delta,
        seed=settings.seed,
    )
    left_out = [name for name in TESTS if name not in watched]
    return monitor, {
        name: why[name] if available[name] is None else "left out by --watch" for name in left_out
    }


def _bound(values: Mapping[str, Any] | None) -> float | None:
    return values["bound"] if values else None


def format_of(model_card: Mapping[str, Any], settings: Settings, *, score: bool) -> Format:
    """Returns what the rows of the files mean.

    Args:
        model_card: of any version.
        settings: of the user.
        score: whether each row needs a score.
    """
    renamed = {column for column in (settings.truth, settings.time) if column is not None}
    least = [model_card["threshold"], *(model_card.get("class_thresholds") or ())]
    thresholds = [value for value in least if value is not None]
    return Format(
        model_card["classes"],
        truth=settings.truth or outcome_file.TRUTH,
        time=settings.time or outcome_file.TIME,
        score=score,
        raw_confidence=(model_card.get("score") or {}).get("scale") is None,
        least_score=min(thresholds) if thresholds else None,
        score_decides=not monitoring.has_several_thresholds(model_card),
        count_unknown=settings.count_unknown,
        named=frozenset(renamed),
    )

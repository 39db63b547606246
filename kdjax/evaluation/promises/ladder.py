"""The promise for several risks at once, of which any may be chosen afterwards."""

import math
from collections.abc import Mapping
from typing import Any

from kdjax import selective
from kdjax.evaluation.certification import CERTIFIERS, LTT, RISKS
from kdjax.evaluation.predictions import accepts, counts
from kdjax.evaluation.promises import words
from kdjax.evaluation.promises.base import Evidence, Promise, Statement, Table
from kdjax.runtime import atomic_io

TITLE = "Other limits for the errors"


def compute(evidence: Evidence) -> dict[str, Any]:
    """Returns the certificates of several risks that hold together, and those that hold alone.

    Returns:
        `risk`, the requested one; `delta`; `runs`, S: all rungs of S runs hold together; `level`,
        see `selective.certified_ladder`; `rungs`, the largest risk first, each with its `risk`,
        `threshold` (None if none is certified), and for `calibration` and `test` the numbers of
        `images`, of those that are `accepted` and of `errors` among these; `alone`: by the name of
        the procedure the same of the certificate of this risk alone, with `bound`, on its risk.
        `alone_used`: whether the run uses the certificate of the requested risk alone.
    """
    risks = sorted({*RISKS, evidence.risk}, reverse=True)
    sample = evidence.sample("calibration")
    ladder = selective.certified_ladder(*sample, risks=risks, delta=evidence.delta / evidence.runs)
    rungs = [
        {
            "risk": risk,
            **_measured(evidence, certificate.threshold),
            "alone": {name: _alone(evidence, name, risk) for name in CERTIFIERS},
        }
        for risk, certificate in zip(ladder.risks, ladder.certificates, strict=True)
    ]
    used = next(rung["alone"][LTT]["threshold"] for rung in rungs if rung["risk"] == evidence.risk)
    return {
        "risk": evidence.risk,
        "delta": evidence.delta,
        "runs": evidence.runs,
        "level": ladder.level,
        "alone_used": evidence.class_thresholds is None and used == evidence.threshold,
        "rungs": rungs,
    }


def _alone(evidence: Evidence, name: str, risk: float) -> dict[str, Any]:
    certificate = CERTIFIERS[name](*evidence.sample("calibration"), risk=risk, delta=evidence.delta)
    return {"bound": certificate.risk_bound, **_measured(evidence, certificate.threshold)}


def _measured(evidence: Evidence, threshold: float) -> dict[str, Any]:
    def on(split: str) -> dict[str, int]:
        confidence, correct = evidence.sample(split)
        numbers = counts(accepts(confidence, threshold), correct)
        return {**numbers, "images": evidence.images(split)}

    return {
        "threshold": atomic_io.finite_or_none(threshold),
        **{split: on(split) for split in ("calibration", "test")},
    }


def statement(values: Mapping[str, Any]) -> Statement:
    """Returns the table of risks that hold together."""
    runs = values["runs"]
    students = f" of {words.all_of(runs, 'models')}" if runs > 1 else ""
    sentences = (
        "Each row promises that at most this share of the accepted images is wrong, at the price "
        "of accepting fewer images. You may pick any row after a look at the table, because all "
        f"rows{students} hold together; it has its own threshold.{_command(values)}",
        f"The row marked * is the limit that was fixed beforehand{_used(values)}. The last column "
        "is what each limit would accept if it alone had been fixed beforehand: a row that is "
        f"picked by it may be false in more than {words.in_hundred(values['delta'])} cases.",
    )
    scope = words.together(values["delta"], f"all rows{students}")
    return Statement(TITLE, sentences, scope, _table(values))


def level(values: Mapping[str, Any]) -> str:
    """Returns the delta at which Learn then Test gives the threshold of a row, with four digits.

    Rounded down, so that the threshold accepts no more than the row does.

    Args:
        values: of `compute`.
    """
    digits = 3 - math.floor(math.log10(values["level"]))
    return f"{math.floor(values['level'] * 10**digits * (1 + 1e-9)) / 10**digits:g}"


def _command(values: Mapping[str, Any]) -> str:
    """Returns how to use a row, by the example of one that the model does not use yet."""
    possible = [rung["risk"] for rung in values["rungs"] if rung["threshold"] is not None]
    if not possible:
        return ""
    risk = next((each for each in possible if each != values["risk"]), possible[0])
    return (
        f" To use the row of {words.exact_percent(risk)}, export the model with kdjax export "
        f"--risk={risk:g} --delta={level(values)}: it gets the threshold of the row, or a stricter "
        "one. Each row that is picked after a look, also *, "
        "needs its stricter threshold in this way."
    )


def _used(values: Mapping[str, Any]) -> str:
    (alone,) = (rung["alone"] for rung in values["rungs"] if rung["risk"] == values["risk"])
    if not values["alone_used"] or alone[LTT]["threshold"] is None:
        return ""
    return (
        f": for it the model as delivered has the threshold that accepts "
        f"{words.part(alone[LTT]['calibration'])}, see the last column"
    )


def _table(values: Mapping[str, Any]) -> Table:
    columns = (
        "at most wrong",
        "accepted, calibration",
        "accepted, test",
        "wrong among accepted, test",
        "this limit alone: accepted, calibration",
    )
    rows = tuple(
        (
            words.exact_percent(rung["risk"]) + (" *" if rung["risk"] == values["risk"] else ""),
            *_cells(rung),
            _alone_cell(values, rung),
        )
        for rung in values["rungs"]
    )
    return Table("Limits that hold together", columns, rows)


def _cells(rung: Mapping[str, Any]) -> tuple[str, str, str]:
    """Returns the accepted share of calibration and test, and the errors among accepted of test."""
    test = rung["test"]
    accepted = words.part(rung["calibration"])
    return (
        "not possible" if rung["threshold"] is None else accepted,
        words.part(test),
        words.error_rate(test),
    )


def _alone_cell(values: Mapping[str, Any], rung: Mapping[str, Any]) -> str:
    """Returns what a limit accepts if it was fixed beforehand, and whether that may be used."""
    accepted = _cells(rung["alone"][LTT])[0]
    if rung["alone"][LTT]["threshold"] is None:
        return accepted
    if rung["risk"] == values["risk"]:
        return f"{accepted} (in use)" if values["alone_used"] else accepted
    return f"{accepted} (only if fixed beforehand)" if rung["threshold"] is None else accepted


PROMISE = Promise(compute, statement)

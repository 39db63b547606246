"""Sentences of the verdicts on a promise."""

import pytest

from kdjax.predict import verdicts


@pytest.mark.parametrize(
    ("risk", "text"),
    [(0.05, "at most 5 %"), (0.012345, "at most 1.2345 %"), (0.0123412345, "at most 1.24 %")],
)
def test_promised_risk_is_never_rounded_down(risk, text):
    assert verdicts.refuted("9 of 90", risk, 0.01).startswith(
        f"refuted: 9 of 90, but {text} was promised; if that held, so many errors"
    )
    assert verdicts.not_refuted("1 of 90", risk).endswith(f"compatible with {text}")

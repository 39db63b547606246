"""Sentences of the verdicts on a promise."""

from kdjax.evaluation.promises import words


def refuted(measured: str, risk: float, p_value: float, where: str = "") -> str:
    """Returns that a promise is refuted.

    Args:
        measured: how many are wrong.
        risk: that was promised.
        p_value: of the test.
        where: about what it was promised, such as `" within each class"`.
    """
    return (
        f"refuted: {measured}, but at most {words.limit(risk)} was promised{where}; if that held, "
        f"so many errors would have probability {p_value:.2g}"
    )


def not_refuted(measured: str, risk: float) -> str:
    """Returns that a promise is not refuted; see `refuted`."""
    return f"not refuted: {measured}, which is compatible with at most {words.limit(risk)}"

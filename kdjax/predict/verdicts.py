"""Sentences of the verdicts on a promise."""


def percent(share: float) -> str:
    """Returns a share with four digits, such as `84.25 %`."""
    return f"{100 * share:.4g} %"


def refuted(measured: str, risk: float, p_value: float, where: str = "") -> str:
    """Returns that a promise is refuted.

    Args:
        measured: how many are wrong.
        risk: that was promised.
        p_value: of the test.
        where: about what it was promised, such as `" within each class"`.
    """
    return (
        f"refuted: {measured}, but at most {percent(risk)} was promised{where}; if that held, so "
        f"many errors would have probability {p_value:.2g}"
    )


def not_refuted(measured: str, risk: float) -> str:
    """Returns that a promise is not refuted; see `refuted`."""
    return f"not refuted: {measured}, which is compatible with at most {percent(risk)}"

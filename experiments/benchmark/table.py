"""From the results' JSON to Markdown: all of it, and the README's section."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments.benchmark.cases import CASES, EPOCH, INPUT, ROADS
from kdjax.errors import InputError

Results = Mapping[str, Any]
Row = Mapping[str, Any]

START, END = "<!-- speed -->", "<!-- /speed -->"
SIDES = {"torch": "PyTorch", "kdjax": "kdjax", "keras": "keras"}


def markdown(results: Results) -> str:
    """Returns everything that was measured, as Markdown."""
    return "\n\n".join(filter(None, (_how(results), _rows(results), _lines(results))))


def readme(results: Sequence[Results]) -> str:
    """Returns the README's section: whole epochs and input, a table for each measurement."""
    return "\n\n".join(
        f"{_rows(found, roads=(EPOCH, INPUT))}\n\n{_how(found)}" for found in results
    )


def inserted(text: str, section: str) -> str:
    """Returns the text with the section between the two markers.

    Raises:
        InputError: if the markers are not there, once each and in order.
    """
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not (start and end) or START in rest or END in after:
        raise InputError(f"there must be one {START} and, after it, one {END}")
    return f"{before}{START}\n{section}\n{END}{after}"


def _rows(results: Results, roads: Iterable[str] = ROADS) -> str:
    shown = [row for row in results["rows"] if row["road"] in roads]
    head = (
        "what", "measured", "by", "images/s", "ratio to PyTorch (min to max)",
        "the same, teacher cached there too", "utilisation %", "MiB of a step",
    )  # fmt: skip
    lines = [head, ("---",) * len(head)]
    return "\n".join(
        f"| {' | '.join(line)} |" for line in [*lines, *(_cells(r, results) for r in shown)]
    )


def _cells(row: Row, results: Results) -> tuple[str, ...]:
    return (
        CASES[row["case"]].title,
        ROADS[row["road"]],
        f"{SIDES[row['side']]}, {row['title']}",
        f"{row['images_per_second']:,.0f}",
        _spread(row.get("ratio")),
        _spread(row.get("ratio_to_cached")),
        _utilisation(row, results),
        "" if row["memory_of_step"] is None else f"{row['memory_of_step'] / 2**20:,.0f}",
    )


def _spread(ratio: Mapping[str, float] | None) -> str:
    if ratio is None:
        return ""
    return f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})"


def _utilisation(row: Row, results: Results) -> str:
    """Returns the share of the measured ceiling: FLOPs of a step x steps a second / ceiling."""
    if row["flops_of_step"] is None:
        return ""
    rate = row["flops_of_step"] * row["images_per_second"] / results["batch"]
    return f"{100 * rate / results['sides']['kdjax']['ceiling_flops']:.0f}"


def _how(results: Results) -> str:
    sides = results["sides"]
    versions = "; ".join(
        f"{SIDES[side]}: "
        + ", ".join(f"{name} {number}" for name, number in about["versions"].items())
        for side, about in sides.items()
    )
    devices = {about["device_name"] for about in sides.values()} - {""}
    where = ", ".join([*sorted(devices), f"{results['processor']}, {results['cores']} cores"])
    return (
        f"{where}; batch {results['batch']}, {results['rounds']} rounds of {results['steps']} "
        f"steps, the sides in turn; median over rounds. Utilisation is of the "
        f"{sides['kdjax']['ceiling_flops'] / 1e9:,.0f} GFLOP/s of a large matrix product in "
        f"{sides['kdjax']['ceiling_dtype']}. MiB are those of the step's program; on the CPU the "
        f"teacher has one of its own. {versions}. "
        f"`{shlex.join(results['command'])}`"
    )


def agreement_line(row: Row) -> str:
    """Returns one network's line."""
    return (
        f"- {row['network']}: logits of the same weights differ by at most {row['difference']:.1e} "
        f"(the largest is {row['largest_logit']:.1f}), the objective by "
        f"{row['objective_difference']:.1e}"
    )


def _lines(results: Results) -> str:
    agreed = map(agreement_line, results["agreement"])
    left_out = (f"- Left out: {line}" for line in results["left_out"])
    return "\n".join([*agreed, *left_out])

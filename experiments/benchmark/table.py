"""Formats the results of the benchmark as Markdown: the full report, and the section of a page."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.benchmark import utilization
from experiments.benchmark.cases import CASES, PHASES
from kdjax.errors import InputError

Results = Mapping[str, Any]
Row = Mapping[str, Any]

START, END = "<!-- speed -->", "<!-- /speed -->"
SIDES = {
    "torch": "PyTorch",
    "kdjax": "kdjax",
    "keras": "Keras",
    "onnxruntime": "ONNX Runtime",
}
HEADER = (
    "run", "networks", "measured", "library", "images/s",
    "speed relative to PyTorch (min to max)", "relative to PyTorch with cached teacher",
    "MFU, %", "memory of a step, MiB",
)  # fmt: skip
COMPARE = "Compare rows of one run only: the variants of a run take turns."
NOTE = (
    "MFU (model FLOPs utilization) is the time that the nominal operations would take at the rate "
    "of the best large matrix product on the same machine, divided by the measured time. Nominal "
    "operations are two per multiply-add of a forward pass, as given by the shapes of the network; "
    "they count three times for the network that is trained, and once for an uncached teacher or a "
    "forward pass. MFU is left out where the ceiling of a dtype was not measured. It may exceed "
    "100 %: Winograd's algorithm needs fewer operations than nominal."
)


def full_report(results: Results) -> str:
    """Returns everything that was measured, as Markdown."""
    table = _table({_environment(results): results})
    return "\n\n".join(filter(None, (_conditions(results), table, _notes(results))))


def page_section(all_results: Sequence[Results]) -> str:
    """Returns the section of the page: one table of all runs, and how each was made."""
    runs = {
        f"{number}: {_environment(results)}": results
        for number, results in enumerate(all_results, start=1)
    }
    conditions = [f"{run}: {_conditions(results)}" for run, results in runs.items()]
    return "\n\n".join([COMPARE, _table(runs), *conditions, NOTE])


def replace_section(text: str, section: str) -> str:
    """Returns the text with the section between the two markers.

    Raises:
        InputError: unless each marker occurs exactly once, in order.
    """
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not (start and end) or START in rest or END in after:
        raise InputError(f"the page must contain one {START} followed by one {END}")
    return f"{before}{START}\n{section}\n{END}{after}"


def _table(runs: Mapping[str, Results]) -> str:
    rows = [
        (run, *_cells(row, results)) for run, results in runs.items() for row in results["rows"]
    ]
    lines = [HEADER, ("---",) * len(HEADER), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _environment(results: Results) -> str:
    """Returns the versions with which kdjax ran, such as Python 3.12, jax 0.12."""
    versions = results["sides"]["kdjax"]["versions"]
    python, jax = (".".join(versions[name].split(".")[:2]) for name in ("python", "jax"))
    return f"Python {python}, jax {jax}"


def _cells(row: Row, results: Results) -> tuple[str, ...]:
    memory, share = row["memory_of_step"], utilization.mfu(row, results)
    return (
        CASES[row["case"]].title,
        PHASES[row["road"]],
        f"{SIDES[row['side']]}, {row['title']}",
        f"{row['images_per_second']:,.0f}",
        _format_ratio(row.get("ratio")),
        _format_ratio(row.get("ratio_to_cached")),
        "" if share is None else f"{100 * share:.0f}",
        "" if memory is None else f"{memory / 2**20:,.0f}",
    )


def _format_ratio(ratio: Mapping[str, float] | None) -> str:
    if ratio is None:
        return ""
    return f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})"


def _conditions(results: Results) -> str:
    sides = results["sides"]
    versions = "; ".join(
        f"{SIDES[side]}: "
        + ", ".join(f"{name} {number}" for name, number in description["versions"].items())
        for side, description in sides.items()
    )
    devices = {description["device_name"] for description in sides.values()} - {""}
    machine = ", ".join([*sorted(devices), f"{results['processor']}, {results['cores']} cores"])
    steps = f"{results['steps']} step{'s' if results['steps'] > 1 else ''}"
    return (
        f"{machine}; batch size {results['batch']}; medians over {results['rounds']} rounds of "
        f"{steps}, in which the variants run in turn. Memory is that of the "
        "compiled training step; on the CPU the teacher has a separate program. "
        f"{_sentence(utilization.ceilings_line(results))}{versions}. "
        f"`{shlex.join(results['command'])}`"
    )


def _sentence(text: str) -> str:
    return f"{text} " if text else ""


def agreement_line(row: Row) -> str:
    """Returns the line of a network, a row of `agreement.compare`."""
    return (
        f"- {row['network']}: logits of the same weights differ by at most {row['difference']:.1e} "
        f"(largest logit {row['largest_logit']:.1f}), objectives by "
        f"{row['objective_difference']:.1e}"
    )


def _notes(results: Results) -> str:
    agreed = map(agreement_line, results["agreement"])
    left_out = (f"- Left out: {line}" for line in results["left_out"])
    return "\n".join([*agreed, *left_out])

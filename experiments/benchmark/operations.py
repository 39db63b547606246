"""Shows where the time of a training step goes: a profile by kinds of operations.

python -m experiments.benchmark.operations --networks resnet18 --variants kdjax kdjax_bfloat16
    --out=FILE.md [--batch=128]

The step is that of `experiments.benchmark measure`. `jax.profiler` records the time of each
operation of the compiled program; their names tell the kind. For the CPU.
"""

import argparse
import contextlib
import os
import pathlib
import re
import shlex
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import jax

from experiments.benchmark import cases, kdjax_side
from experiments.benchmark.protocol import processor, public_command, versions
from kdjax.runtime.compiler import tune_allocator

# Kind -> parts of the names of its operations on XLA:CPU; the first kind that fits counts.
KINDS: Mapping[str, tuple[str, ...]] = {
    "convolutions": ("onednn$convolution", "conv_general_dilated", "convolution"),
    "matrix products": ("onednn$matmul", "dot"),
    "reductions, most of batch normalization": ("ynn_fusion", "reduce"),
    "tiles of Winograd's convolution": ("concatenate", "dynamic-update-slice"),
    "transpositions": ("transpose", "wrapped_copy"),
    "other operations": ("fusion", "wrapped_", "copy", "slice", "pad", "convert"),
}
# An operation that runs others, or an event of the host.
_NOT_COUNTED = re.compile(r"^(\$|end: |while|cond|call|Thunk|Pjit|Common|Parse)|::")
STEPS, RUNS = 2, 5


class Profile(NamedTuple):
    """Milliseconds of a training step, by kind of operation, and of the whole step."""

    kinds: Mapping[str, float]
    step: float


def kind(name: str) -> str | None:
    """Returns the kind of an event of a trace; None if it is no operation by itself.

    Args:
        name: of the event, such as `ynn_fusion.3`.
    """
    if _NOT_COUNTED.search(name):
        return None
    return next(
        (kind for kind, parts in KINDS.items() if any(part in name for part in parts)), None
    )


def milliseconds(events: Iterable[tuple[str, float]], steps: int) -> dict[str, float]:
    """Returns the milliseconds of a step for each of `KINDS`.

    Args:
        events: name and nanoseconds of each.
        steps: of the trace.
    """
    total = dict.fromkeys(KINDS, 0.0)
    for name, nanoseconds in events:
        if found := kind(name):
            total[found] += nanoseconds / 1e6 / steps
    return total


def read_events(folder: pathlib.Path) -> list[tuple[str, float]]:
    """Returns name and nanoseconds of all events of a trace of `jax.profiler`."""
    return [
        (event.name, event.duration_ns)
        for path in folder.rglob("*.xplane.pb")
        for plane in jax.profiler.ProfileData.from_file(str(path)).planes
        for line in plane.lines
        for event in line.events
    ]


def profile(case: cases.Case, variant: cases.Variant, batch: int) -> Profile:
    """Times a training step without a trace, the fastest of `RUNS`, and traces another one."""
    with contextlib.ExitStack() as resources:
        arguments = (resources, case._asdict(), variant._asdict())
        run = kdjax_side.prepare(*arguments, batch=batch, steps=STEPS).phases[cases.STEP]
        run()
        seconds = []
        for _ in range(RUNS):
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
        folder = resources.enter_context(tempfile.TemporaryDirectory())
        with jax.profiler.trace(folder):
            run()
        kinds = milliseconds(read_events(pathlib.Path(folder)), STEPS)
    return Profile(kinds, 1000 * min(seconds) / STEPS)


def table(profiles: Mapping[str, Profile]) -> str:
    """Returns the profiles as a Markdown table, a column for each."""
    lines = [("ms of a step", *profiles), ("---",) * (len(profiles) + 1)]
    for name in KINDS:
        lines.append((name, *(f"{each.kinds[name]:,.0f}" for each in profiles.values())))
    between = (each.step - sum(each.kinds.values()) for each in profiles.values())
    lines.append(
        ("the rest; below 0 where operations overlap", *(f"{rest:,.0f}" for rest in between))
    )
    lines.append(("**the whole step**", *(f"{each.step:,.0f}" for each in profiles.values())))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(arguments: Sequence[str]) -> None:
    """Profiles the variants of each network and writes or prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    of_kdjax = [each for each in cases.VARIANTS["cpu"] if each.side == "kdjax"]
    variants = [each.name for each in of_kdjax if not each.needs_teacher]
    alone = [name for name, case in cases.CASES.items() if case.student and not case.teacher]
    parser.add_argument("--networks", nargs="+", choices=alone, required=True)
    parser.add_argument("--variants", nargs="+", choices=variants, default=["kdjax"])
    parser.add_argument("--batch", type=int, default=128, help="batch size")
    parser.add_argument("--out", type=pathlib.Path, help="a Markdown file")
    options = parser.parse_args(arguments)
    tune_allocator()  # as in kdjax.main
    if (backend := jax.default_backend()) != "cpu":
        parser.error(f"JAX runs on {backend}: the names of the operations are those of a CPU")
    profiles = {}
    for network in options.networks:
        for name in options.variants:
            variant = cases.find_variant(name, "cpu")
            assert variant
            title = f"{network}, {variant.title}"
            profiles[title] = profile(cases.CASES[network], variant, options.batch)
            print(title, file=sys.stderr, flush=True)
    numbers = versions(*kdjax_side.LIBRARIES).items()
    machine = f"{processor()}, {len(os.sched_getaffinity(0))} cores"
    command = shlex.join(public_command("experiments.benchmark.operations"))
    conditions = (
        f"{machine}; {', '.join(f'{library} {number}' for library, number in numbers)}; batch size "
        f"{options.batch}. The whole step: the fastest of {RUNS} runs of {STEPS} steps without a "
        "profiler."
    )
    parts = ("# Where the time of a training step goes", conditions, f"```text\n{command}\n```")
    text = "\n\n".join([*parts, f"{table(profiles)}\n"])
    if options.out:
        options.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main(sys.argv[1:])

"""Interrupts a run by Ctrl-C at chosen moments, and compares it with an uninterrupted run.

python experiments/interruptions.py --out=runs/interruptions [FLAGS]
python experiments/interruptions.py --processes=2 --out=runs/interruptions_2 [FLAGS]

One run is interrupted at the first moment, continued by the same command until the next moment,
and so on; in the end it runs to its end. Steps are logged one by one, so that it is known how many
are lost: those that were logged before the signal, and are not in the newest checkpoint after the
exit. Compared are the same files as in `faults.py`. FLAGS are passed to kdjax.main.
"""

import argparse
import json
import pathlib
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import faults


class Moment(NamedTuple):
    """A moment of a run.

    Attributes:
        name: what the run does.
        reached: whether it does it, from the workdir and what this process has printed.
        delay: seconds from then to the signal.
    """

    name: str
    reached: Callable[[pathlib.Path, str], bool]
    delay: float = 0.0


MOMENTS = (
    Moment("before the data are loaded", lambda run, text: (run / ".lock_owner").exists()),
    Moment(
        "the teacher's program is compiled",
        lambda run, text: (run / "teacher" / "config.json").exists(),
        0.3,
    ),
    Moment("an epoch of the teacher", lambda run, text: "teacher  a step takes" in text, 0.05),
    Moment("a checkpoint of the teacher", lambda run, text: is_saving(run / "teacher")),
    Moment("between teacher and student", lambda run, text: (run / "config.json").exists()),
    Moment("the student's program is compiled", lambda run, text: "is finished: " in text, 0.5),
    Moment("an epoch of the student", lambda run, text: "student  a step takes" in text, 0.05),
    Moment("a checkpoint of the student", lambda run, text: is_saving(run)),
    Moment("after the last epoch", lambda run, text: "student  epoch 8/8" in text),
    Moment("the evaluation", lambda run, text: (run / "predictions" / "dev.npz").exists()),
    Moment("the report", lambda run, text: (run / "results.json").exists()),
)


class Interruption(NamedTuple):
    """What an interruption did.

    Attributes:
        moment: its name.
        statuses: exit statuses of the processes.
        seconds: from the signal to the exit of the last process.
        at_step: stage and step of the newest checkpoint after the exit.
        lost: steps that were logged before the signal and are not in that checkpoint.
        message: what the first process printed last.
    """

    moment: str
    statuses: list[int]
    seconds: float
    at_step: str
    lost: int
    message: str


def is_saving(folder: pathlib.Path) -> bool:
    """Returns whether a checkpoint of a stage is being written."""
    return any("tmp" in path.name for path in folder.glob("checkpoints/*"))


def logged_step(folder: pathlib.Path) -> int:
    """Returns the last training step in `metrics.jsonl` of a stage."""
    try:
        lines = (folder / "metrics.jsonl").read_text(errors="replace").splitlines()
    except OSError:
        return 0
    return max((step for line in lines if (step := _train_step(line))), default=0)


def _train_step(line: str) -> int:
    try:
        values = json.loads(line)
    except ValueError:  # being written
        return 0
    return values["step"] if values["split"] == "train" else 0


def saved_step(folder: pathlib.Path) -> int:
    """Returns the step of the newest checkpoint of a stage."""
    names = [path.name for path in (folder / "checkpoints").glob("[0-9]*")]
    return max((int(name) for name in names if name.isdigit()), default=0)


def interrupt(
    folder: pathlib.Path, moment: Moment, processes: int, flags: Sequence[str]
) -> Interruption:
    """Starts or continues a run, and interrupts all of its processes at a moment.

    Raises:
        SystemExit: if it ends before.
    """
    log = folder.with_name(f"{folder.name}-0.log")
    before = log.stat().st_size if log.exists() else 0
    started = faults.start(folder, processes, flags)
    while not moment.reached(folder, log.read_bytes()[before:].decode(errors="replace")):
        if started[0].poll() is not None:
            sys.exit(f"interruptions.py: error: {folder} ended before {moment.name!r}: see {log}")
        time.sleep(0.002)
    time.sleep(moment.delay)
    logged = [logged_step(stage) for stage in (folder, folder / "teacher")]
    begin = time.monotonic()
    for process in started:  # as a terminal does
        process.send_signal(signal.SIGINT)
    statuses = faults.wait(started, faults.GRACE_SECONDS)
    saved = [saved_step(stage) for stage in (folder, folder / "teacher")]
    printed = log.read_bytes()[before:].decode(errors="replace").split("\n")
    return Interruption(
        moment=moment.name,
        statuses=statuses,
        seconds=round(time.monotonic() - begin, 1),
        at_step=faults.newest_checkpoint(folder),
        lost=sum(max(0, last - step) for last, step in zip(logged, saved, strict=True)),
        message=next((line for line in reversed(printed) if line), ""),
    )


def table(interruptions: Sequence[Interruption], different: Sequence[str]) -> str:
    """Returns the Markdown table of all interruptions, and the result of the comparison."""
    lines = [
        "| Ctrl-C during | exit statuses | seconds to the exit | newest checkpoint | steps lost |",
        "|---|---|---:|---|---:|",
    ]
    lines += [
        f"| {each.moment} | {', '.join(map(str, each.statuses))} | {each.seconds} | "
        f"{each.at_step} | {each.lost} |"
        for each in interruptions
    ]
    result = "differs: " + ", ".join(different) if different else "is bit-identical"
    return "\n".join([*lines, "", f"The run that was interrupted {result}."])


def campaign(
    out: pathlib.Path, processes: int, flags: Sequence[str]
) -> tuple[list[Interruption], list[str]]:
    """Returns the interruptions of a run and what differs from an uninterrupted one."""
    out.mkdir(parents=True, exist_ok=True)
    faults.run_uninterrupted(out / "undisturbed", processes, flags)
    folder = out / "interrupted"
    shutil.rmtree(folder, ignore_errors=True)
    interruptions = []
    for moment in MOMENTS:
        interruptions.append(interrupt(folder, moment, processes, flags))
        print(interruptions[-1], flush=True)
    faults.require_done(folder, faults.wait(faults.start(folder, processes, flags), 600))
    expected, actual = (faults.fingerprint(path) for path in (out / "undisturbed", folder))
    return interruptions, faults.differing(expected, actual)


def main() -> None:
    """Prints the table; exit status 1 if the run differs or a step was lost."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, default=1, help="processes of the run")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder of the workdirs")
    options, flags = parser.parse_known_args()
    # A process in the background ignores Ctrl-C, and so would those that it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    interruptions, different = campaign(
        options.out.absolute(), options.processes, ["--config.log_every=1", *flags]
    )
    print(table(interruptions, different))
    sys.exit(bool(different) or any(each.lost > 1 for each in interruptions))


if __name__ == "__main__":
    main()

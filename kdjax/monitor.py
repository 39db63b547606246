"""Monitors the predictions of a deployed model: risk, coverage and drift, with few false alarms.

kdjax monitor --model=model/ predictions.csv [more.jsonl] [--state=FILE] [--plot=FILE.svg]
kdjax predict --model=model/ --json new/ | kdjax monitor --model=model/ -

The files are what `kdjax predict --csv` or `--json` prints, in the order of time, with the true
label in the column `truth` where it is known; `-` is standard input. Exit status 3 once there is an
alarm.
"""

import json
import sys

from absl import flags

from kdjax import cli

ALARM = 3  # exit status

MODEL = cli.define_path("model", "the folder written by kdjax.export")
STATE = cli.define_path(
    "state", "file that keeps what was seen: the next call continues, with new lines only"
)
PLOT = cli.define_path("plot", "also write the wealth over time to this file, .svg or .html")
WATCH = flags.DEFINE_list("watch", None, "tests: risk, coverage, drift [all that the card permits]")
RISK = flags.DEFINE_float("risk", None, "the largest selective risk [that of the certificate]")
COVERAGE = flags.DEFINE_float(
    "least_coverage", None, "the least share of accepted images [a bound from the card]"
)
DELTA = flags.DEFINE_float(
    "delta", 0.05, "probability of a false alarm of any test, at whatever time"
)
SEED = flags.DEFINE_integer("seed", 0, "of the random order of equal confidences")
TRUTH = flags.DEFINE_string("truth", None, "column of true labels [truth]")
TIME = flags.DEFINE_string("time", None, "column of times, which are shown [time]")
COUNT_UNKNOWN = flags.DEFINE_bool(
    "count_unknown",
    False,
    "count accepted images of classes that the model does not have as errors",
)
JSON = flags.DEFINE_bool("json", False, "print one JSON object")


def main(arguments: list[str]) -> None:
    """Runs the command: prints what was watched and the first alarms."""
    from kdjax import extras
    from kdjax.errors import InputError
    from kdjax.predict import monitoring
    from kdjax.report import monitor_table

    if MODEL.value is None:
        raise InputError("no model given: for example --model=model/")
    plot = None
    if PLOT.value is not None:
        from kdjax.report.page import monitor_plot

        plot = monitor_plot.check_path(PLOT.value)
        extras.require("report")
    session = monitoring.watch(
        MODEL.value,
        arguments,
        monitoring.Settings(
            watch=WATCH.value,
            risk=RISK.value,
            least_coverage=COVERAGE.value,
            delta=DELTA.value,
            seed=SEED.value,
            truth=TRUTH.value,
            time=TIME.value,
            count_unknown=COUNT_UNKNOWN.value,
        ),
        state=STATE.value,
        on_alarm=_print_alarm if monitoring.STDIN in arguments else lambda _: None,
        on_note=lambda line: print(f"kdjax: note: {line}", file=sys.stderr, flush=True),
    )
    report = monitoring.report(session)
    alarms = [monitoring.alarm_line(session, name) for name in session.places]
    if plot is not None:
        monitor_plot.write(plot, session.history, report, alarms)
    if JSON.value:
        print(json.dumps({"model": MODEL.value, "inputs": arguments, **report}, allow_nan=False))
    else:
        monitor_table.show(report, alarms)
    sys.stdout.flush()
    if report["alarm"]:
        sys.exit(ALARM)


def _print_alarm(line: str) -> None:
    """Prints an alarm at once: a pipe may go on for long."""
    print(f"kdjax: alarm: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    cli.run(main, positional="PREDICTIONS...", needs=["train"])

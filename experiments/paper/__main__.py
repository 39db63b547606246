"""Trains and compares the methods: data sets x settings x teachers x seeds.

python -m experiments.paper run --budget=laptop --data cifar10 --settings structure --seeds 0 1 2
python -m experiments.paper status --data cifar10 --settings structure --seeds 0 1 2
python -m experiments.paper table [--out=FOLDER] [--format=markdown|csv|latex] [--page=FILE]
python -m experiments.paper figures [--out=FOLDER] [--folder=docs/images]

`run` is a queue: a finished job is skipped, and an interrupted one continues where it stopped. A
job trains one teacher, or out-of-fold teachers, and all methods as its students. Fields of the
config are changed with --set, such as --set student.epochs=50. `table` and `figures` need the
result files only.
"""

import argparse
import pathlib
import shlex
import subprocess
import sys
from collections.abc import Sequence
from concurrent import futures

from experiments.paper import plan
from kdjax.errors import InputError
from kdjax.objectives import METHODS

RESULTS = pathlib.Path(__file__).parents[1] / "results" / "paper"
IMAGES = pathlib.Path(__file__).parents[2] / "docs" / "images" / "paper"


def main(arguments: Sequence[str]) -> None:
    """Runs the command that the first argument names."""
    options = _parser().parse_args(arguments)
    try:
        options.command(options)
    except (InputError, OSError) as error:
        sys.exit(f"paper: error: {error}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.paper",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="run|status|job|table|figures")
    run = commands.add_parser("run", help="train all jobs that are not finished")
    run.set_defaults(command=_run)
    run.add_argument("--parallel", type=int, default=1, help="jobs at the same time")
    status = commands.add_parser("status", help="which jobs are finished")
    status.set_defaults(command=_status)
    job = commands.add_parser("job", help="train one job of the queue in this process")
    job.set_defaults(command=_job)
    job.add_argument("name", help="of the job, as status prints it")
    for parser_ in (run, status, job):
        _add_queue_options(parser_)
    table = commands.add_parser("table", help="make the tables from the result files")
    table.set_defaults(command=_table)
    table.add_argument("--out", type=pathlib.Path, default=RESULTS, help="folder of the files")
    table.add_argument("--format", choices=("markdown", "csv", "latex"), default="markdown")
    table.add_argument("--page", type=pathlib.Path, help="write the tables into this file")
    figures = commands.add_parser("figures", help="draw the figures from the result files")
    figures.set_defaults(command=_figures)
    figures.add_argument("--out", type=pathlib.Path, default=RESULTS, help="folder of the files")
    figures.add_argument("--folder", type=pathlib.Path, default=IMAGES, help="of the figures")
    return parser


def _add_queue_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--budget", choices=plan.BUDGETS, default="laptop")
    parser.add_argument("--data", nargs="+", choices=plan.DATA, default=["cifar10"])
    parser.add_argument("--settings", nargs="+", choices=plan.SETTINGS, default=["structure"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE", dest="changes")
    parser.add_argument(
        "--share-teacher", action="store_true", help="all seeds have the teacher of the first one"
    )
    parser.add_argument("--runs", type=pathlib.Path, default=pathlib.Path("runs/paper"))
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS, help="of the result files")


def _queue_arguments(options: argparse.Namespace) -> list[str]:
    """Returns the arguments that determine the jobs and their configs."""
    arguments = [f"--budget={options.budget}", "--data", *options.data]
    arguments += ["--settings", *options.settings, "--seeds", *map(str, options.seeds)]
    arguments += ["--methods", *options.methods]
    arguments += ["--share-teacher"] if options.share_teacher else []
    return arguments + (["--set", *options.changes] if options.changes else [])


def _jobs(options: argparse.Namespace) -> list[plan.Job]:
    return plan.jobs(options.data, options.settings, options.seeds)


def _is_finished(job: plan.Job, out: pathlib.Path) -> bool:
    return (out / f"{job.name}.json").exists()


def _status(options: argparse.Namespace) -> None:
    for job in _jobs(options):
        state = "finished" if _is_finished(job, options.out) else "open"
        started = plan.folder(job, options.runs).exists() and state == "open"
        print(f"{job.name}: {'started' if started else state}")


def _run(options: argparse.Namespace) -> None:
    """Starts a process for each open job; a failed job does not stop the others."""
    jobs = [job for job in _jobs(options) if not _is_finished(job, options.out)]
    for job in jobs:  # raises for a field that is wrong, before anything is trained
        plan.config(job, options.budget, options.methods, plan.parse_changes(options.changes))

    def start(job: plan.Job) -> int:
        files = [f"--runs={options.runs}", f"--out={options.out}"]
        command = [sys.executable, "-m", "experiments.paper", "job", job.name]
        command += [*_queue_arguments(options), *files]
        print(f"{job.name}: started", flush=True)
        log = options.runs / f"{job.name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as output:
            status = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT).returncode
        print(f"{job.name}: {f'failed, see {log}' if status else 'finished'}", flush=True)
        return status

    with futures.ThreadPoolExecutor(max(options.parallel, 1)) as pool:
        if any(list(pool.map(start, jobs))):
            sys.exit(1)


def _job(options: argparse.Namespace) -> None:
    from experiments.paper import job as jobs

    jobs.run(options, f"python -m experiments.paper run {shlex.join(_queue_arguments(options))}")


def _table(options: argparse.Namespace) -> None:
    from experiments.paper import formats

    writers = {"markdown": formats.markdown, "csv": formats.as_csv, "latex": formats.latex}
    text = writers[options.format](options.out)
    if options.page:
        options.page.write_text(text)
    else:
        print(text)


def _figures(options: argparse.Namespace) -> None:
    from experiments.paper import figures

    for path in figures.write(options.out, options.folder):
        print(path)


if __name__ == "__main__":
    main(sys.argv[1:])

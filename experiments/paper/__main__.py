"""Trains and compares the methods: data sets x settings x teachers x seeds.

python -m experiments.paper run --budget=laptop --data cifar10 --settings structure --seeds 0 1 2
python -m experiments.paper status --data cifar10 --settings structure --seeds 0 1 2
python -m experiments.paper table [--out=FOLDER] [--format=markdown|csv|latex]
python -m experiments.paper table --page=docs/results/comparison.md
python -m experiments.paper figures [--out=FOLDER] [--folder=docs/images]
python -m experiments.paper baselines LOGITS.npz ... [--split=FILE] [--out=FOLDER]

`run` is a queue: a finished job is skipped, and an interrupted one continues where it stopped. A
job trains one teacher, or out-of-fold teachers, and all methods as its students. Fields of the
config are changed with --set, such as --set student.epochs=50. With --payoffs, further jobs train
the methods that have a payoff with these payoffs, and `table` chooses one of them on dev. `table`
and `figures` need the result files only; with --page, `table` writes the generated part of a page
and draws its figures. `baselines` makes result files of networks that other libraries trained; see
the folder `baselines`.
"""

import argparse
import pathlib
import subprocess
import sys
from collections.abc import Sequence
from concurrent import futures

from experiments.paper import plan, queue_options, result_files
from experiments.paper.queue_options import RESULTS
from kdjax.errors import InputError

IMAGES = pathlib.Path(__file__).parents[2] / "docs" / "images" / "paper"


def main(arguments: Sequence[str]) -> None:
    """Runs the command that the first argument names."""
    options = _parser().parse_args(arguments)
    try:
        options.command(options)
    except (InputError, OSError) as error:
        print(f"paper: error: {error}", file=sys.stderr)
        sys.exit(2)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.paper",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = "run|status|job|table|figures|baselines"
    commands = parser.add_subparsers(required=True, metavar=names)
    run = commands.add_parser("run", help="train all jobs that are not finished")
    run.set_defaults(command=_run)
    run.add_argument("--parallel", type=int, default=1, help="jobs at the same time")
    status = commands.add_parser("status", help="which jobs are finished")
    status.set_defaults(command=_status)
    job = commands.add_parser("job", help="train one job of the queue in this process")
    job.set_defaults(command=_job)
    job.add_argument("name", help="of the job, as status prints it")
    for parser_ in (run, status, job):
        queue_options.add(parser_)
    table = commands.add_parser("table", help="make the tables from the result files")
    table.set_defaults(command=_table)
    table.add_argument("--out", type=pathlib.Path, default=RESULTS, help="folder of the files")
    table.add_argument("--format", choices=("markdown", "csv", "latex"), default="markdown")
    table.add_argument("--page", type=pathlib.Path, help="write tables and figures into this page")
    table.add_argument("--folder", type=pathlib.Path, default=IMAGES, help="of the page's figures")
    figures = commands.add_parser("figures", help="draw the figures from the result files")
    figures.set_defaults(command=_figures)
    figures.add_argument("--out", type=pathlib.Path, default=RESULTS, help="folder of the files")
    figures.add_argument("--folder", type=pathlib.Path, default=IMAGES, help="of the figures")
    baselines = commands.add_parser(
        "baselines", help="judge logits of networks trained in another library"
    )
    baselines.set_defaults(command=_baselines)
    baselines.add_argument("logits", nargs="+", type=pathlib.Path, help="files of a training")
    baselines.add_argument(
        "--split", type=pathlib.Path, help="exported: compare the labels with it"
    )
    baselines.add_argument("--out", type=pathlib.Path, default=RESULTS, help="folder of the files")
    return parser


def _is_finished(job: plan.Job, options: argparse.Namespace) -> bool:
    path = options.out / f"{job.name}.json"
    if not path.exists():
        return False
    queue_options.check_recorded(options, job, result_files.read_record(path))
    return path.with_suffix(".npz").exists()


def _status(options: argparse.Namespace) -> None:
    for job in queue_options.jobs(options):
        state = "finished" if _is_finished(job, options) else "open"
        started = plan.folder(job, options.runs).exists() and state == "open"
        print(f"{job.name}: {'started' if started else state}")


def _run(options: argparse.Namespace) -> None:
    """Starts a process for each open job; a failed job does not stop the others."""
    if options.parallel < 1:
        raise InputError(f"--parallel {options.parallel}: must be at least 1")
    changes = plan.parse_changes(options.changes)
    jobs = queue_options.jobs(options)
    for job in jobs:  # raises for a field that is wrong, before anything is trained
        plan.config(job, options.budget, options.methods, changes)
    jobs = [job for job in jobs if not _is_finished(job, options)]

    def start(job: plan.Job, teacher_job: futures.Future[int] | None) -> int:
        if teacher_job is not None:
            teacher_job.result()  # waits until the teacher is trained
        files = [f"--runs={options.runs}", f"--out={options.out}"]
        command = [sys.executable, "-m", "experiments.paper", "job", job.name]
        command += [*queue_options.arguments(options), *files]
        print(f"{job.name}: started", flush=True)
        log = options.runs / f"{job.name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as output:
            status = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT).returncode
        print(f"{job.name}: {f'failed, see {log}' if status else 'finished'}", flush=True)
        return status

    started: dict[plan.Job | None, futures.Future[int]] = {}
    with futures.ThreadPoolExecutor(options.parallel) as pool:
        for job in jobs:  # the job that trains a teacher comes before those that use it
            teacher_job = started.get(queue_options.teacher_job(options, job))
            started[job] = pool.submit(start, job, teacher_job)
    if any(status.result() for status in started.values()):
        sys.exit(1)


def _job(options: argparse.Namespace) -> None:
    from experiments.paper import job as jobs

    jobs.run(options, queue_options.command(options))


def _table(options: argparse.Namespace) -> None:
    from experiments.paper import formats, page, result_files
    from kdjax.runtime import compiler

    compiler.tune_allocator()  # large arrays of resamples are allocated again and again
    groups = result_files.read(options.out)
    if options.page:
        page.write(options.page, groups, options.folder)
        return
    if options.format == "markdown":
        print(page.markdown(groups))
    else:
        print({"csv": formats.as_csv, "latex": formats.latex}[options.format](groups))


def _figures(options: argparse.Namespace) -> None:
    from experiments.paper import figures, result_files

    for path in figures.write(result_files.read(options.out), options.folder):
        print(path)


def _baselines(options: argparse.Namespace) -> None:
    from experiments.paper.baselines import judge

    for path in options.logits:
        print(judge.write(path, options.out, options.split))


if __name__ == "__main__":
    main(sys.argv[1:])

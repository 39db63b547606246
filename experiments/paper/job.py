"""Trains one job of the comparison in this process, and writes its result files."""

import argparse

from experiments.paper import collect, plan, queue_options
from kdjax import pipeline
from kdjax.config import resolve
from kdjax.errors import unknown_name_error
from kdjax.evaluation import evaluate
from kdjax.runs import restore, workdir
from kdjax.runtime import compiler


def run(options: argparse.Namespace, command: str) -> None:
    """Trains, evaluates and collects a job; each part is skipped if it is finished.

    Args:
        options: of the command `job`, see `__main__`.
        command: that is recorded in the result files.

    Raises:
        InputError: for an unknown job or field.
    """
    jobs = {job.name: job for job in queue_options.jobs(options)}
    if options.name not in jobs:
        raise unknown_name_error("job", options.name, jobs)
    job = jobs[options.name]
    changes = plan.parse_changes(options.changes)
    source = queue_options.teacher_job(options, job)
    teacher = plan.folder(source, options.runs) if source else None
    config = resolve(plan.config(job, options.budget, options.methods, changes, teacher))
    folder = plan.folder(job, options.runs)
    compiler.enable_compilation_cache()
    workdirs = list(pipeline.student_workdirs(config, folder))
    with workdir.lock(folder):
        if pipeline.finished_results(config, folder) is None:
            dataset = pipeline.train(config, folder)
            evaluate.evaluate_all(workdirs, dataset)
        else:
            dataset = restore.load_data(config)
        methods = plan.methods(job, options.methods)
        by_method = dict(zip(methods, workdirs, strict=True))
        collect.collect(job, by_method, dataset, options.out, command)

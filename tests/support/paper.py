"""Result files of `experiments.paper` with known or random numbers."""

import json
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from experiments.paper import collect, plan, table
from kdjax.objectives import METHODS

EXAMPLES = 200
COMMAND = "python -m experiments.paper run --budget=laptop --set student.epochs=30"


def random_ranking(rng: np.random.Generator) -> collect.Ranking:
    confidence = rng.normal(size=EXAMPLES)
    return collect.ranking(confidence, rng.random(EXAMPLES) < 1 / (1 + np.exp(-confidence)))


def ranking_with_errors(count: int) -> collect.Ranking:
    """Returns the ranking of `EXAMPLES` predictions of which the least confident are wrong."""
    return collect.ranking(np.arange(EXAMPLES), np.arange(EXAMPLES) >= count)


def scores_of(method: str) -> Sequence[str]:
    abstains = method in METHODS and METHODS[method].abstains
    return (collect.CHOSEN, collect.RESERVATION) if abstains else (collect.CHOSEN,)


def write_job(
    out: pathlib.Path,
    job: plan.Job,
    methods: Iterable[str],
    ranking: Callable[[str, str, str, str], collect.Ranking],
    **entries: object,
) -> None:
    """Writes the result files of a job.

    Args:
        out: folder.
        job: which one.
        methods: that it trained.
        ranking: of (method, views, score, split).
        entries: replace those of the JSON file; `name` its name.
    """
    methods, arrays, students = list(methods), {}, {}
    for method in methods:
        students[method] = {views: {"best_score": "doctor"} for views in collect.VIEWS}
        for score in scores_of(method):
            for views in collect.VIEWS:
                for split in collect.SPLITS:
                    one = ranking(method, views, score, split)
                    key = f"{method}/{views}/{score}/{split}"
                    arrays |= {f"{key}/rank": one.rank, f"{key}/correct": one.correct}
    name = entries.pop("name", job.name)
    collect.write_compressed(out / f"{name}.npz", arrays)
    ours = {method: METHODS[method].needs_teacher for method in methods if method in METHODS}
    record = {
        "job": vars(job),
        "command": COMMAND,
        "device": "cpu",
        "needs_teacher": ours,
        "teacher": teacher(wrong=0 if job.teacher == plan.IN_SAMPLE else 45),
        "students": students,
    }
    (out / f"{name}.json").write_text(json.dumps(record | entries))


def teacher(wrong: int) -> dict[str, object]:
    """Returns the results of a teacher that is wrong on some of 600 training images."""
    correction = {"examples": 600, "wrong": wrong, "adjusted": wrong or None}
    return {"dev": {"accuracy": 0.925}, "test": {"accuracy": 0.9}, "correction": correction}


def group_of(rows: Mapping[table.Row, table.Cells]) -> table.Group:
    return table.Group("cifar10", "structure", rows)


def deployed(method: str, teacher: str = "") -> table.Row:
    """Returns the row of a network with mirror views and the score that dev chose."""
    return table.Row(method, teacher, "flip", collect.CHOSEN)

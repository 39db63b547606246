"""The comparison of methods: its queue, its tables, and that both survive a kill."""

import json
import pathlib

import numpy as np
import pytest

from experiments.paper import __main__ as paper
from experiments.paper import collect, plan, table
from kdjax import selective
from kdjax.errors import InputError

EXAMPLES = 200


def random_ranking(rng: np.random.Generator) -> collect.Ranking:
    confidence = rng.normal(size=EXAMPLES)
    return collect.ranking(confidence, rng.random(EXAMPLES) < 1 / (1 + np.exp(-confidence)))


@pytest.fixture
def out(tmp_path: pathlib.Path) -> pathlib.Path:
    """Result files of two methods, with and without a teacher, and three seeds."""
    rng = np.random.default_rng(0)
    for job in plan.jobs(["cifar10"], ["structure"], [0, 1, 2]):
        arrays, methods = {}, plan.methods(job, ["gambler", "kd"])
        for method in methods:
            for views in collect.VIEWS:
                for split in collect.SPLITS:
                    key, one = f"{method}/{views}/{split}", random_ranking(rng)
                    arrays |= {f"{key}/rank": one.rank, f"{key}/correct": one.correct}
        np.savez(tmp_path / f"{job.name}.npz", **arrays)
        record = {
            "job": {"data": job.data, "setting": job.setting} | vars(job),
            "command": "python -m experiments.paper run",
            "needs_teacher": {"gambler": False, "kd": True},
            "teacher": {},
        }
        (tmp_path / f"{job.name}.json").write_text(json.dumps(record))
    return tmp_path


def test_ranks_keep_the_order_and_the_ties_of_the_confidence() -> None:
    rng = np.random.default_rng(0)
    confidence = np.round(rng.normal(size=EXAMPLES), 1)  # with ties
    correct = rng.random(EXAMPLES) < 0.8
    one = collect.ranking(confidence, correct)
    assert one.rank.dtype == np.uint16
    assert len(np.unique(one.rank)) == len(np.unique(confidence)) < EXAMPLES
    expected = selective.aurc(confidence, correct)
    assert table.metrics(one)["AURC x 1000"] == pytest.approx(1000 * expected, rel=1e-12)


def test_table_has_the_mean_and_the_deviation_over_seeds(out: pathlib.Path) -> None:
    values = []
    for seed in range(3):
        with np.load(out / f"cifar10-structure-out_of_fold-seed{seed}.npz") as arrays:
            values.append(100 * arrays["kd/flip/test/correct"].mean())
    (line,) = [
        line
        for line in table.page(out).splitlines()
        if line.startswith("| kd | out_of_fold | flip")
    ]
    assert f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}" in line


def test_method_without_a_teacher_is_trained_in_one_of_the_two_jobs() -> None:
    jobs = plan.jobs(["cifar10"], ["structure"], [0])
    trained = [plan.methods(job, ["ce", "kd"]) for job in jobs]
    assert trained == [["ce", "kd"], ["kd"]]


def test_interval_is_that_of_a_bootstrap_of_whole_pairs() -> None:
    rng = np.random.default_rng(1)
    rankings = [(random_ranking(rng), random_ranking(rng)) for _ in range(2)]
    estimates, low, high = table.differences(rankings)["AURC x 1000"]
    resampled = []
    for _ in range(1000):
        rows = rng.integers(EXAMPLES, size=EXAMPLES)
        resampled.append(
            np.mean(
                [
                    selective.aurc(one.rank[rows].astype(float), one.correct[rows])
                    - selective.aurc(other.rank[rows].astype(float), other.correct[rows])
                    for one, other in rankings
                ]
            )
        )
    expected = 1000 * np.percentile(resampled, [2.5, 97.5])
    assert low < np.mean(estimates) < high
    np.testing.assert_allclose([low, high], expected, atol=0.15 * (high - low))


def test_equal_networks_do_not_differ() -> None:
    one = random_ranking(np.random.default_rng(2))
    assert table.differences([(one, one)])["error % at 80 % coverage"] == ([0.0], 0.0, 0.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["job", "cifar10"],
            "unknown job 'cifar10': did you mean 'cifar10-",
        ),
        (["run", "--set", "student.epochs"], "--set 'student.epochs': must be FIELD=VALUE"),
        (["table", "--out=nowhere"], "no result files in 'nowhere'"),
    ],
)
def test_wrong_argument_is_one_line(
    arguments: list[str], message: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=f"paper: error: .*{message}"):
        paper.main(arguments)


def test_unknown_field_is_refused() -> None:
    (job, _) = plan.jobs(["cifar10"], ["structure"], [0])
    with pytest.raises(InputError, match=r"student\.epoch'"):
        plan.config(job, "smoke", ["ce"], {"student.epoch": 3})


def test_later_seeds_can_share_the_teacher_of_the_first(tmp_path: pathlib.Path) -> None:
    first, _, later, _ = plan.jobs(["cifar10"], ["structure"], [4, 2])
    shared = [plan.teacher_workdir(job, [4, 2], tmp_path, share=True) for job in (first, later)]
    assert shared == [None, tmp_path / "cifar10-structure-in_sample-seed4"]
    assert plan.teacher_workdir(later, [4, 2], tmp_path, share=False) is None


def test_out_of_fold_teachers_are_shared_as_a_workdir_without_folds_of_its_own(
    tmp_path: pathlib.Path,
) -> None:
    _, first, _, later = plan.jobs(["cifar10"], ["structure"], [0, 1])
    folder = plan.teacher_workdir(later, [0, 1], tmp_path, share=True)
    own = plan.config(first, "smoke", ["kd"], {})
    shared = plan.config(later, "smoke", ["kd"], {}, folder)
    assert own.teacher.folds > 1 and not own.teacher.workdir
    assert (shared.teacher.folds, shared.teacher.workdir) == (0, str(folder))

"""The comparison of methods: its queue, its tables, and that both survive a kill."""

import csv
import itertools
import json
import pathlib
import re

import numpy as np
import pytest

from experiments.paper import __main__ as paper
from experiments.paper import claims, collect, formats, plan, table
from kdjax import selective
from kdjax.errors import InputError

EXAMPLES = 200
SCORES = {"gambler": (collect.CHOSEN, collect.RESERVATION), "kd": (collect.CHOSEN,)}


def random_ranking(rng: np.random.Generator) -> collect.Ranking:
    confidence = rng.normal(size=EXAMPLES)
    return collect.ranking(confidence, rng.random(EXAMPLES) < 1 / (1 + np.exp(-confidence)))


@pytest.fixture
def out(tmp_path: pathlib.Path) -> pathlib.Path:
    """Result files of two methods, with and without a teacher, and three seeds."""
    rng = np.random.default_rng(0)
    for job in plan.jobs(["cifar10"], ["structure"], [0, 1, 2]):
        arrays, methods = {}, plan.methods(job, ["gambler", "kd"])
        scores = [(name, score) for name in methods for score in SCORES[name]]
        for (method, score), views, split in itertools.product(
            scores, collect.VIEWS, collect.SPLITS
        ):
            key, one = f"{method}/{views}/{score}/{split}", random_ranking(rng)
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
            values.append(100 * arrays["kd/flip/chosen/test/correct"].mean())
    (line,) = [
        line
        for line in formats.markdown(out).splitlines()
        if line.startswith("| kd | out_of_fold | flip | chosen")
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


def test_csv_has_every_metric_of_every_network(out: pathlib.Path) -> None:
    rows = list(csv.DictReader(formats.as_csv(out).splitlines()))
    names = list(table.metrics(random_ranking(np.random.default_rng(0))))
    # kd has two teachers and one score, gambler no teacher and two scores.
    assert len(rows) == 4 * len(collect.VIEWS) * len(collect.SPLITS) * len(names)
    (row,) = [
        row
        for row in rows
        if (row["method"], row["score"], row["views"]) == ("gambler", "reservation", "none")
        and (row["split"], row["metric"]) == ("dev", "error % at 95 % coverage")
    ]
    errors = []
    for seed in range(3):
        with np.load(out / f"cifar10-structure-in_sample-seed{seed}.npz") as arrays:
            prefix = "gambler/none/reservation/dev"
            rank, correct = arrays[f"{prefix}/rank"], arrays[f"{prefix}/correct"]
        accepted = np.argsort(-rank.astype(int))[: round(0.95 * EXAMPLES)]  # there are no ties
        errors.append(100 * np.mean(~correct[accepted]))
    assert float(row["mean"]) == pytest.approx(np.mean(errors))
    assert float(row["deviation"]) == pytest.approx(np.std(errors, ddof=1))
    assert row["seeds"] == "3"


def test_latex_table_has_one_bold_number_in_each_column(out: pathlib.Path) -> None:
    lines = formats.latex(out).splitlines()
    body = lines[lines.index("\\midrule") + 1 : lines.index("\\bottomrule")]
    cells = [line.removesuffix(" \\\\").split(" & ") for line in body]
    assert [row[:2] for row in cells] == [
        ["gambler", ""],
        ["kd", "in\\_sample"],
        ["kd", "out\\_of\\_fold"],
    ]
    columns = list(zip(*(row[2:] for row in cells), strict=True))
    assert f"{{ll{'r' * len(columns)}}}" in "".join(lines)
    for place, column in enumerate(columns):
        means = [float(re.search(r"[\d.]+", text)[0]) for text in column]
        best = max(means) if place == 0 else min(means)  # the first column is accuracy
        assert [mean for mean, text in zip(means, column, strict=True) if "mathbf" in text] == [
            best
        ]


@pytest.mark.parametrize(
    ("sign", "per_seed", "low", "high", "expected"),
    [
        (+1, [0.5, 0.2], 0.1, 0.6, claims.HOLDS),
        (-1, [0.5, 0.2], 0.1, 0.6, claims.CONTRADICTED),
        (-1, [-0.5, -0.2], -0.6, -0.1, claims.HOLDS),
        (+1, [0.5, -0.1], 0.1, 0.6, claims.UNDECIDED),  # one seed says the opposite
        (+1, [0.5, 0.2], -0.1, 0.6, claims.UNDECIDED),  # the interval contains 0
    ],
)
def test_claim_is_decided_by_the_interval_and_all_seeds(
    sign: int, per_seed: list[float], low: float, high: float, expected: str
) -> None:
    assert claims.verdict(sign, per_seed, low, high) == expected


def ranking_with_errors(count: int) -> collect.Ranking:
    """Returns the ranking of `EXAMPLES` predictions of which the least confident are wrong."""
    return collect.ranking(np.arange(EXAMPLES), np.arange(EXAMPLES) >= count)


def test_claims_compare_networks_of_the_same_teacher() -> None:
    errors = {
        ("gambler", ""): 10,
        ("ce", ""): 60,
        ("kd", "in_sample"): 30,
        ("ka", "in_sample"): 10,
        ("ka", "out_of_fold"): 30,
        ("kd", "out_of_fold"): 31,
    }
    rows = {
        table.Row(*names, "flip", collect.CHOSEN): {
            ("test", seed): ranking_with_errors(wrong + seed) for seed in range(2)
        }
        for names, wrong in errors.items()
    }
    adjustment, gambler, both = claims.CLAIMS
    found = {each.row.teacher: each for each in claims.findings(adjustment, rows)}
    assert found["in_sample"].verdict == claims.HOLDS
    assert found["in_sample"].per_seed == pytest.approx([10.0, 10.0])  # 20 of 200 images
    assert found["out_of_fold"].verdict == claims.UNDECIDED
    (one,) = claims.findings(gambler, rows)
    assert one.verdict == claims.HOLDS and one.high < 0
    assert not list(claims.findings(both, rows))
    section = claims.section({("cifar10", "structure"): rows})
    assert "Of 2 comparisons: holds in 1, not decided in 1, contradicted in 0." in section
    assert "Nothing was measured." in section

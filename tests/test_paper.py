"""The comparison of methods: its queue, its tables, and that both survive a kill."""

import csv
import pathlib
import re
import subprocess

import numpy as np
import pytest
import scipy.stats
from support.paper import (
    EXAMPLES,
    deployed,
    group_of,
    random_ranking,
    ranking_with_errors,
    write_job,
)

from experiments import crossed_intervals
from experiments.paper import __main__ as paper
from experiments.paper import (
    claims,
    collect,
    formats,
    page,
    plan,
    queue_options,
    result_files,
    summary,
    table,
)
from kdjax import selective
from kdjax.errors import InputError
from kdjax.runtime import compiler


def error_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Returns the one line with which a command refuses its arguments."""
    with pytest.raises(SystemExit) as stopped:
        paper.main(arguments)
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("paper: error: ")
    return line


@pytest.fixture
def out(tmp_path: pathlib.Path) -> pathlib.Path:
    """Result files of two methods, with and without a teacher, and three seeds."""
    rng = np.random.default_rng(0)
    for job in plan.jobs(["cifar10"], ["structure"], [0, 1, 2]):
        methods = plan.methods(job, ["gambler", "kd"])
        write_job(tmp_path, job, methods, lambda *_: random_ranking(rng))
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


def test_more_confidences_than_ranks_are_refused() -> None:
    count = 2**16
    assert collect.ranking(np.arange(count), np.ones(count)).rank.max() == count - 1
    with pytest.raises(InputError, match="65,537 different confidences: at most 65,536"):
        collect.ranking(np.arange(count + 1), np.ones(count + 1))


def test_table_has_the_mean_and_the_deviation_over_seeds(out: pathlib.Path) -> None:
    values = []
    for seed in range(3):
        with np.load(out / f"cifar10-structure-out_of_fold-seed{seed}.npz") as arrays:
            values.append(100 * arrays["kd/flip/chosen/test/correct"].mean())
    lines = [
        line
        for line in page.markdown(result_files.read(out)).splitlines()
        if line.startswith("| kd | out-of-fold | flip | chosen")
    ]
    assert f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}" in lines[1]  # dev is first


@pytest.mark.parametrize("command", ["run", "status"])
@pytest.mark.parametrize(
    ("arguments", "differences"),
    [
        (["--set", "student.epochs=60"], "student.epochs: 30 -> 60."),
        (["--set", "student.epochs=30", "data.name=npz:x.npz"], "data.name: 'cifar10' -> 'npz:"),
        (["--budget=full", "--set", "student.epochs=30"], "; and "),
        (["--methods", "ce", "kd", "--set", "student.epochs=30"], "than yours: no ce."),
        (
            ["--share-teacher", "--seeds", "2", "1", "--set", "student.epochs=30"],
            "than yours: teacher: of cifar10-structure-in_sample-seed1 -> of "
            "cifar10-structure-in_sample-seed2.",
        ),
    ],
)
def test_job_that_is_finished_with_other_settings_is_not_skipped(
    out: pathlib.Path,
    command: str,
    arguments: list[str],
    differences: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("started a job"))
    arguments = arguments if "--methods" in arguments else ["--methods", "kd", *arguments]
    message = error_of([command, "--seeds", "1", f"--out={out}", *arguments], capsys)
    assert (
        "cifar10-structure-in_sample-seed1 is finished with other settings than yours: " in message
    )
    assert differences in message


def test_job_that_is_finished_with_the_same_settings_is_skipped(
    out: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    same = ["--set", "student.epochs=30.0", "data.dir=elsewhere", f"--out={out}", "--methods", "kd"]
    paper.main(["status", *same])
    states = [line.split(": ")[1] for line in capsys.readouterr().out.splitlines()]
    assert states == 6 * ["finished"]
    paper.main(["run", *same])
    assert capsys.readouterr().out == ""


def test_finished_job_is_skipped_with_the_same_teacher_only(
    out: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in out.glob("*.json"):
        shared = path.read_text().replace("--budget=laptop", "--share-teacher --seeds 0 1 2")
        path.write_text(shared)
    options = ["--share-teacher", f"--out={out}", "--set", "student.epochs=30", "--methods"]
    paper.main(["status", "--seeds", "0", "2", *options, "kd"])
    paper.main(["status", "--seeds", "1", "2", *options, "gambler"])  # needs no teacher
    assert capsys.readouterr().out.count(": finished") == 6
    line = error_of(["status", "--seeds", "1", "2", *options, "kd"], capsys)
    first, second = (f"of cifar10-structure-in_sample-seed{seed}" for seed in (0, 1))
    assert f"than yours: teacher: {first} -> {second}. Give" in line


@pytest.mark.parametrize("command", ["table", "status"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"job": {"data"', "is damaged: "),
        ("[1]", "is no result file of a job: job, command, "),
        ('{"command": "a"}', "is no result file of a job: job, device, "),
    ],
)
def test_damaged_result_file_is_named(
    out: pathlib.Path,
    command: str,
    content: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = out / "cifar10-structure-in_sample-seed0.json"
    path.write_text(content)
    assert f"{str(path)!r} {message}" in error_of([command, f"--out={out}"], capsys)


def test_result_file_of_an_unknown_job_is_named(
    out: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = out / "cifar10-structure-in_sample-seed0.json"
    path.write_text(path.read_text().replace("structure", "other"))
    line = error_of(["table", f"--out={out}"], capsys)
    assert line.endswith(f"{str(path)!r} is no result file of a job: job missing or wrong")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--methods cee", "unknown method 'cee': did you mean 'ce'?"),
        ("--budget=lap", "argument --budget: invalid choice: 'lap'"),
        ("--set 'a", "No closing quotation"),
        ("--help", "unrecognized arguments: --help"),
    ],
)
def test_result_file_with_a_wrong_command_is_named(
    out: pathlib.Path, options: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = out / "cifar10-structure-in_sample-seed0.json"
    path.write_text(path.read_text().replace("--budget=laptop", options))
    line = error_of(["table", f"--out={out}"], capsys)
    assert f"the command recorded in {str(path)!r} is wrong: {message}" in line


def test_damaged_or_foreign_rankings_are_named(
    out: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = out / "cifar10-structure-in_sample-seed0.npz"
    whole = path.read_bytes()
    path.write_bytes(whole[:2000])
    assert f"{str(path)!r} is damaged: " in error_of(["table", f"--out={out}"], capsys)
    collect.write_compressed(path, {"logits": np.zeros(3)})
    expected = f"{str(path)!r} does not have the methods of {path.stem + '.json'!r}"
    assert expected in error_of(["table", f"--out={out}"], capsys)


def test_job_without_its_rankings_is_not_finished(
    out: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = out / "cifar10-structure-in_sample-seed0.npz"
    path.unlink()
    options = ["--methods", "kd", "--set", "student.epochs=30", f"--runs={out / 'runs'}"]
    paper.main(["status", "--seeds", "0", f"--out={out}", *options])
    assert capsys.readouterr().out.splitlines() == [
        "cifar10-structure-in_sample-seed0: open",
        "cifar10-structure-out_of_fold-seed0: finished",
    ]
    line = error_of(["table", f"--out={out}"], capsys)
    assert f"no file {str(path)!r}: run with the command that is recorded in " in line
    assert "'cifar10-structure-in_sample-seed0.json' writes it again" in line


def test_networks_with_different_settings_are_not_put_into_one_table(out: pathlib.Path) -> None:
    job = plan.Job("cifar10", "structure", plan.IN_SAMPLE, 3)
    rng = np.random.default_rng(1)
    command = "python -m experiments.paper run --set student.epochs=31 student.learning_rate=0.2"
    write_job(out, job, ["kd"], lambda *_: random_ranking(rng), command=command)
    with pytest.raises(InputError) as refused:
        result_files.read(out)
    assert str(refused.value).startswith(
        "cifar10-structure-in_sample-seed0.json and cifar10-structure-in_sample-seed3.json had "
        "different settings: student.epochs: 30 -> 31; student.learning_rate: 0.1 -> 0.2. Keep"
    )


def test_means_over_fewer_seeds_are_not_the_best_ones(tmp_path: pathlib.Path) -> None:
    """Of seed 0 alone `ce` has fewer errors, but `kd` has the most seeds."""
    errors = {"ce": [40], "kd": [60, 30, 60]}
    for seed in range(3):
        job = plan.Job("cifar10", "structure", plan.IN_SAMPLE, seed)
        ranked = {
            method: ranking_with_errors(values[seed])
            for method, values in errors.items()
            if seed < len(values)
        }
        write_job(tmp_path, job, ranked, lambda method, *_, ranked=ranked: ranked[method])
    (group,) = result_files.read(tmp_path)
    assert [row.method for row in group.complete(group.judged())] == ["kd"]
    assert group.best(group.judged(), "test", table.AURC).method == "kd"
    assert page.recommendation(group).startswith("**cifar10, setting structure**: `kd` with the")
    assert "**15.00**" not in page.markdown([group])


def test_method_without_a_teacher_is_trained_in_one_of_the_two_jobs() -> None:
    jobs = plan.jobs(["cifar10"], ["structure"], [0])
    trained = [plan.methods(job, ["ce", "kd"]) for job in jobs]
    assert trained == [["ce", "kd"], ["kd"]]
    assert plan.jobs(["cifar10"], ["structure"], [0], ["ce"]) == jobs[:1]


def test_resampled_metrics_are_those_of_the_drawn_predictions() -> None:
    rng = np.random.default_rng(5)
    one = random_ranking(rng)
    draws = rng.multinomial(EXAMPLES, np.full(EXAMPLES, 1 / EXAMPLES), 4).astype(np.uint8)
    resampled = table.resampled_metrics(one, draws)
    for place, counts in enumerate(draws):
        rows = np.repeat(np.arange(EXAMPLES), counts)
        expected = table.metrics(collect.Ranking(one.rank[rows], one.correct[rows]))
        found = {name: values[place] for name, values in resampled.items()}
        assert found == pytest.approx(expected, rel=1e-12)


def test_interval_is_that_of_readers_and_cases_with_seeds_as_readers() -> None:
    rng = np.random.default_rng(1)
    pairs = [(random_ranking(rng), random_ranking(rng)) for _ in range(3)]
    row, other = deployed("kd", "in_sample"), deployed("gambler")
    group = group_of(
        {
            row: {("test", seed): one for seed, (one, _) in enumerate(pairs)},
            other: {("test", seed): one for seed, (_, one) in enumerate(pairs)},
        }
    )
    difference = group.differences(row, other)[table.AURC]

    def aurc(one: collect.Ranking, rows: np.ndarray) -> float:
        return 1000 * selective.aurc(one.rank[rows].astype(float), one.correct[rows])

    resampled = np.empty((2000, 3))
    for drawn in resampled:
        rows = rng.integers(EXAMPLES, size=EXAMPLES)
        drawn[:] = [aurc(a, rows) - aurc(b, rows) for a, b in pairs]
    # Images do nothing alike in all seeds here, as the rankings are random ones.
    between = max(np.mean([np.cov(resampled.T)[a, b] for a, b in [(0, 1), (0, 2), (1, 2)]]), 0)
    single = np.mean(np.var(resampled, axis=0, ddof=1)) - between
    seeds = np.var(difference.per_seed, ddof=1)
    variance = between + max(seeds, single) / 3
    degrees = 2 * (variance / (seeds / 3)) ** 2
    low, high = scipy.stats.t.interval(0.95, degrees, difference.mean, np.sqrt(variance))
    margin = 0.1 * (high - low)
    np.testing.assert_allclose([difference.low, difference.high], [low, high], atol=margin)


@pytest.mark.parametrize(
    ("covariance", "per_seed", "variance", "degrees"),
    [
        # Only seeds: the interval of Student.
        (np.zeros((3, 3)), [1.0, 2.0, 4.0], 7 / 9, 2),
        # Only images, alike in all seeds: the normal interval.
        (np.ones((3, 3)), [2.0, 2.0, 2.0], 1, np.inf),
        # Images do more in single seeds than the few seeds show.
        (6 * np.eye(3), [2.0, 2.0, 2.0], 6 / 3, np.inf),
        # The seeds have a quarter of what images do in single seeds.
        (6 * np.eye(3), [2.0 - 1.5**0.5, 2.0, 2.0 + 1.5**0.5], 6 / 3, 2 * 4**2),
        # Hillis, with 2 of 4 from seeds: twice as many degrees, squared.
        (np.full((3, 3), 2.0), [2.0 - 6**0.5, 2.0, 2.0 + 6**0.5], 4, 2 * 2**2),
        # Opposite effects of images are not subtracted.
        (np.array([[1.0, -0.5], [-0.5, 1.0]]), [1.0, 1.0], 1 / 2, np.inf),
        # One seed: over images only.
        (np.full((1, 1), 9.0), [1.0], 9, np.inf),
    ],
)
def test_interval_of_known_parts(
    covariance: np.ndarray, per_seed: list[float], variance: float, degrees: float
) -> None:
    rng = np.random.default_rng(0)
    white = rng.normal(size=(len(per_seed), 500))
    white -= white.mean(axis=1, keepdims=True)
    white = np.linalg.solve(np.linalg.cholesky(np.atleast_2d(np.cov(white))), white)
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.maximum(values, 0))  # root root^T = covariance
    found = table.crossed_interval(per_seed, root @ white)
    expected = scipy.stats.t.interval(0.95, degrees, np.mean(per_seed), np.sqrt(variance))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("case", "most"),
    [
        ((1.0, 0.0, 0.0), 0.065),
        ((0.0, 1.0, 0.0), 0.065),
        ((0.0, 0.0, 1.0), 0.03),
        ((1.0, 1.0, 1.0), 0.06),
        ((0.0, 0.4, 1.0), 0.04),
    ],
)
def test_equal_methods_are_rarely_said_to_differ(
    case: tuple[float, float, float], most: float
) -> None:
    generator = np.random.default_rng(0)
    rate = crossed_intervals.error_rate(
        crossed_intervals.Case(*case), 3, draws=1000, resamples=400, generator=generator
    )
    assert 0.005 < rate < most


def test_parts_of_the_variance_are_those_of_every_comparison_with_several_seeds() -> None:
    rng = np.random.default_rng(4)
    rows = [deployed("ka", "in_sample"), deployed("kd", "in_sample"), deployed("ce")]
    of_seeds = {row: {("test", seed): random_ranking(rng) for seed in range(3)} for row in rows}
    of_one = {row: {("test", 0): random_ranking(rng)} for row in rows}
    (parts,) = crossed_intervals.compared([group_of(of_seeds), group_of(of_one)])
    per_seed, resampled = group_of(of_seeds).paired(*rows[:2])[table.ACCURACY]
    assert parts == table.variance_parts(per_seed, resampled)


def test_page_of_the_simulation_has_each_part_in_its_place(out: pathlib.Path) -> None:
    parts = [table.Parts(0.1 * place, 1.0, 1.0 + place) for place in range(11)]
    lines = crossed_intervals.ratios(parts).splitlines()
    assert lines[0] == "| estimate of | 10th percentile | 50th percentile | 90th percentile |"
    assert lines[2:] == [
        "| b^2 / d^2 | 0.10 | 0.50 | 0.90 |",
        "| (a^2 + d^2) / d^2 | 2.00 | 6.00 | 10.00 |",
    ]
    rng = np.random.default_rng(0)
    for job in plan.jobs(["cifar10"], ["structure"], [0, 1, 2]):
        write_job(out, job, plan.methods(job, ["ce", "gambler"]), lambda *_: random_ranking(rng))
    text = crossed_intervals.report(draws=20, resamples=50, files=out)
    rows = re.findall(r"^\| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| [\d.]+ \| [\d.]+ \|$", text, re.M)
    assert [tuple(map(float, row)) for row in rows] == list(crossed_intervals.CASES)
    assert "In the 8 comparisons of the claims" in text  # 4 coverages and two scores


def test_equal_networks_do_not_differ() -> None:
    one = random_ranking(np.random.default_rng(2))
    row, other = deployed("ce"), deployed("gambler")
    group = group_of({row: {("test", 0): one}, other: {("test", 0): one}})
    found = group.differences(row, other)
    assert found == dict.fromkeys(table.METRICS, table.Difference([0.0], 0.0, 0.0))


def test_only_seeds_that_both_networks_have_are_compared() -> None:
    row, other = deployed("kd", "in_sample"), deployed("ce")
    cells = {("test", seed): ranking_with_errors(10 + seed) for seed in range(3)}
    group = group_of({row: cells, other: {("test", 2): ranking_with_errors(20)}})
    assert group.differences(row, other)[table.ACCURACY].per_seed == pytest.approx([4.0])
    apart = group_of({row: {("test", 0): cells["test", 0]}, other: {("test", 2): cells["test", 2]}})
    assert apart.differences(row, other) == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["job", "cifar10"],
            "unknown job 'cifar10': did you mean 'cifar10-",
        ),
        (["run", "--set", "student.epochs"], "--set 'student.epochs': must be FIELD=VALUE"),
        (["table", "--out=nowhere"], "no result files in 'nowhere'"),
        (["run", "--parallel", "0"], "--parallel 0: must be at least 1"),
        (["status", "--data", "cifar1"], "unknown data set 'cifar1': did you mean 'cifar10'?"),
        (["run", "--methods", "ce", "gamblr"], "unknown method 'gamblr': did you mean 'gambler'?"),
        (["run", "--settings", "dept"], "unknown setting 'dept': did you mean 'depth'?"),
        (["run", "--seeds", "5", "4", "5"], "--seeds 5: is given more than once"),
        (["run", "--methods", "ce", "ce"], "--methods ce: is given more than once"),
        (["status", "--data", "svhn", "svhn"], "--data svhn: is given more than once"),
        (["run", "--settings", "depth", "depth"], "--settings depth: is given more than once"),
    ],
)
def test_wrong_argument_is_one_line(
    arguments: list[str],
    message: str,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("started a job"))
    assert message in error_of(arguments, capsys)


def test_unknown_field_is_refused() -> None:
    (job, _) = plan.jobs(["cifar10"], ["structure"], [0])
    with pytest.raises(InputError, match=r"student\.epoch'"):
        plan.config(job, "smoke", ["ce"], {"student.epoch": 3})


def test_queue_leaves_the_choice_that_needs_a_device_to_the_job(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(compiler, "fastest_dtype", lambda _: pytest.fail("asked for the device"))
    job = plan.Job("cifar10", "structure", plan.IN_SAMPLE, 0)
    assert plan.config(job, "laptop", ["kd"], {}).teacher.compute_dtype == "auto"


def test_recorded_command_gives_the_options_of_the_queue() -> None:
    text = f"{queue_options.RUN}--budget=smoke --seeds 3 --share-teacher --set student.epochs=7"
    options = queue_options.parse(text)
    assert (options.seeds, options.share_teacher, options.changes) == (
        [3],
        True,
        ["student.epochs=7"],
    )
    assert queue_options.parse(queue_options.command(options)) == options
    assert queue_options.parse("python -m experiments.paper.baselines.export_split a") is None


def test_later_seeds_can_share_the_teacher_of_the_first() -> None:
    first, _, later, _ = plan.jobs(["cifar10"], ["structure"], [4, 2])
    shared = [plan.teacher_job(job, ["kd"], [4, 2], share=True) for job in (first, later)]
    assert shared == [None, first]
    assert plan.teacher_job(later, ["kd"], [4, 2], share=False) is None
    assert plan.teacher_job(later, ["ce"], [4, 2], share=True) is None


def test_out_of_fold_teachers_are_shared_as_a_workdir_without_folds_of_its_own(
    tmp_path: pathlib.Path,
) -> None:
    _, first, _, later = plan.jobs(["cifar10"], ["structure"], [0, 1])
    folder = plan.folder(first, tmp_path)
    own = plan.config(first, "smoke", ["kd"], {})
    shared = plan.config(later, "smoke", ["kd"], {}, folder)
    assert own.teacher.folds > 1 and not own.teacher.workdir
    assert (shared.teacher.folds, shared.teacher.workdir) == (0, str(folder))


def test_csv_has_every_metric_of_every_network(out: pathlib.Path) -> None:
    lines = formats.as_csv(result_files.read(out)).splitlines()
    rows = [row for row in csv.DictReader(lines) if not row["minus"]]
    # kd has two teachers and one score, gambler no teacher and two scores.
    assert len(rows) == 4 * len(collect.VIEWS) * len(collect.SPLITS) * len(table.METRICS)
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


def test_csv_has_every_difference(out: pathlib.Path) -> None:
    (group,) = result_files.read(out)
    rows = [row for row in csv.DictReader(formats.as_csv([group]).splitlines()) if row["minus"]]
    compared = {(row["method"], row["teacher"], row["minus"]) for row in rows}
    assert compared == {
        ("gambler", "", "kd"),
        ("kd", "in_sample", "gambler"),
        ("kd", "out_of_fold", "gambler"),
    }
    (row,) = (
        row
        for row in rows
        if row["metric"] == table.AURC and (row["method"], row["minus"]) == ("gambler", "kd")
    )
    expected = group.differences(deployed("gambler"), deployed("kd", "in_sample"))[table.AURC]
    found = [float(row[name]) for name in ("mean", "deviation", "low", "high")]
    deviation = np.std(expected.per_seed, ddof=1)
    assert found == pytest.approx([expected.mean, deviation, expected.low, expected.high])


def test_latex_table_has_one_bold_number_in_each_column(out: pathlib.Path) -> None:
    text = formats.latex(result_files.read(out))
    lines = text[text.index("% cifar10, setting structure. Error on test") :].splitlines()
    body = lines[lines.index("\\midrule") + 1 : lines.index("\\bottomrule")]
    cells = [line.removesuffix(" \\\\").split(" & ") for line in body]
    assert [row[:2] for row in cells] == [
        ["gambler", "-"],
        ["kd", "in-sample"],
        ["kd", "out-of-fold"],
    ]
    columns = list(zip(*(row[2:] for row in cells), strict=True))
    assert f"{{ll{'r' * len(columns)}}}" in lines[1]
    for column in columns:
        means = [float(re.search(r"[\d.]+", text)[0]) for text in column]
        bold = [mean for mean, text in zip(means, column, strict=True) if "mathbf" in text]
        assert bold == [min(means)]


@pytest.mark.parametrize(
    ("metric", "per_seed", "low", "high", "expected"),
    [
        (table.ACCURACY, [0.5, 0.4, 0.6], 0.1, 0.6, claims.HOLDS),
        (table.AURC, [0.5, 0.4, 0.6], 0.1, 0.6, claims.CONTRADICTED),
        (table.AURC, [-0.5, -0.4, -0.6], -0.6, -0.1, claims.HOLDS),
        (table.ACCURACY, [0.5, 0.4, 0.6], -0.1, 0.6, claims.UNDECIDED),  # contains 0
        (table.ACCURACY, [0.5], 0.1, 0.6, claims.UNDECIDED),
    ],
)
def test_claim_is_decided_by_the_interval_of_several_seeds(
    metric: str, per_seed: list[float], low: float, high: float, expected: str
) -> None:
    assert claims.verdict(metric, table.Difference(per_seed, low, high)) == expected


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([], "not measured with several seeds"),
        ([claims.HOLDS] * 2, "holds here"),
        ([claims.UNDECIDED], "not decided here"),
        ([claims.CONTRADICTED], "contradicted here"),
        ([claims.UNDECIDED, claims.CONTRADICTED], "not confirmed here"),
        ([claims.HOLDS, claims.UNDECIDED], "holds in part"),
        ([claims.HOLDS, claims.CONTRADICTED], "holds in part, contradicted in part"),
    ],
)
def test_verdict_on_a_claim_is_that_of_all_comparisons(verdicts: list[str], expected: str) -> None:
    assert claims.overall(verdicts) == expected


def test_claims_compare_networks_of_the_same_teacher() -> None:
    errors = {
        deployed("gambler"): 10,
        deployed("ce"): 100,
        deployed("kd", "in_sample"): 30,
        deployed("ka", "in_sample"): 10,
        deployed("ka", "out_of_fold"): 30,
        deployed("kd", "out_of_fold"): 31,
    }
    group = group_of(
        {
            row: {("test", seed): ranking_with_errors(wrong + seed) for seed in range(2)}
            for row, wrong in errors.items()
        }
    )
    adjustment, gambler, both = claims.CLAIMS
    found = {each.row.teacher: each for each in claims.findings(adjustment, group)}
    assert found["in_sample"].verdict == claims.HOLDS
    assert found["in_sample"].difference.per_seed == pytest.approx([10.0, 10.0])  # 20 of 200
    assert found["out_of_fold"].verdict == claims.UNDECIDED
    each = list(claims.findings(gambler, group))
    assert [one.metric for one in each] == list(table.ERRORS.values())
    assert {one.row.score for one in each} == {collect.CHOSEN}
    assert {one.verdict for one in each} == {claims.HOLDS}
    assert not list(claims.findings(both, group))
    section = claims.section([group])
    assert "**Verdict: holds in part.** Of 2 comparisons with several seeds: holds in 1," in section
    assert "**Verdict: not measured with several seeds.**" in section
    assert "accuracy % 94.75, `ka` with the in-sample teacher" in section  # 10 and 11 of 200


def claim_group(errors: dict[table.Row, int], seeds: int = 3) -> table.Group:
    """Returns results in which a network has the same errors with each seed, and one more."""
    return group_of(
        {
            row: {
                (split, seed): ranking_with_errors(wrong + seed)
                for split in collect.SPLITS
                for seed in range(seeds)
            }
            for row, wrong in errors.items()
        }
    )


def test_joint_loss_is_best_only_if_it_is_better_than_every_other_one() -> None:
    errors = {
        deployed("ce"): 100,
        deployed("kd", "in_sample"): 50,
        deployed("ka", "in_sample"): 51,
        deployed("ka_gambler_sum", "in_sample"): 20,
        deployed("ka_gambler_soft", "in_sample"): 70,
    }
    section = claims.section([claim_group(errors)])
    assert (
        "**Verdict: holds in part, contradicted in part.** 1 of 2 networks is better than every "
        "method with which it is compared; 1 is worse than one or more (`ka` and `kd`). `kd`, "
        "which has the teacher but no gambler loss, is also better than `ce` in such a comparison."
    ) in section
    errors[deployed("ka_gambler_sum", "in_sample")] = 50  # as kd
    section = claims.section([claim_group(errors)])
    assert (
        "**Verdict: not confirmed here.** None of 2 networks is better than every method with "
        "which it is compared; 1 is worse than one or more (`ka` and `kd`); 1 not decided."
    ) in section
    del errors[deployed("ka_gambler_soft", "in_sample")]
    errors |= {deployed("ka_gambler_sum", "in_sample"): 20, deployed("kd", "in_sample"): 100}
    section = claims.section([claim_group(errors)])
    assert "**Verdict: holds here.** 1 of 1 networks is better" in section
    assert "which has the teacher" not in section


def test_gambler_loss_is_judged_by_its_own_score_too() -> None:
    chosen = deployed("gambler")
    errors = {deployed("ce"): 100, chosen: 80, chosen._replace(score=collect.RESERVATION): 130}
    section = claims.section([claim_group(errors)])
    assert "**Verdict by the score that dev chose: holds here.** Of 4 comparisons with" in section
    assert "**Verdict by the reservation: contradicted here.** Of 4 comparisons with" in section


def test_number_of_comparisons_that_chance_would_decide_is_named() -> None:
    errors = {deployed("ce"): 100, deployed("gambler"): 70}
    section = claims.section([claim_group(errors)])
    assert "Of the 4 comparisons with several seeds 4 are decided." in section
    assert "on average 0.2 would be decided by chance" in section


def test_comparisons_of_one_seed_are_shown_and_not_counted() -> None:
    errors = {deployed("ce"): 100, deployed("gambler"): 70, deployed("ka_gambler_sum", "x"): 10}
    alone = claims.section([claim_group(errors, seeds=1)])
    assert "by chance" not in alone and "**Summary.**" not in alone
    assert alone.count("not measured with several seeds.**") == 4
    assert "| ce | - | error % at 90 % coverage | one seed | " in alone
    both = claims.section([claim_group(errors), claim_group(errors, seeds=1)])
    assert "holds here.** Of 4 comparisons with several seeds: holds in 4," in both
    assert "**Verdict: holds here.** 1 of 1 networks is better" in both


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ((30, 30), "is better than cross-entropy (`ce`)"),
        ((90, 90), "is worse than cross-entropy (`ce`)"),
        ((60, 60), "is not shown to be better or worse than cross-entropy (`ce`)"),
        (
            (30, 60),
            "is better than cross-entropy (`ce`) in some comparisons; the others are not decided",
        ),
        (
            (60, 90),
            "is worse than cross-entropy (`ce`) in some comparisons; the others are not decided",
        ),
        ((30, 90), "is better than cross-entropy (`ce`) in some comparisons and worse in others"),
    ],
)
def test_summary_follows_the_data(wrong: tuple[int, int], words: str) -> None:
    rows = (deployed("kd", "in_sample"), deployed("kd", "out_of_fold"))
    group = claim_group({deployed("ce"): 60, **dict(zip(rows, wrong, strict=True))})
    lines = summary.text([group]).splitlines()
    assert lines[2].startswith(f"- Distillation (`kd`) {words}: AURC x 1000 in-sample ")
    assert "or tuned payoffs, temperatures and weights." in lines[-1]
    assert len(lines) == 4  # nothing else was measured


def test_summary_has_a_line_of_every_part_of_the_method() -> None:
    methods = {"ce": "", "gambler": "", "kd": "in_sample", "ka": "in_sample"}
    methods |= dict.fromkeys(claims.JOINT, "in_sample")
    errors = {deployed(name, teacher): 40 for name, teacher in methods.items()}
    errors[deployed("gambler")._replace(score=collect.RESERVATION)] = 90
    lines = [line for line in summary.text([claim_group(errors)]).splitlines() if line]
    assert len(lines) == 7
    assert (
        "; by the score of its loss, the reservation, it is worse than cross-entropy:" in lines[3]
    )
    assert lines[0].startswith("**cifar10, setting structure** (")

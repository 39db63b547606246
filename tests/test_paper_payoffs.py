"""Payoffs of the comparison: their jobs, and the choice on dev."""

import pathlib
import re
import subprocess
import threading
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from support.paper import deployed, group_of, ranking_with_errors, write_job

from experiments.paper import __main__ as paper
from experiments.paper import claims, collect, page, plan, result_files, summary, table, tables
from experiments.paper import payoffs as paper_payoffs

METHODS = ("ce", "kd", "gambler", "ka_gambler_sum")
# Errors of `gambler` on dev and on test by payoff and seed; 2.2 is the payoff of the config.
DEV = {2.2: (30, 30), 4.0: (20, 32), 8.0: (25, 26)}
TEST = {2.2: (30, 31), 4.0: (33, 20), 8.0: (21, 34)}
OTHERS = {"ce": 35, "kd": 28, "ka_gambler_sum": 24}


def write_payoffs(
    out: pathlib.Path,
    payoffs: Sequence[float] = (4.0, 8.0),
    dev: Mapping[float, tuple[int, int]] = DEV,
) -> None:
    """Writes result files of two seeds, with the payoff of the config and with others."""
    for job in plan.jobs(["cifar10"], ["structure"], [0, 1], METHODS, payoffs):
        payoff = 2.2 if job.payoff is None else job.payoff

        def ranking(
            method: str,
            views: str,
            score: str,
            split: str,
            job: plan.Job = job,
            payoff: float = payoff,
        ) -> collect.Ranking:
            errors = {"dev": dev, "test": TEST}[split][payoff][job.seed]
            return ranking_with_errors(errors if method == "gambler" else OTHERS[method])

        names = [name for name in METHODS if name != "ka_gambler_sum" or job.payoff is None]
        write_job(out, job, plan.methods(job, names), ranking)


@pytest.fixture
def group(tmp_path: pathlib.Path) -> table.Group:
    write_payoffs(tmp_path)
    (one,) = result_files.read(tmp_path)
    return one


def test_jobs_of_a_payoff_train_the_methods_that_have_one() -> None:
    jobs = plan.jobs(["cifar10"], ["depth"], [1], METHODS, [1.5, 8.0])
    assert [job.name for job in jobs] == [
        "cifar10-depth-in_sample-seed1",
        "cifar10-depth-out_of_fold-seed1",
        "cifar10-depth-in_sample-seed1-payoff1.5",
        "cifar10-depth-in_sample-seed1-payoff8",
    ]
    trained = [plan.methods(job, METHODS) for job in jobs]
    assert trained[0] == [*METHODS] and trained[1] == ["kd", "ka_gambler_sum"]
    assert trained[2] == trained[3] == ["gambler", "ka_gambler_sum"]
    assert len(plan.jobs(["cifar10"], ["depth"], [1], ["ce"], [1.5])) == 1


def test_job_of_a_payoff_has_it_and_the_teacher_of_the_job_without() -> None:
    plain, _, job = plan.jobs(["cifar10"], ["structure"], [1], payoffs=[8.0])
    assert plan.teacher_job(job, METHODS, [0, 1], share=False) == plain
    shared = plan.teacher_job(job, METHODS, [0, 1], share=True)
    assert shared and shared.name == "cifar10-structure-in_sample-seed0"
    assert plan.teacher_job(job, ["ce", "gambler"], [0, 1], share=True) is None
    ours, theirs = (plan.config(each, "smoke", ["gambler"], {}) for each in (job, plain))
    assert (ours.objective.payoff, theirs.objective.payoff) == (8.0, 2.2)
    assert ours.students == theirs.students
    assert (ours.seed, ours.student) == (theirs.seed, theirs.student)


@pytest.mark.parametrize(
    ("payoffs", "message"),
    [
        (["0.5"], r"payoff.* 0\.5"),
        (["4", "8", "4.0"], "--payoffs 4.0: is given more than once"),
        (["4.0000001"], "--payoffs 4.0000001: must have at most six significant digits"),
        (["4", "2.2"], "--payoffs 2.2: is the payoff of the config of cifar10, with which"),
        (["3", "--set", "objective.payoff=3"], "--payoffs 3: is the payoff of the config"),
    ],
)
def test_wrong_payoff_stops_the_queue_before_anything_is_trained(
    payoffs: list[str],
    message: str,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("started a job"))
    folders = [f"--runs={tmp_path}", f"--out={tmp_path}"]
    with pytest.raises(SystemExit) as stopped:
        paper.main(["run", "--methods", "gambler", "--payoffs", *payoffs, *folders])
    (line,) = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2 and re.search(f"^paper: error: .*{message}", line)


def test_job_waits_for_the_one_that_trains_its_teacher(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    started_early = threading.Event()

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess:
        name = command[4]
        events.append(f"start {name}")
        if name == "cifar10-structure-in_sample-seed0":
            started_early.wait(0.3)  # meanwhile the other process is free
        elif name.endswith("payoff8"):
            started_early.set()
        events.append(f"end {name}")
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    queue = ["run", "--seeds", "0", "--payoffs", "8", "--parallel", "2"]
    paper.main([*queue, "--methods", *METHODS, f"--runs={tmp_path}", f"--out={tmp_path / 'out'}"])
    teacher = events.index("end cifar10-structure-in_sample-seed0")
    assert events.index("end cifar10-structure-out_of_fold-seed0") < teacher
    assert events.index("start cifar10-structure-in_sample-seed0-payoff8") > teacher


def test_dev_chooses_the_payoff_of_each_seed(group: table.Group) -> None:
    row = deployed("gambler").by_dev
    assert row.method == "gambler, payoff by dev" and row.base == deployed("gambler")
    assert paper_payoffs.choose(group.payoffs[row.base]) == {0: 4.0, 1: 8.0}
    assert group.values(row, "dev")[table.ACCURACY] == pytest.approx([90.0, 87.0])
    assert group.values(row, "test")[table.ACCURACY] == pytest.approx([83.5, 83.0])
    assert group.values(row.base, "test")[table.ACCURACY] == pytest.approx([85.0, 84.5])
    assert {each.method for each in group.payoffs} == {"gambler"}  # of others there is one payoff


def test_seed_without_one_of_the_payoffs_is_not_chosen_from(tmp_path: pathlib.Path) -> None:
    write_payoffs(tmp_path)
    (tmp_path / "cifar10-structure-in_sample-seed0-payoff8.json").unlink()
    (group,) = result_files.read(tmp_path)
    row = deployed("gambler").by_dev
    assert paper_payoffs.choose(group.payoffs[row.base]) == {1: 8.0}
    assert [seed for split, seed in group.rows[row] if split == "test"] == [1]


def test_payoffs_without_that_of_the_config_are_not_chosen_from(tmp_path: pathlib.Path) -> None:
    write_payoffs(tmp_path)
    for path in tmp_path.glob("*seed?.json"):
        path.unlink()
    (group,) = result_files.read(tmp_path)
    assert group.rows == group.payoffs == {}


def test_payoffs_are_listed_with_their_aurc_on_dev(group: table.Group) -> None:
    found = tables.by_payoff(group)
    assert [row[:3] for row in found.rows] == [
        ["gambler", "-", "chosen"],
        ["gambler", "-", "reservation"],
    ]
    cells = dict(zip(found.columns, found.rows[0], strict=True))

    def aurc(errors: dict[float, tuple[int, int]], payoffs: tuple[float, float]) -> str:
        ranks = np.arange(1, 201)
        values = [
            1000 * np.mean(np.maximum(ranks - (200 - errors[payoff][seed]), 0) / ranks)
            for seed, payoff in enumerate(payoffs)
        ]
        return f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}"

    for payoff in DEV:
        assert cells[f"dev AURC x 1000: payoff {payoff:g}"] == aurc(DEV, (payoff, payoff))
    assert cells["chosen for each seed"] == "4, 8"
    assert cells["test AURC x 1000: payoff of the config"] == aurc(TEST, (2.2, 2.2))
    assert cells["chosen"] == aurc(TEST, (4.0, 8.0))


def test_chosen_payoffs_are_compared_with_chosen_ones_and_methods_without(
    group: table.Group,
) -> None:
    _, gambler, joint = (list(claims.findings(claim, group)) for claim in claims.CLAIMS)
    pairs = {(each.row.method, each.other.method) for each in gambler}
    assert pairs == {("gambler", "ce"), ("gambler, payoff by dev", "ce")}
    others = {each.other.method for each in joint}
    assert others == {"ce", "kd", "gambler"}  # the joint loss has the payoff of the config only
    (line,) = (line for line in summary.text([group]).splitlines() if "(`gambler`)" in line)
    assert "; payoff by dev " in line


def test_networks_with_the_payoff_of_the_config_are_compared_once(
    group: table.Group, tmp_path: pathlib.Path
) -> None:
    assert "not compared again" not in claims.section([group])
    write_payoffs(tmp_path, dev={2.2: (10, 10), 4.0: (20, 32), 8.0: (25, 26)})
    (same,) = result_files.read(tmp_path)
    _, gambler, _ = (list(claims.findings(claim, same)) for claim in claims.CLAIMS)
    assert [(each.row.method, each.row.score) for each in gambler] == [
        ("gambler", score) for score in claims.SCORES for _ in table.ERRORS
    ]
    assert "not compared again" in claims.section([same])
    assert {row[-4] for row in tables.by_payoff(same).rows} == {"2.2, 2.2"}


def test_chosen_payoff_is_compared_with_that_of_the_config_where_dev_chose_it() -> None:
    gambler, joint = deployed("gambler"), deployed("ka_gambler_sum", "in_sample")
    cells = [
        {("test", seed): ranking_with_errors(wrong + seed) for seed in range(2)}
        for wrong in (30, 20, 10)
    ]
    rows = {gambler: cells[0], gambler.by_dev: cells[0], joint: cells[1], joint.by_dev: cells[2]}
    found = claims.findings(claims.CLAIMS[-1], group_of(rows))
    pairs = [(each.row, each.other) for each in found]
    assert pairs == [(joint, gambler), (joint.by_dev, gambler)]


def test_page_says_where_the_payoff_was_chosen(group: table.Group) -> None:
    text = page.markdown([group])
    assert (
        "- cifar10, setting structure, payoffs from which dev chose: gambler 2.2, 4, 8, seeds 0, 1."
    ) in text
    assert 'the payoff was chosen on dev in the rows with "payoff by dev".' in text
    assert "None of these was tuned" not in text and "tuned payoffs" not in text
    assert "tuned temperatures, weights and other payoffs." in text
    lacks = "payoffs chosen on dev for cifar10, setting structure (`ka_gambler_sum`)"
    assert f"; {lacks}" in text or f"Missing: {lacks}" in text
    assert "| gambler, payoff by dev | - | flip | doctor |" in text
    jobs = page.trained([group])[0]
    assert "payoff by dev" not in jobs and "another library" not in jobs

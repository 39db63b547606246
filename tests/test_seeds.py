"""experiments/seeds.py: the table over seeds, of one student or of several."""

import importlib.util
import json
import sys

import pytest
from support.commands import ROOT, python


@pytest.fixture(scope="module")
def seeds():
    path = ROOT / "experiments" / "seeds.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def results(accuracy):
    """The part of `results.json` that the table shows."""
    risks = {"100": 1 - accuracy, "90": 0.25, "80": 0.0}
    return {
        "test": {"accuracy": accuracy},
        "teacher": {"test": {"accuracy": 0.5}},
        "scores": {"margin": {"error_at_coverage": risks}},
    }


def test_table_shows_mean_and_sample_deviation_over_seeds(seeds):
    runs = [results(0.5), results(0.75), results(1.0)]
    assert seeds.table(runs, seeds.make_metrics(runs[0])).splitlines() == [
        "| on test | mean | sd | seeds 0 to 2 |",
        "|---|---|---|---|",
        "| teacher accuracy % | 50.00 | 0.00 | 50.00, 50.00, 50.00 |",
        "| student accuracy % | 75.00 | 25.00 | 50.00, 75.00, 100.00 |",
        "| error % at 100 % coverage, margin | 25.00 | 25.00 | 50.00, 25.00, 0.00 |",
        "| error % at 90 % coverage, margin | 25.00 | 0.00 | 25.00, 25.00, 25.00 |",
        "| error % at 80 % coverage, margin | 0.00 | 0.00 | 0.00, 0.00, 0.00 |",
    ]


def test_table_of_one_seed_without_teacher(seeds):
    without_teacher = {key: value for key, value in results(0.5).items() if key != "teacher"}
    lines = seeds.table([without_teacher], seeds.make_metrics(without_teacher)).splitlines()
    assert lines[2] == "| student accuracy % | 50.00 | - | 50.00 |"


def student(accuracy, threshold, **fields):
    """The part of a student's `results.json` that the table of several students shows."""
    certificate = {"threshold": threshold, "test_coverage": 0.5, "test_error": 0.1}
    return {
        "test": {"accuracy": accuracy, "examples": 200},
        "best_score": "margin",
        "scores": {"margin": {"error_at_coverage": {"90": 0.25, "80": 0.125}, "aurc": 0.01}},
        "guarantee": {
            "risk": 0.05,
            "certificates": [{"risk": 0.05, "learn_then_test": certificate}],
        },
        **fields,
    }


def test_several_students_and_their_teacher_have_a_row_each(seeds):
    runs = [
        {"kd": student(0.75, 0.5, teacher=student(0.875, None)), "ce": student(accuracy, 0.5)}
        for accuracy in (0.5, 0.75)
    ]
    lines = seeds.table(runs, seeds.student_metrics(runs[0])).splitlines()
    assert lines[:5] == [
        "| on test | mean | sd | seeds 0 to 1 |",
        "|---|---|---|---|",
        "| accuracy %, teacher | 87.50 | 0.00 | 87.50, 87.50 |",
        "| accuracy %, kd | 75.00 | 0.00 | 75.00, 75.00 |",
        "| accuracy %, ce | 62.50 | 17.68 | 50.00, 75.00 |",
    ]
    for line in (
        "| error % at 90 % coverage, kd | 25.00 | 0.00 | 25.00, 25.00 |",
        "| AURC x 1000, ce | 10.00 | 0.00 | 10.00, 10.00 |",
        "| wrong images, all accepted, ce | 75.00 | 35.36 | 100.00, 50.00 |",
        "| images accepted by the certificate, kd | 100.00 | 0.00 | 100.00, 100.00 |",
        "| images accepted by the certificate, teacher | 0.00 | 0.00 | 0.00, 0.00 |",
        "| wrong images among these, kd | 10.00 | 0.00 | 10.00, 10.00 |",
        "| error % among these, kd | 10.00 | 0.00 | 10.00, 10.00 |",
        "| error % among these, teacher | nan | nan | nan, nan |",
    ):
        assert line in lines


def test_results_are_those_of_the_student_or_of_each_student(seeds, tmp_path, monkeypatch):
    done = type("Done", (), {"returncode": 0})
    monkeypatch.setattr(seeds.subprocess, "run", lambda command: done)
    for folder in ("one", "many/students/kd", "many/students/ce"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "results.json").write_text(json.dumps({"folder": folder}))
    assert seeds.run("x.py", 0, tmp_path / "one", []) == {"student": {"folder": "one"}}
    several = seeds.run("x.py", 0, tmp_path / "many", [])
    assert several == {name: {"folder": f"many/students/{name}"} for name in ("ce", "kd")}


def test_a_single_entry_of_students_is_one_of_several(seeds, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(seeds, "run", lambda *_: {"method=kd": student(0.75, 0.5)})
    arguments = ["seeds.py", "--config=x", "--seeds=2", f"--out={tmp_path}"]
    monkeypatch.setattr(sys, "argv", arguments)
    seeds.main()
    assert "| accuracy %, method=kd |" in capsys.readouterr().out


@pytest.mark.parametrize("count", ["0", "-1"])
def test_no_seed_is_refused(seeds, tmp_path, monkeypatch, capsys, count):
    arguments = ["seeds.py", "--config=x", f"--seeds={count}", f"--out={tmp_path}"]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as stopped:
        seeds.main()
    assert stopped.value.code == 2
    expected = f"seeds.py: error: --seeds={count}: must be at least 1\n"
    assert capsys.readouterr().err == expected


def run_seeds(folder, config, *flags):
    return python("experiments/seeds.py", f"--config={config}", f"--out={folder}", *flags)


@pytest.mark.slow
def test_invalid_config_ends_with_the_error_of_the_run(tmp_path):
    done = run_seeds(tmp_path, "configs/nothing.py")
    assert (done.returncode, done.stdout) == (2, "")
    run_error, seeds_error = done.stderr.splitlines()
    assert run_error.startswith("kdjax: error: unknown config file 'configs/nothing.py'")
    assert seeds_error.startswith("seeds.py: error: the run of seed 0")

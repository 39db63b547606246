"""experiments/seeds.py: the table over seeds, and the configs that it refuses."""

import importlib.util

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
    assert seeds.table([results(0.5), results(0.75), results(1.0)]).splitlines() == [
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
    lines = seeds.table([without_teacher]).splitlines()
    assert lines[2] == "| student accuracy % | 50.00 | 0.00 | 50.00 |"


def run_seeds(folder, config, *flags):
    return python("experiments/seeds.py", f"--config={config}", f"--out={folder}", *flags)


def test_config_of_several_students_is_an_error_of_one_line(tmp_path):
    done = run_seeds(tmp_path, "configs/digits_methods.py")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("seeds.py: error: configs/digits_methods.py lists 7 students")
    assert not any(tmp_path.iterdir())


def test_invalid_config_ends_with_the_error_of_the_run(tmp_path):
    done = run_seeds(tmp_path, "configs/nothing.py")
    assert (done.returncode, done.stdout) == (2, "")
    run_error, seeds_error = done.stderr.splitlines()
    assert run_error.startswith("kdjax: error: unknown config file 'configs/nothing.py'")
    assert seeds_error.startswith("seeds.py: error: the run of seed 0")

"""The commands in processes: a finished run, invalid input, damage, exit statuses."""

import json
import os
import shutil

import numpy as np
import pytest
from support.commands import ROOT, assert_refused, command, python
from support.runs import final_arrays


@pytest.fixture
def copy(finished_run, tmp_path):
    """A copy of the finished run that a test may change."""
    shutil.copytree(finished_run.folder, tmp_path / "run")
    return finished_run._replace(folder=tmp_path / "run")


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def warnings(done):
    """Returns the warnings of a command that succeeded and printed nothing else to stderr."""
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert all(line.startswith("kdjax: warning: ") for line in lines), done.stderr
    return lines


def resume(run, *flags):
    """Runs the rest of a run without the report, which takes long: without matplotlib."""
    words = *run.flags, *flags, f"--workdir={run.folder}"
    done = command("main", *words, absent=["matplotlib"])
    assert "no report is written" in warnings(done)[0]
    return done, warnings(done)[1:]


# A run, and the same command again


def test_run_trains_both_stages_and_writes_all_files_and_tables(finished_run):
    stages = [
        line.split("  ")[:2] for line in finished_run.stdout.splitlines() if "images/s" in line
    ]
    assert stages == [["teacher", "epoch 1/1"], ["student", "epoch 1/2"], ["student", "epoch 2/2"]]
    names = ("config.json", "metrics.jsonl", "results.json", "tensorboard", "checkpoints")
    for folder in (finished_run.folder, finished_run.folder / "teacher"):
        assert {*names, "predictions"} <= {path.name for path in folder.iterdir()}
        files = {path.name for path in (folder / "predictions").iterdir()}
        assert files == {"dev.npz", "calibration.npz", "test.npz"}
    accuracies = [
        f"{100 * results[split]['accuracy']:.2f}"
        for results in (finished_run.results["teacher"], finished_run.results)
        for split in ("dev", "calibration", "test")
    ]
    first_table = finished_run.stdout.partition("└")[0]
    rows = [line for line in first_table.splitlines() if line.startswith(("│ tea", "│ stu"))]
    assert [row.split("│")[4].strip() for row in rows] == accuracies
    report = (finished_run.folder / "report.html").read_text()
    assert "<h1>alexnet_small on digits</h1>" in report and ">Abstentions</h2>" in report


@pytest.mark.slow
def test_finished_run_prints_the_same_tables_and_changes_nothing(finished_run):
    before = contents(finished_run.folder)
    again = command("main", *finished_run.flags, f"--workdir={finished_run.folder}")
    assert warnings(again) == []
    first, _, tables = again.stdout.partition("\n")
    assert first == f"the run in {finished_run.folder} is finished; nothing to do"
    assert finished_run.stdout.endswith(tables)
    assert contents(finished_run.folder) == before


@pytest.mark.slow
def test_missing_report_of_a_finished_run_is_written(copy):
    report = copy.folder / "report.html"
    before = report.read_bytes()
    report.unlink()
    again = command("main", *copy.flags, f"--workdir={copy.folder}")
    assert again.returncode == 0, again.stderr
    assert "is finished" in again.stdout
    assert len(report.read_bytes()) == pytest.approx(len(before), rel=0.01)


@pytest.mark.slow
def test_flag_values_may_follow_after_a_space(finished_run):
    parts = [part for flag in finished_run.flags for part in flag.split("=")]
    again = command("main", *parts, "--workdir", finished_run.folder)
    assert warnings(again) == []
    assert "is finished" in again.stdout


@pytest.mark.slow
def test_evaluate_with_moved_data_gives_identical_results(finished_run, copy, data_dir, tmp_path):
    shutil.copytree(data_dir / "digits", tmp_path / "moved" / "digits")
    (copy.folder / "results.json").unlink()
    predictions = copy.folder / "predictions" / "dev.npz"
    predictions.write_bytes(predictions.read_bytes()[:100])  # is computed again
    done = command("evaluate", f"--workdir={copy.folder}", f"--data_dir={tmp_path / 'moved'}")
    assert warnings(done) == []
    assert copy.results == finished_run.results
    assert (tmp_path / "moved" / "kdjax_arrays").is_dir()
    assert "Thresholds of" in done.stdout


@pytest.mark.slow
def test_help_lists_the_flags():
    done = command("main", "--help")
    assert "--workdir" in done.stdout and "--config" in done.stdout
    assert done.stderr == ""


# Invalid input


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--config.seed=1"], ["belongs to another config", "seed: 0 -> 1"]),
        (["--config.objective.payoff=0.5"], ["objective.payoff 0.5", "greater than 1"]),
        (["--config.student.lr=3"], ["config.student.lr'", "'config.student.learning_rate'"]),
        (["-config.student.epoch=3"], ["config.student.epoch'", "'config.student.epochs'"]),
        (["--config.seed=one"], ["--config.seed=one"]),
        (["--wrkdir=elsewhere"], ["'wrkdir'", "workdir"]),
        (["elsewhere"], ["unexpected argument 'elsewhere'"]),
    ],
)
def test_invalid_input_is_a_one_line_error_and_changes_nothing(copy, flags, parts):
    before = contents(copy.folder)
    assert_refused(command("main", *copy.flags, f"--workdir={copy.folder}", *flags), *parts)
    assert contents(copy.folder) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "flags", "parts"),
    [
        ("main", [], ["no config given"]),
        ("main", ["--config=configs/digit.py"], ["'configs/digit.py'", "'configs/digits.py'"]),
        ("main", ["--config", "nowhere/digits.py"], ["no config file 'nowhere/digits.py'"]),
        ("evaluate", [], ["no workdir given"]),
    ],
)
def test_missing_flags_and_files_are_one_line_errors(name, flags, parts):
    assert_refused(command(name, *flags), *parts)


@pytest.mark.slow
def test_empty_folder_is_not_a_workdir(tmp_path):
    assert_refused(command("evaluate", f"--workdir={tmp_path}"), str(tmp_path), "not a workdir")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_smoke_run_has_its_own_default_workdir(finished_run, tmp_path):
    shutil.copytree(finished_run.folder, tmp_path / "runs" / "digits_smoke")
    config = f"--config={ROOT / 'configs' / 'digits.py'}"
    done = command("main", config, *finished_run.flags[1:], cwd=tmp_path)
    assert warnings(done) == []
    assert "runs/digits_smoke is finished" in done.stdout


@pytest.mark.slow
def test_unknown_data_set_in_a_config_file_is_a_one_line_error(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from kdjax.config import base\n"
        "def get_config():\n"
        "    config = base()\n"
        "    config.data.name = 'digit'\n"
        "    return config\n"
    )
    done = command("main", "--config=mine.py", f"--config.data.dir={tmp_path}", cwd=tmp_path)
    assert_refused(done, "unknown data set 'digit'", "did you mean 'digits'")


@pytest.mark.slow
def test_unwritable_workdir_is_a_one_line_error(tmp_path):
    (tmp_path / "runs").write_text("a file where the default workdir should be")
    done = command("main", f"--config={ROOT}/configs/digits.py", cwd=tmp_path)
    assert_refused(done, "'runs/digits' cannot be written")
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


@pytest.mark.slow
def test_teacher_of_another_data_set_is_a_one_line_error(copy, tmp_path):
    path = copy.folder / "teacher" / "config.json"
    metadata = json.loads(path.read_text())
    metadata["dataset"]["name"] = "mnist"
    metadata["config"]["data"]["split_seed"] = 1
    path.write_text(json.dumps(metadata))
    before = contents(copy.folder)
    flags = (f"--config.teacher.workdir={copy.folder}", f"--workdir={tmp_path / 'new'}")
    done = command("main", *copy.flags, *flags)
    assert_refused(done, "data.name: 'mnist' -> 'digits'", "data.split_seed: 1 -> 0")
    assert contents(copy.folder) == before
    assert list((tmp_path / "new").iterdir()) == []


# Recovery from damage


@pytest.mark.slow
def test_given_teacher_is_linked_and_not_trained_again(copy, tmp_path):
    new = copy._replace(folder=tmp_path / "new")
    before = contents(copy.folder)
    done, warned = resume(new, f"--config.teacher.workdir={copy.folder}")
    assert warned == []
    assert "teacher  epoch" not in done.stdout and "student  epoch 2/2" in done.stdout
    assert (new.folder / "teacher").is_symlink()
    assert (new.folder / "teacher").resolve() == (copy.folder / "teacher").resolve()
    assert contents(copy.folder) == before
    assert new.results == copy.results
    before = contents(new.folder)
    (copy.folder / "teacher").rename(tmp_path / "gone")
    done = command("evaluate", f"--workdir={new.folder}")
    assert_refused(done, f"points to '{copy.folder / 'teacher'}', which is gone")
    assert contents(new.folder) == before


@pytest.mark.slow
def test_run_resumes_from_the_checkpoint_before_a_damaged_one_bit_identically(finished_run, copy):
    (copy.folder / "results.json").unlink()
    files = (copy.folder / "checkpoints" / "8").rglob("*")
    largest = max(files, key=lambda path: path.stat().st_size * path.is_file())
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    done, (warning,) = resume(copy)
    assert f"checkpoint {copy.folder}/checkpoints/8 is damaged" in warning
    assert "student  epoch 2/2" in done.stdout and "epoch 1/" not in done.stdout
    assert copy.results == finished_run.results  # bit-identical: no step was lost or repeated


@pytest.mark.slow
def test_moved_run_with_other_file_times_and_a_stale_lock_resumes_bit_identically(
    finished_run, copy, tmp_path
):
    moved = copy._replace(folder=copy.folder.rename(tmp_path / "moved [1] run"))
    shutil.rmtree(moved.folder / "checkpoints" / "8")
    shutil.rmtree(moved.folder / "predictions")
    (moved.folder / "results.json").unlink()
    for index, path in enumerate(sorted(moved.folder.rglob("*"))):
        year = 31_556_952 * 10**9
        os.utime(path, ns=2 * ((30 + 60 * (index % 2)) * year,))  # 2000 or 2060
    for name in (".lock", ".lock_owner"):  # of a process that was killed
        (moved.folder / name).write_text("process 1 on another machine")
    done, warned = resume(moved)
    assert warned == []
    assert "student  epoch 2/2" in done.stdout and "epoch 1/" not in done.stdout
    (steps, expected), (resumed_steps, actual) = map(
        final_arrays, (finished_run.folder, moved.folder)
    )
    assert steps == resumed_steps == 8
    for expected_leaf, leaf in zip(expected, actual, strict=True):
        np.testing.assert_array_equal(leaf, expected_leaf)
    for name in ("results.json", "predictions/test.npz"):
        before = finished_run.folder / name
        assert (moved.folder / name).read_bytes() == before.read_bytes(), name
    assert {".lock", ".lock_owner"}.isdisjoint(path.name for path in moved.folder.iterdir())


@pytest.mark.slow
def test_damaged_data_cache_is_rebuilt(finished_run, copy, data_dir, tmp_path):
    (copy.folder / "results.json").unlink()
    for name in ("digits", "kdjax_arrays/digits"):
        shutil.copytree(data_dir / name, tmp_path / "data" / name)
    (images,) = (tmp_path / "data").glob("kdjax_arrays/digits/*/train/images.npy")
    images.write_bytes(images.read_bytes()[:-1])
    # The data directory may change: it is not part of the identity of a run.
    done, (warning,) = resume(copy, f"--config.data.dir={tmp_path / 'data'}")
    assert "rebuilding the damaged cache" in warning and str(images.parent) in warning
    assert "student in" in done.stdout and "is finished: 8 steps" in done.stdout
    assert copy.results == finished_run.results


# Exit statuses


@pytest.mark.parametrize(
    ("act", "status", "line"),
    [
        ("pass", 0, None),
        ("warnings.warn('two\\nlines')", 0, "kdjax: warning: two lines"),
        ("raise InputError('wrong')", 2, "kdjax: error: wrong"),
        ("raise FloatingPointError('loss')", 1, "kdjax: error: loss"),
        ("raise OSError(28, 'disk\\nfull')", 1, "kdjax: error: [Errno 28] disk full"),
        (
            "raise KeyboardInterrupt",
            1,
            "kdjax: error: interrupted; run the same command again to continue",
        ),
    ],
)
def test_exit_status_and_message_of_each_exception(act, status, line):
    head = "import warnings; from kdjax import cli; from kdjax.errors import InputError"
    done = python("-c", f"{head}\ndef main():\n    {act}\ncli.run(main)")
    assert (done.returncode, done.stderr) == (status, f"{line}\n" if line else "")


def test_unexpected_exception_prints_its_traceback():
    done = python("-c", "from kdjax import cli\ncli.run(lambda: {}['absent'])")
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback") and "KeyError: 'absent'" in done.stderr

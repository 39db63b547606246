"""Whole runs on the embedded digits, as small as they can be."""

import importlib.util
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

import kdjax.config
from kdjax import assess, stage, step, train, workdir
from kdjax.checkpoint import Checkpoints
from kdjax.errors import InputError, Preempted

ROOT = pathlib.Path(kdjax.config.__file__).parents[1]
CONFIGS = sorted(ROOT.glob("configs/*.py"))


def get_config(path: pathlib.Path) -> ConfigDict:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


def tiny(data_dir: pathlib.Path, **changes: Any) -> ConfigDict:
    """The digits config, shrunk to a second of training, resolved."""
    config = get_config(ROOT / "configs" / "digits.py")
    changes = {"smoke": True, "teacher.width": 2, "student.width": 2, **changes}
    config.update_from_flattened_dict({"data.dir": str(data_dir), **changes})
    return kdjax.config.resolve(config)


def best(config: ConfigDict, folder: pathlib.Path) -> Any:
    about = workdir.read(folder)["dataset"]
    recipe = stage.recipe(config, "student", about, None)
    template = step.abstract_state(recipe, tuple(about["image_shape"]))
    with Checkpoints(folder / "checkpoints", {}) as checkpoints:
        return checkpoints.best(template)


def lines(folder: pathlib.Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def reads() -> set[str]:
    return set()


def fields(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, ConfigDict, str]]:
    """Yields (dotted name, the dict that holds it, its key) of every field."""
    for key in config:
        if isinstance(config[key], ConfigDict):
            yield from fields(config[key], f"{prefix}{key}.")
        else:
            yield prefix + key, config, key


@pytest.fixture(scope="module")
def run(
    data_dir: pathlib.Path, tmp_path_factory: pytest.TempPathFactory, reads: set[str]
) -> pathlib.Path:
    """A finished run with averaging; on the way, `reads` learns which fields it looked at."""
    folder = tmp_path_factory.mktemp("run") / "digits"
    config = tiny(
        data_dir,
        **{
            "student.average": "swa",
            "student.average_start": 0.0,
            "student.schedule": "step",
            "student.step_every": 1,
            "teacher.average": "ema",
            "objective.pretrain_epochs": 1,
            "objective.adjustment": "label_smooth_regularization",
        },
    )
    names = {(id(holder), key): name for name, holder, key in fields(config)}
    original = ConfigDict.__getitem__

    def recording(self: ConfigDict, key: str) -> Any:
        frame: Any = sys._getframe(1)
        if frame.f_code.co_name == "__getattr__":
            frame = frame.f_back
        code = frame.f_code
        # A copy of the whole config uses none of it, nor does the check in config.py.
        looked_over = "ml_collections" in code.co_filename or (
            code.co_filename == kdjax.config.__file__ and code.co_name != "hyper"
        )
        if not looked_over:
            reads.add(names.get((id(self), key), ""))
        return original(self, key)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ConfigDict, "__getitem__", recording)
        dataset = train.run(config, folder)
        assess.assess(folder, dataset)
    return folder


def test_a_run_leaves_all_that_it_promises(run: pathlib.Path) -> None:
    for name in ("config.json", "metrics.jsonl", "results.json", "predictions/dev.npz"):
        assert (run / name).is_file(), name
        assert (run / "teacher" / name).is_file(), name
    assert list(run.glob("tensorboard/events*"))
    found = json.loads((run / "results.json").read_text())
    assert found["classes"] == 10
    for split in ("dev", "calibration", "test"):
        assert found[split]["examples"] == found["teacher"][split]["examples"] == 64
    for network in (found, found["teacher"]):
        assert (network["guarantee"]["risk"], network["guarantee"]["delta"]) == (0.03, 0.05)
    assert found["correction"]["examples"] == 64
    assert set(found["scores"]) > {"reservation", "softmax_response"}
    assert set(found["teacher"]["scores"]).isdisjoint({"reservation", "max_probability"})


def test_an_evaluation_that_is_cut_short_leaves_no_results(
    run: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> None:
        raise Preempted

    copy = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("results.json"))
    monkeypatch.setattr(assess, "teacher_outputs", stopped)
    with pytest.raises(Preempted):
        assess.assess(copy, stage.data_of(run))
    assert not list(copy.rglob("results.json"))


def test_the_log_tells_each_epoch_and_its_parts(run: pathlib.Path) -> None:
    student = lines(run)
    dev = [line for line in student if line["split"] == "dev"]
    assert [line["step"] for line in dev] == [4, 8]  # 64 images in batches of 16
    assert {"accuracy", "nll", "aurc"} <= set(dev[0])
    first, last = (line for line in student if line["split"] == "train")
    assert first["loss"] == pytest.approx(first["cross_entropy"])  # pre-training
    assert last["loss"] == pytest.approx(last["gambler"] + last["distillation"])
    assert 0 <= last["corrected"] <= 1


def test_every_field_of_the_config_is_read(
    run: pathlib.Path, reads: set[str], data_dir: pathlib.Path
) -> None:
    # Both stages go through the same code, one with ema, the other with swa.
    stages = re.compile("^(teacher|student)[.](?!workdir)")
    everything = {stages.sub("stage.", name) for name, _, _ in fields(tiny(data_dir))}
    # These decide what `resolve` fills in, and the default workdir; main and resolve read them.
    # What is promised is read from config.json again: see what the run leaves.
    elsewhere = {"name", "setting", "size", "smoke", "selective.risk", "selective.delta"}
    assert everything - {stages.sub("stage.", name) for name in reads} == elsewhere


def test_setting_size_and_smoke_decide_what_is_trained(data_dir: pathlib.Path) -> None:
    config = get_config(ROOT / "configs" / "digits.py")
    config.setting, config.size = "depth", "paper"
    resolved = kdjax.config.resolve(config)
    assert (resolved.teacher.model, resolved.student.model) == ("resnet50", "resnet18")
    assert kdjax.config.resolve(tiny(data_dir)).student.epochs == 2


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_each_config_resolves_and_says_how_to_run_it(path: pathlib.Path) -> None:
    text = path.read_text()
    assert f"python -m kdjax.main --config=configs/{path.name}" in text
    config = get_config(path)
    assert config.name == path.stem
    for setting, size in kdjax.config.PAIRS:
        config.setting, config.size = setting, size
        resolved = kdjax.config.resolve(config)
        assert resolved.is_locked
        outputs = stage.network(resolved, "student", 10).num_outputs  # type: ignore[attr-defined]
        assert outputs == 11


def test_the_best_checkpoint_has_learnt_to_abstain(run: pathlib.Path) -> None:
    config = ConfigDict(workdir.read(run)["config"])
    assert best(config, run).step == 8  # the first epoch, to step 4, was pre-training


def test_the_average_is_what_is_evaluated(run: pathlib.Path) -> None:
    restored = best(ConfigDict(workdir.read(run)["config"]), run)
    deployed = stage.restore(run).variables
    jax.tree.map(np.testing.assert_array_equal, deployed, restored.state.average)
    # From the start, of both epochs' ends: not the last weights.
    raw, averaged = (v["params"]["head"]["Dense_0"]["kernel"] for v in
                     (restored.state.variables, deployed))  # fmt: skip
    assert np.any(np.asarray(raw) != np.asarray(averaged))


def test_a_method_without_a_teacher_trains_none(
    data_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    config = tiny(data_dir, **{"objective.method": "ce"})
    dataset = train.run(config, tmp_path)
    assert not (tmp_path / "teacher").exists()
    found = assess.assess(tmp_path, dataset)
    assert "reservation" not in found["scores"]  # its column was never trained
    assert "teacher" not in found


def test_a_loss_that_is_not_finite_stops_the_run(
    data_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    config = tiny(
        data_dir,
        **{"objective.method": "gambler", "objective.pretrain_epochs": 0,
           "student.learning_rate": 1e30, "student.model": "alexnet"},
    )  # fmt: skip
    with pytest.raises(
        FloatingPointError, match=r"student's loss is not finite at step \d.*gambler"
    ):
        train.run(config, tmp_path)
    assert not (tmp_path / "results.json").exists()


def test_a_payoff_at_which_abstaining_never_pays_is_pointed_out(
    data_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    changes = {"objective.method": "gambler", "objective.payoff": 10.0, "student.batch_size": 5000}
    config = tiny(data_dir, smoke=False, **changes)
    with pytest.warns(RuntimeWarning, match="payoff 10.0 .*classes, 10"), pytest.raises(InputError):
        train.run(config, tmp_path)


def test_a_batch_larger_than_the_data_is_refused(
    data_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    config = tiny(
        data_dir, **{"smoke": False, "student.batch_size": 5000, "objective.method": "ce"}
    )
    with pytest.raises(InputError, match=r"student.batch_size 5000 .* largest that fits is 1150$"):
        train.run(config, tmp_path)


def test_an_unfinished_workdir_cannot_be_evaluated_or_teach(
    run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "config.json").write_bytes((run / "config.json").read_bytes())
    with pytest.raises(InputError, match=r"not finished \(step 0 of 8\)"):
        stage.restore(tmp_path)


def start(folder: pathlib.Path, data_dir: pathlib.Path) -> subprocess.Popen:
    """The main job with 71 steps an epoch, every step of it logged, weights averaged."""
    flags = {
        "data.dir": data_dir, "log_every": 1, "objective.pretrain_epochs": 1,
        "teacher.width": 2, "teacher.epochs": 1, "student.width": 2, "student.epochs": 3,
        "student.batch_size": 16, "student.average": "ema", "student.average_start": 0.3,
        "student.norm_batches": 2,
    }  # fmt: skip
    command = [sys.executable, "-m", "kdjax.main", "--config=configs/digits.py"]
    command += [f"--workdir={folder}", *(f"--config.{key}={value}" for key, value in flags.items())]
    environment = {**os.environ, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def finish(process: subprocess.Popen) -> None:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output.decode()


def stop_at(
    process: subprocess.Popen, metrics: pathlib.Path, count: int, how: signal.Signals
) -> tuple[int, str]:
    """Stops the process as soon as the file has so many lines; its status and output."""
    deadline = time.monotonic() + 300
    while not metrics.exists() or metrics.read_bytes().count(b"\n") < count:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(how)
    output, _ = process.communicate(timeout=60)
    return process.returncode, output.decode()


def arrays(folder: pathlib.Path) -> tuple[int, list[np.ndarray]]:
    config = ConfigDict(workdir.read(folder)["config"])
    about = workdir.read(folder)["dataset"]
    recipe = stage.recipe(config, "student", about, None)
    with Checkpoints(folder / "checkpoints", {}) as checkpoints:
        found = checkpoints.latest(step.abstract_state(recipe, tuple(about["image_shape"])))
    assert found is not None
    return found.step, [np.asarray(leaf) for leaf in jax.tree.leaves(found.state)]


@pytest.fixture(scope="module")
def whole(data_dir: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run that nothing disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    finish(start(folder, data_dir))
    return folder


def saved(folder: pathlib.Path) -> list[int]:
    return sorted(int(path.name) for path in (folder / "checkpoints").glob("[0-9]*"))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_stopped_within_an_epoch_ends_in_the_same_bits(
    how: signal.Signals, whole: pathlib.Path, data_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    broken = tmp_path / "broken"
    status, output = stop_at(start(broken, data_dir), broken / "metrics.jsonl", 120, how)
    stopped = lines(broken)[-1]["step"]
    assert 71 < stopped < 142 and not (broken / "results.json").exists()
    if how == signal.SIGTERM:
        assert saved(broken) == [71, stopped] and status == 75
        assert f"kdjax: error: student stopped by SIGTERM at step {stopped}" in output
    else:
        assert saved(broken) == [71] and status == -how
    finish(start(broken, data_dir))

    (steps, expected), (again, found) = arrays(whole), arrays(broken)
    assert steps == again == 213
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_array_equal(one, other)
    for name in ("predictions/test.npz", "results.json"):
        assert (whole / name).read_bytes() == (broken / name).read_bytes()
    # The log tells each step once, as if nothing had happened.
    told = [[(line["step"], line["split"]) for line in lines(folder)] for folder in (whole, broken)]
    assert told[0] == told[1]

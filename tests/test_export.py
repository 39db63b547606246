"""A run's student as files: what they do, what their card says, and what is refused."""

import functools
import hashlib
import importlib.util
import json
import pathlib
import shutil
import sys

import numpy as np
import pytest
from commands import ROOT, assert_refused, python

import kdjax.config
from kdjax import assess, card, formats, models, selective, stage, train
from kdjax.errors import InputError
from kdjax.export import export
from kdjax.predict import load
from kdjax.report import predictions, results

# One of each kind: with abstention and without, a chain and one with projection shortcuts, and
# one whose own logits are rounded to eight bits.
RUNS = {
    "alexnet_small": {"objective.method": "gambler", "objective.pretrain_epochs": 3},
    "resnet8": {"objective.method": "ce"},
    "bfloat16": {"student.model": "resnet8", "student.compute_dtype": "bfloat16"},
}
RISK = 0.4  # reached by some of what so short a training gives


def config_of(data_dir, changes):
    config = kdjax.config.base()
    config.update_from_flattened_dict(
        {
            "data.dir": str(data_dir),
            "data.pad": 1,
            "data.flip": False,
            "size": "laptop",
            "objective.method": "ce",
            "selective.risk": RISK,
            "objective.payoff": 6.0,
            "student.width": 8,
            "student.epochs": 5,
            "student.batch_size": 64,
            **changes,
        }
    )
    return kdjax.config.resolve(config)


@pytest.fixture(scope="module")
def trained(data_dir, tmp_path_factory):
    """Finished runs by name, made when they are first asked for."""
    root = tmp_path_factory.mktemp("runs")

    @functools.cache
    def run(name):
        config = config_of(data_dir, {"student.model": name, **RUNS[name]})
        dataset = train.run(config, root / name)
        assess.assess(root / name, dataset)
        return root / name

    return run


@pytest.fixture
def copy(trained, tmp_path):
    """A copy of a run, to be disturbed."""
    return shutil.copytree(trained("alexnet_small"), tmp_path / "run")


@pytest.fixture(scope="module")
def taken(trained, tmp_path_factory):
    out = tmp_path_factory.mktemp("models") / "deep" / "model"
    return export(trained("alexnet_small"), out), out


def export_check():
    path = ROOT / "experiments" / "export_check.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def refusal(call, *arguments, error=InputError, **options):
    with pytest.raises(error) as raised:
        call(*arguments, **options)
    assert "\n" not in str(raised.value)
    return str(raised.value)


# What the files do


@pytest.mark.parametrize("name", ["alexnet_small", "resnet8"])
def test_processes_without_kdjax_do_what_the_run_did_on_all_of_test(trained, tmp_path, name):
    export(trained(name), tmp_path / "model")
    found = export_check().compare(trained(name), tmp_path / "model")
    labels = predictions.load(trained(name) / "predictions" / "test.npz").labels
    assert [one.file for one in found] == ["model.stablehlo", "model.onnx"]
    for one in found:
        assert one.images == len(labels) and one.difference < 1e-4 and one.decisions == 0
        assert 0 < one.accepted < one.images


def test_the_check_fails_on_a_logit_or_a_decision_that_differs():
    check = export_check()
    good = check.Comparison("model.onnx", 10, difference=1e-5, accepted=4, decisions=0)
    assert check.agree([good, good])
    for bad in ({"difference": 2e-4}, {"difference": np.nan}, {"decisions": 1}):
        assert not check.agree([good, good._replace(**bad)])


def test_prediction_loads_what_export_wrote(trained, taken):
    about, out = taken
    dataset = stage.data_of(trained("alexnet_small"))
    own = predictions.load(trained("alexnet_small") / "predictions" / "test.npz")
    found = load(out)(dataset.test.images)
    np.testing.assert_allclose(found.logits, own.logits, atol=1e-4)
    assert found.labels.tolist() == [about["classes"][i] for i in own.logits[:, :-1].argmax(1)]
    error = np.mean(found.classes[found.accepted] != own.labels[found.accepted])
    assert found.accepted.mean() == pytest.approx(about["certificate"]["test_coverage"])
    assert error == pytest.approx(about["certificate"]["test_error"])


# The card


def test_the_card_says_what_was_written(trained, taken):
    about, out = taken
    folder = trained("alexnet_small")
    found = json.loads((folder / "results.json").read_text())
    identity = json.loads((folder / "config.json").read_text())
    assert {path.name for path in out.iterdir()} == {"card.json", *formats.FORMATS}
    assert card.read(out) == about and set(about) == set(card.FIELDS)
    for name, file in about["files"].items():
        assert file["sha256"] == hashlib.sha256((out / name).read_bytes()).hexdigest()
        assert file["largest_difference"] < 1e-4 and file["different_decisions"] == 0
    (entry,) = (one for one in found["guarantee"]["certificates"] if one["risk"] == RISK)
    certificate = entry["learn_then_test"]
    assert about["threshold"] == certificate["threshold"] is not None
    assert certificate.items() <= about["certificate"].items()
    assert (about["certificate"]["risk"], about["certificate"]["delta"]) == (RISK, 0.05)
    assert about["score"] == {"name": found["best_score"], "pnorm": found["pnorm"]}
    assert about["test"] == found["test"]
    assert about["config_sha256"] == card.of_json(identity)
    assert about["classes"] == [str(digit) for digit in range(10)]
    assert about["checked"]["on"] == "the first 256 images of test"
    assert about["checked"]["difference_from_run"] < 1e-6
    assert str(folder) not in (out / "card.json").read_text()


def test_another_risk_is_certified_anew(trained, tmp_path):
    folder = trained("alexnet_small")
    about = export(folder, tmp_path / "model", risk=0.3, delta=0.1)
    calibration = predictions.load(folder / "predictions" / "calibration.npz")
    score = about["score"]
    confidence = results.scores_with(score["pnorm"])[score["name"]](calibration.logits)
    right = calibration.logits[:, :-1].argmax(axis=1) == calibration.labels
    expected = selective.learn_then_test(confidence, right, risk=0.3, delta=0.1)
    assert about["threshold"] == expected.threshold
    assert about["certificate"]["coverage"] == expected.coverage
    assert "With probability 0.9 " in about["notes"][0] and "at most 0.3" in about["notes"][0]


def test_with_no_threshold_certified_everything_is_abstained_on(trained, taken, tmp_path):
    about = export(trained("alexnet_small"), tmp_path / "model", risk=1e-6)
    assert about["threshold"] is None and about["certificate"] is None
    assert about["notes"][0].startswith("No threshold could be certified at risk 1e-06")
    with pytest.warns(UserWarning, match="abstains on everything"):
        model = load(tmp_path / "model")
    images = stage.data_of(trained("alexnet_small")).test.images[:50]
    assert not model(images).accepted.any()
    np.testing.assert_allclose(model(images).logits, load(taken[1])(images).logits, atol=1e-6)


def test_a_method_without_abstention_says_so(trained, tmp_path):
    about = export(trained("resnet8"), tmp_path / "model")
    assert any("column of abstention was not trained (method ce)" in n for n in about["notes"])
    assert about["score"]["name"] not in ("reservation", "max_probability")


def test_a_student_in_bfloat16_leaves_in_float32_and_the_card_tells_the_difference(
    trained, tmp_path
):
    about = export(trained("bfloat16"), tmp_path / "model")
    assert 1e-4 < about["checked"]["difference_from_run"] < 0.3
    assert all(file["largest_difference"] < 1e-4 for file in about["files"].values())
    assert any("computed in bfloat16" in note for note in about["notes"])


def test_without_the_data_random_pixels_are_compared(copy, tmp_path):
    identity = json.loads((copy / "config.json").read_text())
    identity["config"]["data"]["dir"] = str(tmp_path / "nowhere")
    (copy / "config.json").write_text(json.dumps(identity))
    about = export(copy, tmp_path / "model")
    assert about["checked"]["on"] == "256 images of random pixels"
    assert about["checked"]["difference_from_run"] is None
    assert not (tmp_path / "nowhere").exists()


def test_without_jax2onnx_stablehlo_alone_is_written_with_a_warning(trained, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.warns(UserWarning, match=r"no model.onnx: .* pip install 'kdjax\[onnx\]'"):
        about = export(trained("alexnet_small"), tmp_path / "model")
    assert set(about["files"]) == {"model.stablehlo"}
    assert {path.name for path in (tmp_path / "model").iterdir()} == {
        "card.json",
        "model.stablehlo",
    }


# Refusals


@pytest.mark.parametrize(
    ("spoil", "parts"),
    [
        (lambda run: (run / "results.json").unlink(), ["results.json' is missing", "evaluate"]),
        (lambda run: (run / "results.json").write_text("{}"), ["no run's of this version"]),
        (lambda run: (run / "results.json").write_text("{"), ["results.json' is damaged"]),
        (lambda run: (run / "config.json").unlink(), ["is not a workdir"]),
        (lambda run: shutil.rmtree(run / "checkpoints"), ["is not finished (step 0"]),
        (lambda run: (run / "predictions" / "calibration.npz").unlink(), ["no predictions at"]),
        (
            lambda run: (run / "predictions" / "test.npz").write_bytes(b"PK"),
            ["test.npz' are damaged"],
        ),
        (lambda run: spoil_logits(run / "predictions" / "calibration.npz"), ["NaN"]),
        (lambda run: turn_into_teacher(run), ["is a teacher's workdir"]),
    ],
)
def test_a_workdir_that_cannot_be_exported_is_refused_and_leaves_nothing(
    copy, tmp_path, spoil, parts
):
    spoil(copy)
    line = refusal(export, copy, tmp_path / "deep" / "model")
    for part in parts:
        assert part in line
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def spoil_logits(path):
    found = predictions.load(path)
    found.logits[3, 1] = np.nan
    predictions.save(path, found)


def turn_into_teacher(run):
    identity = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**identity, "stage": "teacher"}))


@pytest.mark.parametrize(("field", "value"), [("risk", 0.0), ("risk", 1.0), ("delta", -1.0)])
def test_a_risk_that_is_no_probability_is_refused(trained, tmp_path, field, value):
    line = refusal(export, trained("alexnet_small"), tmp_path / "model", **{field: value})
    assert f"{field} must lie in (0, 1)" in line
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_is_refused_and_an_empty_one_filled(trained, tmp_path):
    (tmp_path / "model").mkdir()
    export(trained("alexnet_small"), tmp_path / "model")
    before = {path: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    (tmp_path / "file").touch()
    for out in (tmp_path / "model", tmp_path / "file"):
        assert f"'{out}' is in use" in refusal(export, trained("alexnet_small"), out)
    assert {path: path.read_bytes() for path in (tmp_path / "model").iterdir()} == before


def test_a_file_that_does_something_else_is_not_published(trained, tmp_path, monkeypatch):
    fold = models.fold

    def wrong(model, variables):
        folded, inference = fold(model, variables)
        head = inference["params"]["head"]["Dense_0"]
        head["bias"] = head["bias"] + 2e-4
        return folded, inference

    monkeypatch.setattr(models, "fold", wrong)
    line = refusal(export, trained("alexnet_small"), tmp_path / "model", error=FloatingPointError)
    assert "model.stablehlo gives logits that differ by 0.0002" in line
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_leaves_nothing(trained, tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device")

    run = trained("alexnet_small")
    monkeypatch.setattr(pathlib.Path, "write_bytes", full)
    refusal(export, run, tmp_path / "model", error=OSError)
    assert list(tmp_path.iterdir()) == []


# The command


def command(*flags):
    """The command in a process of its own, where jax2onnx is not installed: it takes long."""
    code = (
        "import runpy, sys; sys.modules['jax2onnx'] = None;"
        "runpy.run_module('kdjax.export', run_name='__main__', alter_sys=True)"
    )
    return python("-c", code, *flags)


def test_the_command_says_what_it_wrote(trained, tmp_path):
    out = tmp_path / "model"
    done = command(f"--workdir={trained('alexnet_small')}", f"--out={out}", "--risk=0.35")
    (warning,) = done.stderr.splitlines()
    assert done.returncode == 0 and warning.startswith("kdjax: warning: no model.onnx: ")
    first, *others = done.stdout.splitlines()
    assert first.startswith(f"{out}/model.stablehlo: 0.1 MB, logits within ")
    about = card.read(out)
    assert about["certificate"]["risk"] == 0.35 and "at most 0.35" in about["notes"][0]
    assert others == [f"{out}/card.json", *(f"  {note}" for note in about["notes"])]


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        ([], "two flags are needed"),
        (["--workdir=runs"], "two flags are needed"),
        (["--workdir=nowhere", "--out=nowhere/model"], "'nowhere' is not a workdir"),
        (["--workdir=nowhere", "--out=tests"], "'tests' is in use"),
    ],
)
def test_a_mistake_is_told_in_one_line(flags, part):
    assert_refused(command(*flags), part)

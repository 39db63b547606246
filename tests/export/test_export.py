"""Export of the student of a run: the files, the model card, and invalid input."""

import functools
import hashlib
import importlib.util
import json
import math
import pathlib
import shutil
import sys

import numpy as np
import onnx
import pytest
import scipy.stats
from support.commands import ROOT, assert_refused, command
from support.tiny_network import TINY_NETWORK

import kdjax.config
from kdjax import pipeline, selective
from kdjax.data.batches import load_split
from kdjax.errors import InputError
from kdjax.evaluation import evaluate, predictions
from kdjax.evaluation.summary import ABSTENTION_SCORES
from kdjax.export import card, card_page, formats
from kdjax.export.exporter import export
from kdjax.models import apply
from kdjax.predict import load, promise_check
from kdjax.report import page
from kdjax.runs import restore
from kdjax.selective.scales import SCALES
from kdjax.training import inference, teacher_network

RISK = 0.2  # of the run `tiny`, which rejects some images
# With abstention, and without it and with bfloat16 logits.
RUNS = {
    "tiny": {
        "student.model": TINY_NETWORK,
        "student.learning_rate": 0.02,
        "selective.risk": RISK,
        "objective.method": "gambler",
        "objective.pretrain_epochs": 3,
    },
    "bfloat16": {
        "student.model": TINY_NETWORK,
        "student.learning_rate": 0.02,
        "student.compute_dtype": "bfloat16",
    },
}


def make_config(data_dir, changes):
    config = kdjax.config.base()
    config.update_from_flattened_dict(
        {
            "data.dir": str(data_dir),
            "data.pad": 1,
            "data.flip": False,
            "size": "laptop",
            "objective.method": "ce",
            "selective.risk": 0.4,  # certified for some of these short runs
            "objective.payoff": 6.0,
            "student.width": 8,
            "student.epochs": 5,
            "student.batch_size": 64,
            "eval_every": 5,
            **changes,
        }
    )
    return kdjax.config.resolve(config)


@pytest.fixture(scope="module")
def trained(data_dir, tmp_path_factory):
    """Returns a function from a key of `RUNS` to a finished run, trained on the first call."""
    root = tmp_path_factory.mktemp("runs")

    @functools.cache
    def run(name):
        config = make_config(data_dir, {"student.model": name, **RUNS[name]})
        dataset = pipeline.train(config, root / name)
        evaluate.evaluate(root / name, dataset)
        return root / name

    return run


@pytest.fixture
def copy(trained, tmp_path):
    """A copy of a run that a test may change."""
    return shutil.copytree(trained("tiny"), tmp_path / "run")


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    out = tmp_path_factory.mktemp("models") / "deep" / "model"
    return export(trained("tiny"), out), out


def export_check():
    path = ROOT / "experiments" / "export_check.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def score_of(model_card):
    """Returns the score of a model as a function of logits."""
    score = model_card["score"]
    return selective.numpy_scores(score["pnorm"], score["combination"])[score["name"]]


def error_message(call, *arguments, error=InputError, **options):
    with pytest.raises(error) as raised:
        call(*arguments, **options)
    assert "\n" not in str(raised.value)
    return str(raised.value)


# The network


def test_network_that_was_not_evaluated_is_refused(copy, tmp_path):
    path = copy / "results.json"
    results = json.loads(path.read_text())
    evaluated = apply.weights_hash(restore.restore(copy).variables)
    assert results["weights_sha256"] == evaluated
    path.write_text(json.dumps({**results, "weights_sha256": evaluated[::-1]}))
    message = error_message(export, copy, tmp_path / "model")
    assert "the checkpoint is not that of the network that was evaluated" in message
    assert "kdjax evaluate --workdir=" in message and not (tmp_path / "model").exists()
    del results["weights_sha256"]  # as of an earlier version
    path.write_text(json.dumps(results))
    assert export(copy, tmp_path / "model")["weights_sha256"] == evaluated


# The files


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny", "resnet8"])
def test_files_run_without_kdjax_and_match_the_run_on_all_test_images(
    trained, exported, finished_run, tmp_path, name
):
    if name == "tiny":
        folder, (_, out) = trained("tiny"), exported
    else:  # with projection shortcuts
        folder, out = finished_run.folder, tmp_path / "model"
        export(folder, out, coverage=0.8)
    comparisons = export_check().compare(folder, out)
    labels = predictions.load(folder / "predictions" / "test.npz").labels
    assert [comparison.file for comparison in comparisons] == ["model.stablehlo", "model.onnx"]
    for comparison in comparisons:
        assert comparison.images == len(labels)
        assert comparison.difference < 1e-4 and comparison.decisions == 0
        assert 0 < comparison.accepted <= comparison.images


def test_export_check_detects_different_logits_and_decisions():
    check = export_check()
    good = check.Comparison("model.onnx", 10, difference=1e-5, accepted=4, decisions=0)
    assert check.agree([good, good])
    for bad in ({"difference": 2e-4}, {"difference": np.nan}, {"decisions": 1}):
        assert not check.agree([good, good._replace(**bad)])


def test_prediction_with_an_exported_model_matches_the_run(trained, exported):
    model_card, out = exported
    dataset = restore.load_dataset(trained("tiny"))
    of_run = predictions.load(trained("tiny") / "predictions" / "test.npz")
    prediction = load(out)(dataset.test.images)
    accepted = prediction.accepted
    np.testing.assert_allclose(prediction.logits, of_run.logits, atol=1e-4)
    expected = [model_card["classes"][i] for i in of_run.logits[:, :-1].argmax(1)]
    assert prediction.labels.tolist() == expected
    error = np.mean(prediction.classes[accepted] != of_run.labels[accepted])
    assert accepted.mean() == pytest.approx(model_card["certificate"]["test_coverage"])
    assert error == pytest.approx(model_card["certificate"]["test_error"])


def test_check_refutes_the_promise_on_shifted_pictures_and_not_on_fresh_ones(
    trained, exported, tmp_path
):
    _, out = exported
    test = restore.load_dataset(trained("tiny")).test
    inverted = (255 - test.images, test.labels)
    for (images, labels), refuted in (((test.images, test.labels), False), (inverted, True)):
        np.savez(tmp_path / "new.npz", images=images, labels=labels)
        report = promise_check.check(out, f"npz:{tmp_path / 'new.npz'}")
        assert (report["promised_risk"], report["refuted"]) == (RISK, refuted)


# The card


def test_card_matches_the_files_and_the_run(trained, exported):
    model_card, out = exported
    folder = trained("tiny")
    results = json.loads((folder / "results.json").read_text())
    metadata = json.loads((folder / "config.json").read_text())
    assert {path.name for path in out.iterdir()} == {"card.json", "card.md", *formats.FORMATS}
    assert card.read(out) == model_card and set(model_card) == set(card.FIELDS)
    page_text = (out / "card.md").read_text()
    assert page_text == card_page.render(model_card)
    for name, file in model_card["files"].items():
        assert file["sha256"] == hashlib.sha256((out / name).read_bytes()).hexdigest()
        assert file["largest_difference"] < 1e-4 and file["different_decisions"] == 0
    entries = {entry["risk"]: entry for entry in results["guarantee"]["certificates"]}
    certificate = entries[RISK]["learn_then_test"]
    assert model_card["threshold"] == certificate["threshold"] is not None
    assert any("certify at delta / S" in note for note in model_card["notes"])
    assert certificate.items() <= model_card["certificate"].items()
    assert (model_card["certificate"]["risk"], model_card["certificate"]["delta"]) == (RISK, 0.05)
    parameters = {name: results[name] for name in ("pnorm", "combination")}
    scale = SCALES.get(results["best_score"])
    assert model_card["score"] == {"name": results["best_score"], **parameters, "scale": scale}
    assert model_card["views"]["number"] == 1 and "| views | the image alone |" in page_text
    assert model_card["test"] == results["test"]
    watched = model_card["monitoring"]
    assert watched["risk"] == {"bound": RISK, "delta": 0.05}
    assert sum(watched["drift"]["counts"]) == watched["coverage"]["images"]
    assert model_card["config_sha256"] == card.sha256_json(metadata)
    assert model_card["classes"] == [str(digit) for digit in range(10)]
    on = model_card["checked"]["on"]
    assert on == "all 144 images of calibration and the first 256 of test"
    for file in model_card["files"].values():
        assert file["calibration"]["images"] == 144 >= file["calibration"]["accepted"] > 0
        assert file["calibration"]["different_decisions"] == 0
    assert "of the exported network" in model_card["certificate"]["logits"]
    assert model_card["checked"]["difference_from_run"] < 1e-6
    for name in ("card.json", "card.md"):
        assert str(folder) not in (out / name).read_text()


def test_operating_point_is_on_the_card_with_its_figures_on_each_split(trained, exported):
    model_card, _ = exported
    point, certificate = model_card["operating_point"], model_card["certificate"]
    assert (point["source"], point["requested"], point["bound"]) == ("certificate", {}, None)
    assert list(point["figures"]) == ["dev", "calibration", "test"]
    assert point["figures"]["calibration"]["coverage"] == certificate["coverage"]
    test = point["figures"]["test"]
    assert (test["coverage"], test["error"]) == (
        certificate["test_coverage"],
        certificate["test_error"],
    )
    assert test["images"] == 359 and test["errors"] == round(test["error"] * test["accepted"])


def test_onnx_file_has_the_card_as_metadata(exported):
    model_card, out = exported
    model = onnx.load(out / "model.onnx")
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert (model.producer_name, model.graph.name) == ("kdjax", model_card["name"])
    assert json.loads(properties["kdjax.classes"]) == model_card["classes"]
    assert json.loads(properties["kdjax.threshold"]) == model_card["threshold"]
    assert json.loads(properties["kdjax.score"]) == model_card["score"]
    assert json.loads(properties["kdjax.certificate"]) == model_card["certificate"]
    assert properties["Image.BitmapPixelFormat"] == "Gray8"
    assert properties["model_license"] == properties["model_author"] == "not stated"
    assert "uint8 [n, 8, 8, 1]" in model.doc_string


@pytest.mark.slow
def test_other_risk_and_delta_are_certified_again(trained, tmp_path):
    folder = trained("tiny")
    model_card = export(folder, tmp_path / "model", risk=0.3, delta=0.1)
    calibration = predictions.load(folder / "predictions" / "calibration.npz")
    confidence = score_of(model_card)(calibration.logits)
    right = calibration.logits[:, :-1].argmax(axis=1) == calibration.labels
    expected = selective.learn_then_test(confidence, right, risk=0.3, delta=0.1)
    assert model_card["threshold"] == expected.threshold
    assert model_card["certificate"]["coverage"] == expected.coverage
    assert (
        "With probability 0.9 " in model_card["notes"][0]
        and "at most 0.3 " in model_card["notes"][0]
    )


@pytest.mark.slow
def test_model_without_a_certified_threshold_abstains_on_every_image(trained, exported, tmp_path):
    with pytest.warns(UserWarning, match="abstains on every image") as warned:
        model_card = export(trained("tiny"), tmp_path / "model", risk=1e-6)
    (warning,) = warned
    line = str(warning.message)
    assert "\n" not in line and "data.calibration_fraction" in line and "--risk (0.1" in line
    assert "144 calibration images, fewer than the 2,995,731 that are needed" in line
    assert model_card["threshold"] is None and model_card["certificate"] is None
    assert model_card["notes"][0].startswith("No threshold could be certified at risk 1e-06")
    with pytest.warns(UserWarning, match="abstains on every image"):
        model = load(tmp_path / "model")
    images = restore.load_dataset(trained("tiny")).test.images[:50]
    assert not model(images).accepted.any()
    np.testing.assert_allclose(model(images).logits, load(exported[1])(images).logits, atol=1e-6)


@pytest.mark.slow
def test_card_notes_that_the_abstention_output_was_not_trained(trained, tmp_path):
    model_card = export(trained("bfloat16"), tmp_path / "model")
    assert any(
        "abstention output was not trained (method ce)" in note for note in model_card["notes"]
    )
    assert model_card["score"]["name"] not in ABSTENTION_SCORES


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny", "bfloat16"])
def test_run_and_export_decide_alike_on_all_calibration_and_test_images(trained, tmp_path, name):
    folder, out = trained(name), tmp_path / "model"
    export(folder, out, risk=0.05)
    dataset, model = restore.load_dataset(folder), load(out)
    run = page_run(folder, 0.05)
    for split in ("calibration", "test"):
        logits = predictions.load(predictions.path_of(folder, split)).logits
        accepted = run.accepts(np.asarray(run.confidence(logits)).astype(np.float64))
        images = np.asarray(getattr(dataset, split).images)
        onnx = formats.run_onnx((out / "model.onnx").read_bytes())(images)
        np.testing.assert_array_equal(model(images).accepted, accepted)
        np.testing.assert_array_equal(onnx.accepted, accepted)
        assert 0 < accepted.sum() < len(accepted)


def page_run(folder, risk):
    """Returns the operating point with which `python -m kdjax.report` describes a run."""
    return page.read(folder, risk=risk).operating_point


@pytest.mark.slow
def test_bfloat16_student_is_evaluated_and_exported_in_float32(trained, tmp_path):
    model_card = export(trained("bfloat16"), tmp_path / "model")
    assert model_card["checked"]["difference_from_run"] < 1e-6
    assert all(file["largest_difference"] < 1e-4 for file in model_card["files"].values())


@pytest.mark.slow
def test_certificate_is_of_the_logits_of_the_exported_network(trained, tmp_path):
    """The predictions of earlier versions were computed in bfloat16."""
    folder = shutil.copytree(trained("bfloat16"), tmp_path / "run")
    dataset = restore.load_dataset(folder)
    float32 = {}
    for split in ("calibration", "test"):
        path = predictions.path_of(folder, split)
        float32[split] = predictions.load(path)
        examples = load_split(dataset, split)
        logits = inference.predict_logits(*restore.restore(folder), examples, batch_size=144)
        predictions.save(path, float32[split]._replace(logits=logits))
    model_card = export(folder, tmp_path / "model", risk=0.3)
    assert 1e-4 < model_card["checked"]["difference_from_run"] < 0.3
    assert any("bfloat16" in note for note in model_card["notes"])
    score = score_of(model_card)
    confidence, correct = (
        {split: f(saved) for split, saved in float32.items()}
        for f in (lambda s: score(s.logits), lambda s: s.logits[:, :-1].argmax(1) == s.labels)
    )
    expected = selective.learn_then_test(
        confidence["calibration"], correct["calibration"], risk=0.3
    )
    assert model_card["threshold"] == expected.threshold
    coverage, error = selective.accept_at(confidence["test"], correct["test"], expected.threshold)
    assert model_card["certificate"]["test_coverage"] == coverage
    assert model_card["certificate"]["test_error"] == error
    assert model_card["test"]["accuracy"] == correct["test"].mean()


@pytest.mark.slow
def test_different_decisions_on_calibration_are_counted_on_the_card(copy, tmp_path):
    path = predictions.path_of(copy, "calibration")
    saved = predictions.load(path)
    order = np.roll(np.arange(len(saved.labels)), 1)
    predictions.save(path, saved._replace(logits=saved.logits[order], labels=saved.labels[order]))
    model_card = export(copy, tmp_path / "model", risk=0.05)
    counts = model_card["files"]["model.stablehlo"]["calibration"]
    assert counts["different_decisions"] > 0
    line = f"decide differently on {counts['different_decisions']} of 144 calibration images"
    assert any(line in note for note in model_card["notes"])


@pytest.mark.slow
def test_without_the_data_set_files_are_checked_on_random_pixels(copy, tmp_path):
    metadata = json.loads((copy / "config.json").read_text())
    metadata["config"]["data"]["dir"] = str(tmp_path / "nowhere")
    (copy / "config.json").write_text(json.dumps(metadata))
    model_card = export(copy, tmp_path / "model")
    assert model_card["checked"]["on"] == "256 images of random pixels"
    assert model_card["checked"]["difference_from_run"] is None
    assert all(file["calibration"] is None for file in model_card["files"].values())
    assert "of the run" in model_card["certificate"]["logits"]
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.slow
def test_without_jax2onnx_only_stablehlo_is_written_with_a_warning(trained, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.warns(UserWarning, match=r"no model.onnx: .* pip install 'kdjax\[onnx\]'"):
        model_card = export(trained("tiny"), tmp_path / "model")
    assert set(model_card["files"]) == {"model.stablehlo"}
    names = {"card.json", "card.md", "model.stablehlo"}
    assert {path.name for path in (tmp_path / "model").iterdir()} == names


@pytest.fixture
def without_onnx(monkeypatch):
    """Only StableHLO is written, which is faster."""
    monkeypatch.setattr(formats, "FORMATS", {formats.STABLEHLO: formats.FORMATS[formats.STABLEHLO]})


@pytest.mark.slow
def check_lists(model_card, prediction, labels):
    """Checks the lists of abstained test images against the figures of the card."""
    names, expected = model_card["classes"], model_card["promises"]["sets"]["test"]["rejected"]
    pairs = zip(labels, prediction.sets, strict=True)
    on_list = np.array([names[label] in chosen for label, chosen in pairs])
    sizes = np.array([len(chosen) for chosen in prediction.sets])
    rejected = ~prediction.accepted
    assert rejected.sum() == expected["examples"] > 0
    assert on_list[rejected].mean() == pytest.approx(expected["coverage"])
    assert sizes[rejected].mean() == pytest.approx(expected["mean_size"])
    assert (sizes[~rejected] == 1).all()


@pytest.mark.slow
def test_coverage_with_another_score_has_no_certificate(trained, tmp_path, without_onnx):
    folder, out = trained("tiny"), tmp_path / "model"
    model_card = export(folder, out, coverage=0.8, score="margin", delta=0.1)
    dev = predictions.load(predictions.path_of(folder, "dev"))
    confidence = selective.numpy_scores(2.0)["margin_log"](dev.logits)  # without ties near 1
    assert model_card["threshold"] == selective.threshold_at_coverage(confidence, coverage=0.8)
    assert model_card["certificate"] is None and model_card["score"]["name"] == "margin_log"
    point = model_card["operating_point"]
    assert point["requested"] == {"coverage": 0.8, "score": "margin", "delta": 0.1}
    assert point["figures"]["dev"]["accepted"] == math.ceil(0.8 * len(dev.labels))
    counts = point["figures"]["calibration"]
    expected = scipy.stats.binomtest(counts["errors"], counts["accepted"], alternative="less")
    bound = expected.proportion_ci(0.9, "exact").high
    assert point["bound"] == {"risk": pytest.approx(bound), "delta": 0.1}
    note, page_text = model_card["notes"][0], (out / "card.md").read_text()
    assert note.startswith("This threshold has no certificate for a requested risk.")
    assert "chosen to accept 80 % of the dev split" in note
    assert "The threshold has no certificate for a requested risk." in page_text
    test = restore.load_dataset(folder).test
    prediction = load(out)(test.images)
    assert prediction.accepted.sum() == point["figures"]["test"]["accepted"]
    assert model_card["promises"]["sets"]["rejected"]["below"] == model_card["threshold"]
    check_lists(model_card, prediction, test.labels)


@pytest.mark.slow
def test_threshold_license_and_author_are_on_the_card(trained, tmp_path, without_onnx):
    out = tmp_path / "model"
    options = {"threshold": 0.5, "score": "softmax_response"}
    model_card = export(trained("tiny"), out, license="CC-BY-4.0", author="A. Author", **options)
    assert model_card["threshold"] == 0.5 and model_card["operating_point"]["source"] == "given"
    assert "It was given by the user." in model_card["notes"][0]
    page_text = (out / "card.md").read_text()
    assert "| license | CC-BY-4.0 |" in page_text and "| author | A. Author |" in page_text


# Invalid input


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        (lambda run: (run / "results.json").unlink(), ["results.json' is missing", "evaluate"]),
        (lambda run: (run / "results.json").write_text("{}"), ["was not written by this version"]),
        (lambda run: (run / "results.json").write_text("{"), ["results.json' is damaged"]),
        (lambda run: (run / "config.json").unlink(), ["is not a workdir"]),
        (lambda run: shutil.rmtree(run / "checkpoints"), ["is not finished (step 0"]),
        (lambda run: (run / "predictions" / "calibration.npz").unlink(), ["no predictions at"]),
        (
            lambda run: (run / "predictions" / "test.npz").write_bytes(b"PK"),
            ["test.npz' is damaged"],
        ),
        (lambda run: write_nan(run / "predictions" / "calibration.npz"), ["NaN"]),
        (
            lambda run: make_students(run),
            ["holds several students", "run/students'", "method=kd, seed=1"],
        ),
    ],
)
def test_unusable_workdir_raises_and_writes_nothing(copy, tmp_path, damage, parts):
    damage(copy)
    line = error_message(export, copy, tmp_path / "deep" / "model")
    for part in parts:
        assert part in line
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def write_nan(path):
    changed = predictions.load(path)
    changed.logits[3, 1] = np.nan
    predictions.save(path, changed)


def change_stage(run, stage):
    metadata = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**metadata, "stage": stage}))


def make_students(run):
    change_stage(run, "students")
    for name in ("method=kd", "seed=1"):
        (run / "students" / name).mkdir(parents=True)


@pytest.mark.parametrize(("field", "value"), [("risk", 0.0), ("risk", 1.0), ("delta", -1.0)])
def test_risk_or_delta_out_of_range_raises(trained, tmp_path, field, value):
    line = error_message(export, trained("tiny"), tmp_path / "model", **{field: value})
    assert f"{field} must lie in (0, 1)" in line
    assert list(tmp_path.iterdir()) == []


def test_invalid_operating_point_raises_and_writes_nothing(trained, tmp_path):
    folder, out = trained("tiny"), tmp_path / "model"
    for fields, part in (
        ({"risk": 0.1, "coverage": 0.9}, "--risk=0.1 and --coverage=0.9 exclude each other"),
        ({"coverage": 90.0}, "coverage 90: must lie in (0, 1]; 90 % is 0.9"),
        ({"score": "neg_entropy"}, "unknown score 'neg_entropy': did you mean 'negative_entropy'?"),
        ({"threshold": 95.0}, "threshold 95 accepts no image of dev"),
        ({"web": tmp_path / "nowhere"}, "no such file or folder; give a copy of onnxruntime-web"),
    ):
        assert part in error_message(export, folder, out, **fields)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_existing_output_folder_raises_unless_it_is_empty(trained, tmp_path):
    (tmp_path / "model").mkdir()
    export(trained("tiny"), tmp_path / "model")
    before = {path: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    (tmp_path / "file").touch()
    for out in (tmp_path / "model", tmp_path / "file"):
        assert f"'{out}' exists" in error_message(export, trained("tiny"), out)
    assert {path: path.read_bytes() for path in (tmp_path / "model").iterdir()} == before


@pytest.mark.slow
def test_link_to_an_empty_folder_is_filled_and_a_threshold_may_be_an_integer(
    trained, tmp_path, monkeypatch
):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    export(trained("tiny"), tmp_path / "link", threshold=0)
    assert (tmp_path / "link").is_symlink()
    threshold = card.read(tmp_path / "empty")["threshold"]
    assert threshold == 0 and isinstance(threshold, float)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for out in (".", "../here"):
        line = error_message(export, trained("tiny"), pathlib.Path(out))
        assert line.startswith(f"'{out}' is the current folder, which a model cannot replace")


@pytest.mark.slow
def test_file_with_wrong_logits_is_not_written(trained, tmp_path, monkeypatch):
    fold = teacher_network.fold

    def wrong(model, variables):
        folded, inference = fold(model, variables)
        head = inference["params"]["Dense_0"]
        params = {**inference["params"], "Dense_0": {**head, "bias": head["bias"] + 2e-4}}
        return folded, {**inference, "params": params}

    monkeypatch.setattr(teacher_network, "fold", wrong)
    line = error_message(export, trained("tiny"), tmp_path / "model", error=FloatingPointError)
    assert "logits of model.stablehlo differ by 0.0002" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_full_disk_leaves_no_files(trained, tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device")

    run = trained("tiny")
    monkeypatch.setattr(pathlib.Path, "write_bytes", full)
    error_message(export, run, tmp_path / "model", error=OSError)
    assert list(tmp_path.iterdir()) == []


# The command


def export_command(*flags):
    """Runs the command in a process without jax2onnx, which is slow."""
    return command("export", *flags, absent=["jax2onnx"])


@pytest.mark.slow
def test_command_prints_files_and_notes(trained, tmp_path):
    out = tmp_path / "model"
    done = export_command(f"--workdir={trained('tiny')}", f"--out={out}", "--risk=0.35")
    (warning,) = done.stderr.splitlines()
    assert done.returncode == 0 and warning.startswith("kdjax: warning: no model.onnx: ")
    point, dev, _, test, first, page_line, *remaining = done.stdout.splitlines()
    model_card = card.read(out)
    score, threshold = model_card["score"]["name"], model_card["threshold"]
    rule = f"accepts from {selective.shown_threshold(score, threshold)} on"
    assert point == f"operating point: {selective.display_name(score)} {rule} (certified)"
    assert dev.startswith("  dev: coverage ") and test.startswith("  test: coverage ")
    assert first.endswith("; it decides like the run on 144 of 144 calibration images")
    size = (out / "model.stablehlo").stat().st_size / 1e6
    assert first.startswith(f"{out}/model.stablehlo: {size:.1f} MB, logits differ by at most ")
    assert page_line.startswith(f"{out}/card.md: ")
    assert model_card["certificate"]["risk"] == 0.35 and "at most 0.35 " in model_card["notes"][0]
    assert remaining == [f"{out}/card.json", *(f"  {note}" for note in model_card["notes"])]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "part"),
    [
        ([], "two flags are needed"),
        (["--workdir=runs"], "two flags are needed"),
        (["--workdir=nowhere", "--out=nowhere/model"], "'nowhere' is not a workdir"),
    ],
)
def test_invalid_input_is_a_one_line_error(flags, part):
    assert_refused(export_command(*flags), part)


@pytest.mark.slow
def test_folder_with_files_is_not_exported_to(trained):
    done = export_command(f"--workdir={trained('tiny')}", "--out=tests")
    assert_refused(done, "'tests' exists")


def test_folder_that_cannot_be_created_is_refused_before_anything_is_computed(tmp_path):
    (tmp_path / "file").touch()
    for out in (tmp_path / "file" / "model", tmp_path / "file" / "deeper" / "model"):
        with pytest.raises(InputError, match=r"cannot be created: '.*/file' is a file"):
            export(tmp_path / "nothing", out)

"""`python -m kdjax.check`: newly labelled images refute the promise of a model, or do not."""

import json

import numpy as np
import PIL.Image
import pytest
from scipy.stats import binomtest
from support import colours
from support.commands import assert_refused, command

from kdjax.data import own
from kdjax.errors import InputError
from kdjax.export import formats
from kdjax.predict import load, promise_check
from kdjax.report import promise_table

CERTIFICATE = {"risk": 0.1, "delta": 0.05, "examples": 500}
RUNS = 300


@pytest.fixture(scope="module")
def content():
    return formats.to_stablehlo(colours.function(0.5), colours.SHAPE)


@pytest.fixture(scope="module")
def folder(content, tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return colours.write(root / "colours", content, certificate=CERTIFICATE)


@pytest.fixture(scope="module")
def model(folder):
    return load(folder)


def draw(rng, n, wrong):
    """Returns bright and dark pictures, a share of the bright ones with a wrong label."""
    colour = rng.integers(3, size=n)
    bright = rng.random(n) < 0.7
    images = colours.pictures(colour, np.where(bright, 200, 100))
    labels = np.where(rng.random(n) < wrong, (colour + 1) % 3, colour)
    return images, labels


def write_npz(path, images, labels):
    np.savez(path, images=images, labels=np.array(colours.CLASSES)[labels])
    return f"npz:{path}"


def read(name, model):
    return own.read_labelled(own.parse(name), model.image_shape, model.resize)


def report_of(model, name, **options):
    outcome = promise_check.run(model, read(name, model), **options)
    return promise_check.report(outcome, colours.CLASSES, risk=0.1, delta=0.05)


@pytest.mark.slow
def test_pictures_of_the_same_kind_are_refuted_with_probability_at_most_delta(model):
    rng = np.random.default_rng(0)
    refuted = {"same": 0, "shifted": 0}
    for kind, wrong in (("same", 0.1), ("shifted", 0.25)):
        for _ in range(RUNS):
            images, labels = draw(rng, 200, wrong)
            prediction = model(images)
            outcome = promise_check.Outcome(labels, prediction.classes, prediction.accepted, {})
            report = promise_check.report(outcome, colours.CLASSES, risk=0.1, delta=0.05)
            refuted[kind] += report["refuted"]
    assert refuted["same"] <= RUNS * 0.05 + 3 * np.sqrt(RUNS * 0.05 * 0.95)
    assert refuted["shifted"] > 0.9 * RUNS


def test_report_has_counts_by_class(model, tmp_path):
    # 2 of 4 red pictures are accepted, one of them as green; 3 of 3 blue ones, all correct.
    images = colours.pictures([0, 1, 0, 0, 2, 2, 2], [200, 200, 100, 100, 200, 200, 200])
    name = write_npz(tmp_path / "new.npz", images, [0, 0, 0, 0, 2, 2, 2])
    report = report_of(model, name)
    assert (report["examples"], report["accepted"], report["errors"]) == (7, 5, 1)
    assert report["true"]["examples"] == [4, 0, 3] and report["true"]["accepted"] == [2, 0, 3]
    assert report["true"]["coverage"] == [0.5, None, 1.0]
    assert report["predicted"]["accepted"] == [1, 1, 3]
    assert report["predicted"]["errors"] == [0, 1, 0]
    assert report["predicted"]["risk"] == [0, 1, 0]
    assert json.loads(json.dumps(report, allow_nan=False))["classes"] == list(colours.CLASSES)
    rows = list(promise_table.class_rows(report))
    assert rows[0][:6] == ("red", "4", "2", "50.00", "1", "0")
    assert rows[1][:7] == ("green", "0", "0", "-", "1", "1", "100.00")
    assert all(len(row) == len(promise_table.COLUMNS) for row in rows)


def test_labels_are_matched_with_the_classes_by_name(model, tmp_path):
    for index, colour in enumerate((2, 0, 2)):
        name = colours.CLASSES[colour]
        (tmp_path / name).mkdir(exist_ok=True)
        (picture,) = colours.pictures([colour], [200])
        PIL.Image.fromarray(picture).resize((50, 40)).save(tmp_path / name / f"{index}.png")
    outcome = promise_check.run(model, read(f"folder:{tmp_path}", model))
    assert sorted(outcome.labels) == [0, 2, 2] and outcome.correct.all()


def test_unknown_class_is_refused_with_the_nearest_name_or_counted(model, tmp_path):
    images = colours.pictures([0, 1, 2], [200, 200, 100])
    np.savez(tmp_path / "new.npz", images=images, labels=np.array(["redd", "green", "redd"]))
    name = f"npz:{tmp_path / 'new.npz'}"
    with pytest.raises(InputError, match="unknown class 'redd': did you mean 'red'"):
        report_of(model, name)
    report = report_of(model, name, count_unknown=True)
    assert (report["examples"], report["accepted"], report["errors"]) == (3, 2, 1)
    assert report["unknown"] == {"redd": 2} and report["true"]["examples"] == [0, 1, 0]


def test_only_the_images_of_a_split_are_used(model, tmp_path):
    train = colours.pictures([0, 1], [200, 200])
    test = colours.pictures([2], [200])
    np.savez(
        tmp_path / "new.npz",
        **{"images": train, "labels": np.array(["red", "red"])},
        **{"test_images": test, "test_labels": np.array(["blue"])},
    )
    name = f"npz:{tmp_path / 'new.npz'}"
    assert report_of(model, name)["examples"] == 3
    report = report_of(model, name, split="test")
    assert (report["examples"], report["errors"]) == (1, 0)
    with pytest.raises(InputError, match="--split=dev: no images of this split; there are test, t"):
        report_of(model, name, split="dev")


def outcome_of(accepted, errors, rejected=0):
    predicted = np.arange(accepted + rejected) < errors
    kept = np.arange(accepted + rejected) < accepted
    return promise_check.Outcome(np.zeros(len(kept), int), predicted.astype(int), kept, {})


@pytest.mark.parametrize(
    ("outcome", "risk", "refuted", "parts"),
    [
        (outcome_of(100, 30), 0.1, True, ["refuted: 30 of 100 accepted images are wrong (30 %)"]),
        (outcome_of(100, 9), 0.1, False, ["not refuted: 9 of", "16 or more errors would refute"]),
        (outcome_of(1, 1), 0.1, False, ["not refuted", "so few accepted images cannot refute"]),
        (outcome_of(0, 0, 5), 0.1, False, ["not refuted: no image was accepted"]),
        (outcome_of(100, 30), None, None, ["no promise: the model has no certificate"]),
    ],
)
def test_verdict_is_given_in_words(outcome, risk, refuted, parts):
    report = promise_check.report(outcome, ["a", "b"], risk=risk, delta=0.05)
    assert report["refuted"] is refuted and report["promised_risk"] == risk
    assert all(part in report["verdict"] for part in parts)
    assert list(promise_table.summary(report))[-1] == report["verdict"]


# The command


@pytest.mark.slow
def test_command_exits_with_3_if_the_promise_is_refuted(folder, tmp_path):
    rng = np.random.default_rng(1)
    shifted = write_npz(tmp_path / "shifted.npz", *draw(rng, 300, wrong=0.4))
    done = command("check", f"--model={folder}", shifted)
    lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (3, "")
    assert lines[-1].startswith("refuted: ") and "at most 10 % was promised" in lines[-1]
    assert any(line.startswith("coverage: ") for line in lines)
    assert sum(line.startswith("│ ") for line in lines) == 3
    assert max(map(len, [line for line in lines if line[0] in "┏┡│└"])) <= 100


@pytest.mark.slow
def test_command_prints_json_and_exits_with_0_if_the_promise_is_not_refuted(folder, tmp_path):
    fresh = write_npz(tmp_path / "fresh.npz", *draw(np.random.default_rng(1), 300, wrong=0.05))
    done = command("check", f"--model={folder}", "--json", "--delta=0.01", fresh)
    assert (done.returncode, done.stderr) == (0, "")
    (line,) = done.stdout.splitlines()
    report = json.loads(line)
    assert (report["model"], report["images"]) == (str(folder), fresh)
    assert report["refuted"] is False and report["delta"] == 0.01
    assert report["promised_risk"] == 0.1 and report["examples"] == 300


@pytest.mark.slow
def test_second_set_of_images_is_a_one_line_error():
    done = command("check", "--model=model", "npz:a.npz", "npz:b.npz")
    assert_refused(done, "unexpected argument 'npz:b.npz'")


@pytest.mark.parametrize(
    ("images", "options", "parts"),
    [
        ("npz:a.npz", {"delta": 0.0}, ["delta must lie in (0, 1): got 0.0"]),
        ("npz:a.npz", {"risk": 2.0}, ["risk must lie in (0, 1): got 2.0"]),
        ("npz:a.npz", {"batch_size": 0}, ["batch_size 0: must be at least 1"]),
        ("photos", {}, ["'photos'", "folder:PATH, csv:FILE, npz:FILE"]),
        ("folders:photos", {}, ["did you mean 'folder:photos'"]),
        ("npz:nowhere.npz", {}, ["nowhere.npz'", "no such folder or file"]),
    ],
)
def test_invalid_input_raises_in_one_line(folder, images, options, parts):
    with pytest.raises(InputError) as raised:
        promise_check.check(folder, images, **options)
    assert all(part in str(raised.value) for part in parts) and "\n" not in str(raised.value)


def test_a_risk_of_ones_own_is_tested_without_a_certificate(content, tmp_path):
    folder = colours.write(tmp_path / "model", content)
    name = write_npz(tmp_path / "new.npz", *draw(np.random.default_rng(1), 300, wrong=0.4))
    assert promise_check.check(folder, name)["refuted"] is None
    assert promise_check.check(folder, name, risk=0.1)["refuted"] is True
    assert promise_check.check(folder, name, risk=0.5)["refuted"] is False


# A promise for each predicted class


def class_outcome(counts):
    """Returns an outcome with (accepted, wrong) predictions of each class."""
    predicted = np.repeat(np.arange(len(counts)), [accepted for accepted, _ in counts])
    wrong = np.concatenate([np.arange(accepted) < errors for accepted, errors in counts])
    labels = np.where(wrong, (predicted + 1) % len(counts), predicted)
    return promise_check.Outcome(labels, predicted, np.ones(len(labels), bool), {})


def class_report(counts, promised, names=("a", "b", "c"), **options):
    values = {"risk": 0.1, "delta": 0.05, **options}
    return promise_check.report(class_outcome(counts), names, promised=promised, **values)


def test_errors_within_one_class_refute_a_promise_for_each_class():
    report = class_report([(300, 3), (300, 3), (40, 14)], [True, True, True])
    assert report["refuted"] and report["by_class"]["refuted"] == [False, False, True]
    assert report["p_value"] > 0.5  # all together are within the promise
    assert report["by_class"]["delta"] == pytest.approx(0.05 / 6)
    expected = binomtest(14, 40, 0.1, alternative="greater").pvalue
    assert report["by_class"]["p_value"][2] == pytest.approx(expected)
    assert report["verdict"].startswith(
        "refuted: 14 of 40 images that are accepted as c are wrong (35 %), but at most 10 % was "
        "promised within each class"
    )
    assert not promise_check.report(
        class_outcome([(300, 3), (300, 3), (40, 14)]), ["a", "b", "c"], risk=0.1, delta=0.05
    )["refuted"]


def test_a_class_without_a_promise_is_not_tested():
    report = class_report([(300, 3), (300, 3), (40, 14)], [True, True, False])
    assert not report["refuted"] and report["by_class"]["refuted"] == [False, False, None]
    assert report["verdict"].endswith("None of the 2 classes with a threshold refutes it either")


def test_all_classes_together_may_refute_it_too():
    report = class_report([(400, 54)] * 3, [True] * 3)
    assert report["refuted"] and report["by_class"]["refuted"] == [False] * 3
    assert report["verdict"].startswith("refuted: 162 of 1,200 accepted images are wrong")


@pytest.mark.slow
def test_a_kept_promise_for_each_class_is_refuted_with_probability_at_most_delta():
    rng, refuted = np.random.default_rng(0), 0
    for _ in range(1000):
        counts = [(60, int(rng.binomial(60, 0.1))) for _ in range(3)]
        refuted += class_report(counts, [True] * 3, delta=0.2)["refuted"]
    assert 0.03 < refuted / 1000 <= 0.2 + 3 * np.sqrt(0.2 * 0.8 / 1000)


def test_the_card_says_for_which_classes_something_is_promised(content, tmp_path):
    certificate = {**CERTIFICATE, "kind": "classwise"}
    thresholds = [0.5, None, 0.5]
    folder = colours.write(
        tmp_path / "model", content, certificate=certificate, class_thresholds=thresholds
    )
    images, labels = draw(np.random.default_rng(0), 200, 0.6)
    report = promise_check.check(folder, write_npz(tmp_path / "new.npz", images, labels))
    assert report["refuted"] and report["promised_risk"] == 0.1
    assert report["by_class"]["refuted"] == [True, None, True]
    plain = colours.write(tmp_path / "plain", content, certificate=CERTIFICATE)
    assert promise_check.check(plain, f"npz:{tmp_path / 'new.npz'}")["by_class"] is None

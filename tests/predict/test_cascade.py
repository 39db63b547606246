"""Two exported models as a cascade: as a function, as a command, and what is said about them."""

import csv
import io
import json
import math

import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
from support import cascades, colours
from support.commands import assert_refused, command

from kdjax.data.fit import fit
from kdjax.errors import InputError
from kdjax.export import card, formats
from kdjax.predict import cascade_rule, load, load_cascade
from kdjax.predict.cascade import match_classes
from kdjax.selective.cascade import LOWEST

FALLBACK_SHAPE = (8, 10, 3)
FALLBACK_CLASSES = ("blue", "red", "green")


def darkest(images):
    """Predicts the darkest colour; accepts below a fifth. Without an abstention output."""
    means = jnp.mean(images.astype(jnp.float32), axis=(1, 2)) / 255
    logits = 1 - means[:, jnp.array([2, 0, 1])]
    confidence = jnp.max(logits, axis=-1)
    return logits, jnp.argmax(logits, -1).astype(jnp.int32), confidence, confidence > 0.8


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    student = formats.to_stablehlo(colours.function(0.5), colours.SHAPE)
    cost = {"machine": "cpu", "student": {"multiply_adds": 1000}}
    for name, promises in (("student", None), ("certified", cascades.promises())):
        colours.write(root / name, student, promises=promises, cost=cost)
    fallback = formats.to_stablehlo(darkest, FALLBACK_SHAPE)
    colours.write(
        root / "fallback",
        fallback,
        format=card.WITHOUT_ABSTENTION,
        classes=list(FALLBACK_CLASSES),
        input={"shape": list(FALLBACK_SHAPE)},
        weights_sha256=cascades.FALLBACK["weights_sha256"],
        cost={"machine": "cpu", "teacher": {"multiply_adds": 4000}},
    )
    return root


@pytest.fixture(scope="module")
def pair(folders):
    return load_cascade(folders / "student", folders / "fallback", batch_size=4)


def pictures(n, seed=0):
    """Returns noise in which the brightest colour is below and above a half."""
    rng = np.random.default_rng(seed)
    levels = rng.integers(40, 216, (n, 1, 1, 3))
    return (levels + rng.integers(-40, 40, (n, *colours.SHAPE))).astype(np.uint8)


def error_message(call, *arguments, **options):
    with pytest.raises(InputError) as raised:
        call(*arguments, **options)
    assert "\n" not in str(raised.value)
    return str(raised.value)


# Who answers


def expected(folders, images, resize):
    """Returns label and answering model of each image, asked one after the other."""
    student, fallback = load(folders / "student"), load(folders / "fallback")
    for image in images:
        asked = student(image[None])
        if asked.accepted[0]:
            yield asked.labels[0], "student", asked.confidence[0]
        else:
            answer = fallback(fit(PIL.Image.fromarray(image), FALLBACK_SHAPE, resize)[0][None])
            yield answer.labels[0], "fallback", answer.confidence[0]


def test_fallback_answers_what_the_student_does_not_accept(folders, pair):
    images = pictures(11)
    prediction = pair(images)
    labels, models, confidence = zip(*expected(folders, images, "stretch"), strict=True)
    assert set(models) == {"student", "fallback"}
    assert prediction.labels.tolist() == list(labels)
    assert prediction.answered_by.tolist() == list(models)
    np.testing.assert_array_equal(prediction.confidence, confidence)
    np.testing.assert_array_equal(prediction.score, confidence)
    assert prediction.accepted.all()
    names = np.array(colours.CLASSES)
    assert names[prediction.classes].tolist() == list(labels)
    assert names[prediction.probabilities.argmax(axis=1)].tolist() == list(labels)
    np.testing.assert_allclose(prediction.probabilities.sum(axis=1), 1, rtol=1e-5)


def test_image_files_are_read_in_the_shape_of_each_model(folders, pair, tmp_path):
    # Sharp edges look different after resizing to another shape.
    image = np.zeros((37, 53, 3), np.uint8)
    image[:, ::3] = (90, 30, 60)
    paths = []
    for index, scale in enumerate((1, 2.7)):
        paths.append(tmp_path / f"{index}.png")
        PIL.Image.fromarray((image * scale).astype(np.uint8)).save(paths[-1])
    prediction = pair(iter(paths))
    fallback = load(folders / "fallback")(paths)
    for row, model in enumerate(prediction.answered_by):
        answering = fallback if model == "fallback" else load(folders / "student")(paths)
        assert prediction.labels[row] == answering.labels[row]
        assert prediction.confidence[row] == answering.confidence[row]
    assert "fallback" in prediction.answered_by
    one = pair(paths[0])
    assert (one.labels[0], one.score[0]) == (prediction.labels[0], prediction.score[0])


def test_models_of_one_shape_get_the_same_pixels(folders, tmp_path):
    content = formats.to_stablehlo(darkest, colours.SHAPE)
    same = colours.write(tmp_path / "same", content, format=2, classes=list(FALLBACK_CLASSES))
    images = pictures(9)
    prediction = load_cascade(folders / "student", same, threshold="none")(images)
    np.testing.assert_array_equal(prediction.score, load(same)(images).score)
    assert (prediction.answered_by == "fallback").all()


@pytest.mark.parametrize(
    ("threshold", "share"), [("all", 0), (-math.inf, 0), ("none", 1), (0.6, None), ("0.6", None)]
)
def test_threshold_decides_who_answers(folders, threshold, share):
    images = pictures(20)
    asked = load(folders / "student")(images)
    cascade = load_cascade(folders / "student", folders / "fallback", threshold=threshold)
    passed_on = cascade(images).answered_by == "fallback"
    if share is None:
        np.testing.assert_array_equal(passed_on, asked.score < 0.6)
        assert 0 < passed_on.mean() < 1
    else:
        assert passed_on.mean() == share


def test_fallback_may_abstain(folders):
    images = pictures(20)
    cascade = load_cascade(folders / "student", folders / "fallback", fallback_abstains=True)
    prediction = cascade(images)
    by_fallback = prediction.answered_by == "fallback"
    assert prediction.accepted[~by_fallback].all()
    np.testing.assert_array_equal(
        prediction.accepted[by_fallback], prediction.score[by_fallback] > 0.8
    )
    assert not prediction.accepted.all()


@pytest.fixture(scope="module")
def with_sets(folders, tmp_path_factory):
    """A fallback with lists: of all classes that are not much less probable than others."""
    values = {"method": "lac", "k_reg": None, "penalty": None}
    rejected = {"quantile": 0.85, "below": 0.8, "examples": 40, "conditional": True}
    return colours.write(
        tmp_path_factory.mktemp("sets") / "fallback",
        formats.to_stablehlo(darkest, FALLBACK_SHAPE),
        format=card.WITHOUT_ABSTENTION,
        classes=list(FALLBACK_CLASSES),
        input={"shape": list(FALLBACK_SHAPE)},
        promises={"sets": {**values, "rejected": rejected}},
    )


@pytest.mark.parametrize(
    ("threshold", "expected"), [("none", {1, 2, 3}), (0.75, {2, 3}), ("all", set())]
)
def test_abstained_images_have_the_set_of_the_fallback(folders, with_sets, threshold, expected):
    cascade = load_cascade(
        folders / "student", with_sets, threshold=threshold, fallback_abstains=True
    )
    images = pictures(30)
    prediction, alone = cascade(images), load(with_sets)
    sizes = set()
    for row, names in enumerate(prediction.sets):
        if prediction.accepted[row]:
            assert names == (prediction.labels[row],)
        else:
            resized = fit(PIL.Image.fromarray(images[row]), FALLBACK_SHAPE, "stretch")[0]
            assert names == alone(resized[None]).sets[0] and names[0] == prediction.labels[row]
            sizes.add(len(names))
    assert sizes == expected


def test_without_abstention_a_set_is_the_label_alone(folders, with_sets):
    prediction = load_cascade(folders / "student", with_sets)(pictures(8))
    assert prediction.sets == tuple((label,) for label in prediction.labels)


def test_fallback_of_an_earlier_version_has_no_sets(folders):
    cascade = load_cascade(folders / "student", folders / "fallback", fallback_abstains=True)
    prediction = cascade(pictures(20))
    assert prediction.sets is None and not prediction.accepted.all()


def test_images_that_the_gate_stops_are_passed_on_at_every_threshold(pair):
    asked = pair.student(pictures(6))
    outlier = np.array([True, False] * 3)
    rule = cascade_rule.Rule(LOWEST, False, None, "")
    np.testing.assert_array_equal(rule.answers(asked._replace(outlier=outlier)), ~outlier)
    assert rule.answers(asked).all()


def test_cost_is_that_of_the_student_and_of_the_fallback_where_it_is_asked(pair):
    assert pair.cost(0.25) == {"multiply_adds": 1000 + 0.25 * 4000, "speed_up": 2.0}
    student = pair.student._replace(card={**pair.student.card, "cost": None})
    assert pair._replace(student=student).cost(0.25) is None


# What is refused


def test_arrays_of_other_channels_cannot_be_resized(folders, tmp_path):
    shape = (4, 5, 2)

    def grey(images):
        return darkest(jnp.concatenate([images, images[..., :1]], axis=-1))

    paths = []
    for name, size in (("small", shape), ("large", (8, 8, 2))):
        content = formats.to_stablehlo(grey, size)
        paths.append(tmp_path / name)
        colours.write(paths[-1], content, format=2, input={"shape": list(size)})
    cascade = load_cascade(*paths, threshold="none")
    message = error_message(cascade, np.zeros((1, *shape), np.uint8))
    assert "an array with 2 channels cannot be resized" in message


def test_classes_are_matched_by_name_in_any_order():
    columns = match_classes(["a", "b", "c"], ["c", "a", "b"])
    assert columns.tolist() == [1, 2, 0]
    message = error_message(match_classes, ["a", "b"], ["b", "c", "d", "e", "f"])
    assert message == (
        "student and fallback have different classes: only the student has 'a', only the fallback "
        "has 'c', 'd', 'e' and 1 more; they must agree by name, in any order"
    )


@pytest.mark.parametrize("threshold", ["some", "nan", "0,5", math.nan])
def test_threshold_that_is_no_number_is_refused(threshold):
    message = error_message(cascade_rule.parse_threshold, threshold)
    assert message == f"threshold {threshold!r}: must be a number, 'all' or 'none'"


# What the card promises


@pytest.fixture(scope="module")
def promised():
    return cascades.promises()


def rule(promises, threshold=None, **changes):
    options = {name: changes.pop(name) for name in ("fallback_abstains",) if name in changes}
    return cascade_rule.rule_of(
        {"promises": promises}, cascades.fallback_card(**changes), threshold, **options
    )


def test_certified_fallback_gets_the_certified_threshold(promised):
    point, found = promised["cascade"]["certificate"]["point"], rule(promised)
    assert (found.threshold, found.certified) == (point["threshold"], True)
    assert found.promised == (0.05, 0.05)
    assert "of all answers at most 5 % are wrong, with 95 % certainty" in found.note
    assert f"{100 * point['passed_on']:.1f} % of the calibration images" in found.note


def test_threshold_of_the_table_has_the_bound_of_its_row(promised):
    row = promised["cascade"]["rows"][2]
    for given in (row["threshold"], f"{row['threshold']:.6g}"):
        found = rule(promised, given)
        assert found.threshold == row["threshold"]
        assert found.promised == (row["risk_bound"], 0.05)
    last = promised["cascade"]["rows"][-1]
    found = rule(promised, "none")
    assert (found.threshold, found.promised.risk) == (math.inf, last["risk_bound"])


def test_certified_threshold_that_is_given_as_a_row_has_the_bound_of_the_row(promised):
    cascade = promised["cascade"]
    row = {**cascade["rows"][2], "risk_bound": 0.062}
    certificate = {**cascade["certificate"], "point": {**row, "risk_bound": 0.05}}
    same = {**cascade, "rows": [row], "certificate": certificate}
    assert rule({"cascade": same}, row["threshold"]).promised.risk == 0.062
    assert rule({"cascade": same}).promised.risk == 0.05


def test_another_threshold_is_used_without_a_promise(promised):
    found = rule(promised, 1.2345)
    assert (found.threshold, found.certified, found.promised) == (1.2345, True, None)
    assert "but not at this threshold; kdjax check" in found.note


def test_without_a_certified_threshold_the_student_answers_what_it_accepts():
    promised = cascades.promises(teacher=0.2, student=0.4)
    found, own = rule(promised), promised["cascade"]["own"]
    assert (found.threshold, found.certified) == (None, True)
    assert found.promised == (own["risk_bound"], 0.05)


def test_nothing_is_promised_with_a_fallback_that_abstains(promised):
    found = rule(promised, fallback_abstains=True)
    assert (found.certified, found.promised) == (True, None)
    assert "as one that does not abstain" in found.note


def test_promise_is_about_the_images_that_pass_the_gate(promised):
    gate = {"threshold": 3.0}
    assert rule({**promised, "gate": gate}).note.endswith("(of the images that pass the gate)")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"weights_sha256": "cd" * 32},
            "is not the one with which the student was certified: noth",
        ),
        ({"weights_sha256": None}, "is not the one with which the student was certified: noth"),
        ({"views": {"name": "flip"}}, "it averages over the views 'flip', not 'none'"),
    ],
)
def test_another_fallback_is_named_and_nothing_is_promised(promised, changes, reason):
    found = rule(promised, **changes)
    assert (found.threshold, found.certified, found.promised) == (None, False, None)
    assert reason in found.note and "certifies this pair" in found.note


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dtype": "bfloat16"}, "that one computed in bfloat16, the exported one in float32"),
        ({"weights_sha256": None, "file": "t.onnx"}, "which was given as the file 't.onnx'"),
    ],
)
def test_certified_teacher_that_no_exported_one_can_be_is_explained(promised, changes, reason):
    values = {**promised["cascade"], "fallback": {**cascades.FALLBACK, **changes}}
    found = rule({"cascade": values})
    assert found.promised is None and reason in found.note


@pytest.mark.parametrize("promises", [None, {}])
def test_student_without_a_cascade_promises_nothing(promises):
    assert rule(promises).note.startswith("the student was not certified with a fallback: nothing")


# The command


def run(folders, tmp_path, student, *flags):
    np.savez(tmp_path / "images.npz", images=pictures(12))
    (picture,) = pictures(1)
    PIL.Image.fromarray(picture).resize((60, 40)).save(tmp_path / "one.png")
    return command(
        "predict",
        f"--model={folders / student}",
        f"--fallback={folders / 'fallback'}",
        "--batch_size=5",
        "--fallback_batch_size=2",
        *flags,
        tmp_path / "images.npz",
        tmp_path / "one.png",
    )


@pytest.mark.slow
def test_command_says_who_answered_and_what_it_cost(folders, pair, tmp_path):
    answers = pair(pictures(12))
    done = run(folders, tmp_path, "student", "--json")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0 and len(rows) == 13, done.stderr
    assert [row["answered_by"] for row in rows[:12]] == answers.answered_by.tolist()
    assert [row["label"] for row in rows[:12]] == answers.labels.tolist()
    assert all(
        row["accepted"] and list(row["probabilities"]) == list(colours.CLASSES) for row in rows
    )
    passed_on = sum(row["answered_by"] == "fallback" for row in rows)
    counts, whole, note = done.stderr.splitlines()
    assert "13 images: 13 accepted (100.0 %), 0 abstained" in counts
    assert f"{13 - passed_on} answered by the student, {passed_on} passed on" in whole
    assert "multiply-adds per image" in whole
    assert note.startswith("kdjax: note: the student was not certified with a fallback")
    table = list(csv.DictReader(io.StringIO(run(folders, tmp_path, "student", "--csv").stdout)))
    assert [row["answered_by"] for row in table] == [row["answered_by"] for row in rows]
    lines = run(folders, tmp_path, "student").stdout.splitlines()
    assert [line.split()[2] for line in lines] == [row["answered_by"] for row in rows]


def test_command_writes_the_sets_of_abstained_images(folders, with_sets, tmp_path):
    np.savez(tmp_path / "images.npz", images=pictures(12))
    models = [f"--model={folders / 'student'}", f"--fallback={with_sets}", "--fallback_abstains"]
    done = command("predict", *models, "--csv", tmp_path / "images.npz")
    assert done.returncode == 0, done.stderr
    sets = load_cascade(folders / "student", with_sets, fallback_abstains=True)(pictures(12)).sets
    table = csv.DictReader(io.StringIO(done.stdout))
    assert [tuple(json.loads(row["set"])) for row in table] == list(sets)


def test_command_says_that_the_fallback_is_the_certified_one(folders, tmp_path):
    done = run(folders, tmp_path, "certified", "--threshold=all")
    assert done.returncode == 0, done.stderr
    assert "13 answered by the student, 0 passed on to the fallback (0.0 %); 1.00 k" in done.stderr
    assert "the fallback is the one with which the student was certified" in done.stderr


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--threshold=0.5"], "--threshold=0.5 needs --fallback"),
        (["--fallback_batch_size=2"], "--fallback_batch_size=2 needs --fallback"),
        (["--fallback_abstains"], "--fallback_abstains needs --fallback"),
        (["--fallback={folders}/nowhere"], "no model in"),
        (["--fallback={folders}/fallback", "--threshold=x"], "threshold 'x': must be a number"),
        (["--fallback={folders}/fallback", "--fallback_batch_size=0"], "batch_size 0: must be at"),
    ],
)
def test_command_refuses_invalid_flags_in_one_line(folders, flags, part):
    words = [flag.format(folders=folders) for flag in flags]
    assert_refused(command("predict", f"--model={folders / 'student'}", *words, "a.png"), part)

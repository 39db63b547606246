"""`python -m kdjax.check --fallback`: the risk of two models together on labelled images."""

import json
import math

import numpy as np
import PIL.Image
import pytest
from numpy.testing import assert_allclose
from scipy import stats
from support import cascades, colours
from support.commands import assert_refused, command

from kdjax.errors import InputError
from kdjax.export import card, formats
from kdjax.predict import cascade_check, cascade_rule, load_cascade, promise_check
from kdjax.report import cascade_table
from kdjax.selective.cascade import LOWEST, threshold_text

EDGES = [0.3, 0.45, 0.6, 0.8]
ORDER = ("blue", "red", "green")


def brightest(images):
    """Predicts the brightest colour, in another order of the classes; accepts from .4 on."""
    logits, _, confidence, _ = colours.function(0.4)(images)
    logits = logits[:, [2, 0, 1]]
    return logits, logits.argmax(-1).astype("int32"), confidence, confidence > 0.4


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    student = formats.to_stablehlo(colours.function(0.5), colours.SHAPE)
    cost = {"machine": "cpu", "student": {"multiply_adds": 1000}}
    watched = {"risk": None, "coverage": None, "drift": {"edges": EDGES, "counts": [1] * 5}}
    colours.write(root / "student", student, cost=cost, monitoring=watched)
    colours.write(root / "certified", student, cost=cost, promises=cascades.promises())
    shape = (8, 8, 3)
    colours.write(
        root / "fallback",
        formats.to_stablehlo(brightest, shape),
        format=card.WITHOUT_ABSTENTION,
        classes=list(ORDER),
        input={"shape": list(shape)},
        weights_sha256=cascades.FALLBACK["weights_sha256"],
        cost={"machine": "cpu", "teacher": {"multiply_adds": 4000}},
    )
    return root


def write_npz(path, n=300, wrong=0.04, seed=0):
    """Writes pictures of random brightness, some of them with a wrong label."""
    rng = np.random.default_rng(seed)
    colour = rng.integers(3, size=n)
    images = colours.pictures(colour, rng.integers(60, 250, n))
    labels = np.where(rng.random(n) < wrong, (colour + 1) % 3, colour)
    np.savez(path, images=images, labels=np.array(colours.CLASSES)[labels])
    return f"npz:{path}"


@pytest.fixture(scope="module")
def name(tmp_path_factory):
    return write_npz(tmp_path_factory.mktemp("labelled") / "new.npz")


def check(folders, name, student="student", **options):
    report = cascade_check.check(folders / student, folders / "fallback", name, **options)
    return json.loads(json.dumps(report, allow_nan=False))


@pytest.fixture(scope="module")
def pair(folders):
    return load_cascade(folders / "student", folders / "fallback")


@pytest.fixture(scope="module")
def answers(pair, name):
    return cascade_check.ask(pair, promise_check.parse(name))


@pytest.fixture
def report_of(pair, answers):
    """Returns a function of a risk, a threshold and `fallback_abstains` to the report."""

    def report(risk=None, threshold=None, *, fallback_abstains=False):
        rule = pair.rule._replace(threshold=cascade_rule.parse_threshold(threshold))
        changed = pair._replace(rule=rule, fallback_abstains=fallback_abstains)
        values = cascade_check.report(changed, answers, risk=risk, delta=0.05)
        return json.loads(json.dumps(values, allow_nan=False))

    return report


def upper_bound(errors, n, delta):
    return stats.beta.ppf(1 - delta, errors + 1, n - errors)


def test_every_answer_counts_whoever_gives_it(folders, name, answers):
    report = check(folders, name)
    point = report["cascade"]["point"]
    score, student, fallback = answers.sample
    right = np.where(score > 0.5, student, fallback)
    assert (report["examples"], report["accepted"], report["coverage"]) == (300, 300, 1)
    assert report["errors"] == point["errors"] == np.sum(~right)
    assert report["cascade"]["student_alone"] == np.sum(~student)
    assert report["cascade"]["fallback_alone"] == np.sum(~fallback)
    assert_allclose(point["passed_on"], np.mean(score <= 0.5))
    assert_allclose(point["risk_bound"], upper_bound(np.sum(~right), 300, 0.05), rtol=1e-9)
    assert_allclose(point["multiply_adds"], 1000 + 4000 * point["passed_on"])
    assert_allclose(point["speed_up"], 4000 / point["multiply_adds"])


def test_fallback_predicts_the_same_classes_in_its_own_order(answers):
    # Both predict the brightest colour of a picture of one colour.
    np.testing.assert_array_equal(answers.asked.classes, answers.others.classes)


def test_thresholds_come_from_the_card_and_their_bounds_hold_together(report_of):
    rows = report_of()["cascade"]["rows"]
    finite = [row["threshold"] for row in rows if row["threshold"] is not None]
    assert set(finite) <= {*EDGES, LOWEST} and rows[-1]["threshold"] is None
    for row in rows:
        assert_allclose(row["risk_bound"], upper_bound(row["errors"], 300, 0.05 / len(rows)))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"promises": {"cascade": {"thresholds": [3.0, 1.0, LOWEST]}}}, [3.0, 1.0]),
        ({"monitoring": {"drift": {"edges": [1.0, 2.0]}}}, [2.0, 1.0]),
        ({"monitoring": {"drift": None}}, [0.5]),
        ({"threshold": None}, []),
    ],
)
def test_thresholds_of_cards_of_every_version_decrease(changes, expected):
    thresholds = cascade_check.thresholds_of({"threshold": 0.5, **changes})
    assert thresholds.tolist() == [math.inf, *expected, LOWEST]


def test_cheapest_certified_threshold_is_found_at_a_requested_risk(report_of):
    certificate = report_of(risk=0.1)["cascade"]["certificate"]
    # With equal models all thresholds have the same errors: the student alone is cheapest.
    assert (certificate["risk"], certificate["reason"]) == (0.1, "")
    assert certificate["point"]["threshold"] == LOWEST
    assert certificate["point"]["multiply_adds"] == 1000
    impossible = report_of(risk=0.01)["cascade"]["certificate"]
    assert (impossible["point"], impossible["reason"]) == (None, "too_many_errors")
    few = report_of(risk=0.005)["cascade"]["certificate"]
    assert few["reason"] == "few_examples"


def test_promise_of_the_card_is_tested_with_the_certified_fallback(folders, name):
    report = check(folders, name, student="certified")
    assert report["cascade"]["fallback_certified"]
    assert report["promised_risk"] == 0.05
    cascade = load_cascade(folders / "certified", folders / "fallback")
    assert cascade.rule.promised == (0.05, 0.05)
    point = report["cascade"]["point"]
    assert point["student_answers"] == threshold_text(cascade.rule.threshold)


@pytest.mark.parametrize(
    ("options", "verdict"),
    [
        ({}, "no promise to test, --risk gives one: "),
        ({"risk": 0.2}, "certified: "),
        ({"risk": 0.03}, "not refuted: "),
        ({"risk": 0.01}, "refuted: "),
    ],
)
def test_verdict_says_what_is_known_about_all_answers(report_of, options, verdict):
    report = report_of(**options)
    assert report["verdict"].startswith(verdict)
    assert f"{report['errors']} of 300 answers are wrong" in report["verdict"]
    assert report["refuted"] == (None if not options else verdict == "refuted: ")


def test_promise_of_a_card_is_tested_on_the_images_that_pass_the_gate(pair, answers):
    score, student, fallback = answers.sample
    right = np.where(score > 0.5, student, fallback)
    stopped = ~right | (np.arange(300) % 10 == 0)  # with all errors
    gated = answers._replace(asked=answers.asked._replace(outlier=stopped))
    promised = cascade_rule.CascadePromise(0.03, 0.05)
    changed = pair._replace(rule=pair.rule._replace(threshold=0.5, promised=promised))
    report = cascade_check.report(changed, gated, risk=None, delta=0.05)
    assert (report["accepted"], report["errors"]) == (np.sum(~stopped), 0)
    assert report["promised_risk"] == 0.03 and report["refuted"] is False
    words = f"certified: 0 of {np.sum(~stopped)} answers to images that pass the gate are wrong"
    assert report["verdict"].startswith(words)
    # The fallback answers the images that the gate stops; they count for a risk that is given.
    answered = np.where(stopped, fallback, right)
    for point in (report, own := cascade_check.report(changed, gated, risk=0.001, delta=0.05)):
        assert point["cascade"]["point"]["errors"] == np.sum(~answered) > 0
    assert (own["accepted"], own["errors"], own["refuted"]) == (300, np.sum(~answered), True)
    nothing = answers._replace(asked=answers.asked._replace(outlier=np.ones(300, bool)))
    verdict = cascade_check.report(changed, nothing, risk=None, delta=0.05)["verdict"]
    assert verdict.startswith("no image that passes the gate was answered")


def test_fallback_that_abstains_answers_what_it_accepts(report_of, answers):
    report = report_of(0.2, fallback_abstains=True)
    point = report["cascade"]["point"]
    assert 0.5 < point["answered"] < 1 and report["accepted"] < 300
    assert_allclose(point["risk_bound"], upper_bound(report["errors"], report["accepted"], 0.05))
    assert report["accepted"] == np.sum(answers.asked.accepted | answers.others.accepted)
    assert report_of(0.2, "all", fallback_abstains=True)["accepted"] == 300


def test_folder_is_read_in_the_shape_of_each_model(folders, tmp_path):
    for index, colour in enumerate((0, 1, 2, 2)):
        picture = np.zeros((30, 40, 3), np.uint8)
        picture[..., colour] = 110
        (tmp_path / colours.CLASSES[colour]).mkdir(exist_ok=True)
        PIL.Image.fromarray(picture).save(tmp_path / colours.CLASSES[colour] / f"{index}.png")
    report = check(folders, f"folder:{tmp_path}")
    assert (report["errors"], report["cascade"]["point"]["passed_on"]) == (0, 1)


def test_unknown_classes_are_refused_or_count_as_errors(folders, tmp_path):
    images = colours.pictures([0, 1], [200, 100])
    np.savez(tmp_path / "new.npz", images=images, labels=np.array(["redd", "green"]))
    name = f"npz:{tmp_path / 'new.npz'}"
    with pytest.raises(InputError, match="unknown class 'redd': did you mean 'red'"):
        check(folders, name)
    report = check(folders, name, count_unknown=True)
    assert (report["errors"], report["unknown"]) == (1, {"redd": 1})
    assert any("no class 'redd'" in line for line in cascade_table.summary(report))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"risk": 2.0}, "risk must lie in"),
        ({"delta": 0.0}, "delta must lie in"),
        ({"threshold": "x"}, "threshold 'x': must be a number"),
        ({"fallback_batch_size": 0}, "batch_size 0: must be at least 1"),
        ({"split": "test"}, "--split=test: no images of this split"),
    ],
)
def test_invalid_arguments_are_refused(folders, name, options, message):
    with pytest.raises(InputError, match=message):
        check(folders, name, **options)


def test_summary_names_the_rule_and_the_certificate(report_of):
    lines = list(cascade_table.summary(report_of(risk=0.1)))
    assert lines[0].startswith("alone, the student is wrong on ")
    assert "--threshold=all, 0.00 % are passed on, 1.00 k multiply-adds" in lines[1]
    assert lines[2].startswith("tested: the student answers what it accepts, ")
    assert "the fallback itself errs too often" in "".join(
        cascade_table.summary(report_of(risk=0.01))
    )
    report = report_of(risk=0.01)
    certificate = report["cascade"]["certificate"]
    certificate["first"]["risk"] = certificate["risk"]
    assert "these images are too few for that; the fallback errs on 1.00 %" in "".join(
        cascade_table.summary(report)
    )
    assert "too few images" in "".join(cascade_table.summary(report_of(risk=0.005)))
    assert report_of()["cascade"]["point"]["student_answers"] == "accepted"
    named = {"all": "answers everything", "none": "answers nothing", "0.6": "answers from 0.6 on"}
    for threshold, text in named.items():
        report = report_of(threshold=threshold)
        assert report["cascade"]["point"]["student_answers"] == threshold
        assert text in list(cascade_table.summary(report))[1]


@pytest.mark.slow
def test_command_prints_the_table_and_refutes_with_its_own_status(folders, name):
    flags = [f"--model={folders / 'student'}", f"--fallback={folders / 'fallback'}", name]
    done = command("check", *flags, "--risk=0.2")
    assert done.returncode == 0, done.stderr
    assert "--threshold" in done.stdout and done.stdout.splitlines()[-1].startswith("certified: ")
    refuted = command("check", *flags, "--risk=0.01", "--json", "--fallback_batch_size=100")
    assert refuted.returncode == 3
    assert json.loads(refuted.stdout)["fallback"] == str(folders / "fallback")
    assert_refused(
        command("check", flags[0], name, "--fallback_abstains"),
        "--fallback_abstains needs --fallback",
    )


@pytest.mark.parametrize(("risk", "text"), [(0.01, "at 1 %:"), (0.01000001234, "at 1.01 %:")])
def test_a_limit_that_was_computed_is_rounded_up(report_of, risk, text):
    assert text in "".join(cascade_table.summary(report_of(risk=risk)))

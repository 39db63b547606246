"""Notes on a model card: which ones apply, and the numbers in them."""

import math
from types import SimpleNamespace

import pytest

from kdjax.evaluation.certification import OperatingPoint
from kdjax.evaluation.requested_point import PointRequest
from kdjax.export import notes
from kdjax.export.reference import TOLERANCE

CONFIG = {"objective": {"method": "ka_gambler_sum"}}
GUARANTEE = {
    "risk": 0.02,
    "delta": 0.05,
    "certificates": [{"risk": 0.02, "learn_then_test": {"threshold": 0.9}}],
}


def served(*, guarantee=None, threshold=0.9, source="certificate", errors=3, bound=None):
    """Returns what notes read of a network that accepts 90 of 100 calibration images."""
    return SimpleNamespace(
        point=OperatingPoint("softmax_response", 2.0, threshold, source, guarantee),
        request=PointRequest(coverage=None if guarantee else 0.9),
        figures={"calibration": {"images": 100, "accepted": 90, "errors": errors}},
        bound=bound,
        gate=None,
        abstains=True,
        logits_from="computed again",
    )


def notes_of(network, *, config=CONFIG, from_run=0.0, **results):
    return notes.notes(config, network, SimpleNamespace(from_run=from_run), results)


def test_certificate_comes_first_with_its_risk_and_probability():
    first, basis, *others = notes_of(served(guarantee=GUARANTEE))
    assert first.startswith("With probability 0.95 over the draw of the calibration split, ")
    assert "is at most 0.02 on images" in first
    assert "computed again" in basis and "certify at delta / S" in basis
    assert [note.split()[0] for note in others] == ["model.stablehlo"]


def test_run_without_a_certified_threshold_abstains():
    point = served(guarantee=GUARANTEE, threshold=math.inf, source="none")
    assert notes_of(point)[0] == (
        "No threshold could be certified at risk 0.02 with delta 0.05: the model abstains on every "
        "image."
    )


def test_threshold_of_a_coverage_has_a_measurement_and_its_bound():
    (note, *_) = notes_of(served(source="coverage", bound={"risk": 0.08437, "delta": 0.05}))
    assert note.startswith("This threshold has no certificate for a requested risk. ")
    assert "chosen to accept 90 % of the dev split" in note
    assert "3 of 90 accepted images of calibration are wrong" in note
    assert "by 8.44 % with probability 0.95" in note
    (without, *_) = notes_of(served(source="coverage"))
    assert without.endswith("3 of 90 accepted images of calibration are wrong.")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"collapse": "has collapsed: it abstains on 99 %"}, "The network has collapsed: it abst"),
        ({"from_run": 10 * TOLERANCE}, "The logits differ by up to 0.001 from those that the run"),
        ({"config": {"objective": {"method": "ce"}}}, "output was not trained (method ce)"),
        (
            {"external_teacher": {"kind": "onnx", "file": "t.onnx"}},
            "The teacher (ONNX file t.onnx) was not trained by kdjax",
        ),
    ],
)
def test_note_is_there_only_where_it_applies(changes, text):
    network = served(guarantee=GUARANTEE)
    assert sum(text in note for note in notes_of(network, **changes)) == 1
    assert not any(text in note for note in notes_of(network))


def test_bound_of_the_gate_is_rounded_down():
    network = served(guarantee=GUARANTEE)
    network.gate = {"name": "energy", "threshold": 1.0, "delta": 0.05, "bound": 0.98969}
    (note,) = (note for note in notes_of(network) if note.startswith("The gate energy"))
    assert "it passes at least 98.9 % of the images" in note


def test_files_that_decide_like_the_run_have_no_note():
    same, other = ({"different_decisions": count, "images": 1200} for count in (0, 2))
    files = {"a": {"calibration": same}, "b": {"calibration": other}, "c": {"calibration": None}}
    (note,) = notes.decision_notes(files)
    assert note.startswith("b and the run decide differently on 2 of 1,200 calibration images")

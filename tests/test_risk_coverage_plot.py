"""experiments/risk_coverage_plot.py: the curves of its picture, and the certificate in it."""

import json

import numpy as np
import pytest
from absl import flags
from support import sample_runs
from support.experiments import load

from kdjax import selective


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return sample_runs.write(tmp_path_factory.mktemp("run"))


@pytest.fixture
def plot(monkeypatch):
    """The script, without its flags: those of the commands have the same names."""
    monkeypatch.setattr(flags, "DEFINE_string", lambda *arguments, **options: None)
    return load("risk_coverage_plot")


@pytest.fixture
def outputs(plot, workdir):
    return plot.read(workdir)


def lines(figure):
    """Returns the drawn lines by their labels, as [2, n]: coverage and risk in %."""
    return {line.get_label(): np.array(line.get_data()) for line in figure.axes[0].lines}


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def test_outputs_are_those_of_the_test_split(outputs, workdir):
    with np.load(workdir / "predictions" / "test.npz") as arrays:
        logits, labels = arrays["logits"], arrays["labels"]
    np.testing.assert_array_equal(outputs.correct, logits[:, :-1].argmax(axis=1) == labels)
    point = outputs.point
    accepted = point.numpy_confidence(logits) >= point.threshold
    np.testing.assert_array_equal(outputs.accepted, accepted)
    assert all(len(each) == len(labels) for each in outputs.confidence.values())


def test_curves_are_the_risk_at_each_coverage(plot, outputs):
    drawn = lines(plot.draw(outputs))
    for name, (label, _) in plot.CURVES.items():
        coverage, risk = drawn[label]
        expected = selective.error_at_coverage(
            outputs.confidence[name], outputs.correct, list(coverage / 100)
        )
        np.testing.assert_allclose(risk, 100 * np.asarray(expected), atol=1e-9)
        assert coverage[-1] == 100 and risk[-1] == pytest.approx(100 * np.mean(~outputs.correct))


def test_no_ranking_is_better_than_the_perfect_one(plot, outputs):
    drawn = lines(plot.draw(outputs))
    coverage, ideal = drawn["perfect ranking"]
    # All errors come last: k accepted have max(0, k - number of correct ones) errors.
    accepted = np.arange(1, len(outputs.correct) + 1)
    errors = np.maximum(0, accepted - outputs.correct.sum())
    np.testing.assert_allclose(ideal, 100 * errors / accepted)
    for label, _ in plot.CURVES.values():
        own = np.interp(coverage, *drawn[label])
        assert np.all(own >= ideal - 1e-9)


def test_certified_point_is_marked_with_its_coverage_and_risk(plot, outputs):
    point = outputs.point
    assert point.certified
    error = np.mean(~outputs.correct[outputs.accepted])
    (text,) = texts(plot.draw(outputs))
    coverage = 100 * np.mean(outputs.accepted)
    assert f"test: {100 * error:.2f} % at {coverage:.1f} % coverage" in text
    assert f"at most {100 * point.guarantee['risk']:g} % error" in text
    assert f"with {100 * (1 - point.guarantee['delta']):g} % certainty" in text


def test_point_of_a_run_with_a_gate_is_that_of_the_images_that_pass(plot, outputs, tmp_path):
    folder = sample_runs.write(tmp_path / "gated")
    with np.load(folder / "predictions" / "test.npz") as arrays:
        energy = np.log(np.exp(arrays["logits"].astype(float)[:, :-1]).sum(axis=1))
    threshold = float(np.median(energy))
    results = json.loads((folder / "results.json").read_text())
    results["gate"] = {"name": "energy", "threshold": threshold}
    sample_runs.write_json(folder / "results.json", results)
    gated = plot.read(folder)
    accepted = outputs.accepted & (energy >= threshold)
    assert 0 < accepted.sum() < outputs.accepted.sum()
    error = np.mean(~gated.correct[accepted])
    (text,) = texts(plot.draw(gated))
    assert f"test: {100 * error:.2f} % at {100 * np.mean(accepted):.1f} % coverage" in text


def test_without_a_certificate_no_point_is_marked(plot, outputs):
    point = outputs.point._replace(guarantee=None, threshold=np.inf, source="none")
    assert texts(plot.draw(outputs._replace(point=point))) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["picture.svg", "picture.png"])
def test_same_run_gives_the_same_file(plot, workdir, tmp_path, monkeypatch, capsys, name):
    class Flag:
        def __init__(self, value):
            self.value = value

    monkeypatch.setattr(plot, "WORKDIR", Flag(str(workdir)))
    contents = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / name
        monkeypatch.setattr(plot, "OUT", Flag(str(path)))
        plot.main([])
        assert capsys.readouterr().out == f"{path}\n"
        contents.append(path.read_bytes())
    assert contents[0] == contents[1]

"""experiments/outlier_gate.py: a run evaluated with each gate, and the page."""

import shutil

import pytest
from support.gated_runs import ACCEPTANCE

from experiments import outlier_gate
from kdjax.runs import restore
from kdjax.runtime import atomic_io


@pytest.fixture(scope="module")
def measured(gated_run, data_dir, tmp_path_factory):
    """What was measured, and the metadata of the run."""
    copy = shutil.copytree(gated_run, tmp_path_factory.mktemp("gate") / "run")
    dataset = restore.load_dataset(copy)
    options = {"acceptance": ACCEPTANCE, "data_dir": str(data_dir)}
    found = outlier_gate.measure(copy, dataset, ["noise", "ood:digits"], **options)
    return found, atomic_io.read_json(gated_run / "config.json")


@pytest.mark.slow
def test_every_gate_is_measured_and_shifts_only_with_one(measured):
    found, _ = measured
    assert list(found) == ["none", "energy", "mahalanobis"]
    assert found["none"][1] == {} and "gate" not in found["none"][0]
    for name in ("energy", "mahalanobis"):
        results, shifts = found[name]
        assert results["gate"]["name"] == shifts["gate"]["name"] == name
        assert results["gate"]["acceptance"] == ACCEPTANCE


@pytest.mark.slow
def test_page_has_the_numbers_that_were_measured(measured):
    found, metadata = measured
    text = outlier_gate.page(found, metadata, commands="the command", acceptance=ACCEPTANCE)
    lines = text.splitlines()
    assert "the command" in lines and "Requested acceptance of the gate: 90.00 %" in text
    for name in ("energy", "mahalanobis"):
        results, shifts = found[name]
        (row,) = [line for line in lines if line.startswith(f"| {name} |")]
        assert f"{100 * results['gate']['bound']:.2f} %" in row
        rows = [line for line in lines if line.startswith("| ") and f"| {name} |" in line][1:]
        # The test split, five severities of noise, and the other data set.
        assert len(rows) == 7 and rows[-1].startswith("| digits |")
        assert f"{100 * shifts['clean']['without_gate']['coverage']:.2f} %" in rows[0]
        assert f"{100 * shifts['ood']['digits']['gate_fpr']:.2f} %" in rows[-1]

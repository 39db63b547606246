"""Groups of images, such as devices, in the predictions files and promises of a run."""

import dataclasses
import shutil

import numpy as np
import pytest

from kdjax.evaluation import evaluate, predictions
from kdjax.report import page
from kdjax.runs import restore

SPLITS = ("dev", "calibration", "test")


@pytest.fixture(scope="module")
def grouped(finished_run, tmp_path_factory):
    """A run that was evaluated again: its data set has groups in all splits but dev."""
    folder = shutil.copytree(finished_run.folder, tmp_path_factory.mktemp("grouped") / "run")
    dataset = restore.load_dataset(folder)
    drawn = {}
    for name in SPLITS:
        split = getattr(dataset, name)
        drawn[name] = np.arange(len(split.labels)) % 2
        if name == "dev":  # the user adds them to the file
            path = predictions.path_of(folder, name)
            predictions.save(path, predictions.load(path), drawn[name])
        else:
            named = np.array(["left", "right"])[drawn[name]]
            changed = dataclasses.replace(split, groups=named)
            dataset = dataclasses.replace(dataset, **{name: changed})
    return folder, evaluate.evaluate(folder, dataset, risk=0.9)


@pytest.mark.slow
def test_groups_of_the_data_set_are_written_and_those_of_the_user_kept(grouped):
    folder, _ = grouped
    groups = predictions.stored_groups(folder, SPLITS)
    assert set(groups["calibration"]) == set(groups["test"]) == {"left", "right"}
    assert groups["dev"][:3].tolist() == ["0", "1", "0"]
    for name in SPLITS:
        path = predictions.path_of(folder, name)
        assert groups[name].shape == predictions.load(path).labels.shape
        assert len(predictions.load_groups(predictions.path_of(folder / "teacher", name)))


@pytest.mark.slow
def test_results_have_a_promise_for_each_group_and_the_report_too(grouped):
    folder, results = grouped
    values = results["promises"]["by_group"]
    assert values["names"] == ["left", "right"] and values["risk"] == 0.9
    assert sum(values["test"]["examples"]) == results["test"]["examples"]
    other = page.read(folder, risk=0.8).results["promises"]["by_group"]
    assert other["risk"] == 0.8 and other["test"]["examples"] == values["test"]["examples"]


def test_a_run_without_groups_has_the_promise_for_each_class_only(finished_run):
    names = finished_run.results["promises"].keys()
    assert "by_class" in names and "by_group" not in names
    values = finished_run.results["promises"]["by_class"]
    assert values["names"] == [str(digit) for digit in range(10)]
    with np.load(finished_run.folder / "predictions" / "test.npz") as arrays:
        assert "group" not in arrays

"""`cost.json`: what it holds, and the tables that show it."""

import json
import shutil

import jax
import pytest
from support.tiny_network import TinyNetwork

from kdjax import models
from kdjax.evaluation import cost, cost_table
from kdjax.models import cost as sizes
from kdjax.report import console, page

OWN = "tiny_network.py:TinyNetwork"  # the teacher's network


@pytest.fixture
def measured(monkeypatch):
    """Networks are not compiled and timed: the latency is the batch size in milliseconds."""
    calls = []

    def measure(model, image_shape, batch_size, views):
        calls.append((type(model).__name__, batch_size))
        return batch_size / 1000

    cost.latencies.cache_clear()
    monkeypatch.setattr(cost, "measure_latency", measure)
    yield calls
    cost.latencies.cache_clear()


def edit(folder, **changes):
    path = folder / "config.json"
    metadata = json.loads(path.read_text())
    metadata["config"].update(changes)
    path.write_text(json.dumps(metadata))


@pytest.fixture
def run(finished_run, tmp_path):
    return shutil.copytree(finished_run.folder, tmp_path / "run", symlinks=True)


def test_a_smoke_run_has_sizes_without_latency(finished_run) -> None:
    costs = cost.read_cost(finished_run.folder)
    shape = (8, 8, 1)
    networks = {
        "teacher": (OWN, TinyNetwork(10, width=4)),
        "student": ("alexnet_small", models.create("alexnet_small", 11, width=4)),
    }
    for stage, (name, network) in networks.items():
        expected = sizes.cost(network, shape)
        expected_entry = {"model": name, **expected._asdict(), "views": 1, "latency": None}
        assert costs[stage] == expected_entry
    assert "Size and speed of the networks" in finished_run.stdout
    assert "Size and speed" in (finished_run.folder / "report.html").read_text()


def test_latency_of_both_networks_is_measured_for_one_and_many_images(run, measured) -> None:
    edit(run, smoke=False)
    costs = cost.write_cost(run)
    assert measured == [(name, size) for name in ("UserNetwork", "AlexNet") for size in (1, 256)]
    assert costs["student"]["latency"] == {"1": 0.001, "256": 0.256}
    assert cost.read_cost(run) == costs
    cost.write_cost(run)
    assert len(measured) == 4  # a network is measured once


def describe_teacher(run, **source):
    """Makes the teacher of a copied run one that the run has not trained."""
    teacher = run / "teacher"
    trained = shutil.move(teacher, run.parent / "trained")
    teacher.mkdir()
    metadata = json.loads((trained / "config.json").read_text())
    (teacher / "config.json").write_text(json.dumps(metadata | {"source": source}))
    return trained


def test_a_teacher_without_a_network_in_jax_has_no_entry(run) -> None:
    describe_teacher(run, kind="onnx")
    assert cost.write_cost(run).keys() == {"machine", "student"}


def test_an_ensemble_has_the_sum_of_its_members(run, measured) -> None:
    one = cost.write_cost(run)["teacher"]
    edit(run, smoke=False)
    trained = describe_teacher(run, kind="ensemble")
    (run / "teacher" / "members").mkdir()
    for name in ("0", "1"):
        (run / "teacher" / "members" / name).symlink_to(trained)
    entry = cost.write_cost(run)["teacher"]
    assert entry["model"] == f"{OWN} + {OWN}"
    assert entry["multiply_adds"] == 2 * one["multiply_adds"]
    assert entry["latency"] == {"1": 0.002, "256": 0.512}


def test_batch_that_does_not_fit_into_memory_has_no_latency(monkeypatch) -> None:
    def measure(model, image_shape, batch_size, views):
        if batch_size > 1:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return 0.1

    monkeypatch.setattr(cost, "measure_latency", measure)
    cost.latencies.cache_clear()
    model = models.create("alexnet_small", 3, width=3)
    assert cost.latencies(model, (9, 9, 1)) == {"1": 0.1, "256": None}
    cost.latencies.cache_clear()


@pytest.mark.slow
def test_latency_is_positive_and_grows_with_the_batch() -> None:
    model = models.create("alexnet_small", 3, width=8)
    one, many = (cost.measure_latency(model, (16, 16, 3), size) for size in (1, 256))
    assert 0 < one < many


@pytest.mark.usefixtures("undrawn")
def test_old_workdir_without_costs_is_read(run) -> None:
    (run / cost.FILE_NAME).unlink()
    assert cost.read_cost(run) is None
    console.show_sizes({"student": None})
    assert "Size and speed" not in page.write(page.read(run)).read_text()


ENTRY = {"model": "resnet8", "parameters": 78042, "multiply_adds": 12_501_696}
COSTS = {
    "machine": "cpu, NAME, 2 cores",
    "teacher": {**ENTRY, "model": "resnet50", "multiply_adds": 1_297_829_888, "latency": None},
    "student": {**ENTRY, "latency": {"1": 0.0012345, "256": 0.25}},
}


def test_table_has_the_teacher_first_and_rounds_to_three_digits() -> None:
    rows = cost_table.rows(cost_table.networks_of({"student": COSTS, "other": None}))
    assert rows == [
        ["teacher", "resnet50", "78,042", "1", "1.30 G", "-", "-"],
        ["student", "resnet8", "78,042", "1", "12.5 M", "1.23", "250"],
    ]


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (999, "999"),
        (1000, "1.00 k"),
        (15_041_216, "15.0 M"),
        (555_422_720, "555 M"),
        (4.089e9, "4.09 G"),
    ],
)
def test_large_numbers_have_a_unit(number, text) -> None:
    assert cost_table.with_unit(number) == text


def test_console_shows_students_of_one_teacher(capsys) -> None:
    console.show_sizes({"seed=1": COSTS, "seed=2": COSTS})
    text = capsys.readouterr().out
    assert text.count("resnet50") == 1 and text.count("resnet8") == 2
    assert "cpu, NAME, 2 cores" in text

"""Nominal operations and utilization of the benchmark against published values and by hand."""

import json

import numpy as np
import pytest
from support.commands import ROOT

from experiments.benchmark import cases, ceiling, forward, utilization

RATE = {"float32": {"XLA": 1e11, "numpy": 2e11}, "bfloat16": {"PyTorch": 4e11}}


def row(case="resnet18", phase="epoch", variant="kdjax", speed=50.0, cached=False):
    return {
        "case": case, "road": phase, "variant": variant, "cached": cached,
        "images_per_second": speed,
    }  # fmt: skip


def results(ceilings=RATE):
    return {"sides": {"kdjax": {"device": "cpu"}}, "ceilings": ceilings}


@pytest.mark.parametrize(
    ("network", "normalized", "giga", "rounding"),
    [
        # 0.5554 without batch normalization, and 0.556 with a multiply-add for each of its outputs.
        ("resnet18", 64 * 32**2 * (5 + 5 / 2 + 5 / 4 + 5 / 8), 0.556, 0.0005),
        ("resnet50", 0, 1.30, 0.005),
        ("resnet20", 0, 0.041, 0.0005),
        ("resnet56", 0, 0.126, 0.0005),
    ],
)
def test_nominal_multiply_adds_are_the_published_ones(network, normalized, giga, rounding):
    counted = utilization.multiply_adds(network) + normalized
    assert counted / 1e9 == pytest.approx(giga, abs=rounding)


def test_training_takes_three_forward_passes_and_a_teacher_one():
    case = cases.CASES["resnet18_to_alexnet"]
    student, teacher = (
        utilization.multiply_adds("alexnet", 11),
        utilization.multiply_adds("resnet18"),
    )
    assert utilization.nominal_flops(case, "step", cached=False) == (6 * student, 2 * teacher)
    assert utilization.nominal_flops(case, "epoch", cached=True) == (6 * student, 0)
    alone = utilization.nominal_flops(cases.CASES["resnet18"], "forward", cached=False)
    assert alone == (2 * teacher, 0)


def test_utilization_is_the_share_of_the_best_matrix_product():
    share = utilization.mfu(row(), results())
    assert share == pytest.approx(50 * 6 * 0.5554e9 / 2e11, rel=1e-3)
    forward_share = utilization.mfu(row(phase="forward"), results())
    assert forward_share == pytest.approx(share / 3)


def test_each_network_counts_at_the_ceiling_of_its_dtype():
    student = 6 * utilization.multiply_adds("alexnet", 11)
    teacher = 2 * utilization.multiply_adds("resnet18")
    mixed = row("resnet18_to_alexnet", variant="kdjax_bfloat16_teacher", speed=1.0)
    expected = student / 2e11 + teacher / 4e11
    assert utilization.mfu(mixed, results()) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("entry", "ceilings"),
    [
        (row(variant="kdjax_bfloat16"), {"float32": {"XLA": 1e11}}),
        (row("input", "input"), RATE),
        (row(), {}),
    ],
)
def test_no_utilization_without_a_network_or_its_ceiling(entry, ceilings):
    assert utilization.mfu(entry, results(ceilings)) is None


def test_a_results_file_of_an_earlier_version_has_the_ceiling_of_xla():
    old = {"sides": {"kdjax": {"device": "cpu", "ceiling_flops": 2e11, "ceiling_dtype": "float32"}}}
    assert utilization.mfu(row(), old) == utilization.mfu(row(), results())
    assert utilization.ceilings_line(old) == "Best matrix product: 200 GFLOP/s in float32 (XLA)."
    assert utilization.ceilings_line(results({})) == ""


def test_ceilings_of_all_libraries_are_collected():
    sides = {
        "torch": {"ceilings": {"float32": {"PyTorch": 1.0}, "bfloat16": {"PyTorch": 2.0}}},
        "kdjax": {"ceilings": {"float32": {"XLA": 3.0, "numpy": 4.0}}},
        "keras": {},
    }
    assert utilization.merged(sides) == {
        "float32": {"PyTorch": 1.0, "XLA": 3.0, "numpy": 4.0}, "bfloat16": {"PyTorch": 2.0}
    }  # fmt: skip


def test_rate_counts_two_operations_for_each_product(monkeypatch):
    clock = iter(np.arange(20.0))
    monkeypatch.setattr(ceiling.time, "perf_counter", lambda: next(clock))
    done = []
    rate = ceiling.rate(lambda: "product", done.append, side=10)
    assert rate == 2 * 10**3 * ceiling.PRODUCTS  # one second for all of them
    assert done == [["product"], *[["product"] * ceiling.PRODUCTS] * ceiling.REPEATS]


def test_no_recorded_file_has_the_operations_that_xla_counts():
    for path in (ROOT / "experiments" / "results").glob("speed_*.json"):
        assert not any("flops_of_step" in entry for entry in json.loads(path.read_text())["rows"])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_forward_function_returns_finite_logits(dtype):
    images, _ = cases.examples(3)
    logits = np.asarray(forward.forward_function("resnet8", dtype)(images))
    assert logits.shape == (3, cases.CLASSES) and np.isfinite(logits).all() and logits.std() > 0

"""The parts of the speed benchmark and of the losses benchmark; no speed is measured here."""

import contextlib
import functools
import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from support.commands import ROOT

from experiments.benchmark import __main__ as command
from experiments.benchmark import (
    agreement,
    cases,
    kdjax_side,
    measure,
    reference,
    structure,
    table,
)
from experiments.benchmark.protocol import WorkerError
from experiments.benchmark.weights import torch_weights
from experiments.losses import __main__ as losses_command
from experiments.losses import in_jax, inputs
from kdjax import models
from kdjax.errors import InputError
from kdjax.models.cost import cost
from kdjax.runtime import compiler

TORCH_PYTHON = os.environ.get("KDJAX_TORCH_PYTHON", "")
ALL_VARIANTS = {variant.name for group in cases.VARIANTS.values() for variant in group}
SIZE = measure.Size(batch=8, steps=2, rounds=3)
SECONDS = {"torch": 4.0, "kdjax": 2.0, "keras": 8.0}  # of each timed run
DESCRIPTION = {
    "versions": {"jax": "0.12.0", "python": "3.12.1"},
    "device_name": "",
    "ceilings": {"float32": {"XLA": 1e9}},
}


class FakeWorkers:
    """Workers that answer at once and record the commands that they receive."""

    def __init__(self, *sides, devices=None, parameters=None, broken=()):
        self.received, self.broken, self.devices = [], broken, devices or {}
        self.parameters = parameters or {}
        self.workers = {side: functools.partial(self.answer, side) for side in sides}

    def answer(self, side, command, **arguments):
        self.received.append((command, side, arguments.get("phase")))
        if command == "describe":
            return {**DESCRIPTION, "device": self.devices.get(side, "cpu")}
        if command == "prepare":
            return self.prepare(side, **arguments)
        if command == "agreement":
            return self.write_logits(side, **arguments)
        return {"seconds": SECONDS[side]}

    def prepare(self, side, case, variant, batch, steps):
        if variant["name"] in self.broken:
            raise WorkerError("no compiler")
        known = {"memory": 2**21} if side == "kdjax" else {}
        return {
            "seconds": 1,
            "phases": case["phases"],
            "parameters": self.parameters.get(side, 7),
            "memory": None,
            **known,
        }

    def write_logits(self, side, network, folder):
        np.save(pathlib.Path(folder) / f"{side}.npy", np.ones((2, 3)) + 1e-5 * (side == "torch"))
        return {"loss": 1.0}


def measured(fake, case_names=("resnet18",), phases=tuple(cases.PHASES)):
    """The results of all variants."""
    return measure.measure(
        fake.workers, case_names, phases, ALL_VARIANTS, SIZE, save=lambda results: None
    )


def test_ratio_is_computed_per_round():
    ratio = measure.ratio([2.0, 4.0, 9.0], [1.0, 4.0, 3.0])
    assert ratio == {"median": 2.0, "min": 1.0, "max": 3.0}


def test_sides_are_timed_in_turn():
    fake = FakeWorkers("torch", "kdjax")
    measure.measure(
        fake.workers,
        ["resnet18"],
        ["step", "epoch"],
        ["torch", "kdjax"],
        SIZE,
        lambda results: None,
    )
    timed = [arguments for command, *arguments in fake.received if command == "time"]
    rounds = [phase for phase in ("step", "epoch") for _ in range(SIZE.rounds)]
    assert timed == [[side, phase] for phase in rounds for side in ("torch", "kdjax")]


def test_row_holds_speed_ratios_and_cost_of_a_step():
    rows = measured(FakeWorkers("torch", "kdjax"), ["resnet18_to_alexnet"])["rows"]
    row = {(row["variant"], row["road"]): row for row in rows}["kdjax_cached", "epoch"]
    assert row["images_per_second"] == SIZE.batch * SIZE.steps / SECONDS["kdjax"]
    assert row["ratio"]["median"] == row["ratio_to_cached"]["median"] == 2.0
    assert row["seconds"] == [SECONDS["kdjax"]] * SIZE.rounds
    assert row["memory_of_step"] == 2**21


def test_results_are_saved_after_each_case():
    saved = []

    def save(results):
        saved.append({row["case"] for row in results["rows"]})

    workers = FakeWorkers("torch", "kdjax").workers
    measure.measure(workers, ["input", "resnet18"], cases.PHASES, ALL_VARIANTS, SIZE, save)
    assert saved == [{"input"}, {"input", "resnet18"}]


def test_input_is_timed_over_several_epochs():
    (row,) = measured(FakeWorkers("kdjax"), ["input"])["rows"]
    images = cases.INPUT_EPOCHS * SIZE.batch * SIZE.steps
    assert row["images_per_second"] == images / SECONDS["kdjax"]


def test_results_list_what_was_left_out():
    results = measured(FakeWorkers("torch", "kdjax", broken=["torch_compile"]))
    assert results["left_out"] == [
        "keras: no --keras-python was given",
        "onnxruntime: the extra kdjax[onnx] is not installed",
        "the GPU variants: no GPU is available",
        "resnet18, torch_compile: no compiler",
    ]
    assert "torch_compile" not in {row["variant"] for row in results["rows"]}


def test_no_ratio_without_pytorch():
    results = measured(FakeWorkers("kdjax"))
    assert results["agreement"] == []
    assert not any("ratio" in row for row in results["rows"])


def test_gpu_variants_use_bfloat16():
    fake = FakeWorkers("torch", "kdjax", "keras", devices=dict.fromkeys(SECONDS, "gpu"))
    rows = measured(fake)["rows"]
    assert {row["variant"] for row in rows} == {"torch", "torch_compile", "kdjax", "keras"}
    assert all("bfloat16" in row["title"] for row in rows)


@pytest.mark.parametrize(
    ("differing", "message"),
    [
        ({"devices": {"torch": "cpu", "kdjax": "gpu"}}, "same device.*'torch': 'cpu'"),
        ({"parameters": {"torch": 8}}, "resnet18: the numbers of parameters differ.*'torch': 8"),
    ],
)
def test_sides_on_different_devices_or_networks_are_an_error(differing, message):
    with pytest.raises(WorkerError, match=message):
        measured(FakeWorkers("torch", "kdjax", **differing))


@pytest.mark.parametrize("device", cases.VARIANTS)
@pytest.mark.parametrize("case", cases.CASES.values(), ids=lambda case: case.name)
def test_reference_is_first_and_cached_variants_need_a_teacher(case, device):
    variants = cases.variants(case, device, SECONDS, ALL_VARIANTS)
    assert variants[0].name == measure.REFERENCE
    assert bool(case.teacher) == any(variant.cached for variant in variants)


@pytest.mark.parametrize(("difference", "within"), [(1e-5, True), (2e-4, False), (np.nan, False)])
def test_agreement_tolerance(difference, within):
    row = {"difference": difference, "objective_difference": 0.0}
    assert agreement.within_tolerance([row]) is within


def test_agreement_is_the_largest_difference():
    rows = agreement.compare(FakeWorkers("torch", "kdjax").workers)
    assert [row["network"] for row in rows] == list(agreement.NETWORKS)
    np.testing.assert_allclose([row["difference"] for row in rows], 1e-5, rtol=1e-6)


# Weights


def conv_norm_shapes(name, channels, layer):
    width, kernel, _ = layer
    norm = dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (width,))
    shapes = {f"{name}.BatchNorm_0.{leaf}": shape for leaf, shape in norm.items()}
    return {f"{name}.Conv_0.weight": (width, channels, kernel, kernel), **shapes}


def resnet_shapes(name):
    channels = structure.RESNETS[name][2]
    shapes = conv_norm_shapes("stem", 3, (channels, 3, 1))
    for label, layers in structure.blocks(name):
        inputs = [channels, *(layer[0] for layer in layers)]
        for index, layer in enumerate(layers):
            shapes |= conv_norm_shapes(f"{label}.ConvNorm_{index}", inputs[index], layer)
        if inputs[0] != inputs[-1] or max(layer[2] for layer in layers) > 1:
            shapes |= conv_norm_shapes(f"{label}.shortcut", channels, (inputs[-1], 1, 1))
        channels = inputs[-1]
    return shapes | head_shapes(channels)


def head_shapes(channels):
    return {"head.Dense_0.weight": (11, channels), "head.Dense_0.bias": (11,)}


def alexnet_shapes(name):
    channels, shapes, normalized = 3, {}, name == "alexnet_small"
    layers = structure.ALEXNET_SMALL if normalized else structure.ALEXNET
    for index, (width, kernel, _, _) in enumerate(layers):
        shapes[f"Conv_{index}.weight"] = (width, channels, kernel, kernel)
        norm = ("weight", "bias", "running_mean", "running_var")
        leaves = [f"BatchNorm_{index}.{leaf}" for leaf in norm]
        shapes |= dict.fromkeys(leaves if normalized else [f"Conv_{index}.bias"], (width,))
        channels = width
    return shapes | head_shapes(channels)


def fast_cnn_shapes(name):
    channels = 3 * structure.WHITENED
    shapes = {"whitening.weight": (channels, 3, 2, 2), "whitening.bias": (channels,)}
    for index in range(structure.DEPTH * len(structure.GROUPS)):
        width = structure.GROUPS[index // structure.DEPTH]
        shapes[f"Conv_{index}.weight"] = (width, channels, 3, 3)
        leaves = [f"BatchNorm_{index}.{leaf}" for leaf in ("bias", "running_mean", "running_var")]
        shapes |= dict.fromkeys(leaves, (width,))
        channels = width
    return shapes | {"head.Dense_0.weight": (11, channels)}


SHAPES = {
    "alexnet": alexnet_shapes, "alexnet_small": alexnet_shapes, "fast_cnn": fast_cnn_shapes
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", (*cases.NETWORKS, "alexnet"))
def test_converted_weights_have_the_names_and_shapes_of_structure(name):
    images = np.zeros((1, 32, 32, 3), np.float32)
    model = models.create(name, 11)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    leaves = jax.tree.leaves_with_path(variables)
    arrays = {"/".join(key.key for key in path): np.empty(leaf.shape) for path, leaf in leaves}
    shapes = SHAPES.get(name, resnet_shapes)(name)
    assert {key: array.shape for key, array in torch_weights(arrays).items()} == shapes


def test_kernel_axes_are_converted_to_the_layout_of_pytorch():
    kernel = np.arange(3 * 3 * 2 * 5).reshape(3, 3, 2, 5)
    converted = torch_weights({"params/Conv_0/kernel": kernel})["Conv_0.weight"]
    assert converted[4, 1, 0, 2] == kernel[0, 2, 1, 4]


@pytest.mark.skipif(not TORCH_PYTHON, reason="KDJAX_TORCH_PYTHON names no python with torch")
def test_logits_of_equal_weights_agree_with_pytorch():
    done = run_benchmark("agree", f"--torch-python={TORCH_PYTHON}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("logits of the same weights") == len(agreement.NETWORKS)


def run_benchmark(*arguments):
    program = [sys.executable, "-m", "experiments.benchmark", *arguments]
    return subprocess.run(program, cwd=ROOT, capture_output=True, text=True)


# The kdjax worker


@pytest.fixture
def unoptimized(monkeypatch):
    """Programs compiled without optimization, which is faster than compiling them well."""
    for program in compiler.OPTIONS:
        monkeypatch.setitem(compiler.OPTIONS, program, compiler.OPTIONS["initialize"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "variant_name"),
    [
        (cases.Case("", "alexnet_small", "resnet8"), "kdjax_cached"),
        (cases.CASES["input"], "kdjax"),
        (cases.CASES["resnet8"], "kdjax"),
    ],
)
def test_kdjax_worker_runs_every_phase(case, variant_name, unoptimized):
    (variant,) = (each for each in cases.VARIANTS["cpu"] if each.name == variant_name)
    with contextlib.ExitStack() as resources:
        prepared = kdjax_side.prepare(
            resources, case._asdict(), variant._asdict(), batch=4, steps=2
        )
        for run in prepared.phases.values():
            run()
    if case.student:
        model = models.create(case.student, 10 + bool(case.teacher))
        assert prepared.parameters == num_parameters(model)
        assert prepared.memory > 4 * prepared.parameters
        assert set(prepared.phases) == set(case.phases)


@pytest.mark.slow
@pytest.mark.parametrize("name", inputs.NAMES)
def test_kdjax_and_plain_optax_losses_are_equal(name, monkeypatch):
    monkeypatch.setattr(inputs, "ROWS", 64)
    arguments = inputs.arguments(name)
    values, expected = (in_jax.SIDES[side][name](*arguments) for side in ("kdjax", "optax"))
    assert values.shape == (64,)
    np.testing.assert_allclose(values, expected, rtol=1e-4)


def test_losses_are_timed_only_if_their_values_are_equal():
    values = {"kdjax": 2.0, "optax": 2.0}

    def answer(worker, command, /, **arguments):
        if command == "values":
            return {"loss": values[worker], "gradient": 1.0}
        seconds = SECONDS["kdjax"] if worker == "kdjax" else SECONDS["keras"]
        return {"seconds": seconds} if command == "time" else {}

    workers = {side: functools.partial(answer, side) for side in values}
    rows = list(losses_command.measure(workers, rounds=3))
    assert [(row["loss"], row["timed"]) for row in rows][:2] == [
        ("cross_entropy", "loss"), ("cross_entropy", "gradient")
    ]  # fmt: skip
    assert all(row["times_as_fast_as"]["optax"]["median"] == 4.0 for row in rows)
    text = losses_command.table({"rows": rows, "sides": values, "command": ["python"]})
    assert "| gambler | gradient | 2000.0 | 4.00 (4.00 to 4.00) |" in text
    values["optax"] = 2.1
    with pytest.raises(WorkerError, match=r"cross_entropy: the values of the sides differ: .*2\.1"):
        next(losses_command.measure(workers, rounds=3))


def num_parameters(model):
    images = np.zeros((1, 32, 32, 3), np.float32)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


@pytest.mark.slow
def test_no_array_of_the_agreement_check_is_constant(tmp_path, monkeypatch, unoptimized):
    monkeypatch.setattr(reference, "IMAGES", 8)
    loss = reference.agreement("alexnet_small", tmp_path)["loss"]
    assert np.isfinite(loss) and np.load(tmp_path / "kdjax.npy").std() > 0.1
    with np.load(tmp_path / "weights.npz") as arrays:
        assert all(array.std() > 0 for array in arrays.values())


# The protocol

WORKER = """
from experiments.benchmark.protocol import Prepared, serve
def prepare(resources, variant):
    resources.callback(print, "closed")
    return Prepared({"step": lambda: print("noise")}, parameters=3)
def fail():
    raise ValueError("two\\nlines")
serve(prepare, fail=fail)
"""


def test_worker_answers_each_line_and_continues_after_an_error():
    lines = [
        {"command": "prepare", "arguments": {"variant": {"name": "a"}}},
        {"command": "fail", "arguments": {}},
        {"command": "time", "arguments": {"variant": "a", "phase": "step"}},
        {"command": "release", "arguments": {}},
    ]
    done = subprocess.run(
        [sys.executable, "-c", WORKER],
        cwd=ROOT,
        input="".join(json.dumps(line) + "\n" for line in lines),
        capture_output=True,
        text=True,
    )
    prepared, failed, timed, released = map(json.loads, done.stdout.splitlines())
    assert prepared["parameters"] == 3 and prepared["phases"] == ["step"]
    assert failed == {"error": "ValueError: two lines"}
    assert timed["seconds"] >= 0 and released == {}
    assert done.stderr.count("noise") == 2 and "closed" in done.stderr
    assert done.returncode == 0


# The table


@pytest.fixture
def results(tmp_path):
    values = measured(FakeWorkers("torch", "kdjax"), ["input", "resnet18_to_alexnet"])
    path = tmp_path / "speed.json"
    path.write_text(json.dumps({"command": ["python", "a b"], **values}))
    return path


@pytest.mark.slow
def test_report_shows_median_and_range(results):
    text = table.full_report(json.loads(results.read_text()))
    ratios = "2.00 (2.00 to 2.00)"
    # Twice the multiply-adds, three times, of 8 images/s at 1 GFLOP/s.
    share = 100 * 8 * 6 * cost(models.create("alexnet", 11), cases.IMAGE_SHAPE).multiply_adds / 1e9
    row = f"| kdjax, float32, teacher cached | 8 | {ratios} | {ratios} | {share:.0f} | 2 |"
    assert row in text and "Best matrix product: 1 GFLOP/s in float32 (XLA)." in text
    versions = "jax 0.12.0, python 3.12.1"
    assert f"PyTorch: {versions}; kdjax: {versions}" in text and "`python 'a b'`" in text
    assert "- Left out: the GPU variants" in text and "- resnet50: logits" in text


def test_page_shows_all_results_and_is_checked_against_them(results, tmp_path):
    page = tmp_path / "speed.md"
    page.write_text(f"before\n{table.START}\nold\n{table.END}\nafter\n")
    earlier = json.loads(results.read_text().replace('"3.12.1"', '"3.11.7"'))
    other = tmp_path / "other.json"
    other.write_text(json.dumps(earlier))
    arguments = ["table", str(results), str(other), f"--page={page}"]
    with pytest.raises(SystemExit, match="differs from the table of these results"):
        command.main([*arguments, "--check"])
    command.main(arguments)
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    for run in ("1: Python 3.12, jax 0.12", "2: Python 3.11, jax 0.12"):
        start = f"| {run} | resnet18 -> alexnet"
        assert f"{start} | epoch with input and logging |" in text
        assert f"{start} | training step |" in text
        assert f"\n\n{run}: " in text
    assert text.count("| images/s |") == 1
    with pytest.raises(SystemExit) as exit_info:
        command.main([*arguments, "--check"])
    assert exit_info.value.code is None


@pytest.mark.parametrize(
    "text", ["", table.START, f"{table.END}{table.START}", f"{table.START}{table.END}" * 2]
)
def test_page_without_exactly_one_pair_of_markers_is_an_error(text):
    with pytest.raises(InputError, match="must contain one"):
        table.replace_section(text, "section")


@pytest.mark.parametrize("flag", ["--batch=0", "--steps=-1", "--rounds=x", "--cases=resnet19"])
def test_flag_out_of_range_is_an_error(flag, capsys):
    with pytest.raises(SystemExit):
        command.main(["measure", "--out=speed.json", flag])
    assert flag.partition("=")[2] in capsys.readouterr().err.splitlines()[-1]


def test_speedups_of_bfloat16_are_those_of_the_recorded_results():
    seconds = {}
    for path in (ROOT / "experiments" / "results").glob("speed_*python312.json"):
        for row in json.loads(path.read_text())["rows"]:
            if row["road"] == cases.STEP:
                seconds[row["case"], row["variant"]] = row["seconds"]
    # alexnet is measured as a student only: with the teacher's logits cached, it is all there is.
    measured = {name: (name, "") for name in cases.NETWORKS}
    measured["alexnet"] = ("resnet18_to_alexnet", "_cached")
    ratios = {
        network: measure.ratio(
            seconds[case, f"kdjax{cached}"], seconds[case, f"kdjax_bfloat16{cached}"]
        )["median"]
        for network, (case, cached) in measured.items()
    }
    expected = {network: round(ratio, 2) for network, ratio in ratios.items() if ratio >= 1.1}
    assert dict(compiler.BFLOAT16_SPEEDUPS) == expected


@pytest.mark.slow
def test_speed_page_is_made_from_the_recorded_results():
    results = sorted((ROOT / "experiments" / "results").glob("speed_*.json"))
    assert results
    page = ROOT / "docs" / "speed.md"
    with pytest.raises(SystemExit) as exit_info:
        command.main(["table", *map(str, results), f"--page={page}", "--check"])
    assert exit_info.value.code is None

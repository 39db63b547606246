"""The benchmark's own parts; no speed is measured here."""

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

from experiments.benchmark import __main__ as command
from experiments.benchmark import agree, cases, measure, ours, reference, structure, table
from experiments.benchmark.protocol import WorkerError
from experiments.benchmark.weights import torch_weights
from experiments.losses import __main__ as losses_command
from experiments.losses import in_jax, inputs
from kdjax import compiler, models
from kdjax.errors import InputError

ROOT = pathlib.Path(__file__).parents[1]
TORCH_PYTHON = os.environ.get("KDJAX_TORCH_PYTHON", "")
EVERY = {v.name for there in cases.VARIANTS.values() for v in there}
SIZE = measure.Size(batch=8, steps=2, rounds=3)
SPEED = {"torch": 4.0, "kdjax": 2.0, "keras": 8.0}  # seconds of a turn
ABOUT = {"versions": {"x": "1.0"}, "device_name": "", "ceiling_flops": 1e9, "ceiling_dtype": "f"}


class Sides:
    """Stand-ins for the workers, which note what they are asked."""

    def __init__(self, *names, devices=None, parameters=None, broken=()):
        self.asked, self.broken, self.devices = [], broken, devices or {}
        self.parameters = parameters or {}
        self.asks = {
            name: lambda do, name=name, **given: self.answer(name, do, given) for name in names
        }

    def answer(self, side, do, given):
        self.asked.append((do, side, given.get("road")))
        if do == "describe":
            return {**ABOUT, "device": self.devices.get(side, "cpu")}
        if do == "prepare":
            if given["variant"]["name"] in self.broken:
                raise WorkerError("no compiler")
            parameters = self.parameters.get(side, 7)
            known = {"flops": 1e6, "memory": 2**21} if side == "kdjax" else {}
            roads, unknown = given["case"]["roads"], {"flops": None, "memory": None}
            return {"seconds": 1, "roads": roads, "parameters": parameters, **unknown, **known}
        if do == "agreement":
            return self.logits(side, **given)
        return {"seconds": SPEED[side]}

    def logits(self, side, network, folder):
        np.save(pathlib.Path(folder) / f"{side}.npy", np.ones((2, 3)) + 1e-5 * (side == "torch"))
        return {"loss": 1.0}


def measured(sides, names=("resnet18",)):
    return measure.measure(sides.asks, names, EVERY, SIZE, save=lambda found: None)


def test_a_ratio_is_taken_round_by_round():
    found = measure.ratio([2.0, 4.0, 9.0], [1.0, 4.0, 3.0])
    assert found == {"median": 2.0, "min": 1.0, "max": 3.0}


def test_the_sides_run_in_turn():
    sides = Sides("torch", "kdjax")
    measure.measure(sides.asks, ["resnet18"], ["torch", "kdjax"], SIZE, save=lambda found: None)
    turns = [asked[1:] for asked in sides.asked if asked[0] == "turn"]
    rounds = [road for road in ("step", "epoch") for _ in range(SIZE.rounds)]
    assert turns == [(side, road) for road in rounds for side in ("torch", "kdjax")]


def test_a_row_says_how_fast_and_against_whom():
    rows = measured(Sides("torch", "kdjax"), ["resnet18_to_alexnet"])["rows"]
    row = {(row["variant"], row["road"]): row for row in rows}["kdjax_cached", "epoch"]
    assert row["images_per_second"] == SIZE.batch * SIZE.steps / SPEED["kdjax"]
    assert row["ratio"]["median"] == row["ratio_to_cached"]["median"] == 2.0
    assert row["seconds"] == [SPEED["kdjax"]] * SIZE.rounds
    assert row["flops_of_step"] == 1e6 and row["memory_of_step"] == 2**21


def test_results_are_saved_after_each_case():
    saved = []

    def save(found):
        saved.append({row["case"] for row in found["rows"]})

    measure.measure(Sides("torch", "kdjax").asks, ["input", "resnet18"], EVERY, SIZE, save)
    assert saved == [{"input"}, {"input", "resnet18"}]


def test_input_turns_read_more_images_than_training_ones():
    (row,) = measured(Sides("kdjax"), ["input"])["rows"]
    images = cases.INPUT_EPOCHS * SIZE.batch * SIZE.steps
    assert row["images_per_second"] == images / SPEED["kdjax"]


def test_what_is_not_measured_is_said():
    found = measured(Sides("torch", "kdjax", broken=["torch_compile"]))
    assert found["left_out"] == [
        "keras: no --keras-python was given",
        "the GPU table: no side sees a GPU here",
        "resnet18, torch_compile: no compiler",
    ]
    assert "torch_compile" not in {row["variant"] for row in found["rows"]}


def test_without_pytorch_there_is_no_ratio():
    found = measured(Sides("kdjax"))
    assert found["agreement"] == []
    assert not any("ratio" in row for row in found["rows"])


def test_on_a_gpu_everything_is_bfloat16():
    rows = measured(Sides("torch", "kdjax", "keras", devices=dict.fromkeys(SPEED, "gpu")))["rows"]
    assert {row["variant"] for row in rows} == {"torch", "torch_compile", "kdjax", "keras"}
    assert all("bfloat16" in row["title"] for row in rows)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"devices": {"torch": "cpu", "kdjax": "gpu"}}, "same device.*'torch': 'cpu'"),
        ({"parameters": {"torch": 8}}, "resnet18: the networks differ.*'torch': 8"),
    ],
)
def test_sides_that_do_not_compare_are_refused(given, message):
    with pytest.raises(WorkerError, match=message):
        measured(Sides("torch", "kdjax", **given))


@pytest.mark.parametrize("device", cases.VARIANTS)
@pytest.mark.parametrize("case", cases.CASES.values(), ids=lambda case: case.name)
def test_the_reference_comes_first_and_a_teacher_only_where_there_is_one(case, device):
    found = cases.variants(case, device, SPEED, EVERY)
    assert found[0].name == measure.REFERENCE
    assert bool(case.teacher) == any(variant.cached for variant in found)


@pytest.mark.parametrize(("difference", "holds"), [(1e-5, True), (2e-4, False), (np.nan, False)])
def test_agreement_has_a_tolerance(difference, holds):
    row = {"difference": difference, "objective_difference": 0.0}
    assert agree.holds([row]) is holds


def test_agreement_is_the_largest_difference():
    found = agree.agree(Sides("torch", "kdjax").asks)
    assert [row["network"] for row in found] == ["alexnet", "resnet18", "resnet50"]
    np.testing.assert_allclose([row["difference"] for row in found], 1e-5, rtol=1e-6)


# Weights


def conv_norm(name, channels, layer):
    width, kernel, _ = layer
    norm = dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (width,))
    shapes = {f"{name}.BatchNorm_0.{leaf}": shape for leaf, shape in norm.items()}
    return {f"{name}.Conv_0.weight": (width, channels, kernel, kernel), **shapes}


def resnet_shapes(name):
    channels, shapes = 64, conv_norm("stem", 3, (64, 3, 1))
    for label, layers in structure.blocks(name):
        inputs = [channels, *(layer[0] for layer in layers)]
        for index, layer in enumerate(layers):
            shapes |= conv_norm(f"{label}.ConvNorm_{index}", inputs[index], layer)
        if inputs[0] != inputs[-1] or max(layer[2] for layer in layers) > 1:
            shapes |= conv_norm(f"{label}.shortcut", channels, (inputs[-1], 1, 1))
        channels = inputs[-1]
    return shapes, channels


def alexnet_shapes():
    channels, shapes = 3, {}
    for index, (width, kernel, _, _) in enumerate(structure.ALEXNET):
        shapes[f"Conv_{index}.weight"] = (width, channels, kernel, kernel)
        shapes[f"Conv_{index}.bias"] = (width,)
        channels = width
    return shapes, channels


@pytest.mark.parametrize("name", agree.NETWORKS)
def test_weights_get_the_names_and_shapes_of_the_tables(name):
    images = np.zeros((1, 32, 32, 3), np.float32)
    model = models.create(name, 11)
    found = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    leaves = jax.tree.leaves_with_path(found)
    arrays = {"/".join(key.key for key in path): np.empty(leaf.shape) for path, leaf in leaves}
    shapes, channels = alexnet_shapes() if name == "alexnet" else resnet_shapes(name)
    shapes |= {"head.Dense_0.weight": (11, channels), "head.Dense_0.bias": (11,)}
    assert {key: array.shape for key, array in torch_weights(arrays).items()} == shapes


def test_a_weight_keeps_its_meaning():
    kernel = np.arange(3 * 3 * 2 * 5).reshape(3, 3, 2, 5)
    found = torch_weights({"params/Conv_0/kernel": kernel})["Conv_0.weight"]
    assert found[4, 1, 0, 2] == kernel[0, 2, 1, 4]


@pytest.mark.skipif(not TORCH_PYTHON, reason="KDJAX_TORCH_PYTHON names no python with torch")
def test_both_libraries_compute_the_same():
    done = run("agree", f"--torch-python={TORCH_PYTHON}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("logits of the same weights") == len(agree.NETWORKS)


def run(*arguments):
    program = [sys.executable, "-m", "experiments.benchmark", *arguments]
    return subprocess.run(program, cwd=ROOT, capture_output=True, text=True)


# kdjax's worker


@pytest.fixture
def unoptimized(monkeypatch):
    # Compiling well takes longer than the few steps that are taken here.
    for program in compiler.OPTIONS:
        monkeypatch.setitem(compiler.OPTIONS, program, compiler.OPTIONS["initialize"])


@pytest.mark.parametrize(
    ("case", "variant"),
    [
        (cases.Case("", "alexnet_small", "resnet8"), "kdjax_cached"),
        (cases.CASES["input"], "kdjax"),
    ],
)
def test_every_turn_of_kdjax_runs(case, variant, unoptimized):
    (chosen,) = (found for found in cases.VARIANTS["cpu"] if found.name == variant)
    with contextlib.ExitStack() as held:
        found = ours.prepare(held, case._asdict(), chosen._asdict(), batch=4, steps=2)
        for turn in found.turns.values():
            turn()
    if case.student:
        parameters = models.create(case.student, 10 + bool(case.teacher))
        assert found.parameters == size_of(parameters) and found.flops > 1e6
        assert found.memory > 4 * found.parameters
        assert set(found.turns) == set(case.roads)


@pytest.mark.parametrize("name", inputs.NAMES)
def test_the_losses_written_plainly_are_the_same(name, monkeypatch):
    monkeypatch.setattr(inputs, "ROWS", 64)
    given = inputs.arguments(name)
    ours, plain = (in_jax.SIDES[side][name](*given) for side in ("kdjax", "optax"))
    assert ours.shape == (64,)
    np.testing.assert_allclose(ours, plain, rtol=1e-4)


def test_losses_are_timed_in_turn_and_only_where_they_agree():
    values = {"kdjax": 2.0, "optax": 2.0}

    def ask(who, do, **given):
        turn = {"seconds": SPEED["kdjax"] if who == "kdjax" else SPEED["keras"]}
        return {"values": {"loss": values[who], "gradient": 1.0}, "prepare": {}}.get(do, turn)

    asks = {side: functools.partial(ask, side) for side in values}
    rows = list(losses_command.measure(asks, rounds=3))
    assert [(row["loss"], row["timed"]) for row in rows][:2] == [
        ("cross_entropy", "loss"), ("cross_entropy", "gradient")
    ]  # fmt: skip
    assert all(row["times_as_fast_as"]["optax"]["median"] == 4.0 for row in rows)
    told = losses_command.table({"rows": rows, "sides": values, "command": ["python"]})
    assert "| gambler | gradient | 2000.0 | 4.00 (4.00 to 4.00) |" in told
    values["optax"] = 2.1
    with pytest.raises(WorkerError, match=r"cross_entropy: the sides differ: .*2\.1"):
        next(losses_command.measure(asks, rounds=3))


def size_of(model):
    images = np.zeros((1, 32, 32, 3), np.float32)
    found = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    return sum(leaf.size for leaf in jax.tree.leaves(found["params"]))


def test_no_array_that_travels_is_trivial(tmp_path, unoptimized):
    loss = reference.agreement("alexnet_small", tmp_path)["loss"]
    assert np.isfinite(loss) and np.load(tmp_path / "kdjax.npy").std() > 0.1
    with np.load(tmp_path / "weights.npz") as arrays:
        assert all(array.std() > 0 for array in arrays.values())


# The protocol

WORKER = """
from experiments.benchmark.protocol import Prepared, serve
def prepare(held, variant):
    held.callback(print, "closed")
    return Prepared({"step": lambda: print("noise")}, parameters=3)
def fail():
    raise ValueError("two\\nlines")
serve(prepare, fail=fail)
"""


def test_a_worker_answers_each_line_and_survives_an_error():
    given = [
        {"do": "prepare", "variant": {"name": "a"}},
        {"do": "fail"},
        {"do": "turn", "variant": "a", "road": "step"},
        {"do": "release"},
    ]
    done = subprocess.run(
        [sys.executable, "-c", WORKER],
        cwd=ROOT,
        input="".join(json.dumps(line) + "\n" for line in given),
        capture_output=True,
        text=True,
    )
    prepared, failed, turn, released = map(json.loads, done.stdout.splitlines())
    assert prepared["parameters"] == 3 and prepared["roads"] == ["step"]
    assert failed == {"error": "ValueError: two lines"}
    assert turn["seconds"] >= 0 and released == {}
    assert done.stderr.count("noise") == 2 and "closed" in done.stderr
    assert done.returncode == 0


# The table


@pytest.fixture
def results(tmp_path):
    found = measured(Sides("torch", "kdjax"), ["input", "resnet18_to_alexnet"])
    path = tmp_path / "speed.json"
    path.write_text(json.dumps({"command": ["python", "a b"], **found}))
    return path


def test_the_table_shows_median_and_spread(results):
    text = table.markdown(json.loads(results.read_text()))
    ratios = "2.00 (2.00 to 2.00)"
    assert f"| kdjax, float32, teacher cached | 8 | {ratios} | {ratios} | 0 |" in text
    assert "| PyTorch, eager float32 | 4 | 1.00 (1.00 to 1.00) |  | 0 |" in text
    assert "PyTorch: x 1.0; kdjax: x 1.0" in text and "`python 'a b'`" in text
    assert "- Left out: the GPU table" in text and "- resnet50: logits" in text


def test_the_readme_shows_whole_epochs_and_is_checked_against_the_results(results, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{table.START}\nold\n{table.END}\nafter\n")
    arguments = ["table", str(results), f"--readme={readme}"]
    with pytest.raises(SystemExit, match="is not made from these results"):
        command.main([*arguments, "--check"])
    command.main(arguments)
    text = readme.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert "epoch with input and logging" in text and "training step" not in text
    with pytest.raises(SystemExit) as ended:
        command.main([*arguments, "--check"])
    assert ended.value.code is None


@pytest.mark.parametrize(
    "text", ["", table.START, f"{table.END}{table.START}", f"{table.START}{table.END}" * 2]
)
def test_a_readme_without_its_markers_is_refused(text):
    with pytest.raises(InputError, match="there must be one"):
        table.inserted(text, "section")


@pytest.mark.parametrize("flag", ["--batch=0", "--steps=-1", "--rounds=x", "--cases=resnet19"])
def test_a_flag_out_of_range_is_refused(flag, capsys):
    with pytest.raises(SystemExit):
        command.main(["measure", "--out=speed.json", flag])
    assert flag.partition("=")[2] in capsys.readouterr().err.splitlines()[-1]


def test_the_readme_of_the_project_is_made_from_its_results():
    results = sorted((ROOT / "experiments" / "results").glob("speed_*.json"))
    assert results
    with pytest.raises(SystemExit) as ended:
        command.main(["table", *map(str, results), f"--readme={ROOT / 'README.md'}", "--check"])
    assert ended.value.code is None

"""The scripts that measure times: what they run and how they summarize. No speed is measured."""

import itertools
import json
import subprocess
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.experiments import load, run_main
from support.tiny_network import TINY_NETWORK

from kdjax import objectives


def clock(patch, module, *times):
    """Makes both clocks of a script return these times, in turn, without waiting in between."""
    values = iter(times)
    clocks = dict.fromkeys(("monotonic", "perf_counter"), lambda: next(values))
    patch.setattr(module, "time", types.SimpleNamespace(**clocks, sleep=lambda seconds: None))


# startup.py


class Started:
    """A stand-in for a command that writes its log after some polls, or ends."""

    def __init__(self, log, polls, ended=False):
        self.log, self.polls, self.ended, self.killed = log, polls, ended, False

    def poll(self):
        self.polls -= 1
        if self.polls == 0 and not self.ended:
            self.log.parent.mkdir(parents=True)
            self.log.write_text('{"step": 1}\n')
        return 2 if self.ended else None

    def kill(self):
        self.killed = True

    def wait(self):
        assert self.killed


@pytest.mark.parametrize("ended", [False, True])
def test_run_is_killed_at_its_first_logged_step(tmp_path, monkeypatch, ended):
    startup, calls = load("startup"), []
    process = Started(tmp_path / "run" / "teacher" / "metrics.jsonl", 3, ended)

    def popen(command, *, env, stdout):
        calls.append((command, env))
        return process

    monkeypatch.setattr(startup.subprocess, "Popen", popen)
    clock(monkeypatch, startup, 10.0, 12.5)
    arguments = (tmp_path / "run", tmp_path / "cache", ["--config.seed=1"])
    if ended:
        with pytest.raises(SystemExit, match="the command ended before its first step"):
            startup.seconds_to_first_step(*arguments)
        return
    assert startup.seconds_to_first_step(*arguments) == 2.5 and process.killed
    ((command, environment),) = calls
    assert {"--config.seed=1", "--config.log_every=1", f"--workdir={tmp_path / 'run'}"} <= {
        *command
    }
    assert environment["XDG_CACHE_HOME"] == str(tmp_path / "cache")


def test_start_is_warm_with_the_cache_of_two_earlier_runs(monkeypatch, capsys):
    startup, caches = load("startup"), []
    seconds = {"cold": [8.0, 6.0, 7.0], "fill": [3.0] * 3, "warm": [2.0, 4.0, 2.5]}
    seconds["whole"] = [41.0, 43.0, 40.0]

    def to_first_step(workdir, cache, flags):
        assert flags == ["--config.size=laptop"]
        caches.append((workdir.name, cache))
        return seconds[workdir.name].pop(0)

    def to_end(workdir, cache, flags):
        assert cache.parent == workdir.parent and cache not in [used for _, used in caches]
        assert flags == ["--config.size=laptop"]
        return seconds["whole"].pop(0)

    imports = itertools.cycle([2.0, 3.0])
    monkeypatch.setattr(startup, "seconds_to_first_step", to_first_step)
    monkeypatch.setattr(startup, "seconds_to_end", to_end)
    monkeypatch.setattr(startup, "import_seconds", lambda code: next(imports))
    run_main(startup, monkeypatch, "--rounds=3", "--config.size=laptop")
    assert [name for name, _ in caches] == ["cold", "fill", "warm"] * 3
    assert len({cache for _, cache in caches}) == 3  # an empty cache in each round
    assert capsys.readouterr().out.splitlines()[2:] == [
        "| cold: from the command to the first step | 7.00 | 6.00 to 8.00 s |",
        "| warm: from the command to the first step | 2.50 | 2.00 to 4.00 s |",
        "| cold: the whole command | 41.00 | 40.00 to 43.00 s |",
        "| import kdjax.losses, relative to import jax, optax | 1.50 | 1.50 to 1.50 times |",
    ]


def test_whole_command_is_timed_to_its_end_and_must_succeed(tmp_path, monkeypatch):
    startup, calls = load("startup"), []
    monkeypatch.setattr(startup.subprocess, "run", lambda *args, **kwargs: calls.append(kwargs))
    clock(monkeypatch, startup, 10.0, 50.5)
    assert startup.seconds_to_end(tmp_path / "run", tmp_path / "cache", []) == 40.5
    (options,) = calls
    assert options["check"] and options["env"]["XDG_CACHE_HOME"] == str(tmp_path / "cache")


def test_import_is_timed_in_a_process_that_must_succeed():
    startup = load("startup")
    assert startup.import_seconds("import json") > 0
    with pytest.raises(subprocess.CalledProcessError):
        startup.import_seconds("raise SystemExit(3)")


# memory.py


def test_memory_is_measured_in_turn_without_and_with_the_allocator(monkeypatch, capsys):
    memory, measured = load("memory"), []
    seconds = {False: iter([2.0, 3.0]), True: iter([1.0, 2.0])}

    def measure(network, batch, tuned):
        measured.append((network, batch, tuned))
        return {"seconds": next(seconds[tuned]), "MiB": 2000.4 if tuned else 1000}

    monkeypatch.setattr(memory, "measure", measure)
    run_main(memory, monkeypatch, "--networks", "resnet8", "--batch=4", "--rounds=2")
    assert measured == [("resnet8", 4, tuned) for tuned in (False, True)] * 2
    assert capsys.readouterr().out.endswith("| resnet8 | 2.00, 1.50 | 1,000 | 2,000 |\n")


@pytest.mark.parametrize("tuned", [False, True])
def test_each_measurement_is_a_process_of_its_own(monkeypatch, tuned):
    memory = load("memory")

    def run(command, *, check, stdout):
        assert command[1:] == [memory.__file__, "--one=resnet8", "--batch=4", *["--tuned"] * tuned]
        return subprocess.CompletedProcess(command, 0, b'{"seconds": 1.5, "MiB": 7}')

    monkeypatch.setattr(memory.subprocess, "run", run)
    assert memory.measure("resnet8", 4, tuned) == {"seconds": 1.5, "MiB": 7}


def test_process_prints_one_measurement(monkeypatch, capsys):
    memory = load("memory")
    monkeypatch.setattr(memory, "measure_here", lambda network, batch: {"seconds": 1, "MiB": batch})
    run_main(memory, monkeypatch, "--one=resnet8", "--batch=4")
    assert json.loads(capsys.readouterr().out) == {"seconds": 1, "MiB": 4}


@pytest.mark.slow
def test_step_of_a_network_has_a_time_and_a_peak_of_memory():
    measured = load("memory").measure_here(TINY_NETWORK, 8)
    assert 0 < measured["seconds"] < 60 and measured["MiB"] > 50


# throughput.py


@pytest.mark.slow
def test_throughput_counts_the_images_of_all_students(monkeypatch):
    throughput, students = load("throughput"), 2
    monkeypatch.setattr(throughput, "IMAGES", 32)
    clock(monkeypatch, throughput, 0.0, 9.0, 10.0, 10.5)
    rate, first = throughput.measure(TINY_NETWORK, 8, "float32", students)
    assert first == 9.0  # compiles
    assert rate == 8 * students / 0.5  # one step a call on the CPU


def test_throughput_is_printed_with_the_device(monkeypatch, capsys):
    throughput = load("throughput")

    def measure(*arguments):
        assert arguments == ("resnet8", 64, "bfloat16", 3)
        return 12345.6, 7.89

    monkeypatch.setattr(throughput, "measure", measure)
    run_main(throughput, monkeypatch, "--network=resnet8", "--batch=64", "--students=3")
    device, line = capsys.readouterr().out.splitlines()
    assert device.startswith(f"{jax.devices()[0].device_kind}, jax {jax.__version__}")
    assert line == "12,346 images/s; first call, with compilation: 7.9 s"


# many_students.py


@pytest.mark.slow
def test_every_method_is_a_student_with_a_teacher_if_it_needs_one():
    many = load("many_students")
    specs, teacher = many.train_specs(4, "laptop")
    needs = [method.needs_teacher for method in objectives.METHODS.values()]
    assert [spec.teacher is not None for spec in specs] == needs
    assert {spec.batches.batch_size for spec in specs} == {4}
    (network, *others) = [spec.teacher for spec in specs if spec.teacher is not None]
    images = jnp.zeros((2, *many.SHAPE))
    logits = jax.eval_shape(lambda: network.apply(teacher.variables, images, train=False))
    assert logits.shape == (2, many.CLASSES) and all(other == network for other in others)


def test_ratio_is_of_the_sum_of_the_students_alone(monkeypatch, capsys):
    many = load("many_students")
    seconds = {1: iter([1.0, 3.0, 2.0, 2.0]), 2: iter([3.0, 2.0])}
    monkeypatch.setattr(many, "train_specs", lambda batch, size: (["a", "b"], "teacher"))
    monkeypatch.setattr(many, "random_examples", lambda batch: f"{batch} images")

    def timed_program(specs, teacher, examples):
        assert (teacher, examples) == ("teacher", "16 images")
        return lambda: next(seconds[len(specs)])

    monkeypatch.setattr(many, "timed_program", timed_program)
    run_main(many, monkeypatch, "--rounds=2", "--batch=16")
    assert capsys.readouterr().out.splitlines() == [
        "0.750 of 1.00 + 3.00 s",
        "0.500 of 2.00 + 2.00 s",
        "2 methods in one program: 0.625 (0.500 to 0.750) of the time",
    ]


def test_random_examples_fill_the_steps_with_every_class_allowed():
    many = load("many_students")
    examples = many.random_examples(4)
    assert examples.images.shape == (many.STEPS * 4, *many.SHAPE)
    assert np.min(examples.labels) >= 0 and np.max(examples.labels) < many.CLASSES


# convolutions.py


@pytest.fixture
def convolutions():
    return load("convolutions")


def test_programs_run_in_turn_and_the_first_round_does_not_count(convolutions, monkeypatch):
    order = []
    programs = {name: lambda name=name: order.append(name) for name in ("a", "b")}
    durations = [100, 200, 1, 10, 3, 30, 2, 20]  # of a and b in turn; the first ones warm up
    starts = itertools.accumulate(durations, initial=0)
    times = [time for start, stop in itertools.pairwise(starts) for time in (start, stop)]
    clock(monkeypatch, convolutions, *times)
    assert convolutions.median_seconds(programs, 3) == {"a": 2, "b": 20}
    assert order == ["a", "b"] * 4


@pytest.mark.slow
@pytest.mark.parametrize("network", ["alexnet_small", "resnet8", "fast_cnn_shallow"])
def test_a_step_with_either_layers_has_the_same_result(convolutions, network):
    step, variables = convolutions.training_step(network, 4)
    assert "custom_vmap" in str(jax.make_jaxpr(step)(variables))
    ours = jax.jit(step)(variables)
    with convolutions.flax_layers():
        step, initial = convolutions.training_step(network, 4)
        assert "custom_vmap" not in str(jax.make_jaxpr(step)(initial))
        theirs = jax.jit(step)(initial)
    leaves = zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    assert all(np.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in leaves)
    assert not np.allclose(jax.tree.leaves(ours)[0], jax.tree.leaves(variables)[0], atol=0)


def test_table_shows_the_ratios_of_median_times(convolutions, monkeypatch, capsys):
    seconds = {"kdjax": 2.0, "kdjax, loop": 4.0, "kdjax, vmap": 9.0, "flax": 3.0, "flax, vmap": 6.0}
    monkeypatch.setattr(convolutions, "make_programs", lambda *arguments: arguments)
    monkeypatch.setattr(convolutions, "median_seconds", lambda programs, repeats: seconds)
    run_main(convolutions, monkeypatch, "--networks=resnet8", "--batch=8", "--steps=4")
    *_, row = capsys.readouterr().out.splitlines()
    assert row == "| resnet8 | 1.50 | 0.50 | 1.12 | 0.50 |"

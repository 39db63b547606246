import contextlib
import gc
import resource
import shutil
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_array_equal

from kdjax.checkpoint import Checkpoints
from kdjax.errors import InputError, Preempted

SCORES = [0.1, 0.9, 0.3, 0.2, 0.4, 0.5]  # of steps 1 to 6, so that 2, 5 and 6 are kept


def state_at(step):
    """A small train state of every kind of leaf, with values that only exact copies keep."""
    odd = jnp.array([-0.0, jnp.nan, 1e-40, jnp.inf], jnp.float32) * step
    params = {"kernel": jnp.linspace(0, step, 6).reshape(2, 3), "odd": odd}
    return {
        "step": jnp.int32(step),
        "params": params,
        "opt_state": optax.sgd(0.1, momentum=0.9).init(params),
        "half": jnp.full(3, step / 3, jnp.bfloat16),
        "average": {},
    }


def save(checkpoints, step, score):
    metrics = {"accuracy": score, "nll": 1 / 3}
    checkpoints.save(step, state_at(step), score=score, clock=step / 3, metrics=metrics)


def bits(state):
    return jax.tree.map(lambda leaf: (leaf.dtype, leaf.shape, np.asarray(leaf).tobytes()), state)


def assert_is_step(found, step):
    assert found.step == step and found.clock == step / 3
    assert bits(found.state) == bits(state_at(step))


@pytest.fixture(scope="module")
def six_saves(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "checkpoints"
    with Checkpoints(folder, {"seed": 0}) as checkpoints:
        for step, score in enumerate(SCORES, start=1):
            save(checkpoints, step, score)
    return folder


@pytest.fixture
def folder(six_saves, tmp_path):
    return shutil.copytree(six_saves, tmp_path / "checkpoints")


@pytest.fixture
def orbax_leftovers():
    """Collects the coroutines that Orbax leaves unawaited where it meets damage.

    Their warnings come when they are collected: so it is done before the next test begins.
    """
    yield
    gc.collect()


# With the fixture above: these warnings are about Orbax, and the next ones about kdjax.
def damages(test):
    for mark in (
        pytest.mark.usefixtures("orbax_leftovers"),
        pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning"),
        pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    ):
        test = mark(test)
    return test


def test_the_newest_two_and_the_best_are_kept(folder):
    with Checkpoints(folder, {}) as checkpoints:
        assert checkpoints.steps() == [2, 5, 6]


@pytest.mark.parametrize("template", [state_at(0), jax.eval_shape(lambda: state_at(0))])
def test_restoring_gives_back_every_bit(folder, template):
    with Checkpoints(folder, {}) as checkpoints:
        latest, best = checkpoints.latest(template), checkpoints.best(template)
    assert_is_step(latest, 6)
    assert latest.metrics == {"score": 0.5, "accuracy": 0.5, "nll": 1 / 3}
    assert_is_step(best, 2)
    assert best.metrics == {"score": 0.9, "accuracy": 0.9, "nll": 1 / 3}


def test_where_nothing_was_saved_there_is_nothing(tmp_path):
    with Checkpoints(tmp_path / "none", {}) as checkpoints:
        assert checkpoints.steps() == []
        assert checkpoints.latest(state_at(0)) is None
        assert checkpoints.best(state_at(0)) is None


def test_a_run_goes_on_saving_where_it_stopped(folder):
    with Checkpoints(folder, {}) as checkpoints:
        save(checkpoints, 7, 0.95)
        save(checkpoints, 8, 0.6)
    with Checkpoints(folder, {}) as checkpoints:
        assert checkpoints.steps() == [7, 8]
        assert_is_step(checkpoints.best(state_at(0)), 7)


def test_a_saved_state_may_be_donated_at_once(tmp_path):
    start = np.arange(500_000, dtype=np.float32)
    overwrite = jax.jit(lambda x: x - 1, donate_argnums=0).lower(start).compile()
    state = jnp.copy(start)
    home = state.unsafe_buffer_pointer()
    with Checkpoints(tmp_path / "checkpoints", {}) as checkpoints:
        checkpoints.save(1, state, score=0.0, clock=0.0, metrics={})
        for _ in range(10):
            state = overwrite(state)
        # In place: the save in the background holds on to none of the buffers.
        assert state.unsafe_buffer_pointer() == home
    with Checkpoints(tmp_path / "checkpoints", {}) as checkpoints:
        assert_array_equal(checkpoints.latest(state).state, start)


def test_a_signal_while_reading_is_no_damage(folder, monkeypatch):
    def signalled(*_):
        raise Preempted

    monkeypatch.setattr("kdjax.checkpoint._verify", signalled)
    with Checkpoints(folder, {}) as checkpoints:
        for read in (checkpoints.latest, checkpoints.best):
            with pytest.raises(Preempted):
                read(state_at(0))


@contextlib.contextmanager
def files_of_at_most(size):
    """A disk without room: whatever writes a larger file is refused by the system."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@damages
@pytest.mark.parametrize("size", [100, 1_000, 100_000])
def test_a_full_disk_is_told_and_loses_nothing_that_was_saved(folder, size):
    refused = pytest.raises(OSError, match=r"checkpoint .*7 cannot be written: .*; those before")
    large = {"noise": np.random.default_rng(0).normal(size=100_000)}
    jax.tree.map(jnp.copy, large)  # compiled, and kept, while there is room
    with files_of_at_most(size), refused as told, Checkpoints(folder, {}) as checkpoints:
        checkpoints.save(7, large, score=0.0, clock=0.0, metrics={})
    assert "too large" in str(told.value)
    with Checkpoints(folder, {}) as checkpoints:
        assert checkpoints.steps() == [2, 5, 6]
        assert_is_step(checkpoints.latest(state_at(0)), 6)
        save(checkpoints, 7, 0.0)
    with Checkpoints(folder, {}) as checkpoints:
        assert_is_step(checkpoints.latest(state_at(0)), 7)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def invert_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def remove(path):
    path.unlink()


def latest_of_damaged(folder):
    """The latest checkpoint, and whether a warning told of damage."""
    recorded = warnings.catch_warnings(record=True, action="always")
    with recorded as caught, Checkpoints(folder, {}) as checkpoints:
        found = checkpoints.latest(state_at(0))
    return found, any("is damaged" in str(warning.message) for warning in caught)


def unseal(folder):
    """As if the process had been killed right after the checkpoint was there."""
    for seal in folder.glob("*/kdjax_crc32.json"):
        seal.unlink()


@pytest.mark.parametrize("damage", [truncate, invert_a_byte, remove])
def test_any_change_of_a_finished_checkpoint_is_noticed_before_orbax_reads_it(
    folder, tmp_path, damage, capfd
):
    for path in [
        path for path in (folder / "6").rglob("*") if path.stat().st_size and path.is_file()
    ]:
        name = path.relative_to(folder)
        copy = shutil.copytree(folder, tmp_path / "-".join(name.parts))
        damage(copy / name)
        found, told = latest_of_damaged(copy)
        lost = damage is remove and path.name == "kdjax_crc32.json"  # only the seal
        assert (found.step, told) == ((6, False) if lost else (5, True)), name
        assert_is_step(found, found.step)
    assert capfd.readouterr().err == ""


@damages
@pytest.mark.parametrize("damage", [truncate, remove])
def test_where_there_was_no_time_to_seal_the_latest_is_whole_or_the_one_before(
    folder, tmp_path, damage
):
    unseal(folder)
    passed_over = set()
    for path in [path for path in (folder / "6").rglob("*") if path.is_file()]:
        name = path.relative_to(folder)
        copy = shutil.copytree(folder, tmp_path / "-".join(name.parts))
        damage(copy / name)
        found, told = latest_of_damaged(copy)
        assert told == (found.step == 5), name
        assert_is_step(found, found.step)
        if told:
            passed_over.add("/".join(name.parts[1:3]))
    assert passed_over >= {
        "_CHECKPOINT_METADATA",
        "state/_METADATA",
        "state/manifest.ocdbt",
        "state/d",
    }


def warns_of_damage():
    return pytest.warns(RuntimeWarning, match=r"checkpoint .* is damaged .*; taking another")


each_damaged_file = pytest.mark.parametrize("file", ["metrics/metrics", "state/_METADATA"])


@damages
@each_damaged_file
def test_a_run_saves_again_what_it_fell_back_behind_however_often(folder, file):
    for _ in range(2):
        truncate(folder / "6" / file)
        with warns_of_damage(), Checkpoints(folder, {}) as checkpoints:
            assert_is_step(checkpoints.latest(state_at(0)), 5)
            save(checkpoints, 6, 0.5)
    with Checkpoints(folder, {}) as checkpoints:
        assert checkpoints.steps() == [2, 5, 6]
        assert_is_step(checkpoints.latest(state_at(0)), 6)


@damages
@each_damaged_file
def test_where_the_best_is_damaged_there_is_the_latest(folder, file):
    truncate(folder / "2" / file)
    with warns_of_damage(), Checkpoints(folder, {}) as checkpoints:
        assert_is_step(checkpoints.best(state_at(0)), 6)


@damages
@each_damaged_file
def test_where_all_are_damaged_there_is_an_error_and_no_new_start(folder, file):
    for step in (2, 5, 6):
        truncate(folder / str(step) / file)
    refused = pytest.raises(InputError, match=r"none of the checkpoints in .* can be read")
    with warns_of_damage(), refused, Checkpoints(folder, {}) as checkpoints:
        checkpoints.latest(state_at(0))

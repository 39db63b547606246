"""Checkpoints: what is kept, what is restored, and how damage is detected."""

import dataclasses
import gc
import shutil
import warnings
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_array_equal
from orbax.checkpoint import v1 as ocp
from support.full_disk import files_of_at_most
from support.networks import SHAPE, linear_spec

from kdjax.errors import InputError, Preempted
from kdjax.training.checkpoint import Checkpoints
from kdjax.training.step import TrainState, abstract_state, init_state

SCORES = [0.1, 0.9, 0.3, 0.2, 0.4, 0.5]  # of steps 1 to 6: 2, 5 and 6 are kept


def state_at(step):
    """A small train state with every kind of leaf and with values that need exact copies."""
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


def assert_is_step(restored, step):
    assert restored.step == step and restored.clock == step / 3
    assert bits(restored.state) == bits(state_at(step))


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
    """Collects the coroutines that Orbax does not await after an error.

    They warn when they are garbage-collected, which must happen before the next test begins. Only
    objects of this test are searched: all others take a second.
    """
    gc.freeze()
    yield
    gc.collect()


# With the fixture above, only warnings about Orbax's coroutines are ignored.
def damages(test):
    for mark in (
        pytest.mark.usefixtures("orbax_leftovers"),
        pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning"),
        pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    ):
        test = mark(test)
    return test


def test_newest_two_and_best_checkpoints_are_kept(folder):
    with Checkpoints(folder, {}) as checkpoints:
        assert checkpoints.steps() == [2, 5, 6]


@pytest.mark.parametrize("read_only", [True, False])
def test_reader_keeps_what_another_process_is_writing(folder, read_only):
    writing = shutil.copytree(folder / "6", folder / "7.orbax-checkpoint-tmp")
    (writing / "metrics" / "metrics").write_text('{"sco')  # half of a file
    with Checkpoints(folder, {}, read_only=read_only) as checkpoints:
        assert checkpoints.steps() == [2, 5, 6]
        assert_is_step(checkpoints.best(state_at(0)), 2)
    assert writing.exists() == read_only


@pytest.mark.parametrize("template", [state_at(0), jax.eval_shape(lambda: state_at(0))])
def test_restored_state_is_bit_identical(folder, template):
    with Checkpoints(folder, {}) as checkpoints:
        latest, best = checkpoints.latest(template), checkpoints.best(template)
    assert_is_step(latest, 6)
    assert latest.metrics == {"score": 0.5, "accuracy": 0.5, "nll": 1 / 3}
    assert_is_step(best, 2)
    assert best.metrics == {"score": 0.9, "accuracy": 0.9, "nll": 1 / 3}


class OlderState(flax.struct.PyTreeNode):
    """A train state of a version without the field `targets`."""

    step: Any
    variables: Any
    opt_state: Any
    average: Any


@pytest.mark.slow
def test_checkpoint_without_a_field_is_restored_if_the_field_is_empty(tmp_path):
    spec = linear_spec(optimizer=optax.sgd(0.1, momentum=0.9))
    state = init_state(spec, SHAPE)
    names = [field.name for field in dataclasses.fields(OlderState)]
    older = OlderState(**{name: getattr(state, name) for name in names})
    with Checkpoints(tmp_path / "checkpoints", {}) as checkpoints:
        checkpoints.save(1, older, score=0.5, clock=0.0, metrics={})
    with Checkpoints(tmp_path / "checkpoints", {}) as checkpoints:
        restored = checkpoints.latest(abstract_state(spec, SHAPE))
        assert isinstance(restored.state, TrainState) and restored.state.targets == {}
        assert bits(restored.state) == bits(state)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a[b]c", "[!x]", "st*r?"])
def test_folder_with_characters_of_patterns_is_read_again(name, tmp_path):
    folder = tmp_path / name / "checkpoints"
    for step in (1, 2):
        with Checkpoints(folder, {}) as checkpoints:
            save(checkpoints, step, 0.5)
    with Checkpoints(folder, {}) as checkpoints:
        assert_is_step(checkpoints.latest(state_at(0)), 2)


def test_empty_folder_has_no_checkpoints(tmp_path):
    with Checkpoints(tmp_path / "none", {}) as checkpoints:
        assert checkpoints.steps() == []
        assert checkpoints.latest(state_at(0)) is None
        assert checkpoints.best(state_at(0)) is None


@pytest.mark.slow
def test_second_session_continues_saving(folder):
    with Checkpoints(folder, {}) as checkpoints:
        save(checkpoints, 7, 0.95)
        save(checkpoints, 8, 0.6)
    with Checkpoints(folder, {}) as checkpoints:
        assert checkpoints.steps() == [7, 8]
        assert_is_step(checkpoints.best(state_at(0)), 7)


def test_saved_state_can_be_donated_immediately(tmp_path):
    start = np.arange(500_000, dtype=np.float32)
    overwrite = jax.jit(lambda x: x - 1, donate_argnums=0).lower(start).compile()
    state = jnp.copy(start)
    buffer = state.unsafe_buffer_pointer()
    with Checkpoints(tmp_path / "checkpoints", {}) as checkpoints:
        checkpoints.save(1, state, score=0.0, clock=0.0, metrics={})
        for _ in range(10):
            state = overwrite(state)
        # The updates were in place: the background save keeps no reference to the buffer.
        assert state.unsafe_buffer_pointer() == buffer
    with Checkpoints(tmp_path / "checkpoints", {}) as checkpoints:
        assert_array_equal(checkpoints.latest(state).state, start)


def test_signal_while_reading_is_not_reported_as_damage(folder, monkeypatch):
    def raise_preempted(*_):
        raise Preempted

    with Checkpoints(folder, {}) as checkpoints:
        monkeypatch.setattr("zlib.crc32", raise_preempted)
        for read in (checkpoints.latest, checkpoints.best):
            with pytest.raises(Preempted):
                read(state_at(0))


@pytest.mark.slow
@damages
@pytest.mark.parametrize("size", [100, 100_000])
def test_full_disk_is_reported_and_keeps_existing_checkpoints(folder, size):
    refused = pytest.raises(
        OSError, match=r"checkpoint .*7 cannot be written: .*; earlier checkpoints"
    )
    large = {"noise": np.random.default_rng(0).normal(size=100_000)}
    with files_of_at_most(size), refused as raised, Checkpoints(folder, {}) as checkpoints:
        checkpoints.save(7, large, score=0.0, clock=0.0, metrics={})
    assert "cannot be written: File too large; earlier" in str(raised.value)
    with Checkpoints(folder, {}) as checkpoints:
        assert checkpoints.steps() == [2, 5, 6]
        assert_is_step(checkpoints.latest(state_at(0)), 6)
        save(checkpoints, 7, 0.0)
    with Checkpoints(folder, {}) as checkpoints:
        assert_is_step(checkpoints.latest(state_at(0)), 7)


ERRORS = {
    "that follows from another": FileNotFoundError(2, "No such file or directory", "7/state"),
    "of several lines": ValueError('UNKNOWN: Writing "7/d":\nTransaction aborted\n'),
    "without a message": TimeoutError(),
}


@damages
@pytest.mark.parametrize("method", ["save_async", "wait"])
@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
def test_full_disk_is_the_reason_whichever_error_orbax_raises_first(
    folder, monkeypatch, method, error
):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(ocp.training.Checkpointer, method, fail)
    refused = pytest.raises(OSError, match=r"7 cannot be written: File too large; earlier")
    with files_of_at_most(1_000), refused as raised, Checkpoints(folder, {}) as checkpoints:
        checkpoints.save(7, {"noise": np.zeros(1000)}, score=0.0, clock=0.0, metrics={})
    assert raised.value.__cause__ is error


@damages
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ERRORS["without a message"], "TimeoutError"),
        (ERRORS["of several lines"], "Transaction aborted"),
        (ValueError('FAILED: Writing "/tmp/7/d": Input/output error'), "Input/output error"),
    ],
)
def test_error_of_orbax_is_the_reason_if_the_disk_has_space(folder, monkeypatch, error, reason):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(ocp.training.Checkpointer, "wait", fail)
    refused = pytest.raises(OSError, match=rf"7 cannot be written: {reason}; earlier")
    with refused, Checkpoints(folder, {}) as checkpoints:
        checkpoints.save(7, {"noise": np.zeros(10)}, score=0.0, clock=0.0, metrics={})
    assert not list(folder.glob("tmp*"))


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def invert_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def remove(path):
    path.unlink()


def latest_of_damaged(folder):
    """Returns the latest checkpoint, and whether a warning reported damage."""
    recorded = warnings.catch_warnings(record=True, action="always")
    with recorded as caught, Checkpoints(folder, {}) as checkpoints:
        latest = checkpoints.latest(state_at(0))
    return latest, any("is damaged" in str(warning.message) for warning in caught)


def remove_checksums(folder):
    """Leaves the folder as if the process had been killed before it wrote the checksums."""
    for path in folder.glob("*/kdjax_crc32.json"):
        path.unlink()


@pytest.mark.slow
@pytest.mark.parametrize("damage", [truncate, invert_a_byte, remove])
def test_any_damage_is_detected_by_the_checksums_before_orbax_reads(
    folder, tmp_path, damage, capfd
):
    for path in [
        path for path in (folder / "6").rglob("*") if path.stat().st_size and path.is_file()
    ]:
        name = path.relative_to(folder)
        copy = shutil.copytree(folder, tmp_path / "-".join(name.parts))
        damage(copy / name)
        latest, warned = latest_of_damaged(copy)
        only_checksums = damage is remove and path.name == "kdjax_crc32.json"
        assert (latest.step, warned) == ((6, False) if only_checksums else (5, True)), name
        assert_is_step(latest, latest.step)
    assert capfd.readouterr().err == ""


@pytest.mark.slow
@damages
@pytest.mark.parametrize("damage", [truncate, remove])
def test_without_checksums_damage_is_skipped_or_harmless(folder, tmp_path, damage):
    remove_checksums(folder)
    skipped = set()
    for path in [path for path in (folder / "6").rglob("*") if path.is_file()]:
        name = path.relative_to(folder)
        copy = shutil.copytree(folder, tmp_path / "-".join(name.parts))
        damage(copy / name)
        latest, warned = latest_of_damaged(copy)
        assert warned == (latest.step == 5), name
        assert_is_step(latest, latest.step)
        if warned:
            skipped.add("/".join(name.parts[1:3]))
    assert skipped >= {
        "_CHECKPOINT_METADATA",
        "state/_METADATA",
        "state/manifest.ocdbt",
        "state/d",
    }


def warns_of_damage():
    return pytest.warns(RuntimeWarning, match=r"checkpoint .* is damaged .*; using another one")


each_damaged_file = pytest.mark.parametrize("file", ["metrics/metrics", "state/_METADATA"])


@pytest.mark.slow
@damages
@each_damaged_file
def test_skipped_checkpoint_is_saved_again_repeatedly(folder, file):
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
def test_damaged_best_falls_back_to_latest(folder, file):
    truncate(folder / "2" / file)
    with warns_of_damage(), Checkpoints(folder, {}) as checkpoints:
        assert_is_step(checkpoints.best(state_at(0)), 6)


@damages
def test_without_an_early_checkpoint_a_damaged_later_one_is_no_error(folder):
    truncate(folder / "6" / "metrics" / "metrics")
    with warns_of_damage(), Checkpoints(folder, {}) as checkpoints:
        assert checkpoints.latest(state_at(0), at_most=1) is None
        assert_is_step(checkpoints.latest(state_at(0), at_most=4), 2)
        truncate(folder / "2" / "state" / "_METADATA")
        assert checkpoints.latest(state_at(0), at_most=4) is None
        assert_is_step(checkpoints.latest(state_at(0)), 5)


@damages
@each_damaged_file
def test_all_damaged_raises_instead_of_restarting(folder, file):
    for step in (2, 5, 6):
        truncate(folder / str(step) / file)
    refused = pytest.raises(InputError, match=r"none of the checkpoints in .* can be read")
    with warns_of_damage(), refused, Checkpoints(folder, {}) as checkpoints:
        checkpoints.latest(state_at(0))


# Scores are optional: checkpoints within an epoch and of pre-training have none.


def save_all(folder, scores):
    """Saves a checkpoint per score, with steps from 1; without a score there are no metrics."""
    with Checkpoints(folder, {}) as checkpoints:
        for step, score in enumerate(scores, start=1):
            metrics = {} if score is None else {"accuracy": score}
            checkpoints.save(step, state_at(step), score=score, clock=step / 3, metrics=metrics)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scores", "kept", "best"),
    [
        ([-5.0, None, None, None], [1, 3, 4], 1),
        ([None, None, -5.0, None], [3, 4], 3),
        ([None, 0.2, None, 0.1, None, None], [2, 5, 6], 2),
        ([0.1, None, 0.3, None], [3, 4], 3),
        ([None, None, None], [2, 3], 3),  # no score yet: the latest
    ],
)
def test_unscored_checkpoint_is_not_best_while_a_scored_one_exists(tmp_path, scores, kept, best):
    folder = tmp_path / "checkpoints"
    save_all(folder, scores)
    with Checkpoints(folder, {}) as checkpoints:
        assert checkpoints.steps() == kept
        assert_is_step(checkpoints.best(state_at(0)), best)
        assert_is_step(checkpoints.latest(state_at(0)), len(scores))


@pytest.mark.slow
def test_unscored_checkpoint_with_dev_metrics_is_not_best(tmp_path):
    folder = tmp_path / "checkpoints"
    with Checkpoints(folder, {}) as checkpoints:  # an epoch of pre-training is evaluated on dev
        for step, score in ((1, None), (2, -9.0), (3, None), (4, None)):
            metrics = {"accuracy": 1.0 - step / 10}
            checkpoints.save(step, state_at(step), score=score, clock=step / 3, metrics=metrics)
    with Checkpoints(folder, {}) as checkpoints:
        assert checkpoints.steps() == [2, 3, 4]
        assert_is_step(checkpoints.best(state_at(0)), 2)
        assert checkpoints.latest(state_at(0)).metrics == {"accuracy": 0.6}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([0.9 - 1e6, 0.1, -1e12], 2),  # pre-training, an epoch, within an epoch
        ([-0.3 - 1e6, -1e12, -0.7], 3),
        ([0.2 - 1e6, 0.4 - 1e6, 0.3 - 1e6], 2),  # only pre-training
        ([-1e12, 0.3 - 1e6, -1e12], 2),
    ],
)
def test_sentinel_scores_of_earlier_versions_give_the_same_best(tmp_path, scores, best):
    folder = tmp_path / "checkpoints"
    save_all(folder, scores)
    with Checkpoints(folder, {}) as checkpoints:
        assert_is_step(checkpoints.best(state_at(0)), best)


@pytest.mark.slow
def test_resumed_folder_of_an_earlier_version_keeps_the_best(tmp_path):
    folder = tmp_path / "checkpoints"
    save_all(folder, [0.9 - 1e6, 0.1, -1e12])
    with Checkpoints(folder, {}) as checkpoints:
        for step, score in ((4, None), (5, 0.05), (6, None)):
            metrics = {} if score is None else {"accuracy": score}
            checkpoints.save(step, state_at(step), score=score, clock=step / 3, metrics=metrics)
    with Checkpoints(folder, {}) as checkpoints:
        assert checkpoints.steps() == [2, 5, 6]
        assert_is_step(checkpoints.best(state_at(0)), 2)

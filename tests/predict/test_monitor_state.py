"""The file with the state of a monitor: which model it is of, and that nothing saved is lost."""

import json

import pytest
from support import monitored

from kdjax.errors import InputError
from kdjax.export import card
from kdjax.predict import monitor_state, monitoring
from kdjax.runtime import atomic_io


@pytest.fixture
def model_card(tmp_path):
    return card.read(monitored.model(tmp_path / "model"))


@pytest.mark.parametrize(
    "change",
    [
        {"threshold": 0.25},
        {"class_thresholds": [0.1, 0.2, None]},
        {"classes": ["red", "green", "violet"]},
        {"certificate": None},
        {"monitoring": None},
        {"files": {"model.stablehlo": {"sha256": "0" * 64}}},
    ],
)
def test_another_export_is_another_model(model_card, change):
    assert monitor_state.identity({**model_card, **change}) != monitor_state.identity(model_card)


@pytest.mark.parametrize(
    "change", [{"notes": ["another"]}, {"license": "MIT"}, {"author": "somebody"}, {"name": "new"}]
)
def test_what_is_not_about_the_promise_does_not_matter(model_card, change):
    assert monitor_state.identity({**model_card, **change}) == monitor_state.identity(model_card)


def test_a_state_is_read_as_it_was_saved(tmp_path):
    path = tmp_path / "deep" / "state.json"
    assert monitor_state.load(path, "m") is None
    monitor_state.save(path, "m", {"history": [[1, None, 0.1 + 0.2]]})
    assert monitor_state.load(path, "m")["history"] == [[1, None, 0.1 + 0.2]]
    with pytest.raises(InputError, match="state of another model"):
        monitor_state.load(path, "n")


@pytest.mark.parametrize(
    "change", [("30", "31"), ('"log_wealth":', '"log_wealth": 1'), ("[", "[9,")]
)
def test_a_state_that_was_changed_is_refused_and_kept(tmp_path, change):
    model, state = monitored.model(tmp_path / "model"), tmp_path / "state.json"
    path = monitored.write_json(tmp_path / "rows.jsonl", monitored.rows(30))
    monitoring.watch(model, [path], state=state)
    damaged = state.read_text().replace(*change, 1)
    state.write_text(damaged)
    with pytest.raises(InputError, match=r"'.*state.json' is damaged"):
        monitoring.watch(model, [path], state=state)
    assert state.read_text() == damaged
    with pytest.raises(InputError, match="is a folder"):
        monitoring.watch(model, [path], state=tmp_path)


def test_a_failed_write_leaves_the_last_state(tmp_path, monkeypatch):
    model, state = monitored.model(tmp_path / "model"), tmp_path / "state.json"
    first = monitored.write_json(tmp_path / "first.jsonl", monitored.rows(20))
    second = monitored.write_json(tmp_path / "second.jsonl", monitored.rows(30, seed=1))
    monitoring.watch(model, [first], state=state)
    before = state.read_bytes()

    def full(path, content):
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(atomic_io, "write_file", full)
        monitoring.watch(model, [second], state=state)
    assert state.read_bytes() == before
    assert monitoring.watch(model, [second], state=state).monitor.examples == 50


def test_a_number_that_json_lacks_is_never_written(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        monitor_state.save(tmp_path / "state.json", "m", {"wealth": float("inf")})
    assert not (tmp_path / "state.json").exists()


def test_a_state_of_no_label_yet_is_a_value_for_json(tmp_path):
    model, state = monitored.model(tmp_path / "model"), tmp_path / "state.json"
    path = monitored.write_json(tmp_path / "new.jsonl", monitored.rows(5, labelled=0))
    monitoring.watch(model, [path], state=state)
    stored = json.loads(state.read_text(), parse_constant=pytest.fail)
    assert stored["monitor"]["tests"]["risk"]["log_capital"] is None
    labelled = monitored.write_json(tmp_path / "more.jsonl", monitored.rows(5, labelled=1, seed=1))
    assert monitoring.watch(model, [labelled], state=state).labelled == 5


def test_the_lock_is_free_after_an_error(tmp_path):
    with pytest.raises(RuntimeError), monitor_state.lock(tmp_path / "state.json"):
        raise RuntimeError
    with monitor_state.lock(tmp_path / "state.json"):
        pass


def test_a_state_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(InputError, match=r"cannot be created: '.*/file' is a file"),
        monitor_state.lock(tmp_path / "file" / "state.json"),
    ):
        pass

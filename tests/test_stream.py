"""Whole runs that stream their images, beside the same ones in memory."""

import pathlib

import numpy as np
import pytest
from test_train import arrays, tiny

from kdjax import assess, train
from kdjax.data import batches
from kdjax.errors import InputError, Preempted
from kdjax.preemption import Preemption


def test_a_streaming_run_that_is_stopped_within_an_epoch_ends_as_one_in_memory(
    data_dir: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts, stream = [], batches._stream
    monkeypatch.setattr(batches, "_stream", lambda *args: starts.append(args[-1]) or stream(*args))
    fields = {"objective.method": "gambler", "objective.pretrain_epochs": 0}
    resident, streaming = (
        tiny(data_dir, **fields, **{"data.pipeline": pipeline})
        for pipeline in ("resident", "stream")
    )
    one, other = tmp_path / "resident", tmp_path / "stream"
    in_memory = train.run(resident, one)
    assert starts == []
    with monkeypatch.context() as patch, pytest.raises(Preempted):
        patch.setattr(Preemption, "asked", lambda self, done: done == 6)  # of 4 an epoch
        train.run(streaming, other)
    assert set(starts) == {0}
    starts.clear()
    on_disk = train.run(streaming, other)
    assert starts == [2, 0]  # what is left of the epoch, then dev
    (steps, expected), (again, found) = arrays(one), arrays(other)
    assert steps == again == 8
    for first, second in zip(expected, found, strict=True):
        np.testing.assert_array_equal(first, second)

    assess.assess(one, in_memory)
    assess.assess(other, on_disk)
    for name in ("results.json", "predictions/dev.npz", "predictions/calibration.npz"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    train.run(resident, other)  # the pipeline is no part of what a run is


def test_an_unknown_pipeline_is_told_the_nearest_one(data_dir: pathlib.Path) -> None:
    with pytest.raises(InputError, match=r"data.pipeline 'steam': did you mean 'stream'"):
        tiny(data_dir, **{"data.pipeline": "steam"})

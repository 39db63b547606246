"""Whole runs that stream their images, compared with the same runs in memory."""

import pathlib
from typing import Any

import numpy as np
import pytest
from support.runs import final_arrays, stop_at_step, tiny

from kdjax import pipeline
from kdjax.data.augment import epoch_order
from kdjax.data.records import Records
from kdjax.errors import InputError, Preempted
from kdjax.evaluation import evaluate
from kdjax.runs import teacher_stage


@pytest.fixture
def numbers_read(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """The record numbers of the images that the latest training stage has read from disk."""
    numbers: set[int] = set()
    read, train_stage = Records.__array__, pipeline.train_stage

    def record_read(records: Records, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        numbers.update(records.numbers.tolist())
        return read(records, dtype, copy)

    def record_stage(*args: Any, **options: Any) -> None:
        numbers.clear()  # loading the data reads all of it
        train_stage(*args, **options)

    monkeypatch.setattr(Records, "__array__", record_read)
    for module in (pipeline, teacher_stage):
        monkeypatch.setattr(module, "train_stage", record_stage)
    return numbers


@pytest.mark.slow
def test_streaming_run_resumed_within_an_epoch_is_bit_identical_to_resident(
    data_dir: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    numbers_read: set[int],
) -> None:
    # A method with a state for each training image.
    fields = {"objective.method": "self_adaptive", "objective.pretrain_epochs": 0}
    resident, streaming = (
        tiny(data_dir, **fields, **{"data.pipeline": name}) for name in ("resident", "stream")
    )
    resident_folder, stream_folder = tmp_path / "resident", tmp_path / "stream"
    in_memory = pipeline.train(resident, resident_folder)
    assert not numbers_read
    with monkeypatch.context() as patch, pytest.raises(Preempted):
        stop_at_step(patch, 6)  # 4 steps per epoch
        pipeline.train(streaming, stream_folder)
    on_disk = pipeline.train(streaming, stream_folder)
    # The images of the rest of the epoch, 2 of 4 batches of 16, and those of dev.
    order = epoch_order(64, seed=streaming.order_seed, epoch=1)
    remaining = on_disk.train.images.numbers[np.asarray(order)[2 * 16 :]]
    assert numbers_read == {*remaining.tolist(), *on_disk.dev.images.numbers.tolist()}
    (steps, expected), (stream_steps, actual) = map(final_arrays, (resident_folder, stream_folder))
    assert steps == stream_steps == 8
    for expected_leaf, leaf in zip(expected, actual, strict=True):
        np.testing.assert_array_equal(leaf, expected_leaf)

    evaluate.evaluate(resident_folder, in_memory)
    evaluate.evaluate(stream_folder, on_disk)
    for name in ("results.json", "predictions/dev.npz", "predictions/calibration.npz"):
        assert (resident_folder / name).read_bytes() == (stream_folder / name).read_bytes(), name
    pipeline.train(resident, stream_folder)  # the pipeline may differ within one workdir


def test_unknown_pipeline_is_refused_with_the_nearest(data_dir: pathlib.Path) -> None:
    with pytest.raises(InputError, match=r"data.pipeline 'steam': did you mean 'stream'"):
        tiny(data_dir, **{"data.pipeline": "steam"})

"""Options of an evaluation that are checked or set before anything is computed."""

import json
import pathlib

import pytest
from support import sample_runs

from kdjax.errors import InputError
from kdjax.evaluation import evaluate, network, robustness
from kdjax.evaluation.requested_point import PointRequest
from kdjax.export import serving
from kdjax.runs import restore, workdir
from kdjax.runtime import compiler


class Stopped(Exception):
    """Raised where the computation would start."""


@pytest.fixture
def folder(tmp_path: pathlib.Path, monkeypatch) -> pathlib.Path:
    """A workdir without checkpoints, of a run without `cpu_tuning`."""

    def stop(*_, **__):
        raise Stopped

    for module, name in (
        (restore, "load_dataset"),
        (restore, "restore"),
        (network, "restore_network"),
    ):
        monkeypatch.setattr(module, name, stop)
    folder = sample_runs.write(tmp_path / "run")
    metadata = json.loads((folder / "config.json").read_text())
    metadata["config"]["cpu_tuning"] = False
    sample_runs.write_json(folder / "config.json", metadata)
    return folder


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"risk": 2}, r"risk must lie in \(0, 1\): got 2"),
        ({"risk": 0}, r"risk must lie in \(0, 1\): got 0"),
        ({"delta": float("nan")}, r"delta must lie in \(0, 1\): got nan"),
        ({"coverage": 1.0}, r"coverage must lie in \[0, 1\): got 1.0"),
        ({"coverage": -0.5}, r"coverage must lie in \[0, 1\): got -0.5"),
    ],
)
def test_requests_are_checked_before_anything_is_computed(folder, options, message) -> None:
    with pytest.raises(InputError, match=message):
        evaluate.evaluate(folder, None, **options)


def test_every_evaluation_uses_the_compiler_options_of_the_run(folder, monkeypatch) -> None:
    tuned = []
    monkeypatch.setattr(compiler, "set_tuned", tuned.append)
    for compute in (
        lambda: evaluate.evaluate(folder, None),
        lambda: robustness.evaluate_shifts(folder, ["noise"]),
        lambda: serving.serve(
            folder, workdir.read_results(folder), data_dir=None, request=PointRequest()
        ),
    ):
        with pytest.raises(Stopped):
            compute()
    assert tuned == [False] * 3

"""A run with its page, for all tests that do not change them."""

import pathlib
from typing import NamedTuple

import pytest
from support import sample_runs

from kdjax.report import page


class Written(NamedTuple):
    folder: pathlib.Path
    run: page.Run
    html: str


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    """Returns a run with everything that a page can show, and its page."""
    folder = sample_runs.write(tmp_path_factory.mktemp("runs") / "<i>run")
    threshold = page.read(folder).operating_point.threshold
    sample_runs.write_json(folder / "shift.json", sample_runs.shift(threshold))
    (folder / "teacher").mkdir()
    sample_runs.write_json(folder / "teacher" / "config.json", sample_runs.metadata("teacher"))
    (folder / "teacher" / "metrics.jsonl").write_text((folder / "metrics.jsonl").read_text())
    run = page.read(folder)
    path = page.write(run, sample_runs.gallery_split(folder))
    assert path == folder / "report.html"
    return Written(folder, run, path.read_text(encoding="utf-8"))

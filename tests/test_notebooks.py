"""The notebooks run here on a small run, and what is committed is what they say on a real one."""

import re
import sys

import nbformat
import pytest
from commands import ROOT
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient

NOTEBOOKS = sorted(ROOT.glob("experiments/notebooks/*.ipynb"))
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
# A slash that begins a word and is followed by another one; not "1/2", "</b>" or "https://".
ABSOLUTE_PATH = re.compile(r"(?<![\w.:/<])/\w[\w.-]*/|[A-Z]:\\")


def execute(path, folder):
    """Returns the notebook with the outputs of this interpreter, run in a folder."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=300, coalesce_streams=True, resources={"metadata": {"path": str(folder)}}
    )
    # Without any kernel installed there is one left: ipykernel under sys.executable.
    client.km = AsyncKernelManager(kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
    assert client.km.kernel_spec.argv[0] == sys.executable
    return client.execute()


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def kinds(notebook):
    """What each code cell leaves: its streams, and the formats of what it displays."""
    return [
        [output.get("name") or sorted(output.get("data", [output.output_type])) for output in cell]
        for cell in (cell.outputs for cell in code_cells(notebook))
    ]


def test_there_are_notebooks():
    assert [path.stem for path in NOTEBOOKS] == [
        "choosing_a_threshold",
        "losses_in_your_own_loop",
        "reading_a_run",
    ]


@each
def test_it_runs_and_leaves_what_is_committed(path, finished, tmp_path, monkeypatch):
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("KDJAX_RUN", str(finished.folder))
    executed = execute(path, tmp_path)
    assert kinds(executed) == kinds(nbformat.read(path, as_version=4))


@each
def test_it_is_committed_as_it_was_executed(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert {output.get("name", output.output_type) for output in outputs} == {
        "stdout",
        "display_data",
    }
    assert all(cell.metadata == {} for cell in notebook.cells)  # no times
    assert path.stat().st_size < 150_000


@each
def test_it_names_no_path_of_the_machine_it_was_executed_on(path):
    for cell in nbformat.read(path, as_version=4).cells:
        shown = [cell.source]
        for output in cell.get("outputs", []):
            shown += [output.get("text", ""), output.get("data", {}).get("text/plain", "")]
        assert not ABSOLUTE_PATH.search("\n".join(shown)), cell.id

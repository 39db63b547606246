"""The notebooks run on a small run, and are committed with the outputs of a complete one."""

import re
import sys

import nbformat
import pytest
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient
from support.commands import ROOT

NOTEBOOKS = sorted(ROOT.glob("experiments/notebooks/*.ipynb"))
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
# A slash that begins a word and is followed by another one; not "1/2", "</b>" or "https://".
ABSOLUTE_PATH = re.compile(r"(?<![\w.:/<])/\w[\w.-]*/|[A-Z]:\\")


# Of the training in `losses_in_your_own_loop`: the kinds of the outputs do not depend on them.
FEWER_STEPS = {"in (300, 450, 600)": "in (6, 9, 12)", "steps=120": "steps=20"}


def execute(path, folder, changes):
    """Returns the notebook, executed by this interpreter in a folder, with changes of its code."""
    notebook = nbformat.read(path, as_version=4)
    for cell in code_cells(notebook):
        for text, changed in changes.items():
            cell.source = cell.source.replace(text, changed)
    client = NotebookClient(
        notebook, timeout=300, coalesce_streams=True, resources={"metadata": {"path": str(folder)}}
    )
    # With no kernel directories, the only kernel is ipykernel under sys.executable.
    client.km = AsyncKernelManager(kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
    assert client.km.kernel_spec.argv[0] == sys.executable
    return client.execute()


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def output_kinds(notebook):
    """The names of the streams and the formats of the displayed data, for each code cell."""
    return [
        [
            output.get("name") or sorted(output.get("data", [output.output_type]))
            for output in cell.outputs
        ]
        for cell in code_cells(notebook)
    ]


def test_notebooks_are_found():
    assert [path.stem for path in NOTEBOOKS] == [
        "choosing_a_threshold",
        "losses_in_your_own_loop",
        "reading_a_run",
    ]


@pytest.mark.slow
@every_notebook
def test_executed_notebook_has_outputs_of_the_committed_kinds(
    path, finished_run, tmp_path, monkeypatch
):
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("KDJAX_RUN", str(finished_run.folder))
    # Storing its hundreds of small programs for others takes longer than compiling them again.
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
    executed = execute(path, tmp_path, FEWER_STEPS)
    assert output_kinds(executed) == output_kinds(nbformat.read(path, as_version=4))


@every_notebook
def test_committed_notebook_was_executed_in_order_without_errors(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert {output.get("name", output.output_type) for output in outputs} == {
        "stdout",
        "display_data",
    }
    assert all(cell.metadata == {} for cell in notebook.cells)  # no execution times
    assert path.stat().st_size < 150_000


@every_notebook
def test_committed_notebook_contains_no_absolute_path(path):
    for cell in nbformat.read(path, as_version=4).cells:
        texts = [cell.source]
        for output in cell.get("outputs", []):
            texts += [output.get("text", ""), output.get("data", {}).get("text/plain", "")]
        assert not ABSOLUTE_PATH.search("\n".join(texts)), cell.id

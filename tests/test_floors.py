"""The floors of the house: a file imports only from its own floor or those below."""

import ast
import pathlib
import subprocess
import sys

import pytest

import kdjax

ROOT = pathlib.Path(kdjax.__file__).parent
FLOORS = [
    {"errors", "checks", "losses", "adjustment", "selective", "models"},
    {"objectives", "config", "optimizer", "data", "checkpoint", "workdir", "parallel", "report"}
    | {"card", "compiler", "files", "formats", "preemption", "students"},
    {"step", "together"},
    {"stage", "teaching", "loop", "train", "assess", "shifted"},
    {"cli", "main", "evaluate", "export", "predict"},
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
GROUND_IMPORTS = {"jax", "flax", "numpy", "scipy", "optax", "kdjax"}
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def room(path: pathlib.Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def floor(path: pathlib.Path) -> int:
    # `python -m kdjax.report` is a door, whatever room it stands in.
    return len(FLOORS) - 1 if path.name == "__main__.py" else FLOOR_OF[room(path)]


def imported(path: pathlib.Path) -> set[str]:
    """Full names of all that a file imports, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_every_room_has_a_floor() -> None:
    assert {room(path) for path in FILES} == set(FLOOR_OF)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_imported_from_a_floor_above(path: pathlib.Path) -> None:
    rooms = {name.split(".")[1] for name in imported(path) if name.startswith("kdjax.")}
    above = {other for other in rooms if FLOOR_OF[other] > floor(path)}
    assert not above


@pytest.mark.parametrize(
    "path", [path for path in FILES if FLOOR_OF[room(path)] == 0], ids=lambda path: path.name
)
def test_the_ground_floor_needs_no_other_library(path: pathlib.Path) -> None:
    libraries = {name.split(".")[0] for name in imported(path)}
    assert libraries - set(sys.stdlib_module_names) <= GROUND_IMPORTS


def test_importing_the_losses_brings_no_heavy_library() -> None:
    code = (
        "import sys, kdjax.losses, kdjax.adjustment, kdjax.selective;"
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert {"jax", "optax"} <= set(loaded)
    assert not {"tensorflow_datasets", "orbax", "sklearn", "tensorflow", "rich"} & set(loaded)

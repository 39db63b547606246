"""Loads the scripts of `experiments/`, which are not part of a package."""

import importlib.util
import sys
from types import ModuleType
from typing import Any

import pytest

from support.commands import ROOT

FOLDER = ROOT / "experiments"


def load(name: str, patch: pytest.MonkeyPatch | None = None) -> ModuleType:
    """Returns a script as a module; it is not stored in `sys.modules`.

    Args:
        name: of the file, without its extension.
        patch: lets a script import the scripts beside it, as it does when it is run.
    """
    if patch:
        patch.syspath_prepend(FOLDER)
    spec = importlib.util.spec_from_file_location(f"script_{name}", FOLDER / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_main(module: ModuleType, patch: pytest.MonkeyPatch, *arguments: Any) -> None:
    """Calls `main()` of a script with these arguments of the command line."""
    patch.setattr(sys, "argv", [f"{module.__name__}.py", *map(str, arguments)])
    module.main()

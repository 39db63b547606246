"""Distil a large image classifier into a small one that knows when to abstain."""

import importlib
from typing import Any

__version__ = "0.1.0"

# Imported on first use: `import kdjax` alone loads neither JAX nor TFDS.
_SUBMODULES = (
    "adjustment",
    "config",
    "data",
    "evaluation",
    "losses",
    "models",
    "objectives",
    "predict",
    "report",
    "runs",
    "selective",
    "training",
)


def __getattr__(name: str) -> Any:
    if name == "restore":
        return importlib.import_module("kdjax.runs.restore").restore
    if name in _SUBMODULES:
        return importlib.import_module(f"kdjax.{name}")
    raise AttributeError(f"module 'kdjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), "restore", *_SUBMODULES])

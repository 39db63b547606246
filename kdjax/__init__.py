"""Distil a large image classifier into a small one that abstains when it is unsure."""

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

# Functions with their modules.
_FUNCTIONS = {"averaged_logits": "kdjax.evaluation.network", "restore": "kdjax.runs.restore"}


def __getattr__(name: str) -> Any:
    if name in _FUNCTIONS:
        return getattr(_import(_FUNCTIONS[name]), name)
    if name in _SUBMODULES:
        return _import(f"kdjax.{name}")
    raise AttributeError(f"module 'kdjax' has no attribute {name!r}")


def _import(module: str) -> Any:
    """Imports a module; names the extra that installs a missing library."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        from kdjax import extras

        if missing := extras.missing_library_error(error):
            raise ModuleNotFoundError(str(missing), name=error.name) from error
        raise


def __dir__() -> list[str]:
    return sorted([*globals(), *_FUNCTIONS, *_SUBMODULES])

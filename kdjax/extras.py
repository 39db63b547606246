"""Optional libraries: the extra of the package that installs each of them."""

import importlib.util
import warnings
from collections.abc import Mapping

from kdjax.errors import InputError

# Extra of pyproject.toml -> modules that it makes importable.
EXTRAS: Mapping[str, tuple[str, ...]] = {
    "train": ("orbax", "filelock", "rich", "tensorboardX"),
    "data": (
        "tensorflow_datasets",
        "importlib_resources",
        "array_record",
        "grain",
        "requests",
        "sklearn",
    ),
    "report": ("matplotlib", "jinja2"),
    "onnx": ("onnxruntime", "jax2onnx"),
    "export": ("flatbuffers",),
    "weights": ("safetensors",),
    "wandb": ("wandb",),
    "mlflow": ("mlflow",),
}


def missing(*extras: str) -> list[str]:
    """Returns the modules of the extras that are not installed."""
    modules = [module for extra in extras for module in EXTRAS[extra]]
    return [module for module in modules if importlib.util.find_spec(module) is None]


def require(*extras: str) -> None:
    """Raises if a library of an extra is not installed.

    Raises:
        InputError: naming the library and the command that installs it.
    """
    for extra in extras:
        if modules := missing(extra):
            raise InputError(_hint(modules[0], extra))


def warn(extra: str, consequence: str) -> bool:
    """Warns if a library of an extra is not installed; returns whether all of them are.

    Args:
        extra: a key of `EXTRAS`.
        consequence: what does not happen without it.
    """
    modules = missing(extra)
    if modules:
        warnings.warn(f"{consequence}: {_hint(modules[0], extra)}", RuntimeWarning, stacklevel=2)
    return not modules


def missing_library_error(error: ModuleNotFoundError) -> InputError | None:
    """Returns the error with the command that installs the library; None for other modules."""
    library = (error.name or "").partition(".")[0]
    for extra, modules in EXTRAS.items():
        if library in modules:
            return InputError(_hint(library, extra))
    return None


def _hint(module: str, extra: str) -> str:
    return f"the library {module} is not installed: pip install 'kdjax[{extra}]'"

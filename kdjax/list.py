"""Lists the configs, methods, models, data sets and scores, with a line about each.

kdjax list [--json]
kdjax list configs|methods|models|datasets|scores [--json]

`python -m kdjax.list` is the same command.
"""

import functools
import inspect
import json
import shutil
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

from absl import flags

from kdjax import cli, config_files
from kdjax.errors import unknown_name_error

JSON = flags.DEFINE_bool("json", False, "print one JSON object: kind -> name -> description")
MAX_COLUMNS = 100
# What a config that uses one of these says is about the run, not about its images.
DATA: Mapping[str, str] = {
    "digits_noisy": (
        "the digits of scikit-learn; in a third of the images, noise replaces up to 3/4 of the "
        "pixels"
    ),
}
# Other values of `data.name`. Written here because kdjax.data needs the extra `train`.
OWN_DATA: Mapping[str, str] = {
    "folder:PATH": "your own images: a folder for each class",
    "csv:FILE": "your own images: a table of their paths and labels",
    "npz:FILE": "your own images: arrays of images and labels",
    "NAME": "any other image-classification data set of TFDS, or of a builder of your own",
}


def main(arguments: list[str]) -> None:
    """Runs the command."""
    for kind in arguments:
        if kind not in KINDS:
            raise unknown_name_error("kind", kind, KINDS)
    listed = {kind: KINDS[kind]() for kind in arguments or KINDS}
    print(json.dumps(listed, indent=2, ensure_ascii=False) if JSON.value else _text(listed))


def configs() -> dict[str, str]:
    """Returns the first line about each config of the package, by name."""
    return {
        name: config_files.summary(path).removeprefix(f"{name}: ")
        for name, path in config_files.shipped().items()
    }


def methods() -> dict[str, str]:
    """Returns the first line about each method, by name."""
    from kdjax.objectives import METHODS

    return {name: _first_line(method.fn) for name, method in METHODS.items()}


def models() -> dict[str, str]:
    """Returns the structure of each network, by name."""
    from kdjax.models import MODELS

    return {name: _structure(create) for name, create in MODELS.items()}


def datasets() -> dict[str, str]:
    """Returns the data sets of the configs, and the forms of other values of `data.name`."""
    return {**_configured_datasets(), **OWN_DATA}


def scores() -> dict[str, str]:
    """Returns the first line about each confidence score, by name."""
    from kdjax.selective import SCORES

    return {name: _first_line(score) for name, score in SCORES.items()}


KINDS: Mapping[str, Callable[[], dict[str, str]]] = {
    "configs": configs,
    "methods": methods,
    "models": models,
    "datasets": datasets,
    "scores": scores,
}


def _configured_datasets() -> dict[str, str]:
    """Returns the data set of each config with what the config says about it, by name."""
    found: dict[str, str] = {}
    for name, path in config_files.shipped().items():
        dataset = config_files.load(path).data.name
        if ":" not in dataset:  # own images
            summary = config_files.summary(path).removeprefix(f"{name}: ")
            found.setdefault(dataset, DATA.get(dataset, summary))
    return found


def _first_line(function: Callable[..., Any]) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    return (inspect.getdoc(function) or "").partition("\n")[0]


def _structure(create: Any) -> str:
    """Returns the class of a network, with its numbers of blocks and its width."""
    if not isinstance(create, functools.partial):
        return _first_line(create)
    depths, width = (create.keywords.get(name) for name in ("depths", "width"))
    blocks = [f"{'-'.join(map(str, depths))} blocks"] if depths else []
    return ", ".join([create.func.__name__, *blocks, f"width {width}"])


def _text(listed: Mapping[str, Mapping[str, str]]) -> str:
    columns = min(shutil.get_terminal_size().columns, MAX_COLUMNS)
    width = max((len(name) for names in listed.values() for name in names), default=0)
    lines = []
    for kind, names in listed.items():
        lines += ["", f"{kind}:"]
        for name, description in names.items():
            indent = " " * (width + 4)
            text = textwrap.fill(
                description, columns, initial_indent=indent, subsequent_indent=indent
            )
            lines.append(f"  {name:{width}}  {text.lstrip()}")
    return "\n".join(lines[1:])


if __name__ == "__main__":
    cli.run(main, positional="[KIND...]")

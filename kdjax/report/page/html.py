"""From a template and its content to one HTML file."""

import importlib.metadata
import pathlib
from collections.abc import Mapping
from typing import Any

from kdjax import files
from kdjax.errors import InputError

TEMPLATES = pathlib.Path(__file__).parent / "templates"


def render(template: str, content: Mapping[str, Any]) -> str:
    """Returns the page; every text in `content` is escaped.

    Args:
        template: the name of a file in `templates`.
        content: what it asks for.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(content)


def save(path: pathlib.Path, template: str, content: Mapping[str, Any]) -> None:
    """Writes the page so that a reader sees the old file or the whole new one.

    Raises:
        InputError: if the file cannot be written; nothing is left behind.
    """
    try:
        files.write(path, render(template, content))
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be written: {error.strerror}") from error


def versions() -> str:
    """Returns what made the page."""
    names = ("kdjax", "jax", "numpy", "matplotlib")
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)

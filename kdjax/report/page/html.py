"""Renders a template to an HTML file."""

import importlib.metadata
import pathlib
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kdjax.errors import InputError
from kdjax.runtime import atomic_io

if TYPE_CHECKING:
    from markupsafe import Markup

TEMPLATES = pathlib.Path(__file__).parent / "templates"


def render(template: str, content: Mapping[str, Any]) -> str:
    """Returns the page; every text in `content` is escaped.

    Args:
        template: the name of a file in `templates`.
        content: the variables of the template.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["breakable"] = _breakable
    return environment.get_template(template).render(content)


def _breakable(text: str) -> "Markup":
    """Returns the name of a student, such as `method=kd,seed=1`, with line breaks after commas."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r",(?=\w+=)", ",<wbr>", str(escape(text))))


def save(path: pathlib.Path, template: str, content: Mapping[str, Any]) -> None:
    """Renders and writes the page atomically; see `render`.

    Raises:
        InputError: if the file cannot be written; the old file, if any, is left unchanged.
    """
    try:
        atomic_io.write_file(path, render(template, content))
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be written: {error.strerror}") from error


def versions() -> str:
    """Returns the versions of the packages that computed the page."""
    names = ("kdjax", "jax", "numpy", "matplotlib")
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)

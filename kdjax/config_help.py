"""The fields of the config with the comments of their source, for `--help` and the docs."""

import ast
import functools
import inspect
import io
import shutil
import textwrap
import tokenize
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from kdjax import config_base

STAGES = ("teacher", "student")
# Headings of the groups of fields.
GROUPS: Mapping[str, str] = {
    "": "The run",
    "data": "Data",
    "objective": "Objective",
    "selective": "Certificate",
    "teacher": "Teacher only",
    "student": "Student only",
    "stage": "Each of `teacher` and `student`",
}
MAX_COLUMNS = 100


class Field(NamedTuple):
    """A field of the config.

    Attributes:
        group: a key of `GROUPS`.
        name: dotted; a field that both stages have is named without its stage.
        default: its value in `config.base()`.
        description: the comments beside and above it in `kdjax/config_base.py`.
    """

    group: str
    name: str
    default: Any
    description: str


def fields() -> list[Field]:
    """Returns the fields of the config in the order of `kdjax/config_base.py`."""
    source = inspect.getsource(config_base)
    functions = {
        node.name: node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)
    }
    base = config_base.base()
    described = [
        Field("", name, base[name], _description(source, node))
        for name, node in _assignments(functions["base"], "config")
        if not isinstance(base[name], ConfigDict)
    ]
    for group in (group for group in GROUPS if group not in ("", "stage")):
        described += [
            Field(group, f"{group}.{name}", base[group][name], _description(source, node))
            for name, node in _assignments(functions[f"_{group}"], group)
        ]
    return described + [
        Field("stage", name, base.student[name], _description(source, node))
        for name, node in _assignments(functions["_stage"], "stage")
    ]


def grouped_fields() -> dict[str, list[Field]]:
    """Returns the fields by the key of their group in `GROUPS`."""
    groups: dict[str, list[Field]] = {}
    for field in fields():
        groups.setdefault(field.group, []).append(field)
    return groups


def help_text(config: ConfigDict) -> str:
    """Returns every field with its comment and its value in a config.

    Args:
        config: of a config file, or `config.base()`.
    """
    width = min(shutil.get_terminal_size().columns, MAX_COLUMNS)
    wrap = functools.partial(
        textwrap.wrap, width=width, initial_indent=" " * 6, subsequent_indent=" " * 6
    )
    lines = []
    for group, members in grouped_fields().items():
        lines += ["", f"{GROUPS[group]}:"]
        for field in members:
            lines.append(f"  --config.{_flag_name(field)}")
            lines += wrap(f"{field.description} [{_value(config, field)}]")
    return "\n".join(lines)


def _flag_name(field: Field) -> str:
    return f"{{{','.join(STAGES)}}}.{field.name}" if field.group == "stage" else field.name


def _value(config: ConfigDict, field: Field) -> str:
    """Returns the value of a field; of both stages if they differ."""
    if field.group != "stage":
        return repr(_lookup(config, field.name))
    values = [repr(config[stage][field.name]) for stage in STAGES]
    if len(set(values)) == 1:
        return values[0]
    return ", ".join(f"{stage} {value}" for stage, value in zip(STAGES, values, strict=True))


@functools.cache
def _comments(source: str) -> dict[int, str]:
    """Returns the comment of each line that has one."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {
        token.start[0]: token.string.lstrip("# ")
        for token in tokens
        if token.type == tokenize.COMMENT
    }


def _assignments(function: ast.FunctionDef, root: str) -> Iterator[tuple[str, ast.Assign]]:
    """Yields `(dotted name, statement)` of each `root.name = ...` in a function."""
    for node in function.body:
        if isinstance(node, ast.Assign):
            name = ast.unparse(node.targets[0])
            if name.startswith(f"{root}."):
                yield name.removeprefix(f"{root}."), node


def _lookup(config: Any, name: str) -> Any:
    for part in name.split("."):
        config = config[part]
    return config


def _description(source: str, node: ast.Assign) -> str:
    """Returns the comment lines above a statement, then the comment beside it."""
    comments, lines = _comments(source), source.splitlines()
    first = node.lineno
    while first - 1 in comments and lines[first - 2].lstrip().startswith("#"):
        first -= 1
    numbers = [*range(first, node.lineno), node.end_lineno or node.lineno]
    return " ".join(comments[number] for number in numbers if number in comments)

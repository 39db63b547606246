"""The text of --help about the fields: their comments and values, from the source."""

import pytest

from kdjax import config_help
from kdjax.config_base import base
from kdjax.config_fields import field_names


@pytest.fixture(scope="module")
def fields():
    return {(field.group, field.name): field for field in config_help.fields()}


def test_every_field_is_listed_once_and_those_of_both_stages_together(fields):
    listed = []
    for group, name in fields:
        stages = config_help.STAGES if group == "stage" else ("",)
        listed += [f"{stage}.{name}" if stage else name for stage in stages]
    assert sorted(listed) == sorted(field_names(base()))


def test_comment_above_and_beside_a_field_is_its_description(fields):
    assert fields["", "name"].description == "any name; the default workdir is runs/<name>"
    seed = fields["", "seed"].description
    assert seed.startswith("Integer seed of the initial weights") and "2^32 - 1" in seed
    assert all("#" not in field.description for field in fields.values())


def test_defaults_are_those_of_the_base_config(fields):
    config = base()
    for (group, name), field in fields.items():
        owner = config[config_help.STAGES[1]] if group == "stage" else config
        for part in name.split("."):
            owner = owner[part]
        assert field.default == owner, name


def test_groups_have_headings_and_keep_the_order_of_the_source(fields):
    groups = config_help.grouped_fields()
    assert list(groups) == list(config_help.GROUPS)
    assert [f for members in groups.values() for f in members] == config_help.fields()
    assert next(iter(groups["data"])).name == "data.name"


def test_help_shows_the_values_of_the_config_it_is_given(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    config = base()
    config.data.pad = 7
    config.teacher.epochs = 11
    config.student.epochs = 11
    config.student.width = 5
    lines = config_help.help_text(config).splitlines()
    assert max(map(len, lines)) <= 80

    def text_of(flag):
        start = lines.index(f"  --config.{flag}") + 1
        end = next(i for i in range(start, len(lines)) if not lines[i].startswith(" " * 6))
        return " ".join(line.strip() for line in lines[start:end])

    assert text_of("data.pad").endswith("[7]")
    assert text_of("{teacher,student}.epochs").endswith("[11]")
    assert text_of("{teacher,student}.width").endswith(
        f"[teacher {base().teacher.width!r}, student 5]"
    )


@pytest.mark.parametrize(("columns", "width"), [("40", 40), ("500", config_help.MAX_COLUMNS)])
def test_lines_fit_the_terminal_but_are_never_wide(monkeypatch, columns, width):
    monkeypatch.setenv("COLUMNS", columns)
    lines = [line for line in config_help.help_text(base()).splitlines() if line[:6] == " " * 6]
    longest = max(len(line) for line in lines if " " in line.strip())
    assert width / 2 < longest <= max(width, 60)

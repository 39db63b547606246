"""README.md: its commands, its code, its links and its length."""

import re

import numpy as np
import pytest
from support.commands import ROOT
from support.documents import README, code_blocks

TEXT = README.read_text()


def test_the_readme_has_at_most_180_lines() -> None:
    assert len(TEXT.splitlines()) <= 180


def test_ci_runs_the_first_three_shell_blocks_word_for_word() -> None:
    quickstart, tests, use = code_blocks(TEXT, "sh")[:3]
    assert "kdjax train --config=quickstart" in quickstart and "pytest" in tests
    script = (ROOT / ".ci" / "run").read_text()
    assert "kdjax export --workdir=runs/quickstart" in use
    assert all(f"block {number}" in script for number in (1, 2, 3))


@pytest.mark.slow
def test_the_notebook_example_gives_finite_losses() -> None:
    (example,) = (block for block in code_blocks(TEXT, "python") if "losses" in block)
    names: dict = {}
    exec(example, names)
    assert names["value"].shape == (1,) and np.isfinite(names["value"]).all()


def test_every_link_of_the_readme_leads_to_a_file() -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", TEXT)
    assert len(links) > 20
    assert [link for link in links if not (ROOT / link).exists()] == []

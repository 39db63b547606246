"""Every process collects the same tests: xdist runs nothing if its workers disagree."""

import pytest
from support.commands import ROOT, python


@pytest.mark.slow
def test_a_process_started_later_collects_the_same_tests(request: pytest.FixtureRequest) -> None:
    options = "addopts=--import-mode=importlib --strict-markers"
    arguments = ["--collect-only", "-q", "-p", "no:cacheprovider", "-o", options]
    done = python("-m", "pytest", *arguments, cwd=ROOT, PYTHONHASHSEED="1")
    assert done.returncode == 0, done.stdout
    collected = {line for line in done.stdout.splitlines() if "::" in line}
    names = {item.nodeid.split("@")[0] for item in request.session.items}
    assert len(collected) > 1000 and names <= collected
    assert not [name for name in collected if " at 0x" in name or "/tmp" in name]

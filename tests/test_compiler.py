"""How programs are compiled and run: that the settings do what they are for."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
import numpy as np
from kdjax import compiler
{keep}
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_memory_that_is_kept_is_not_asked_for_again():
    def faults(keep: str) -> int:
        run = [sys.executable, "-c", FAULTS.format(keep=keep)]
        return int(subprocess.run(run, check=True, capture_output=True, text=True).stdout)

    assert 4 * faults("compiler.keep_memory()") < faults("")

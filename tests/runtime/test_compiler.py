"""The allocator options reduce page faults, and the compiler options depend on the program."""

import contextlib
import math
import pathlib
import platform
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from support import commands

from kdjax.runtime import compiler

FAULTS = """
import resource
import threading
import numpy as np
from kdjax.runtime import compiler
{tune}
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
def print_second():
    faults()
    print(faults())
# XLA allocates the arrays of a step in its own threads, which a second arena would serve.
thread = threading.Thread(target=print_second)
thread.start()
thread.join()
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_tuned_allocator_reuses_memory_of_all_threads():
    def page_faults(tune: str) -> int:
        command = [sys.executable, "-c", FAULTS.format(tune=tune)]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert 4 * page_faults("compiler.tune_allocator()") < page_faults("")


@pytest.fixture
def restore_tuning():
    yield
    compiler.set_tuned(True)


@pytest.mark.parametrize("tuned", [True, False])
def test_options_are_passed_to_jax_only_if_tuned(tuned, monkeypatch, restore_tuning):
    options = []
    real = jax.jit

    def record(function, **kwargs):
        options.append(kwargs["compiler_options"])
        return real(function)

    monkeypatch.setattr(jax, "jit", record)
    compiler.set_tuned(tuned)
    for program in compiler.OPTIONS:
        compiler.jit(jnp.sin, program)
    expected = [compiler.OPTIONS[name]["cpu"] if tuned else {} for name in compiler.OPTIONS]
    assert options == expected


CONVOLUTION = """
import jax
import jax.numpy as jnp
from kdjax.runtime import compiler

def convolution(images, kernels):
    layout = "NHWC", "HWIO", "NHWC"
    return jax.lax.conv_general_dilated(images, kernels, (1, 1), "SAME", dimension_numbers=layout)

arrays = jnp.ones((8, 16, 16, 8)), jnp.ones((3, 3, 8, 16))
for program in compiler.OPTIONS:
    run = compiler.jit(convolution, program)
    run(*arrays)
print(jax.config.values["jax_persistent_cache_min_compile_time_secs"])
"""


@pytest.mark.slow
def test_programs_that_xla_cannot_write_are_not_stored(tmp_path):
    """Those with oneDNN's convolutions, which JAX has from 0.11 on."""
    variables = {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    done = commands.python("-W", "error", "-c", CONVOLUTION, **variables)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "0.0\n")
    stored = len(list(tmp_path.glob("jit_convolution-*-cache")))
    onednn = jax.__version_info__ >= (0, 11) and platform.machine() == "x86_64"
    assert stored == len(compiler.OPTIONS) - onednn


def test_contexts_of_several_threads_restore_the_setting():
    name = "jax_persistent_cache_min_compile_time_secs"
    before = jax.config.values[name]
    first, second = contextlib.ExitStack(), contextlib.ExitStack()
    for stack in (first, second):
        stack.enter_context(compiler.nothing_stored())
    first.close()  # what began first ends first, as in two threads
    assert jax.config.values[name] == math.inf
    second.close()
    assert jax.config.values[name] == before


def test_programs_are_made_once_until_the_options_change(restore_tuning):
    made = []

    @compiler.cached_program()
    def program(size):
        made.append(size)
        return compiler.jit(lambda values: values * size)

    first = program(3)
    assert program(3) is first
    assert made == [3]
    compiler.set_tuned(True)  # as before
    assert program(3) is first
    compiler.set_tuned(False)
    assert program(3) is not first
    assert made == [3, 3]


@pytest.mark.parametrize(
    "backend, version, flags, network, dtype",
    [
        ("cpu", (0, 12, 0), "flags : sse avx512_bf16 fma", "resnet18", "bfloat16"),
        ("cpu", (0, 11, 0), "flags : amx_bf16", "resnet18", "bfloat16"),
        ("cpu", (0, 10, 2), "flags : avx512_bf16", "resnet18", "float32"),
        ("cpu", (0, 12, 0), "flags : avx512f", "resnet18", "float32"),
        ("cpu", (0, 12, 0), "", "resnet18", "float32"),
        ("cpu", (0, 12, 0), "flags : avx512_bf16", "not_measured", "float32"),
        ("gpu", (0, 10, 2), "", "not_measured", "bfloat16"),
    ],
)
def test_fastest_dtype_needs_a_device_for_it_and_on_a_cpu_a_measurement(
    monkeypatch, backend, version, flags, network, dtype
):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(jax, "__version_info__", version)
    monkeypatch.setattr(compiler, "processor_flags", lambda: flags)
    assert compiler.fastest_dtype(network) == dtype


@pytest.fixture
def cache_options():
    names = [
        "jax_compilation_cache_dir",
        "jax_compilation_cache_max_size",
        "jax_persistent_cache_min_compile_time_secs",
    ]
    before = {name: jax.config.values[name] for name in names}
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_compilation_cache_is_in_the_users_cache_folder(tmp_path, monkeypatch, cache_options):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compiler.enable_compilation_cache()
    (folder,) = (tmp_path / "kdjax" / "programs").iterdir()
    assert jax.config.values["jax_compilation_cache_dir"] == str(folder)
    assert jax.config.values["jax_compilation_cache_max_size"] == -1


def test_cache_folder_that_the_user_chose_is_kept_and_repaired(tmp_path, cache_options):
    """JAX stores no program where another one lacks the time of its last use."""
    (tmp_path / "empty-cache").write_bytes(b"")
    (tmp_path / "empty-atime").write_bytes(bytes(8))
    (tmp_path / "whole-cache").write_bytes(b"a format of a later version")
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    compiler.enable_compilation_cache()
    assert jax.config.values["jax_compilation_cache_dir"] == str(tmp_path)
    assert {path.name for path in tmp_path.glob("*-*")} == {"whole-cache", "whole-atime"}


@pytest.mark.parametrize("folder", ["gs://bucket/programs", "file"])
def test_cache_folder_that_cannot_be_repaired_is_left_to_jax(
    folder, tmp_path, monkeypatch, cache_options
):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("file").write_text("where a folder should be")
    jax.config.update("jax_compilation_cache_dir", folder)
    compiler.enable_compilation_cache()
    assert jax.config.values["jax_compilation_cache_dir"] == folder
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_cache_folder_that_cannot_be_created_is_not_used(tmp_path, monkeypatch, cache_options):
    (tmp_path / "file").write_text("where a folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.warns(RuntimeWarning, match="programs are not stored for the next run: .*/file/"):
        compiler.enable_compilation_cache()
    assert not jax.config.values["jax_compilation_cache_dir"]

"""Damaged compilation caches: what is repaired, and when there is none. Programs are real ones."""

import errno
import fcntl
import os
import pathlib
import shutil
import tempfile

import jax
import pytest
from support import forked
from support.commands import ROOT, python
from support.full_disk import files_of_at_most

from kdjax.runtime import program_cache

# Compiles three programs, as a command does, and prints how many came from the cache.
COMPILE = """
import jax, jax.numpy as jnp
from kdjax import process
from kdjax.runtime import compiler
process.prepare()
{before}
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name))
compiler.enable_compilation_cache()
factors = 2, 3, 4
{after}
for factor in factors:
    jax.jit(lambda x: x * factor + 1)(jnp.ones(4))
print(hits.count("/jax/compilation_cache/cache_hits"))
"""
# In a process whose variables do not choose a folder.
NO_CACHE = """
jax.config.update("jax_compilation_cache_dir", None)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 1)
"""


def compile_programs(
    caches: pathlib.Path, before: str = "", after: str = "", **variables: str
) -> tuple[int, list]:
    """Returns the number of programs that came from the cache, and the lines of stderr."""
    if variables:  # JAX reads them when it is imported
        done = python("-c", COMPILE.format(before=before, after=after), **variables)
    else:
        code = COMPILE.format(before=NO_CACHE + before, after=after)
        environment = {**os.environ, "XDG_CACHE_HOME": str(caches)}
        with tempfile.TemporaryDirectory() as folder:
            script = pathlib.Path(folder) / "compile.py"
            script.write_text(code)
            done = forked.run(str(script), [], ROOT, environment)
    assert done.returncode == 0, done.stderr
    return int(done.stdout), done.stderr.splitlines()


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, int]:
    """A cache folder with the programs of `COMPILE`, and their number."""
    folder = tmp_path_factory.mktemp("filled")
    assert compile_programs(folder / "caches") == (0, [])
    shutil.copytree(folder / "caches", folder / "copy")
    return folder, len(list(programs(folder / "caches").glob("*-cache")))


@pytest.fixture
def caches(filled: tuple[pathlib.Path, int]) -> pathlib.Path:
    """The filled folder, undamaged; JAX finds programs only at the path where it stored them."""
    folder, _ = filled
    shutil.rmtree(folder / "caches")
    return shutil.copytree(folder / "copy", folder / "caches")


def programs(caches: pathlib.Path) -> pathlib.Path:
    (folder,) = (caches / "kdjax" / "programs").iterdir()
    return folder


def remove_times(folder: pathlib.Path) -> None:
    for path in folder.glob("*-atime"):
        path.unlink()


def remove_a_program(folder: pathlib.Path) -> None:
    next(folder.glob("*-cache")).unlink()


def truncate_programs(folder: pathlib.Path) -> None:
    for path in folder.glob("*-cache"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def leave_half_a_program(folder: pathlib.Path) -> None:
    """As after a full disk: cut off, and without the time of its last use."""
    path = next(folder.glob("*-cache"))
    path.write_bytes(path.read_bytes()[:100])
    path.with_name(path.name.replace("-cache", "-atime")).unlink()


def empty_programs(folder: pathlib.Path) -> None:
    for path in folder.glob("*-cache"):
        path.write_bytes(b"")


def damage_in_every_way(folder: pathlib.Path) -> None:
    """Cuts off one program, empties one, removes one, and the time of another one."""
    add_times(folder)
    cut, empty, removed, without_time, *_ = sorted(folder.glob("*-cache"))
    cut.write_bytes(cut.read_bytes()[:100])
    empty.write_bytes(b"")
    removed.unlink()
    without_time.with_name(without_time.name.replace("-cache", "-atime")).unlink()


def names(folder: pathlib.Path, kind: str) -> set[str]:
    """Returns the programs of which a cache holds a file, `cache` or `atime`."""
    return {path.name.removesuffix(f"-{kind}") for path in folder.glob(f"*-{kind}")}


def add_times(folder: pathlib.Path) -> None:
    """As JAX does in a folder whose size it limits."""
    for path in folder.glob("*-cache"):
        path.with_name(path.name.replace("-cache", "-atime")).write_bytes(bytes(8))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "lost"),
    [
        (lambda folder: None, 0),
        (remove_times, 0),
        (remove_a_program, 1),
        (truncate_programs, None),
        (leave_half_a_program, 1),
        (empty_programs, None),
    ],
)
def test_only_damaged_programs_are_removed(damage, lost, caches) -> None:
    folder = programs(caches)
    (folder / ".kdjax_checked").unlink()  # as if all programs were new
    add_times(folder)
    before = names(folder, "cache")
    damage(folder)
    assert program_cache.repair(folder) is None
    kept = names(folder, "cache")
    assert kept <= before and len(kept) == (0 if lost is None else len(before) - lost)
    assert names(folder, "atime") == kept


@pytest.mark.slow
def test_damaged_cache_is_repaired_silently_and_works_again(caches, filled) -> None:
    every = filled[1]
    damage_in_every_way(programs(caches))
    hits, lines = compile_programs(caches)
    assert lines == [] and 0 < hits < every
    assert compile_programs(caches) == (every, [])


@pytest.mark.parametrize(
    ("limit", "kept"),
    [
        (54, {"used", "new"}),
        (50, {"used", "new"}),
        (49, {"used"}),
        (65, {"used", "new", "older", "old"}),
    ],
)
def test_programs_not_used_for_longest_are_removed_above_the_limit(limit, kept, tmp_path) -> None:
    for name, size, stored, read in (
        ("old", 10, 100, 100),
        ("used", 20, 100, 400),
        ("new", 30, 300, 300),
        ("older", 5, 50, 200),
    ):
        path = tmp_path / f"{name}-cache"
        path.write_bytes(bytes(size))
        os.utime(path, (read, stored))
    assert program_cache.repair(tmp_path, limit) is None
    assert names(tmp_path, "cache") == kept


def entry(folder: pathlib.Path, content: bytes) -> pathlib.Path:
    (folder / "key-atime").write_bytes(bytes(8))
    (folder / "key-cache").write_bytes(content)
    return folder / "key-cache"


def test_program_of_an_unknown_format_is_kept(tmp_path) -> None:
    path = entry(tmp_path, b"a format of a later version")
    assert program_cache.repair(tmp_path) is None
    assert path.exists()


def test_only_programs_changed_since_the_last_start_are_read(tmp_path, monkeypatch) -> None:
    entry(tmp_path, b"unknown")
    assert program_cache.repair(tmp_path) is None
    os.utime(tmp_path / ".kdjax_checked")
    read = []
    monkeypatch.setattr(pathlib.Path, "read_bytes", lambda path: read.append(path) or b"unknown")
    assert program_cache.repair(tmp_path) is None
    assert read == []
    (tmp_path / "key-cache").write_bytes(b"changed")
    assert program_cache.repair(tmp_path) is None
    assert read == [tmp_path / "key-cache"]


def test_file_system_without_locks_is_not_used(tmp_path, monkeypatch) -> None:
    def no_locks(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    reason = program_cache.repair(tmp_path)
    assert reason == f"{tmp_path}/.lockfile: no locks: {os.strerror(errno.ENOSYS)}"


def test_lock_that_is_held_for_long_is_not_waited_for(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(program_cache, "_LOCK_SECONDS", 0.2)
    with (tmp_path / ".lockfile").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        reason = program_cache.repair(tmp_path)
    assert reason == f"{tmp_path}/.lockfile: another process holds the lock"
    assert program_cache.repair(tmp_path) is None


def test_full_disk_is_not_used(tmp_path) -> None:
    with files_of_at_most(1000):
        reason = program_cache.repair(tmp_path)
    assert reason == f"{tmp_path}: {os.strerror(errno.EFBIG)}"
    assert not (tmp_path / ".kdjax_probe").exists()
    assert program_cache.repair(tmp_path) is None


WARNING = "kdjax: warning: compiled programs are not stored for the next run: "


@pytest.mark.slow
def test_cache_that_cannot_be_used_is_one_warning(tmp_path) -> None:
    (tmp_path / "file").write_text("where a folder should be")
    hits, (line,) = compile_programs(tmp_path / "file")
    assert hits == 0 and line.startswith(f"{WARNING}{tmp_path}/file")
    home = "import pathlib, os; os.environ.pop('XDG_CACHE_HOME')\ndef fail(_): raise RuntimeError\n"
    hits, (line,) = compile_programs(tmp_path, home + "pathlib.Path.expanduser = fail")
    assert hits == 0 and "no home directory" in line


def given(folder: pathlib.Path) -> dict[str, str]:
    """The variables with which a user chooses the folder of JAX's cache."""
    return {
        "JAX_COMPILATION_CACHE_DIR": str(folder),
        "JAX_COMPILATION_CACHE_MAX_SIZE": str(2**30),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


REMOVE_TIMES = """
import pathlib
for path in pathlib.Path({folder!r}).glob("*-atime"): path.unlink()
"""


# Later versions of JAX store programs beside one without the time of its last use.
NEEDS_TIMES = jax.__version_info__ < (0, 11, 2)


@pytest.mark.slow
def test_cache_damaged_during_a_run_is_one_warning_and_the_next_run_repairs_it(tmp_path) -> None:
    """Without the time of one program, JAX stored no other program, and warned about each."""
    assert compile_programs(tmp_path, **given(tmp_path)) == (0, [])
    stored = {path.name for path in tmp_path.glob("*-cache")}
    remove = REMOVE_TIMES.format(folder=str(tmp_path))
    hits, lines = compile_programs(
        tmp_path, after=f"{remove}\nfactors = 5, 6, 7", **given(tmp_path)
    )
    assert hits < len(stored)
    if NEEDS_TIMES:
        (line,) = lines
        assert line.startswith(
            "kdjax: warning: a compiled program cannot be written to the compilation"
        )
        assert line.endswith("further warnings of this kind are not shown")
        assert {path.name for path in tmp_path.glob("*-cache")} == stored
    else:
        assert lines == []
        assert {path.name for path in tmp_path.glob("*-cache")} > stored
    assert compile_programs(tmp_path, **given(tmp_path)) == (len(stored), [])
    times = {path.name.replace("-atime", "-cache") for path in tmp_path.glob("*-atime")}
    assert times == {path.name for path in tmp_path.glob("*-cache")}

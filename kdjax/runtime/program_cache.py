"""Repairs a folder of JAX's compilation cache, or says why it cannot be used.

JAX stores a program as `<key>-cache`; in a folder whose size it limits, also the time of its last
use as `<key>-atime`, under the lock `.lockfile`. If a file of a pair is missing, or a program is
cut off, JAX before 0.11.2 warns about every program and stores none. It reads the times of all
programs before it stores another one, which takes longer than a short compilation: kdjax limits its
own folder here, when a command starts.
"""

import contextlib
import fcntl
import os
import pathlib
import time
import zlib
from collections.abc import Iterator

_PROGRAM, _TIME, _LOCK = "-cache", "-atime", ".lockfile"
# Programs that changed after this file did have not been checked yet.
_CHECKED = ".kdjax_checked"
_LOCK_SECONDS = 5.0
_PROBE_BYTES = 2**20  # about the size of a large program
_ZLIB, _ZSTANDARD = b"\x78", b"\x28\xb5\x2f\xfd"  # first bytes of a compressed program


def repair(folder: pathlib.Path, limit: int | None = None) -> str | None:
    """Creates or repairs a folder, so that JAX can read and write it.

    Args:
        folder: of the programs.
        limit: bytes that the programs may take: those not used for longest are removed. None: JAX
            may limit the folder.

    Returns:
        None, or the reason why the folder cannot be used.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / _LOCK):
            if limit is not None:
                _prune(folder, limit)  # first: a check reads programs, which counts as use
            _sweep(folder)
            if limit is None:
                _complete_times(folder)
            _probe(folder)
    except OSError as error:
        return f"{error.filename or folder}: {error.strerror or error}"
    return None


@contextlib.contextmanager
def _locked(path: pathlib.Path) -> Iterator[None]:
    """Holds the lock of the cache, which JAX takes with the same system call.

    Raises:
        OSError: if the file system has no locks, or another process holds the lock for long.
    """
    deadline = time.monotonic() + _LOCK_SECONDS
    if path.exists() and not os.access(path, os.R_OK | os.W_OK):
        path.unlink()  # of another user, such as root, in a folder of this one
    with path.open("a+b") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError(0, "another process holds the lock", str(path)) from None
                time.sleep(0.05)
            except OSError as error:
                raise OSError(error.errno, f"no locks: {error.strerror}", str(path)) from error
        yield


def _sweep(folder: pathlib.Path) -> None:
    """Removes what JAX cannot read."""
    marker = folder / _CHECKED
    checked = marker.stat().st_ctime_ns if marker.exists() else 0
    marker.touch()  # before the check, so that nothing stays unchecked
    for path in folder.glob(f"*{_PROGRAM}"):
        changed = path.stat().st_ctime_ns >= checked
        if not os.access(path, os.R_OK) or (changed and not _is_readable(path)):
            path.unlink()
    for path in folder.glob(f"*{_TIME}"):
        if not path.with_name(path.name.removesuffix(_TIME) + _PROGRAM).exists():
            path.unlink()


def _complete_times(folder: pathlib.Path) -> None:
    """Writes the time of the last use of programs that lack it."""
    for path in folder.glob(f"*{_PROGRAM}"):
        last_use = path.with_name(path.name.removesuffix(_PROGRAM) + _TIME)
        if not os.access(last_use, os.W_OK):
            last_use.unlink(missing_ok=True)
            last_use.write_bytes(path.stat().st_mtime_ns.to_bytes(8, "little"))


def _prune(folder: pathlib.Path, limit: int) -> None:
    """Removes the programs not used for longest, so that the others take `limit` bytes at most."""
    used = {path: path.stat() for path in folder.glob(f"*{_PROGRAM}")}
    total = 0
    for path in sorted(used, key=lambda path: -max(used[path].st_atime, used[path].st_mtime)):
        total += used[path].st_size
        if total > limit:
            path.unlink()


def _is_readable(path: pathlib.Path) -> bool:
    """Returns whether a program can be decompressed; also if its format is not known."""
    content = path.read_bytes()
    try:
        if content.startswith(_ZLIB):
            zlib.decompress(content)
        elif content.startswith(_ZSTANDARD):
            import zstandard  # only where JAX uses it too

            zstandard.ZstdDecompressor().decompress(content)
    except ImportError:
        pass
    except Exception:  # zlib.error, or the error of zstandard
        return False
    return bool(content)


def _probe(folder: pathlib.Path) -> None:
    """Raises if there is no room for another program."""
    path = folder / ".kdjax_probe"
    try:
        with path.open("wb") as file:
            file.write(bytes(_PROBE_BYTES))
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from error
    finally:
        path.unlink(missing_ok=True)

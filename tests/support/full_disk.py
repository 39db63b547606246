"""A full disk, simulated: the system refuses to write larger files."""

import contextlib
import resource
from collections.abc import Iterator

import jax


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Limits the size of every file that this process writes, in bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    # Programs cannot be stored, and JAX would warn about it.
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", True)
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

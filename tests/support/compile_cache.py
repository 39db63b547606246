"""The compilation cache of a test process."""

import tempfile

import jax


def new_folder() -> tempfile.TemporaryDirectory[str]:
    """Returns an empty folder that is removed when the process ends."""
    return tempfile.TemporaryDirectory(prefix="kdjax-test-cache-", ignore_cleanup_errors=True)


def use(folder: str) -> None:
    """Stores the programs of this process that take longer to compile than to read."""
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_compilation_cache_max_size", -1)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)

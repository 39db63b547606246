"""Strict JAX settings, and a compilation cache that the tests' own processes share."""

import os
import pathlib
import tempfile

import jax
import pytest

# Shared with the processes that tests start, so that a program is compiled once a session.
CACHE = pathlib.Path(tempfile.mkdtemp(prefix="kdjax-test-cache-"))
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(CACHE)

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 4)
# Two programs in flight that both wait for all virtual devices can starve each other of threads.
jax.config.update("jax_cpu_enable_async_dispatch", False)


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A TFDS directory of this session's own."""
    return tmp_path_factory.mktemp("tensorflow_datasets")

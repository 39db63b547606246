"""Strict JAX settings, and a compilation cache that the tests' own processes share."""

import os
import pathlib
import tempfile

import jax
import pytest

# Shared with the processes that tests start, so that a program is compiled once a session.
CACHE = pathlib.Path(tempfile.mkdtemp(prefix="kdjax-test-cache-"))
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(CACHE)

# Each virtual device that waits for the others in a collective holds a thread, and on a machine
# with few cores all of them can wait for ever; then XLA aborts. So: more threads than cores.
os.environ["PJRT_NPROC"] = "16"

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 4)


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A TFDS directory of this session's own."""
    return tmp_path_factory.mktemp("tensorflow_datasets")

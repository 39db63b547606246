"""How a test process compiles programs: for a short compilation, not for fast programs."""

import functools
import pathlib
import tempfile

import jax

from kdjax.runtime import compiler, program_cache

# Programs of earlier sessions.
FOLDER = pathlib.Path(__file__).parents[2] / ".test_programs"
LIMIT = 2**30  # bytes, when a session starts
# Without optimization by LLVM, and each program in one part.
XLA_FLAGS = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
# Without the code generation by MLIR, compilation takes a quarter of the time. Later versions of
# XLA refuse the flag: they have no other code generation.
if jax.__version_info__ < (0, 11):
    XLA_FLAGS += " --xla_cpu_use_fusion_emitters=false"
# Frames of Python that a program remembers for each of its operations; many slow down lowering.
FRAMES = 0


def prepare() -> str:
    """Returns the folder of the programs, for this processor, or a new one if it cannot be used.

    Programs that a killed session left unfinished are removed, and those not used for longest.
    """
    folder = FOLDER / compiler.processor_id()
    if program_cache.repair(folder, LIMIT) is None:
        return str(folder)
    return _temporary_folder().name


@functools.cache
def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    """Returns a folder that is removed when the process ends."""
    return tempfile.TemporaryDirectory(prefix="kdjax-test-cache-", ignore_cleanup_errors=True)


def use(folder: str) -> None:
    """Stores the programs of this process that take longer to compile than to read.

    The programs have `FRAMES` of each operation.
    """
    jax.config.update("jax_traceback_in_locations_limit", FRAMES)
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_compilation_cache_max_size", -1)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)

"""How a test process compiles programs: for a short compilation, not for fast programs."""

import functools
import itertools
import tempfile

import jax
from jax._src.interpreters import mlir
from jax._src.lru_cache import LRUCache

# Without optimization by LLVM, and each program in one part.
XLA_FLAGS = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
# Without the code generation by MLIR, compilation takes a quarter of the time. Later versions of
# XLA refuse the flag: they have no other code generation.
if jax.__version_info__ < (0, 11):
    XLA_FLAGS += " --xla_cpu_use_fusion_emitters=false"


def new_folder() -> tempfile.TemporaryDirectory[str]:
    """Returns an empty folder that is removed when the process ends."""
    return tempfile.TemporaryDirectory(prefix="kdjax-test-cache-", ignore_cleanup_errors=True)


def use(folder: str) -> None:
    """Stores the programs of this process that take longer to compile than to read."""
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_compilation_cache_max_size", -1)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def share_contexts(programs: int = 200) -> None:
    """Makes JAX lower this many programs in one MLIR context.

    It creates one for each program, which takes a fifth of the time that a small program takes to
    compile. A context keeps the constants of its programs: there is a new one from time to time.
    """
    made, make = itertools.count(), mlir.make_ir_context

    @functools.lru_cache(maxsize=1)
    def context(number: int) -> object:
        return make()

    mlir.make_ir_context = lambda: context(next(made) // programs)


def store_quickly() -> None:
    """Stores a program without reading when each of the others was used.

    JAX does so before it stores a program in a folder of limited size, to remove old ones: with a
    thousand programs it takes longer than compiling a small one. The limit stays, because with it
    processes lock the folder that they share; the programs of a session stay far below it.
    """
    LRUCache._evict_if_needed = lambda self, *, additional_size=0: None

"""How programs are compiled: what pays on which backend, in one place."""

import ctypes
import hashlib
import os
import pathlib
import platform
from collections.abc import Callable, Mapping
from typing import Any

import jax

from kdjax import parallel

Options = Mapping[str, Any]

# What a program does -> backend -> options.
OPTIONS: Mapping[str, Mapping[str, Options]] = {
    "train": {
        "cpu": {
            # XLA:CPU's library YNNPACK makes reductions faster, but convolutions, and the products
            # of training, slower: those are left to others.
            "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE",
            # From JAX 0.11 on oneDNN's are faster than Eigen's, in bfloat16 above all; earlier the
            # option changes nothing.
            "xla_cpu_experimental_onednn_custom_call": True,
        }
    },
    # A network is initialized once: compiling that well takes longer than it saves.
    "initialize": {"cpu": {"xla_backend_optimization_level": 0}},
}
# Bytes of compiled programs that are kept; those that were not used for longest go first.
KEPT_AT_MOST = 2**30
# Of glibc's malloc.h: one arena for all threads, no mapping of large blocks, no trimming.
_KEEP = {-8: 1, -4: 0, -1: -1}
_tuned = True


def tune(on: bool) -> None:
    """Says whether programs that are compiled from now on take these options or XLA's own."""
    global _tuned
    _tuned = on


def compiled(function: Callable, program: str = "train", **kwargs: Any) -> Callable:
    """Returns jax.jit of the function; what that returns lies on every device.

    Args:
        function: pure.
        program: a key of `OPTIONS`.
        **kwargs: of `jax.jit`.
    """
    options = OPTIONS[program].get(jax.default_backend(), {}) if _tuned else {}
    out = parallel.replicated()
    return jax.jit(function, compiler_options=dict(options), out_shardings=out, **kwargs)


def keep_programs() -> None:
    """Has compiled programs kept in the user's cache folder and found there by later runs.

    Nothing changes where JAX is told of a folder already (`JAX_COMPILATION_CACHE_DIR`), or where
    this one cannot be made.
    """
    if jax.config.values["jax_compilation_cache_dir"]:
        return
    caches = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    # A home may be shared by machines whose processors have other instructions.
    folder = caches / "kdjax" / "programs" / f"{platform.machine()}-{_processor()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if os.access(folder, os.W_OK):
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_compilation_cache_max_size", KEPT_AT_MOST)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def keep_memory() -> None:
    """Has the memory that a step frees kept for the next one, where the C library is glibc.

    On the CPU it goes back to the kernel otherwise, which zeroes it again page by page in each
    step. The process holds more for it; `experiments/memory.py` measures both. Threads that have
    allocated before keep their ways: call it first.
    """
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        for option, value in _KEEP.items():
            library.mallopt(option, value)


def _processor() -> str:
    """Returns a name for what this processor can do."""
    about = pathlib.Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.exists() else []
    flags = [line for line in lines if line.startswith(("flags", "Features"))]
    return hashlib.sha256(flags[0].encode()).hexdigest()[:8] if flags else platform.processor()

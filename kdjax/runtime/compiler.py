"""Compiler options per backend, the persistent compilation cache, and the memory allocator."""

import contextlib
import ctypes
import functools
import hashlib
import math
import os
import pathlib
import platform
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ParamSpec, TypeVar

import jax

from kdjax.errors import InputError
from kdjax.paths import user_path
from kdjax.runtime import program_cache, sharding

Options = Mapping[str, Any]
_P = ParamSpec("_P")
_Result = TypeVar("_Result")

# One thread generates the code of a program: several would wait for each other in malloc, which has
# a single arena (`tune_allocator`).
_ONE_THREAD: Options = {"xla_cpu_parallel_codegen_split_count": 1}
# For a short compilation. Without the code generation by MLIR it takes half of the time; from JAX
# 0.11 on there is no other.
_QUICK: Options = {
    **_ONE_THREAD,
    "xla_backend_optimization_level": 0,
    **({"xla_cpu_use_fusion_emitters": False} if jax.__version_info__ < (0, 11) else {}),
}
# XLA cannot serialize a program with oneDNN's convolutions: it takes their calls for those of
# another kind (`std::bad_alloc`; seen with jax 0.11.2, 0.12.0 and 0.12.0.1).
_ONEDNN = "xla_cpu_experimental_onednn_custom_call"
_ONEDNN_JAX = (0, 11)
# Kind of program -> backend -> XLA options.
OPTIONS: Mapping[str, Mapping[str, Options]] = {
    "train": {
        "cpu": {
            **_ONE_THREAD,
            # YNNPACK, a library of XLA:CPU, speeds up reductions but slows down convolutions and
            # the matrix products of training: use it for reductions only.
            "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE",
            # From JAX 0.11 on, oneDNN's matrix products are faster than Eigen's, above all in
            # bfloat16. Earlier versions ignore the option.
            _ONEDNN: True,
        },
        # Triton's matrix products crash XLA while it compiles the 1x1 convolutions of small
        # ResNets (openxla/xla#47381; seen with jax 0.11.2 on an H200): cuBLAS computes them.
        "gpu": {"xla_gpu_enable_triton_gemm": False},
    },
    # Initialization runs once: optimizing the program costs more than it saves.
    "initialize": {"cpu": _QUICK},
    # The learning rate for the log: a few scalars, rounded as by one operation after another.
    "schedule": {"cpu": {**_QUICK, "xla_disable_hlo_passes": "algsimp,fusion,constant_folding"}},
}
# How many times as fast a network trains in bfloat16 as in float32 on a CPU with instructions for
# it, where it is at least 1.1. A test compares the table with the measurements, in
# experiments/results/speed_cpu*_python312.json.
BFLOAT16_SPEEDUPS: Mapping[str, float] = {
    "resnet8": 1.3,
    "resnet14": 1.28,
    "resnet20": 1.38,
    "resnet56": 1.44,
    "resnet18": 1.23,
    "resnet50": 1.52,
    "alexnet": 1.55,
    "alexnet_small": 1.3,
    "fast_cnn": 1.33,
}
# Flags of such processors in /proc/cpuinfo. Earlier versions of JAX do not use the instructions.
_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16"}
# JAX stores programs whose compilation takes at least so many seconds.
_STORED_ABOVE = "jax_persistent_cache_min_compile_time_secs"
# Size of the compilation cache in bytes; the least recently used programs are removed first.
MAX_CACHE_BYTES = 2**30
# The durations that JAX reports while it traces, lowers and compiles a program.
_COMPILE_EVENTS = "/jax/core/compile/"
# mallopt options of glibc's malloc.h: a single arena (M_ARENA_MAX), because malloc returns large
# arrays of any other one to the kernel, no mmap (M_MMAP_MAX), no trimming (M_TRIM_THRESHOLD).
_MALLOC_OPTIONS = {-8: 1, -4: 0, -1: -1}
_tuned = True
# Functions of `cached_program`.
_caches: list[Any] = []
# The number of contexts of `nothing_stored` that are open in all threads, and the value of
# `_STORED_ABOVE` outside of them; both are changed under the lock.
_open_contexts = 0
_stored_above = 0.0
_contexts_lock = threading.Lock()
# Start and end of the time spent on each program, by the monotonic clock.
_compiling: list[tuple[float, float]] = []


def set_tuned(tuned: bool) -> None:
    """Chooses, for programs compiled from now on, between `OPTIONS` and XLA's defaults."""
    global _tuned
    if tuned != _tuned:
        for cache in _caches:
            cache.cache_clear()
    _tuned = tuned


def jit(function: Callable, program: str = "train", **kwargs: Any) -> Callable:
    """Returns `jax.jit` of a function with the options of this backend; outputs are replicated.

    Args:
        function: pure.
        program: a key of `OPTIONS`.
        **kwargs: passed to `jax.jit`.
    """
    options = OPTIONS[program].get(jax.default_backend(), {}) if _tuned else {}
    out = sharding.replicated_sharding()
    compiled = jax.jit(function, compiler_options=dict(options), out_shardings=out, **kwargs)
    return _UnstoredProgram(compiled) if _ONEDNN in options and _has_onednn() else compiled


def _has_onednn() -> bool:
    return jax.__version_info__ >= _ONEDNN_JAX and platform.machine() in ("x86_64", "AMD64")


class _UnstoredProgram:
    """A function of `jax.jit` whose program is not written to the compilation cache."""

    def __init__(self, function: Any) -> None:
        self._function = function
        self.lower, self.eval_shape = function.lower, function.eval_shape

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with nothing_stored():
            return self._function(*args, **kwargs)


@contextlib.contextmanager
def nothing_stored() -> Iterator[None]:
    """Returns a context in which no thread writes programs to the compilation cache."""
    global _open_contexts, _stored_above
    with _contexts_lock:
        if not _open_contexts:
            _stored_above = jax.config.values[_STORED_ABOVE]
            jax.config.update(_STORED_ABOVE, math.inf)
        _open_contexts += 1
    try:
        yield
    finally:
        with _contexts_lock:
            _open_contexts -= 1
            if not _open_contexts:
                jax.config.update(_STORED_ABOVE, _stored_above)


def cached_program(
    maxsize: int | None = None,
) -> Callable[[Callable[_P, _Result]], Callable[_P, _Result]]:
    """Returns a decorator for functions that make a program with `jit`.

    Equal arguments give the same program, which a process traces and compiles once. `set_tuned`
    drops the programs that were made with the other value.

    Args:
        maxsize: number of programs that are kept, the most recently used ones; None: all.
    """

    def decorate(make: Callable[_P, _Result]) -> Callable[_P, _Result]:
        cached = functools.lru_cache(maxsize)(make)
        _caches.append(cached)
        return cached  # type: ignore[return-value]

    return decorate


@functools.cache
def shared(make: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Returns `make(*args, **kwargs)`, the same object for equal arguments.

    For functions that a program depends on, such as an optimizer: functions are compared by
    identity, so that two programs are equal only if they depend on the same objects.
    """
    return make(*args, **kwargs)


def fastest_dtype(network: str) -> str:
    """Returns the dtype of the computation in which a network trains fastest on this device.

    On a CPU it is bfloat16 for the networks of `BFLOAT16_SPEEDUPS`, if the processor has
    instructions for it and JAX uses them. On a GPU or TPU, whose matrix units compute in bfloat16,
    it is always bfloat16, without a measurement.

    Args:
        network: a key of `kdjax.models.MODELS`.
    """
    if jax.default_backend() != "cpu":
        return "bfloat16"
    has_instructions = not _BFLOAT16_FLAGS.isdisjoint(processor_flags().split())
    uses_them = has_instructions and jax.__version_info__ >= _ONEDNN_JAX
    return "bfloat16" if uses_them and network in BFLOAT16_SPEEDUPS else "float32"


def enable_compilation_cache() -> None:
    """Stores compiled programs in the user's cache folder, where later runs find them.

    If JAX already has a cache folder (`JAX_COMPILATION_CACHE_DIR`), that one is used. Damaged
    entries are removed; a folder that cannot be used is not used, with a warning.
    """
    if given := jax.config.values["jax_compilation_cache_dir"]:
        if "://" not in given:  # a folder of this machine
            program_cache.repair(pathlib.Path(given))  # JAX warns if it cannot be used
        return
    try:
        caches = user_path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    except InputError as error:
        _warn_no_cache(str(error))
        return
    # A home folder may be shared by machines whose processors have different instructions.
    folder = caches / "kdjax" / "programs" / f"{platform.machine()}-{processor_id()}"
    if reason := program_cache.repair(folder, MAX_CACHE_BYTES):
        _warn_no_cache(reason)
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", -1)  # `repair` limits it
    jax.config.update(_STORED_ABOVE, 0)


def compile_seconds() -> float:
    """Returns the seconds that this process has spent on compilation since the first call."""
    _listen_to_compilation()
    return sum(end - start for start, end in _compiling)


@functools.cache
def _listen_to_compilation() -> None:
    jax.monitoring.register_event_duration_secs_listener(_record_compilation)


def _record_compilation(event: str, duration_secs: float, **_: str | int) -> None:
    if event.startswith(_COMPILE_EVENTS):
        end = time.monotonic()
        start = end - duration_secs
        # A function that another one calls is traced within the time of that one.
        while _compiling and _compiling[-1][0] >= start:
            _compiling.pop()
        _compiling.append((start, end))


def _warn_no_cache(reason: str) -> None:
    warnings.warn(
        f"compiled programs are not stored for the next run: {reason}; another folder can be given "
        "with XDG_CACHE_HOME",
        RuntimeWarning,
        stacklevel=3,
    )


def tune_allocator() -> None:
    """Makes glibc keep freed memory for the next step instead of returning it to the kernel.

    On the CPU the kernel would otherwise zero the same pages again in every step. The process
    holds more memory in exchange; `experiments/memory.py` measures both. Call it before any
    thread allocates memory. Does nothing where the C library is not glibc.
    """
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        for option, value in _MALLOC_OPTIONS.items():
            library.mallopt(option, value)


def processor_id() -> str:
    """Returns a short identifier of the processor's instruction set, for the name of a folder."""
    flags = processor_flags()
    return hashlib.sha256(flags.encode()).hexdigest()[:8] if flags else platform.processor()


def processor_flags() -> str:
    """Returns the line of /proc/cpuinfo that names the instructions; empty on other systems."""
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")

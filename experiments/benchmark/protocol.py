"""The protocol between the benchmark and its workers: one JSON command and one reply per line.

A worker keeps its compiled variants until it receives `release`. It times its own runs, so that
the times do not include the communication.
"""

import contextlib
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

MODULES = {
    "torch": "experiments.benchmark.torch_side",
    "kdjax": "experiments.benchmark.kdjax_side",
    "keras": "experiments.benchmark.keras_side",
    "onnxruntime": "experiments.benchmark.onnx_side",
}
ROOT = pathlib.Path(__file__).parents[2]
# The workers share one accelerator; by default each JAX process reserves 3/4 of its memory.
ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "0",
    "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.3",
    "KERAS_BACKEND": "jax",
}

Reply = dict[str, Any]
# Sends a command to a worker: `(name, **arguments) -> reply`.
Worker = Callable[..., Reply]


class WorkerError(Exception):
    """Raised if a worker reports an error, ends early, or its results cannot be compared."""


class Prepared(NamedTuple):
    """A variant of a case, ready to be timed.

    Attributes:
        phases: a function for each phase; it returns when all results are computed.
        parameters: number of parameters of the trained network.
        memory: bytes of the program of a step; None if they are not known.
    """

    phases: Mapping[str, Callable[[], None]]
    parameters: int = 0
    memory: int | None = None


Prepare = Callable[..., Prepared]


def versions(*libraries: str) -> dict[str, str]:
    """Returns the versions of installed libraries and of Python."""
    found = {name: importlib.metadata.version(name) for name in libraries}
    return {**found, "python": platform.python_version()}


def public_command(module: str) -> list[str]:
    """Returns this process's command for a results file, without the folders of absolute paths."""
    arguments = [re.sub("(^|=)/[^=]*/", r"\1", argument) for argument in sys.argv[1:]]
    return ["python", "-m", module, *arguments]


def processor() -> str:
    """Returns the name of this machine's processor."""
    path = pathlib.Path("/proc/cpuinfo")
    match = re.search(r"model name\s*: (.*)", path.read_text()) if path.exists() else None
    return match[1] if match else platform.processor()


def serve(prepare: Prepare, **commands: Callable[..., Reply]) -> None:
    """Answers the commands on standard input until it ends.

    Args:
        prepare: `(resources, case, variant, batch, steps) -> Prepared`; what has to be closed is
            entered into `resources`, an ExitStack.
        **commands: further commands by name.
    """
    # Libraries print to standard output: redirect it, so that it does not mix with the replies.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    with contextlib.ExitStack() as resources:
        commands = {**_variant_commands(prepare, resources), **commands}
        for line in sys.stdin:
            reply = _reply(commands, **json.loads(line))
            print(json.dumps(reply), file=replies, flush=True)


def _reply(
    commands: Mapping[str, Callable[..., Reply]], command: str, arguments: dict[str, Any]
) -> Reply:
    try:
        return commands[command](**arguments)
    except Exception as error:
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}


def _variant_commands(
    prepare: Prepare, resources: contextlib.ExitStack
) -> dict[str, Callable[..., Reply]]:
    """Returns the commands `prepare`, `time` and `release`, which share the prepared variants."""
    variants: dict[str, Prepared] = {}

    def prepare_variant(**arguments: Any) -> Reply:
        start = time.perf_counter()
        prepared = variants[arguments["variant"]["name"]] = prepare(resources, **arguments)
        for run in prepared.phases.values():
            run()
        return {
            "seconds": time.perf_counter() - start,
            "phases": list(prepared.phases),
            "parameters": prepared.parameters,
            "memory": prepared.memory,
        }

    def time_variant(variant: str, phase: str) -> Reply:
        start = time.perf_counter()
        variants[variant].phases[phase]()
        return {"seconds": time.perf_counter() - start}

    def release() -> Reply:
        variants.clear()
        resources.close()
        return {}

    return {"prepare": prepare_variant, "time": time_variant, "release": release}


@contextlib.contextmanager
def start_worker(python: str, module: str) -> Iterator[Worker]:
    """Starts a module that calls `serve`; yields a function that sends it commands.

    Args:
        python: the Python interpreter.
        module: the name of the module.

    Raises:
        WorkerError: by the yielded function, if the worker reports an error or ends.
    """
    with subprocess.Popen(
        [python, "-m", module],
        cwd=ROOT,
        env={**ENVIRONMENT, **os.environ},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin and process.stdout

        def send(command: str, **arguments: Any) -> Reply:
            request = json.dumps({"command": command, "arguments": arguments})
            with contextlib.suppress(BrokenPipeError):
                print(request, file=process.stdin, flush=True)
            line = process.stdout.readline()  # type: ignore[union-attr]
            if not line:
                raise WorkerError(f"{module} ended with status {process.wait()}")
            reply = json.loads(line)
            if "error" in reply:
                raise WorkerError(f"{module}, {command}: {reply['error']}")
            return reply

        yield send


@contextlib.contextmanager
def start_workers(pythons: Mapping[str, str]) -> Iterator[dict[str, Worker]]:
    """Starts the worker of each available side; yields the workers by side.

    Args:
        pythons: side -> Python of its environment; empty if the side is not available.

    Raises:
        WorkerError: by a worker, if it reports an error or ends.
    """
    with contextlib.ExitStack() as stack:
        yield {
            side: stack.enter_context(start_worker(python, MODULES[side]))
            for side, python in pythons.items()
            if python
        }

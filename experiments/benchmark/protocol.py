"""How the driver and its workers talk: a JSON command a line, and a JSON reply a line.

A worker keeps what it has prepared, compiled and warm, until it is told to release it, and times
its own turns, so that the talk is no part of them.
"""

import contextlib
import json
import os
import pathlib
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

MODULES = {
    "torch": "experiments.benchmark.torch_side",
    "kdjax": "experiments.benchmark.ours",
    "keras": "experiments.benchmark.keras_side",
}
ROOT = pathlib.Path(__file__).parents[2]
# The workers share one accelerator, and each JAX would take three quarters of its memory.
ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "0",
    "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.3",
    "KERAS_BACKEND": "jax",
}

Reply = dict[str, Any]
Ask = Callable[..., Reply]


class WorkerError(Exception):
    """A worker could not do what it was asked."""


class Prepared(NamedTuple):
    """One variant of one case, ready to run.

    Attributes:
        turns: by road; each returns when everything is computed.
        parameters: of the trained network.
        flops: of one training step, or None where nobody counts them.
        memory: bytes that the program of a step takes, or None where nobody knows.
    """

    turns: Mapping[str, Callable[[], None]]
    parameters: int = 0
    flops: float | None = None
    memory: int | None = None


Prepare = Callable[..., Prepared]


def public_command(module: str) -> list[str]:
    """Returns the command that runs, for a file of results.

    Where things lie on this machine would tell a reader nothing.
    """
    given = [re.sub("(^|=)/[^=]*/", r"\1", argument) for argument in sys.argv[1:]]
    return ["python", "-m", module, *given]


def serve(prepare: Prepare, **others: Callable[..., Reply]) -> None:
    """Answers the commands on standard input until it ends.

    Args:
        prepare: `(held, case, variant, batch, steps) -> Prepared`; what has to be closed in the
            end goes to `held`, an ExitStack.
        **others: further commands by name.
    """
    # Libraries print what they like: their standard output becomes the standard error.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    with contextlib.ExitStack() as held:
        commands = {**_keeping(prepare, held), **others}
        for line in sys.stdin:
            command = json.loads(line)
            print(json.dumps(_reply(commands, command)), file=answers, flush=True)


def _reply(commands: Mapping[str, Callable[..., Reply]], command: dict[str, Any]) -> Reply:
    try:
        return commands[command.pop("do")](**command)
    except Exception as error:
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}


def _keeping(prepare: Prepare, held: contextlib.ExitStack) -> dict[str, Callable[..., Reply]]:
    """Returns the commands prepare, turn and release over what is kept between them."""
    kept: dict[str, Prepared] = {}

    def first(**given: Any) -> Reply:
        start = time.perf_counter()
        prepared = kept[given["variant"]["name"]] = prepare(held, **given)
        for run in prepared.turns.values():
            run()
        return {
            "seconds": time.perf_counter() - start,
            "roads": list(prepared.turns),
            "parameters": prepared.parameters,
            "flops": prepared.flops,
            "memory": prepared.memory,
        }

    def turn(variant: str, road: str) -> Reply:
        start = time.perf_counter()
        kept[variant].turns[road]()
        return {"seconds": time.perf_counter() - start}

    def release() -> Reply:
        kept.clear()
        held.close()
        return {}

    return {"prepare": first, "turn": turn, "release": release}


@contextlib.contextmanager
def worker(python: str, module: str) -> Iterator[Ask]:
    """Starts a module that calls `serve`, and gives `ask(do, **arguments) -> reply`.

    Raises:
        WorkerError: from `ask`, if the worker fails or ends.
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

        def ask(do: str, **arguments: Any) -> Reply:
            with contextlib.suppress(BrokenPipeError):
                print(json.dumps({"do": do, **arguments}), file=process.stdin, flush=True)
            line = process.stdout.readline()  # type: ignore[union-attr]
            if not line:
                raise WorkerError(f"{module} ended with status {process.wait()}")
            reply = json.loads(line)
            if "error" in reply:
                raise WorkerError(f"{module}, {do}: {reply['error']}")
            return reply

        yield ask


@contextlib.contextmanager
def workers(pythons: Mapping[str, str]) -> Iterator[dict[str, Ask]]:
    """Starts a worker for each side that there is, and gives `ask(do, **arguments) -> reply`.

    Args:
        pythons: side -> the interpreter of its environment, empty where there is none.

    Raises:
        WorkerError: from `ask`, if the worker fails or ends.
    """
    with contextlib.ExitStack() as stack:
        yield {
            side: stack.enter_context(worker(python, MODULES[side]))
            for side, python in pythons.items()
            if python
        }

"""Numpy functions on several processor cores: numpy releases the interpreter lock on arrays."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Argument = TypeVar("Argument")
Result = TypeVar("Result")


def map_in_threads(
    function: Callable[[Argument], Result], arguments: Sequence[Argument]
) -> list[Result]:
    """Returns the results of a function in the order of the arguments, computed in threads.

    There is a thread for each core that this process may use, and none for a single argument.

    Args:
        function: that does not depend on the order of its calls.
        arguments: of the calls.

    Raises:
        Exception: the first one, in the order of the arguments, that the function raises.
    """
    workers = min(len(arguments), number_of_cores())
    if workers < 2:
        return [function(argument) for argument in arguments]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(function, arguments))


def number_of_cores() -> int:
    """Returns how many cores this process may use."""
    # Only Linux can restrict a process to some of the cores.
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1

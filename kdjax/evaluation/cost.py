"""`cost.json` of a workdir: size and measured latency of the student and of its teacher.

In a file of its own, because a measured time is not reproducible and `results.json` is.
"""

import functools
import os
import pathlib
import platform
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from kdjax import models
from kdjax.data.augment import normalize
from kdjax.data.deployment_views import IDENTITY, View, average_logits
from kdjax.evaluation import network
from kdjax.models import apply
from kdjax.models.cost import cost
from kdjax.models.user_class import short_name
from kdjax.runs import fold_workdirs, restore, teachers, workdir
from kdjax.runtime import atomic_io
from kdjax.training.spec import STUDENT, TEACHER, create_network

FILE_NAME = "cost.json"
BATCH_SIZES = (1, 256)
# A latency is the median of this many calls, fewer if they take longer than this many seconds.
CALLS, SECONDS = 30, 0.5


def write_cost(folder: pathlib.Path) -> dict[str, Any]:
    """Measures the networks of a workdir and writes `cost.json`.

    Args:
        folder: the workdir of a student or of a teacher.

    Returns:
        The content: `machine`, and for `student` and `teacher`, as far as the workdir has a network
        of it, the name of the `model`, its `parameters`, the number of `views` over which its
        logits are averaged, its `multiply_adds` for one image over all of them, and `latency`, see
        `measure_latency`, in seconds by batch size; None in a smoke run.
    """
    smoke = bool(restore.load_config(folder).smoke)
    costs = {"machine": machine(), **_entries(folder, smoke=smoke)}
    atomic_io.write_json(folder / FILE_NAME, costs)
    return costs


def multiply_adds(folder: pathlib.Path) -> dict[str, int]:
    """Returns the multiply-adds for one image over all views of `student` and `teacher`.

    As in `write_cost`, but nothing is measured or written, so that every process may ask.

    Args:
        folder: the workdir of a student or of a teacher.
    """
    entries = _entries(folder, smoke=True)
    return {stage: entry["multiply_adds"] for stage, entry in entries.items()}


def read_cost(folder: pathlib.Path) -> dict[str, Any] | None:
    """Returns the content of `cost.json`; None if there is none, as in older workdirs.

    Raises:
        InputError: if the file is damaged.
    """
    path = folder / FILE_NAME
    content: dict[str, Any] | None = atomic_io.read_json(path) if path.exists() else None
    return content


def _entries(folder: pathlib.Path, *, smoke: bool) -> dict[str, Any]:
    """Returns the entries of the networks of a workdir, without a latency in a smoke run."""
    config, metadata = restore.load_config(folder), workdir.read_metadata(folder)
    views = network.views_of(config) if metadata["stage"] == STUDENT else (IDENTITY,)
    entries: dict[str, Any] = {}
    for path in (teachers.folder_of(folder), folder):
        if path and (path / "config.json").exists():
            entries |= _cost_of(path, views, smoke=smoke)
    return entries


def _cost_of(folder: pathlib.Path, views: tuple[View, ...], *, smoke: bool) -> dict[str, Any]:
    """Returns the entry of a workdir by its stage; empty if it has no network in JAX."""
    metadata = workdir.read_metadata(folder)
    stage, dataset = metadata["stage"], metadata["dataset"]
    kind = (metadata.get("source") or {}).get("kind")
    if kind == teachers.ENSEMBLE:
        members = sorted((folder / teachers.MEMBERS).iterdir())
        return {stage: _total([_cost_of(member, views, smoke=smoke)[stage] for member in members])}
    if stage == workdir.STUDENTS or kind in teachers.ON_HOST:
        return {}
    shape, config = tuple(dataset["image_shape"]), restore.load_config(folder)
    if stage == TEACHER and config.teacher.folds:
        entry = _cost_of(fold_workdirs.fold_folder(folder, 0), views, smoke=smoke)[stage]
        name = f"{config.teacher.folds} x {entry['model']}"
        return {stage: {**_total([entry] * config.teacher.folds), "model": name}}
    model = create_network(config, stage, len(dataset["class_names"]), shape)
    size = cost(model, shape)
    return {
        stage: {
            "model": short_name(config[stage].model),
            "parameters": size.parameters,
            "views": len(views),
            "multiply_adds": len(views) * size.multiply_adds,
            "latency": None if smoke else latencies(model, shape, views),
        }
    }


def _total(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the entry of networks that are applied one after the other."""
    latency = [entry["latency"] for entry in entries]
    return {
        "model": " + ".join(entry["model"] for entry in entries),
        "views": entries[0]["views"],
        **{name: sum(entry[name] for entry in entries) for name in ("parameters", "multiply_adds")},
        "latency": _sum_latencies(latency) if all(latency) else None,
    }


def _sum_latencies(latency: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    by_size = {size: [times[size] for times in latency] for size in latency[0]}
    return {size: None if None in times else sum(times) for size, times in by_size.items()}


@functools.cache
def latencies(
    model: nn.Module, image_shape: tuple[int, ...], views: tuple[View, ...] = (IDENTITY,)
) -> dict[str, float | None]:
    """Returns the latency of a network for each of `BATCH_SIZES`, measured once per process.

    None for a batch that does not fit into the memory of the device.
    """
    measured: dict[str, float | None] = {}
    for size in BATCH_SIZES:
        try:
            measured[str(size)] = measure_latency(model, image_shape, size, views)
        except jax.errors.JaxRuntimeError:
            measured[str(size)] = None
    return measured


def measure_latency(
    model: nn.Module,
    image_shape: tuple[int, ...],
    batch_size: int,
    views: Sequence[View] = (IDENTITY,),
) -> float:
    """Returns the time of a call in seconds: from uint8 images to logits, both in host memory.

    The median of up to `CALLS` calls of the compiled network in its inference form, with the
    normalization and in the precision of an exported model. The values of the weights do not
    matter.

    Args:
        model: the network.
        image_shape: height, width and channels.
        batch_size: images of a call.
        views: over which the logits are averaged.
    """
    zeros = jax.tree.map(
        lambda leaf: np.zeros(leaf.shape, leaf.dtype), apply.abstract_variables(model, image_shape)
    )
    folded, variables = models.fold_batch_norm(model, zeros)
    half = np.full(image_shape[-1], 0.5, np.float32)
    variables, half = jax.device_put((variables, half))

    @jax.jit
    def forward(variables: Any, images: jax.Array) -> jax.Array:
        def logits(images: jax.Array) -> jax.Array:
            return apply.apply_eval(folded, variables, normalize(images, half, half))

        return average_logits(logits, images, views)

    images = np.zeros((batch_size, *image_shape), np.uint8)
    with jax.default_matmul_precision(network.PRECISION):
        return _median_seconds(lambda: np.asarray(forward(variables, images)))


def _median_seconds(call: Callable[[], Any]) -> float:
    call()  # compiles
    seconds: list[float] = []
    while len(seconds) < CALLS and sum(seconds) < SECONDS:
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def machine() -> str:
    """Returns the device on which latencies are measured, such as `cpu, NAME, 2 cores`."""
    device = jax.local_devices()[0]
    if device.platform != "cpu":
        return str(device.device_kind)
    path = pathlib.Path("/proc/cpuinfo")
    match = re.search(r"model name\s*: (.*)", path.read_text()) if path.exists() else None
    name = match[1] if match else platform.processor() or platform.machine()
    return f"cpu, {name}, {os.cpu_count()} cores"

"""Jitted programs of train steps, for one network or for several that see the same batches."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.data.batches import Batch, BatchSource, BatchSpec, Examples, make_batch
from kdjax.data.records import Records
from kdjax.models.apply import Variables, apply_train
from kdjax.runtime import compiler, prng, sharding
from kdjax.training import host_teacher
from kdjax.training.host_teacher import HostBatch, HostTeacher
from kdjax.training.spec import TrainSpec
from kdjax.training.step import (
    Metrics,
    TrainState,
    apply_gradients,
    dropout_key,
    gradient_function,
    loss_fn,
    train_step,
    update_targets,
)
from kdjax.training.teacher import (
    CachedViews,
    OnlineTeacher,
    TeacherLogits,
    TeacherSource,
    logits_program,
    teacher_logits,
)

# On accelerators one call runs many steps. On the CPU a call costs little beside a step, and a
# loop takes longer to compile.
STEPS_PER_CALL = {"cpu": 1}
DEFAULT_STEPS_PER_CALL = 50
# Backends on which an online teacher runs in a separate program. So do the cached logits of fixed
# views there: the program of the steps is then the same, and rounds in the same way.
SEPARATE_TEACHER_BACKENDS = ("cpu",)
SEPARATE_TEACHERS = (OnlineTeacher, CachedViews)
# Backends on which the layers of networks of the same structure are not vmapped: XLA:CPU is 1.1 to
# 1.4 times as fast without (experiments/results/student_scaling.md).
UNSTACKED_BACKENDS = ("cpu",)

States = tuple[TrainState, ...]
StepsResult = tuple[States, tuple[Metrics, ...]]


class Program(NamedTuple):
    """`(states, source, teacher, count) -> (states, metrics)`: runs `count` steps of one epoch.

    There is one state per network, which is donated; the metrics are `[count]` each.

    Attributes:
        specs: of the networks; their seeds are arguments of the compiled program.
        run: `(states, specs, source, teacher, count)`: the steps, jitted.
        compute_teacher: `(batches, teacher, source, finished steps) -> logits` of a batch, jitted
            separately; None where the teacher runs within the steps.
        host_batch: `(batches, source, finished steps) -> HostBatch`, jitted, for a `HostTeacher`;
            None if the steps need no teacher.
    """

    specs: tuple[TrainSpec, ...]
    run: Any
    compute_teacher: Any
    host_batch: Callable[..., HostBatch] | None

    def __call__(
        self, states: States, source: BatchSource, teacher: TeacherSource, count: int
    ) -> StepsResult:
        """Runs the steps; only one at a time with a `HostTeacher`."""
        # Inside a scan the teacher must run in the same program.
        if self.compute_teacher and count == 1 and isinstance(teacher, SEPARATE_TEACHERS):
            teacher = TeacherLogits(
                self.compute_teacher(self.batches, teacher, source, states[0].step)
            )
        elif isinstance(teacher, HostTeacher):
            teacher = self._host_logits(teacher, source, states[0].step)
        result: StepsResult = self.run(states, self.specs, source, teacher, count)
        return result

    @property
    def batches(self) -> BatchSpec:
        """How the batches of all networks are formed; its seed is an argument as well."""
        return self.specs[0].batches

    def memory(
        self, states: States, source: BatchSource, teacher: TeacherSource, count: int
    ) -> int | None:
        """Returns the bytes that a call needs on each device, its arguments included.

        The program of a separate teacher is not counted. None if the backend does not say it.
        """
        if self.compute_teacher and count == 1 and isinstance(teacher, SEPARATE_TEACHERS):
            shape = self.compute_teacher.eval_shape(self.batches, teacher, source, states[0].step)
            teacher = TeacherLogits(shape.update(sharding=sharding.replicated_sharding()))
        elif isinstance(teacher, HostTeacher):
            teacher = self._host_logits_shape()
        lowered = self.run.lower(states, self.specs, source, teacher, count)
        with compiler.nothing_stored():
            analysis = lowered.compile().memory_analysis()
        if analysis is None:
            return None
        return int(
            analysis.argument_size_in_bytes
            + analysis.temp_size_in_bytes
            + analysis.output_size_in_bytes
            - analysis.alias_size_in_bytes
        )

    def _host_logits(
        self, teacher: HostTeacher, source: BatchSource, step: jax.Array
    ) -> TeacherLogits | None:
        """Returns the logits of one batch; None in an epoch without a teacher."""
        if self.host_batch is None:
            return None
        logits = host_teacher.batch_logits(teacher, self.host_batch(self.batches, source, step))
        return TeacherLogits(sharding.replicate(logits))

    def _host_logits_shape(self) -> TeacherLogits | None:
        """Returns the shape of what `_host_logits` returns."""
        if self.host_batch is None:
            return None
        shape = self.batches.batch_size, self.specs[0].num_classes
        replicated = sharding.replicated_sharding()
        logits: Any = jax.ShapeDtypeStruct(shape, np.float32, sharding=replicated)
        return TeacherLogits(logits)


def make_program(specs: Sequence[TrainSpec], *, stacked: bool | None = None) -> Program:
    """Returns the program that trains networks on the same batches.

    Args:
        specs: of the networks; those with a teacher share one, which is applied once per batch.
        stacked: whether the layers of networks of the same structure are vmapped; None: not on
            `UNSTACKED_BACKENDS`.
    """
    specs = tuple(prng.with_array_seeds(spec) for spec in specs)
    leader = next((index for index, spec in enumerate(specs) if spec.teacher is not None), 0)
    first, separate = specs[leader], None
    if first.teacher is not None and jax.default_backend() in SEPARATE_TEACHER_BACKENDS:
        separate = logits_program(first.teacher)
    if stacked is None:
        stacked = jax.default_backend() not in UNSTACKED_BACKENDS
    return Program(
        specs,
        _steps_program(jax.tree.structure(specs), leader, stacked),
        separate,
        compiler.jit(host_teacher.host_batch) if first.teacher is not None else None,
    )


@compiler.cached_program(maxsize=16)
def _steps_program(structure: Any, leader: int, stacked: bool) -> Any:
    """Returns `Program.run`, which gets the specs as an argument.

    Args:
        structure: of the specs, all but their seeds; the key under which the program is kept.
        leader: index of the network whose batches and teacher are those of all.
        stacked: whether the layers of networks of the same structure are vmapped.
    """

    def steps(
        states: States,
        specs: Sequence[TrainSpec],
        source: BatchSource,
        teacher: TeacherSource,
        count: int,
    ) -> StepsResult:
        first = specs[leader]

        def one_step(states: States, _: None) -> StepsResult:
            batch = make_batch(first.batches, source, states[0].step)
            logits = teacher_logits(first.teacher, teacher, batch)
            return _train_steps(specs, states, batch, logits, stacked=stacked)

        if count > 1:
            return jax.lax.scan(one_step, states, length=count)
        states, metrics = one_step(states, None)
        return states, jax.tree.map(lambda value: value[None], metrics)

    return compiler.jit(steps, donate_argnums=0, static_argnums=4)


def _train_steps(
    specs: Sequence[TrainSpec],
    states: States,
    batch: Batch,
    logits: jax.Array | None,
    *,
    stacked: bool,
) -> StepsResult:
    """One step of each network; with `stacked`, those of the same structure together."""
    targets = [logits if spec.teacher is not None else None for spec in specs]
    results: dict[int, tuple[TrainState, Metrics]] = {}
    groups: dict[Any, list[int]] = {}
    for index, spec in enumerate(specs):
        groups.setdefault(spec.model if stacked else index, []).append(index)
    for group in groups.values():
        if len(group) == 1:
            (index,) = group
            stepped = [train_step(specs[index], states[index], batch, targets[index])]
        else:
            stepped = _train_step_stacked(
                [specs[index] for index in group],
                [states[index] for index in group],
                batch,
                [targets[index] for index in group],
            )
        results.update(zip(group, stepped, strict=True))
    new_states, metrics = zip(*(results[index] for index in range(len(specs))), strict=True)
    return new_states, metrics


def _train_step_stacked(
    specs: Sequence[TrainSpec],
    states: Sequence[TrainState],
    batch: Batch,
    targets: Sequence[jax.Array | None],
) -> list[tuple[TrainState, Metrics]]:
    """`train_step` for networks of the same structure: their layers are vmapped."""
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(s.variables for s in states))
    keys = jnp.stack(
        [dropout_key(spec.seed, state.step) for spec, state in zip(specs, states, strict=True)]
    )
    apply = jax.vmap(functools.partial(apply_train, specs[0].model), in_axes=(0, None, 0))

    def total_loss(params: Any) -> tuple[jax.Array, tuple[Variables, list[Metrics], jax.Array]]:
        logits, stats = apply({**stacked, "params": params}, batch.images, keys)
        results = [
            loss_fn(spec, state, student_logits, batch, target)
            for spec, state, student_logits, target in zip(
                specs, states, logits, targets, strict=True
            )
        ]
        # A loss depends on the parameters of its own network only, so the gradient of the sum
        # consists of the gradients of the losses.
        total = jnp.sum(jnp.stack([loss for loss, _ in results]))
        return total, (stats, [metrics for _, metrics in results], logits)

    gradient, (stats, metrics, logits) = jax.grad(total_loss, has_aux=True)(stacked["params"])

    def next_state(index: int) -> TrainState:
        own_gradient, own_stats = jax.tree.map(lambda leaf: leaf[index], (gradient, stats))
        grad_fn = gradient_function(specs[index], states[index], batch, targets[index])
        state = update_targets(specs[index], states[index], batch, logits[index])
        return apply_gradients(specs[index], state, own_gradient, own_stats, grad_fn)

    return [(next_state(index), values) for index, values in enumerate(metrics)]


def steps_per_call(examples: Examples, teacher: TeacherSource = None) -> int:
    """Returns how many steps one call runs on this backend.

    One if the images are streamed, or the teacher is computed outside JAX.
    """
    if isinstance(examples.images, Records) or isinstance(teacher, HostTeacher):
        return 1
    return STEPS_PER_CALL.get(jax.default_backend(), DEFAULT_STEPS_PER_CALL)

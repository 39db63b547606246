"""What the frozen teacher says of the training images, computed once where that pays.

An image has few views where it is not augmented at random, or only mirrored. Then the teacher's
logits of each of them are computed once and kept beside the teacher's workdir, for every later
student whose data and augmentation are the same.
"""

import hashlib
import io
import pathlib
import warnings
import zipfile
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from ml_collections import ConfigDict

from kdjax import data, files, parallel, step, workdir
from kdjax.data.augment import as_view, views

# Every device holds the whole table; with more it would crowd out the training.
TABLE_AT_MOST = 2**31


class Master(NamedTuple):
    """A frozen teacher.

    Attributes:
        model: its network.
        variables: the network's.
        folder: its workdir.
    """

    model: nn.Module
    variables: step.Variables
    folder: pathlib.Path


def prepare(
    teacher: Master | None,
    students: Sequence[tuple[ConfigDict, step.Recipe]],
    dataset: data.Dataset,
    examples: step.Examples,
) -> step.Teacher:
    """Returns the teacher in the form that is cheapest for its students.

    Args:
        teacher: of the students that have one.
        students: config and recipe of each.
        dataset: theirs.
        examples: its train split on the devices.
    """
    asking = [config for config, recipe in students if recipe.teacher]
    if not (teacher and asking):
        return None
    config, recipe = students[0]
    live = step.Live(parallel.everywhere(teacher.variables))
    if config.teacher.cache == "off":
        return live
    epochs = max(one.student.epochs - one.objective.pretrain_epochs for one in asking)
    reason = idle(recipe, len(examples.labels), epochs)
    if not reason:
        return table(teacher, dataset, examples, recipe)
    if parallel.primary():
        print(f"the teacher's logits are computed in every step, not once: {reason}")
    return live


def idle(recipe: step.Recipe, examples: int, epochs: int) -> str:
    """Returns why a table of logits would not pay, or nothing where it does.

    It depends on the config alone, never on what is stored: a run that goes on after a kill must
    do as it did before.

    Args:
        recipe: of a student.
        examples: n, of the training images.
        epochs: in which the teacher is asked.
    """
    count = views(recipe.pad, recipe.flip)
    size = count * examples * recipe.classes * 4
    if count > epochs:
        return f"an image has {count} views, and the teacher is asked in {epochs} epochs"
    if size > TABLE_AT_MOST:
        return f"they would take {size / 2**30:.1f} GiB on every device"
    return ""


def table(
    teacher: Master,
    dataset: data.Dataset,
    examples: step.Examples,
    recipe: step.Recipe,
) -> step.Table:
    """Returns the teacher's logits of every view of every training image, stored or computed.

    Args:
        teacher: in its workdir they are stored, under a name made of what they depend on: its
            network and variables, the data and the views.
        dataset: of the student.
        examples: its train split on the devices.
        recipe: of the student.
    """
    path = teacher.folder / "logits" / f"{_key(teacher, dataset, recipe)}.npz"
    parallel.wait("the teacher's logits are looked for")
    shape = views(recipe.pad, recipe.flip), len(examples.labels), recipe.classes
    logits = _read(path, shape)
    parallel.wait("the teacher's logits were looked for")
    if logits is None:
        logits = _compute(teacher, examples, recipe)
        if parallel.primary():
            _store(path, logits)
    return step.Table(parallel.everywhere(logits))


def _compute(teacher: Master, examples: step.Examples, recipe: step.Recipe) -> np.ndarray:
    def change(images: jax.Array, index: jax.Array, *, view: jax.Array) -> jax.Array:
        which = jnp.full_like(index, view)
        return as_view(images, which, pad=recipe.pad, flip=recipe.flip)

    return np.stack(
        [
            step.predict(
                teacher.model,
                teacher.variables,
                examples,
                batch_size=recipe.batch_size,
                change=Partial(change, view=np.int32(view)),
            )
            for view in range(views(recipe.pad, recipe.flip))
        ]
    )


def _key(teacher: Master, dataset: data.Dataset, recipe: step.Recipe) -> str:
    found = hashlib.sha256(
        repr((teacher.model, workdir.describe(dataset), recipe.pad, recipe.flip)).encode()
    )
    # The labels tell which images of the data set are in the split, and in which order.
    for value in (dataset.train.labels, *jax.tree.leaves(teacher.variables)):
        found.update(np.asarray(value).tobytes())
    return found.hexdigest()[:16]


def _read(path: pathlib.Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """Returns the stored logits; None where there are none, or damaged ones."""
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file, np.load(file) as stored:
            logits = stored["logits"]
        if logits.shape == shape and logits.dtype == np.float32:
            return logits
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass
    warnings.warn(f"{path} is damaged: the logits are computed anew", RuntimeWarning, stacklevel=2)
    return None


def _store(path: pathlib.Path, logits: np.ndarray) -> None:
    content: Any = io.BytesIO()
    np.savez(content, logits=logits)
    try:
        path.parent.mkdir(exist_ok=True)
        files.write(path, content.getvalue())
    except OSError as error:  # of a teacher of somebody else's
        warnings.warn(
            f"{path} cannot be written ({error.strerror}): the next student computes them anew",
            RuntimeWarning,
            stacklevel=2,
        )

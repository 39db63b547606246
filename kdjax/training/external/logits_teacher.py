"""A teacher whose logits the user has computed: checks of the file, and logits of each split."""

import functools
import hashlib
import pathlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kdjax.data import Dataset
from kdjax.data.augment import FLIP_MODES, Augmentation, num_augmentations
from kdjax.data.batches import BatchSpec
from kdjax.errors import InputError
from kdjax.paths import user_path
from kdjax.runtime import atomic_io
from kdjax.training.external import accuracy_check, class_order, logits_file
from kdjax.training.external.logits_file import LogitsFile
from kdjax.training.external.onnx_file import (
    are_probabilities,
    check_logits,
    log_probabilities,
)
from kdjax.training.host_teacher import HostTeacher

KIND = "logits"


def describe_source(
    fields: Any, batches: BatchSpec, dataset: Dataset
) -> tuple[dict[str, Any], str]:
    """Returns all that identifies a teacher's logits, after the check of their rows.

    Args:
        fields: `config.teacher`.
        batches: of the students' training; only their augmentation matters.
        dataset: of the run.

    Returns:
        JSON values, for `host_teacher`; and a line that says how accurate the logits are.

    Raises:
        InputError: if the rows do not belong to the images, in this order, or are not finite.
    """
    path = user_path(fields.logits)
    content = logits_file.read(path)
    fixed_views = _has_fixed_views(content, batches, where(path))
    if not fixed_views:
        _check_augmentations(len(content.logits), batches, where(path))
    columns = class_order.chosen_columns(
        fields.class_names,
        content.class_names,
        content.logits.shape[2],
        dataset.class_names,
        where(path),
    )
    rows = {
        name: logits_file.rows_of(content, name, getattr(dataset, name), where(path))
        for name in logits_file.SPLITS
    }
    if rows["train"] is None:
        raise InputError(f"{where(path)} has no row of the split train")
    for name, split_rows in rows.items():
        _check_finite(content.logits, split_rows, name, where(path))
    first_view = content.logits[0, rows["train"]]
    check_logits(first_view, where(path))
    probabilities = are_probabilities(first_view)
    views = {"views": len(content.logits), "fixed_views": fixed_views}
    clean = _clean_view(views, batches.augmentation)
    mirrored = batches.augmentation.flip and len(content.logits) > 1
    unmoved = [] if clean is None else [clean, clean + 1] if mirrored else [clean]
    note = _check_accuracy(content, rows["train"], columns, unmoved, dataset, where(path))
    source = {
        "kind": KIND,
        "file": path.name,
        "sha256": atomic_io.file_hash(path),
        "views": len(content.logits),
        "probabilities": probabilities,
        "columns": None if columns is None else list(columns),
        "splits": [name for name, split_rows in rows.items() if split_rows is not None],
        **({"fixed_views": True} if fixed_views else {}),
    }
    return source, note


def host_teacher(
    source: Mapping[str, Any],
    path: pathlib.Path,
    folder: pathlib.Path,
    dataset: Dataset,
    augmentation: Augmentation,
) -> HostTeacher:
    """Returns the teacher that `describe_source` has described; the file is read when needed.

    Args:
        source: of `describe_source`.
        path: the file.
        folder: the teacher's workdir.
        dataset: of the run.
        augmentation: of the training images.
    """

    @functools.cache
    def content() -> LogitsFile:
        if path.is_file() and atomic_io.file_hash(path) != source["sha256"]:
            raise InputError(f"{where(path)} is not the file with which the run has started")
        return logits_file.read(path)

    @functools.cache
    def rows(split: str) -> np.ndarray:
        split_rows = logits_file.rows_of(content(), split, getattr(dataset, split), where(path))
        assert split_rows is not None
        return split_rows

    def compute(
        split: str, images: np.ndarray | None, indices: np.ndarray, numbers: np.ndarray
    ) -> np.ndarray:
        view = numbers if split == "train" and source["views"] > 1 else 0
        values = np.asarray(content().logits[view, rows(split)[indices]], np.float32)
        if source["probabilities"]:
            values = log_probabilities(values)
        return class_order.select(values, source["columns"])

    identity = {key: value for key, value in source.items() if key not in ("file", "splits")}
    return HostTeacher(
        compute=compute,
        key=hashlib.sha256(repr(sorted(identity.items())).encode()).hexdigest()[:16],
        splits=tuple(source["splits"]),
        reads_images=False,
        folder=folder,
        fixed_views=source.get("fixed_views", False),
        clean=_clean_view(source, augmentation),
    )


def _clean_view(source: Mapping[str, Any], augmentation: Augmentation) -> int | None:
    """Returns the view of the images without augmentation; None if the file has none."""
    if source.get("fixed_views"):
        return None
    pad = augmentation.pad
    centre = (pad * (2 * pad + 1) + pad) * (1 + augmentation.flip)
    return centre if source["views"] > 1 else 0


def where(path: pathlib.Path) -> str:
    """Returns the field with its value, for messages."""
    return f"teacher.logits {str(path)!r}"


def _has_fixed_views(content: LogitsFile, batches: BatchSpec, source: str) -> bool:
    """Returns whether the views of a file are the fixed views of the run.

    A single view is that of the images without augmentation, unless it is the only fixed view and
    the file says so.

    Raises:
        InputError: if they are, or may be, those of another run.
    """
    if not batches.views or (len(content.logits) == 1 < batches.views):
        return False
    if content.augmentation is None:
        if len(content.logits) == 1:
            return False
        raise InputError(
            f"{source} has logits of {len(content.logits)} views, and teacher.views is "
            f"{batches.views}: copy {logits_file.AUGMENTATION!r} from the index of this config, "
            "which says which views they are, or give [n, m] of the images without augmentation"
        )
    given, expected = tuple(content.augmentation.tolist()), logits_file.identity(batches)
    if len(content.logits) != batches.views or given != expected:
        raise InputError(
            f"{source} has logits of {len(content.logits)} views with {_in_words(*given)}, and "
            f"the run has {batches.views} with {_in_words(*expected)}; {logits_file.REMEDY}"
        )
    return True


def _in_words(order_seed: int, pad: int, flip: int, flip_mode: int) -> str:
    names = dict(enumerate(FLIP_MODES))
    mode = f" ({names.get(flip_mode, flip_mode)})" if flip else ""
    return f"order_seed {order_seed}, data.pad {pad} and data.flip {bool(flip)}{mode}"


def _check_augmentations(views: int, batches: BatchSpec, source: str) -> None:
    augmentation = batches.augmentation
    needed = batches.views or num_augmentations(augmentation)
    if views not in (1, needed):
        raise InputError(
            f"{source} has logits of {views} views, and an image has {needed} with data.pad="
            f"{augmentation.pad} and data.flip={augmentation.flip}: give [{needed}, n, m], or "
            "[n, m] of the images without augmentation"
        )
    if views < num_augmentations(augmentation):
        warnings.warn(
            f"{source} has logits of the images without augmentation, which teach all "
            f"{needed} augmentations of an image; logits of the image that the student sees are "
            "known to teach better (arXiv 2106.05237)",
            RuntimeWarning,
            stacklevel=2,
        )


def _check_finite(logits: np.ndarray, rows: np.ndarray | None, name: str, source: str) -> None:
    if rows is None:
        return
    # Other splits than train are never augmented.
    views = logits if name == "train" else logits[:1]
    with np.errstate(over="ignore"):  # what float32 cannot hold is not finite
        finite = np.isfinite(views[:, rows].astype(np.float32)).all(axis=2)
    if not finite.all():
        view, row = np.argwhere(~finite)[0]
        raise InputError(
            f"{source}: {(~finite).sum():,} rows of {name} have values that are not finite, the "
            f"first is row {rows[row]} of view {view}"
        )


def _check_accuracy(
    content: LogitsFile,
    rows: np.ndarray,
    columns: tuple[int, ...] | None,
    unmoved: Sequence[int],
    dataset: Dataset,
    source: str,
) -> str:
    """Returns a line with the accuracy on train.

    Raises if that of a view without a shift, or of every view, is near chance; the teacher may know
    little about the outermost views.
    """
    labels = np.asarray(dataset.train.labels)

    def logits_of(number: int) -> np.ndarray:
        return class_order.select(np.asarray(content.logits[number][rows], np.float32), columns)

    shares, weak = [], []
    for number in range(len(content.logits)):
        logits = logits_of(number)
        shares.append(accuracy_check.accuracy(logits, labels))
        if accuracy_check.is_near_chance(logits, labels):
            weak.append(number)
    texts = [f"{100 * share:.1f} %" for share in shares]
    wrong = [number for number in unmoved if number in weak]
    if len(weak) == len(shares):
        wrong.append(int(np.argmax(shares)))
    if wrong:
        number = wrong[0]
        order = accuracy_check.class_order(logits_of(number), labels, dataset.class_names, columns)
        cause = (
            f"its columns are in another order: set {accuracy_check.describe(order.flags)}"
            if order
            else "its rows are of other images, such as shuffled ones, or its columns are of other "
            "classes"
        )
        raise InputError(
            f"{source}: view {number} classifies {texts[number]} of the training images correctly, "
            f"which is near chance: {cause}"
        )
    if weak:
        warnings.warn(
            f"{source}: {len(weak)} of {len(shares)} views are classified near chance, such as "
            f"view {weak[0]}, {texts[weak[0]]}: the teacher does not know images moved so far",
            RuntimeWarning,
            stacklevel=4,
        )
    return (
        f"{source} classifies {', '.join(texts)} of the {len(labels):,} training images correctly"
    )

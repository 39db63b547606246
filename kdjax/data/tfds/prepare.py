"""Prepares data sets with the builders of kdjax or of TFDS."""

import contextlib
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import tensorflow_datasets as tfds

from kdjax import errors
from kdjax.data.own.names import FORMS, path_error
from kdjax.data.tfds import builders, decode, sources

# Entries of a TFDS directory besides the data sets.
_TFDS_ENTRIES = {"downloads", "kdjax_arrays", "lost+found"}


def prepare(name: str, root: pathlib.Path, required_splits: Sequence[str]) -> pathlib.Path:
    """Prepares a data set in array_record format if necessary and returns its directory.

    Args:
        name: `name` or `name/config`.
        root: the TFDS directory.
        required_splits: names of the splits to prepare.

    Raises:
        InputError: for an unknown name, a data set that is not image classification, missing or
            wrong files, a package that TFDS needs and that is not installed, or a `root` that holds
            other things and no prepared set; nothing is written there.
    """
    prepared = _prepared_names(root)
    known = {*tfds.list_builders(with_community_datasets=False), *prepared}
    if name.split("/")[0] not in known:
        raise _unknown_name_error(name, known)
    if not prepared:
        _require_own_directory(root, known)
    builder = builders.create(name, root, required_splits)
    decode.image_and_label(builder.info)  # raises before anything is downloaded
    if not _is_complete(builder):
        _download_and_prepare(builder, root)
    return pathlib.Path(builder.data_dir)


def _unknown_name_error(name: str, known: set[str]) -> errors.InputError:
    if error := path_error(name):
        return error
    hint = errors.suggestion(name, known)
    documented = ", ".join(sorted(["digits", "digits_noisy", *builders.FILES]))
    return errors.InputError(
        f"unknown data set {name!r}{f'{hint} Valid' if hint else '; valid'}: {documented}, any "
        f"other image-classification data set of TFDS, or your own images as {FORMS}"
    )


def _require_own_directory(root: pathlib.Path, known: set[str]) -> None:
    """Raises if a directory without a prepared data set holds things that are not of TFDS.

    Args:
        root: the TFDS directory; may be missing or empty.
        known: names of data sets, whose directories an interrupted preparation may have left.
    """
    if root.exists() and not root.is_dir():
        raise errors.InputError(f"data_dir {str(root)!r} is not a directory")
    names = sorted(path.name for path in root.glob("*") if not path.name.startswith("."))
    foreign = [name for name in names if name not in known | _TFDS_ENTRIES]
    if foreign:
        raise errors.InputError(
            f"data_dir {str(root)!r} is neither empty nor a TFDS directory: it holds"
            f" {foreign[0]!r}. Choose an empty or missing directory; nothing was written. Your own"
            f" images are given as data.name: {FORMS}"
        )


def _prepared_names(root: pathlib.Path) -> set[str]:
    paths = [*root.glob("*/*/dataset_info.json"), *root.glob("*/*/*/dataset_info.json")]
    return {path.relative_to(root).parts[0] for path in paths}


def _download_and_prepare(builder: Any, root: pathlib.Path) -> None:
    if builder.name not in builders.FILES:  # the builders of kdjax check their files themselves
        _require_files_or_network(builder, root)
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    try:
        # TFDS prints messages to stdout, which is reserved for the results of a command.
        with contextlib.redirect_stdout(sys.stderr):
            builder.download_and_prepare(download_config=config, file_format="array_record")
    except ImportError as failure:
        reason = str(failure).splitlines()[-1]  # such as: No module named 'tensorflow'
        raise errors.InputError(
            f"the TFDS builder of {builder.name} needs a package: {reason}. Install it, or prepare"
            f" the data set elsewhere as array_record and copy it to {builder.data_dir}"
        ) from failure
    except (OSError, AssertionError, RuntimeError, *sources.FAILURES) as failure:
        # RuntimeError is that of array_record, for example on a full disk. The failure is ignored
        # if another process has prepared the same data set meanwhile.
        if not _is_complete(builder):
            reason = " ".join(str(failure).split())
            raise errors.InputError(
                f"cannot prepare {builder.name} in {root}: {reason}"
            ) from failure
    if not _is_complete(builder):
        raise errors.InputError(f"{builder.data_dir} is incomplete: remove it")


def _is_complete(builder: Any) -> bool:
    return pathlib.Path(builder.data_dir, "dataset_info.json").exists()


def _require_files_or_network(builder: Any, root: pathlib.Path) -> None:
    """Raises unless some files are present or their hosts respond: TFDS would retry for minutes."""
    infos = builder.url_infos or {}
    if not sources.local_files(builder.name, infos, root):
        sources.require_network(builder.name, infos, root)

"""Finds the original files: manual folder, downloads of TFDS, Debian package, or network."""

import contextlib
import gzip
import hashlib
import pathlib
import threading
import time
import urllib.parse
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import requests  # used by TFDS too, so that the same proxies and certificates apply
import tensorflow_datasets as tfds

from kdjax import errors

DEBIAN = pathlib.Path("/usr/share/datasets/fashion-mnist")
# Files that Debian compresses again: sha256 of the original file -> sha256 of its content.
CONTENT_SHA256 = {
    "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84": (
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"
    ),
    "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845": (
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"
    ),
    "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073": (
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"
    ),
    "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5": (
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"
    ),
}
# Exceptions of a download, besides OSError.
FAILURES = (
    tfds.core.download.DownloadError,
    tfds.core.download.download_manager.NonMatchingChecksumError,
)
TIMEOUT_SECONDS = 6.0  # for a response of a host


def fetch(
    name: str, infos: Mapping[str, Any], root: pathlib.Path, dl_manager: Any
) -> dict[str, pathlib.Path]:
    """Returns the paths of the original files of a data set; downloads missing ones.

    Every file is verified by its checksum.

    Args:
        name: of the data set.
        infos: URL -> `UrlInfo` of TFDS (filename, sha256) for each file.
        root: the TFDS directory; `root/downloads/manual` is searched first.
        dl_manager: `DownloadManager` of TFDS.

    Returns:
        Filename -> path.

    Raises:
        InputError: if a file is not the original, or is missing and cannot be downloaded.
    """
    paths = local_files(name, infos, root)
    for url, path in paths.items():
        verify(path, infos[url])
    missing = {url: info for url, info in infos.items() if url not in paths}
    require_network(name, missing, root)
    try:
        downloaded = dl_manager.download({url: url for url in missing})
    except (OSError, *FAILURES) as failure:
        raise errors.InputError(
            _manual_instructions(name, missing, root, str(failure))
        ) from failure
    paths |= {url: pathlib.Path(path) for url, path in downloaded.items()}  # verified by TFDS
    return {info.filename: paths[url] for url, info in infos.items()}


def local_files(name: str, infos: Mapping[str, Any], root: pathlib.Path) -> dict[str, pathlib.Path]:
    """Returns the original files that are present on this machine, not yet verified.

    They are searched in the manual folder, the downloads of TFDS and the package of Debian.

    Args:
        name: of the data set.
        infos: URL -> `UrlInfo` of TFDS for each file.
        root: the TFDS directory.

    Returns:
        URL -> path.
    """
    candidates = {url: _candidates(name, url, info, root) for url, info in infos.items()}
    first_existing = {
        url: next(filter(pathlib.Path.is_file, paths), None) for url, paths in candidates.items()
    }
    return {url: path for url, path in first_existing.items() if path}


def require_network(name: str, missing: Mapping[str, Any], root: pathlib.Path) -> None:
    """Checks within seconds that the hosts of missing files respond.

    Args:
        name: of the data set.
        missing: URL -> `UrlInfo` of the files to download.
        root: the TFDS directory.

    Raises:
        InputError: if a host does not respond; with name, sha256, URL and destination of each file.
    """
    hosts = unreachable(missing)
    if hosts:
        reason = f"cannot reach {', '.join(sorted(hosts))}"
        raise errors.InputError(_manual_instructions(name, missing, root, reason))


def verify(path: pathlib.Path, info: Any) -> None:
    """Checks that a file is the original.

    Args:
        path: the file.
        info: `UrlInfo` of TFDS for the original.

    Raises:
        InputError: for another sha256, with the expected and the actual one.
    """
    expected = CONTENT_SHA256.get(info.checksum, info.checksum)
    actual = _sha256(path, unpack=info.checksum in CONTENT_SHA256)
    if actual != expected:
        raise errors.InputError(
            f"{path} is not the original {info.filename}: sha256 {actual}, expected {expected}"
            " (replace or remove it)"
        )


def unreachable(urls: Iterable[str]) -> set[str]:
    """Returns the hosts that do not respond within `TIMEOUT_SECONDS`.

    Args:
        urls: of files; only http and https URLs are requested.
    """
    probes = {urllib.parse.urlsplit(url).netloc: url for url in urls if url.startswith("http")}
    reached = set()

    def probe(host: str, url: str) -> None:
        with contextlib.suppress(requests.RequestException):
            if requests.head(url, timeout=TIMEOUT_SECONDS).status_code < 500:
                reached.add(host)

    # In threads, because the lookup of a host name has no timeout.
    threads = [threading.Thread(target=probe, args=item, daemon=True) for item in probes.items()]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + TIMEOUT_SECONDS
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return probes.keys() - reached


def _candidates(name: str, url: str, info: Any, root: pathlib.Path) -> list[pathlib.Path]:
    downloads, filename = root / "downloads", _filename(url, info)
    # TFDS derives the name of a download from its URL and checksum.
    downloaded = tfds.core.download.resource.get_dl_fname(url, info.checksum)
    paths = [downloads / "manual" / filename, downloads / name / downloaded]
    return [*paths, DEBIAN / filename] if info.checksum in CONTENT_SHA256 else paths


def _filename(url: str, info: Any) -> str:
    return info.filename or url.rsplit("/", 1)[-1]  # missing in some older lists of TFDS


def _sha256(path: pathlib.Path, *, unpack: bool) -> str:
    with path.open("rb") as file:
        if not unpack:
            return hashlib.file_digest(file, "sha256").hexdigest()
        try:
            return hashlib.sha256(gzip.decompress(file.read())).hexdigest()
        except (OSError, EOFError, zlib.error) as damage:
            raise errors.InputError(f"{path} is not a valid gzip file: {damage}") from damage


def _manual_instructions(
    name: str, missing: Mapping[str, Any], root: pathlib.Path, reason: str
) -> str:
    files = [
        f"  {_filename(url, info)}  sha256 {info.checksum}\n    {url}"
        for url, info in missing.items()
    ]
    debian = any(info.checksum in CONTENT_SHA256 for info in missing.values())
    hint = "\nOr install them from Debian: apt-get install dataset-fashion-mnist" if debian else ""
    return (
        f"{name} is not prepared in {root}: {reason}. Put these files into"
        f" {root / 'downloads' / 'manual'} and run again:\n" + "\n".join(files) + hint
    )

"""Where the original files come from: the manual folder, Debian, TFDS's downloads, the network."""

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

import requests  # what TFDS downloads with: the same proxies, the same certificates
import tensorflow_datasets as tfds

from kdjax import errors

DEBIAN = pathlib.Path("/usr/share/datasets/fashion-mnist")
# Debian repacks these files: from the original's sha256 to that of what is in the gzip.
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
# What a download may end in, besides OSError.
FAILURES = (
    tfds.core.download.DownloadError,
    tfds.core.download.download_manager.NonMatchingChecksumError,
)
_SECONDS_TO_ANSWER = 6.0


def fetch(
    name: str, infos: Mapping[str, Any], root: pathlib.Path, dl_manager: Any
) -> dict[str, pathlib.Path]:
    """Returns the paths of a set's original files, each checked; downloads what is not at hand.

    Args:
        name: the set's name.
        infos: URL to TFDS's `UrlInfo` (filename, sha256) of each file.
        root: the TFDS directory; `root/downloads/manual` is searched first.
        dl_manager: TFDS's `DownloadManager`.

    Returns:
        Filename to path.

    Raises:
        InputError: if a file is not the original, or is missing and cannot be downloaded.
    """
    found = at_hand(name, infos, root)
    for url, path in found.items():
        verify(path, infos[url])
    missing = {url: info for url, info in infos.items() if url not in found}
    require_network(name, missing, root)
    try:
        downloaded = dl_manager.download({url: url for url in missing})
    except (OSError, *FAILURES) as failure:
        raise errors.InputError(_how_to_place(name, missing, root, str(failure))) from failure
    found |= {url: pathlib.Path(path) for url, path in downloaded.items()}  # checked by TFDS
    return {info.filename: found[url] for url, info in infos.items()}


def at_hand(name: str, infos: Mapping[str, Any], root: pathlib.Path) -> dict[str, pathlib.Path]:
    """Returns URL to path of those files that lie on this machine already.

    Args:
        name: the set's name.
        infos: URL to TFDS's `UrlInfo` of each file.
        root: the TFDS directory.

    Returns:
        As found: in the manual folder, among TFDS's downloads, or in Debian's package.
    """
    candidates = {url: _candidates(name, url, info, root) for url, info in infos.items()}
    found = {
        url: next(filter(pathlib.Path.is_file, paths), None) for url, paths in candidates.items()
    }
    return {url: path for url, path in found.items() if path}


def require_network(name: str, missing: Mapping[str, Any], root: pathlib.Path) -> None:
    """Raises within seconds if files are missing and their hosts cannot be reached.

    Args:
        name: the set's name.
        missing: URL to `UrlInfo` of the files that have to be downloaded.
        root: the TFDS directory.

    Raises:
        InputError: with each file's name, sha256 and URL, and where to put it.
    """
    hosts = unreachable(missing)
    if hosts:
        reason = f"cannot reach {', '.join(sorted(hosts))}"
        raise errors.InputError(_how_to_place(name, missing, root, reason))


def verify(path: pathlib.Path, info: Any) -> None:
    """Raises unless a file is the original.

    Args:
        path: the file.
        info: TFDS's `UrlInfo` of the original.

    Raises:
        InputError: with the sha256 that was expected and the one found.
    """
    expected = CONTENT_SHA256.get(info.checksum, info.checksum)
    found = _sha256(path, unpack=info.checksum in CONTENT_SHA256)
    if found != expected:
        raise errors.InputError(
            f"{path} is not the original {info.filename}: sha256 {found}, expected {expected}"
            " (replace or remove it)"
        )


def unreachable(urls: Iterable[str]) -> set[str]:
    """Returns the hosts that do not answer within seconds.

    Args:
        urls: the files to ask them for; other than over http(s) nothing is asked.
    """
    probes = {urllib.parse.urlsplit(url).netloc: url for url in urls if url.startswith("http")}
    reached = set()

    def probe(host: str, url: str) -> None:
        with contextlib.suppress(requests.RequestException):
            if requests.head(url, timeout=_SECONDS_TO_ANSWER).status_code < 500:
                reached.add(host)

    # In threads, because looking up a host's name heeds no timeout.
    threads = [threading.Thread(target=probe, args=item, daemon=True) for item in probes.items()]
    for thread in threads:
        thread.start()
    end = time.monotonic() + _SECONDS_TO_ANSWER
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    return probes.keys() - reached


def _candidates(name: str, url: str, info: Any, root: pathlib.Path) -> list[pathlib.Path]:
    downloads, filename = root / "downloads", _filename(url, info)
    # TFDS names a download by its URL and checksum.
    downloaded = tfds.core.download.resource.get_dl_fname(url, info.checksum)
    paths = [downloads / "manual" / filename, downloads / name / downloaded]
    return [*paths, DEBIAN / filename] if info.checksum in CONTENT_SHA256 else paths


def _filename(url: str, info: Any) -> str:
    return info.filename or url.rsplit("/", 1)[-1]  # some of TFDS's older lists lack it


def _sha256(path: pathlib.Path, *, unpack: bool) -> str:
    with path.open("rb") as file:
        if not unpack:
            return hashlib.file_digest(file, "sha256").hexdigest()
        try:
            return hashlib.sha256(gzip.decompress(file.read())).hexdigest()
        except (OSError, EOFError, zlib.error) as damage:
            raise errors.InputError(f"{path} is no whole gzip file: {damage}") from damage


def _how_to_place(name: str, missing: Mapping[str, Any], root: pathlib.Path, reason: str) -> str:
    files = [
        f"  {_filename(url, info)}  sha256 {info.checksum}\n    {url}"
        for url, info in missing.items()
    ]
    debian = any(info.checksum in CONTENT_SHA256 for info in missing.values())
    hint = "\nDebian has them: apt-get install dataset-fashion-mnist" if debian else ""
    return (
        f"{name} is not prepared in {root}: {reason}. Put these files into"
        f" {root / 'downloads' / 'manual'} and start again:\n" + "\n".join(files) + hint
    )

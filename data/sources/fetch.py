"""Get a dataset's raw files into `<dataset_path>/<name>/raw/`.

In this order: files that the user put there (loose, in any format that `data.sources.formats`
knows, or as the official archive), the official archive from GroupLens, and for ML-100K a copy of
the same two files that the PyPI wheel of RecBole 1.2.1 ships, fetched by pip so that its
configuration and mirrors are respected. Every download is checked against a SHA-256 written here;
nothing unchecked is unpacked.
"""

import difflib
import hashlib
import logging
import shutil
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from dataclasses import dataclass
from http.client import HTTPException
from io import BytesIO
from pathlib import Path

from tqdm import tqdm

from data.sources.formats import FORMATS, RawFormat
from utils.errors import UserError
from utils.runs.files import file_checksum, write_json

log = logging.getLogger(__name__)

TIMEOUT_SECONDS = 30


@dataclass(frozen=True)
class Archive:
    """An official archive; its files lie in a folder named like the dataset."""

    url: str
    sha256: str


@dataclass(frozen=True)
class Wheel:
    """A PyPI wheel with RecBole's copy: GroupLens' lines below a header, separated by tabs.

    Attributes:
        requirement: as pip takes it.
        sha256: of the wheel.
        members: the path in the wheel and GroupLens' separator, by raw file.
    """

    requirement: str
    sha256: str
    members: dict[str, tuple[str, bytes]]


ARCHIVES = {
    "ml-100k": Archive(
        "https://files.grouplens.org/datasets/movielens/ml-100k.zip",
        "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
    ),
    "ml-1m": Archive(
        "https://files.grouplens.org/datasets/movielens/ml-1m.zip",
        "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
    ),
}

WHEELS = {
    "ml-100k": Wheel(
        "recbole==1.2.1",
        "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
        {
            "u.data": ("recbole/dataset_example/ml-100k/ml-100k.inter", b"\t"),
            "u.user": ("recbole/dataset_example/ml-100k/ml-100k.user", b"|"),
        },
    ),
}


@dataclass(frozen=True)
class Source:
    """Raw files and the format that they are in."""

    format: RawFormat
    paths: list[Path]


def find_source(dataset_path: Path, name: str) -> Source | None:
    """The raw files in `<dataset_path>/<name>/raw/` or directly in `<dataset_path>/<name>/`.

    Files tell the format; where they tell several, the format named like the dataset comes first.
    """
    home = dataset_path / name
    for known in sorted(FORMATS, key=lambda known: known != name):
        for folder in (home / "raw", home):
            if paths := FORMATS[known].find(folder, name):
                return Source(FORMATS[known], paths)
    return None


def raw_source(dataset_path: Path, name: str) -> Source:
    """The raw files of dataset `name`, unpacked or fetched if need be.

    Raises:
        UserError: no files of a known format, a damaged archive, or no source within reach.
    """
    if source := find_source(dataset_path, name):
        return source
    home = dataset_path / name
    if name not in ARCHIVES:
        wanted = "; ".join(raw_format.describe(name) for raw_format in FORMATS.values())
        there = [path.name for path in dataset_path.iterdir()] if dataset_path.is_dir() else []
        near = difflib.get_close_matches(name.lower(), {*ARCHIVES, *there} - {name}, n=1)
        meant = f'; did you mean "{near[0]}"?' if near else ""
        raise UserError(
            f'there are no files of a dataset "{name}"{meant}; looked in {home / "raw"} and '
            f"{home} for {wanted}; datasets that are fetched by themselves: {', '.join(ARCHIVES)}"
        )
    target = home / "raw"
    _fetch(dataset_path, name, target)
    paths = FORMATS[name].find(target, name)
    assert paths, f"{target} was filled without the files of {name}"
    return Source(FORMATS[name], paths)


def _fetch(dataset_path: Path, name: str, target: Path) -> None:
    """Unpack the official archive from where the user may have put it, or fetch it."""
    home = dataset_path / name
    zip_name = f"{name}.zip"
    for path in (target / zip_name, home / zip_name, dataset_path / zip_name):
        if path.is_file():
            log.info("Unpacking %s", path)
            _unpack_archive(path.read_bytes(), name, target, origin=str(path))
            return
    failures = []
    for fetch in (_fetch_archive, _fetch_wheel):
        try:
            fetch(name, target)
            return
        except _Unreachable as reason:
            log.info("  not reached: %s", reason)
            failures.append(str(reason))
    url = ARCHIVES[name].url
    raise UserError(
        f"{name} could not be fetched ({'; '.join(failures)}). Download {url} on a machine "
        f"that reaches it and put {zip_name} into {home} (or its files "
        f"{FORMATS[name].describe(name)} into {target}), then start again"
    )


class _Unreachable(Exception):
    """This source can't be had here; the next one is tried."""


def _fetch_archive(name: str, target: Path) -> None:
    archive = ARCHIVES[name]
    log.info("Fetching %s from %s", name, archive.url)
    try:
        content = _download(archive.url)
    except (OSError, HTTPException) as error:
        raise _Unreachable(f"{archive.url}: {getattr(error, 'reason', error)}") from None
    if hashlib.sha256(content).hexdigest() != archive.sha256:
        raise _Unreachable(
            f"{archive.url}: what came is not the official archive (SHA-256 differs)"
        )
    _unpack_archive(content, name, target, origin=archive.url)


def _fetch_wheel(name: str, target: Path) -> None:
    if name not in WHEELS:
        raise _Unreachable("no PyPI package is known to ship it")
    wheel = WHEELS[name]
    log.info("Fetching the copy of %s in the PyPI wheel %s", name, wheel.requirement)
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--only-binary=:all:", "--dest", scratch, wheel.requirement]
        pip = subprocess.run(command, capture_output=True, text=True)
        paths = list(Path(scratch).glob("*.whl"))
        if pip.returncode or not paths:
            reason = (pip.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
            raise _Unreachable(
                f"pip download {wheel.requirement}: {reason.removeprefix('ERROR: ')}"
            )
        if file_checksum(paths[0]) != wheel.sha256:
            raise _Unreachable(
                f"pip download {wheel.requirement}: not the known wheel (SHA-256 differs)"
            )
        with zipfile.ZipFile(paths[0]) as zipped:
            files = {
                file: zipped.read(member).partition(b"\n")[2].replace(b"\t", separator)
                for file, (member, separator) in wheel.members.items()
            }
    _install(files, target, {"from": wheel.requirement, "sha256": wheel.sha256})


def _unpack_archive(content: bytes, name: str, target: Path, origin: str) -> None:
    """Take the known members out of an official archive; nothing else in it is touched."""
    archive = ARCHIVES[name]
    again = f"download it again from {archive.url}"
    digest = hashlib.sha256(content).hexdigest()
    if digest != archive.sha256:
        log.warning(
            "%s is not GroupLens' official archive (SHA-256 differs); using it as it is", origin
        )
    try:
        with zipfile.ZipFile(BytesIO(content)) as zipped:
            files = {file: zipped.read(f"{name}/{file}") for (file,) in FORMATS[name].files}
    except KeyError as error:
        raise UserError(f"{origin}: {error.args[0]}; {again}") from None
    except Exception as error:  # a damaged archive can raise anything at all
        page = content[:200].lstrip().lower().startswith((b"<!doctype", b"<html"))
        what = "a web page, not a zip archive" if page else f"not a whole zip archive ({error})"
        raise UserError(f"{origin} is {what}; {again}") from None
    _install(files, target, {"from": origin, "sha256": digest})


def _install(files: dict[str, bytes], target: Path, origin: dict[str, str]) -> None:
    """Write all raw files or none: into a folder beside the target, then renamed."""
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".raw-", dir=target.parent) as folder:
        scratch = Path(folder)
        for file, content in files.items():
            (scratch / file).write_bytes(content)
        write_json(scratch / "origin.json", origin)
        for file in (*files, "origin.json"):
            (scratch / file).replace(target / file)


def _download(url: str) -> bytes:
    """Raises OSError or HTTPException where the whole answer can't be had."""
    content = BytesIO()
    with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as reply:
        shown = {"desc": url.rsplit("/", 1)[-1], "unit": "B", "unit_scale": True}
        with tqdm.wrapattr(reply, "read", reply.length, **shown) as body:
            shutil.copyfileobj(body, content)
        if reply.length:
            raise ConnectionError(f"it broke off {reply.length} bytes before the end")
    return content.getvalue()

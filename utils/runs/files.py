"""Writing files so that a reader finds the whole file or none."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from io import BufferedWriter, BytesIO
from pathlib import Path
from typing import Any

_BINARY = getattr(os, "O_BINARY", 0)  # Windows alone has it


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """Make errors of the operating system name `path`: writing to an open file names none."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None


@contextlib.contextmanager
def replace_file(path: Path) -> Iterator[BytesIO]:
    """Collect a file's bytes; when all went well, write them beside `path` and rename that.

    Collected, since what NumPy and torch make of a full disk on their own names neither the disk
    nor the file. A killed process may leave the file beside, which nothing reads and the next
    writing replaces.
    """
    content = BytesIO()
    yield content
    scratch = path.with_name(f".{path.name}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    with named(path):
        try:
            _write(scratch, content.getbuffer())
            scratch.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                scratch.unlink()
            raise


@contextlib.contextmanager
def replace_large(path: Path) -> Iterator[BufferedWriter]:
    """As `replace_file` for what is too large to collect: written beside `path` as it comes. An
    error that names a file, as of one that is read meanwhile, goes on naming that.
    """
    scratch = path.with_name(f".{path.name}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    with named(path):
        scratch.unlink(missing_ok=True)  # a dying process may still write to that one
        file = scratch.open("wb")
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            scratch.unlink()
        if isinstance(error, OSError) and error.filename is None:
            with named(path):
                raise
        raise


def _write(path: Path, content: memoryview) -> None:
    """Write a file through to the disk.

    By descriptor: Ctrl-C while Python makes a file object leaves it to be complained of.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _BINARY, 0o666)
    try:
        while content:
            content = content[os.write(descriptor, content) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON, whole or not at all."""
    with replace_file(path) as file:
        file.write((json.dumps(content, indent=2) + "\n").encode())


def write_json_lines(path: Path, records: list[dict[str, Any]]) -> None:
    """Write one line of JSON a record, whole or not at all."""
    with replace_file(path) as file:
        file.writelines((json.dumps(record) + "\n").encode() for record in records)


def read_json_object(path: Path) -> dict[str, Any] | None:
    """A JSON object that we wrote; None if a file system or a hand has damaged it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def free_name(path: Path) -> Path:
    """`path` with the first suffix .1, .2, ... that is not taken."""
    number = 1
    while (candidate := path.with_name(f"{path.name}.{number}")).exists():
        number += 1
    return candidate


def set_aside(path: Path) -> Path:
    """Keep a folder under another name; returns that."""
    return path.rename(free_name(path))


def set_aside_before(path: Path) -> list[Path]:
    """Folders that `set_aside` has kept of `path`."""
    kept = path.parent.glob(f"{path.name}.*")
    return sorted(one for one in kept if one.suffix[1:].isdecimal() and one.is_dir())


def file_checksum(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""Writing files so that a reader finds the whole file or none."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


@contextlib.contextmanager
def replace_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a file beside `path` for writing, renamed to `path` when everything went well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.tmp")
    try:
        with scratch.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON, whole or not at all."""
    with replace_file(path) as file:
        file.write((json.dumps(content, indent=2) + "\n").encode())


def write_json_lines(path: Path, records: list[dict[str, Any]]) -> None:
    """Write one line of JSON a record, whole or not at all."""
    with replace_file(path) as file:
        file.writelines((json.dumps(record) + "\n").encode() for record in records)


def free_name(path: Path) -> Path:
    """`path` with the first suffix .1, .2, ... that is not taken."""
    number = 1
    while (candidate := path.with_name(f"{path.name}.{number}")).exists():
        number += 1
    return candidate


def file_checksum(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""What a streaming job reads, by the sizes, times and ends of its files: every rank has to see the
same ones, up to the end.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from zlib import crc32

from data.tables.shard_formats import label_paths
from utils.config import AttackConfig, RunConfig
from utils.errors import UserError

Stamps = Mapping[str, Mapping[str, Sequence[int]]]
"""By "shards" or "labels", then by the file's name: its bytes, when it was written, in ns, and the
CRC-32 of its first and last ENDS bytes: copies can have the times of what they are not copies of.
"""

ENDS = 2**16
"""Enough to tell labels apart, little enough for thousands of shards."""


def stamps(config: RunConfig | AttackConfig, shards: Sequence[Path]) -> Stamps:
    """Of these shards and their labels; without files that are not there."""
    labels = Path(config.labels or "")
    files = label_paths(labels, shards) if labels.is_dir() else [labels]
    return {
        kind: {path.name: _stamp(path) for path in some if path.exists()}
        for kind, some in (("shards", shards), ("labels", files))
    }


def check_same(config: RunConfig | AttackConfig, own: Stamps, first: Stamps) -> None:
    """Refuse folders in which this rank sees other files than the first one does.

    Raises:
        UserError: says which file.
    """
    for path, here, there in _differences(config, own, first):
        raise UserError(
            f"{path} is not the same for all: here {here}, for rank 0 {there}; every rank has to "
            "see the same files, copies with their times (cp -p)"
        )


def check_unchanged(config: RunConfig, before: Stamps, now: Stamps) -> None:
    """Refuse to call done what was made of files that have changed meanwhile.

    Raises:
        UserError: says which file.
    """
    for path, was, became in _differences(config, before, now):
        raise UserError(
            f"{path} has changed while it was read: before {was}, now {became}; move "
            f"{config.output} away, which may be of both, and begin anew"
        )


def _stamp(path: Path) -> list[int]:
    found = path.stat()
    with path.open("rb") as file:
        first = file.read(ENDS)
        file.seek(max(0, found.st_size - ENDS))
        return [found.st_size, found.st_mtime_ns, crc32(file.read(ENDS), crc32(first))]


def _differences(
    config: RunConfig | AttackConfig, one: Stamps, other: Stamps
) -> Iterator[tuple[Path, str, str]]:
    """Files that are not alike, and in words what each side has."""
    for kind, source in (("shards", config.user_embedding), ("labels", config.labels)):
        there = Path(source or "")
        for name in sorted(one[kind].keys() | other[kind].keys()):
            a, b = one[kind].get(name), other[kind].get(name)
            if a != b:
                yield there if there.name == name else there / name, _told(a), _told(b)


def _told(stamp: Sequence[int] | None) -> str:
    if not stamp:
        return "missing"
    written = datetime.fromtimestamp(stamp[1] / 1e9, UTC)
    return f"{stamp[0]} bytes of {written:%Y-%m-%d %H:%M:%S.%f} ({stamp[2]:08x})"

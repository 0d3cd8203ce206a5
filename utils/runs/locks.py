"""One process at a time in a folder, by a lock that dies with its process.

The lock is the operating system's (flock) on an empty file beside the folder; the file stays and
means nothing by itself, so that a killed process leaves no stale lock. Windows has no flock: there
nothing is locked, and two runs in one folder are the user's to avoid.
"""

import contextlib
import errno
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from utils.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

UNWRITABLE = (errno.ENOENT, errno.EROFS, errno.EACCES, errno.EPERM)


@contextlib.contextmanager
def locked(path: Path, busy: str) -> Iterator[None]:
    """Keep other processes out of `path` while the context lasts.

    Where the lock's file can't be made (no such folder, a read-only one) there is no lock: what
    follows can only read there, or fail and say so.

    Args:
        path: what is locked, there or not; the lock is beside it, so that renaming `path` keeps it.
        busy: "wait" for a process that has it, or "end".

    Raises:
        UserError: another process has it, and `busy` is "end".
    """
    try:
        file = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        yield
        return
    try:
        if fcntl:
            _lock(file, path, busy)
        with contextlib.suppress(OSError):  # only for the message of those who wait
            os.ftruncate(file, 0)
            os.pwrite(file, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(file)


def _lock(file: int, path: Path, busy: str) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(file, 20, 0).decode() or "that has just started"
        if busy == "end":
            raise UserError(
                f"{path} is in use by process {owner}; let that one end first, or wait for it "
                "with busy=wait"
            ) from None
        log.info("%s is in use by process %s; waiting for it to end", path, owner)
        fcntl.flock(file, fcntl.LOCK_EX)

"""One process at a time in a folder, by a lock that dies with its process.

The lock is the operating system's, on a file beside the folder in which its holder leaves a process
number; the file stays and means nothing by itself, so that a killed process leaves no stale lock.
"""

import contextlib
import errno
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import lock_descriptor

from utils.errors import UserError

log = logging.getLogger(__name__)

UNWRITABLE = (errno.ENOENT, errno.EROFS, errno.EACCES, errno.EPERM)

NUMBER = 1
"""Where the number begins: Windows keeps others from reading the first byte, the locked one."""


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
        if not lock_descriptor(file, blocking=False):
            os.lseek(file, NUMBER, os.SEEK_SET)
            owner = os.read(file, 20).decode().strip() or "that has just started"
            said = f"{path} is in use by process {owner}"
            if busy == "end":
                raise UserError(
                    f"{said}; let that one end first, or wait (one process can) with busy=wait"
                )
            log.info("%s; waiting for it to end", said)
            lock_descriptor(file)
        with contextlib.suppress(OSError):  # only for the message of those who wait
            os.lseek(file, NUMBER, os.SEEK_SET)
            os.write(file, f"{os.getpid():<20}".encode())
        yield
    finally:
        os.close(file)

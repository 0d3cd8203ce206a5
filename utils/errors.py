"""The one exception for what a user can get wrong, and one line for what a machine refuses."""

import errno
import os
from concurrent.futures.process import BrokenProcessPool

_FULL = "free some space; what is finished is kept, and the same command goes on from there"
_CLOSED = (
    "make it writable, or choose another place with results_path=, dataset_path=, output= or "
    "record="
)
_UNREADABLE = "make it readable to you"
_IN_THE_WAY = "something else has that name; move it away"

REMEDIES = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: "the file system, or ulimit -f, allows no file so large",
    errno.EROFS: _CLOSED,
    errno.EACCES: _CLOSED,
    errno.EPERM: _CLOSED,
    errno.ENOTDIR: _IN_THE_WAY,
    errno.EISDIR: _IN_THE_WAY,
    errno.EEXIST: _IN_THE_WAY,
    errno.ENAMETOOLONG: "choose a shorter name",
}


OUT_OF_MEMORY = ("can't allocate memory", "CUDA out of memory")
"""What torch's plain RuntimeErrors say."""


class UserError(Exception):
    """Something the user can mend.

    The message is one line: what is wrong, where, and how to mend it. The commands print it
    without a traceback and end with exit code 2.
    """


def in_one_line(error: Exception) -> str | None:
    """What a command says of an error instead of a traceback; None for one that only we can mend.

    A file that can't be written or read is the machine's to refuse and the user's to mend.
    """
    if isinstance(error, UserError):
        return " ".join(str(error).splitlines())
    if isinstance(error, OSError):
        place = error.filename if error.filename is not None else "a file"
        remedy = REMEDIES.get(error.errno or 0)
        if remedy == _CLOSED and _unreadable(place):
            remedy = _UNREADABLE
        return f"{place}: {error.strerror or error}" + (f"; {remedy}" if remedy else "")
    if isinstance(error, BrokenProcessPool):
        return (
            "a worker process was killed, most often by the system for want of memory; what had "
            "ended is kept, and the same command goes on from there: lower threads, as many workers"
        )
    if isinstance(error, MemoryError) or any(text in str(error) for text in OUT_OF_MEMORY):
        keys = "num_ng (examples an epoch), batch_size or embedding_size"
        return f"not enough memory ({first_line(error)}); lower {keys}"
    return None


def _unreadable(place: str | bytes | int) -> bool:
    """Whether a file is there but may not be read; the error is the same as in writing."""
    return os.access(place, os.F_OK) and not os.access(place, os.R_OK)


def first_line(error: Exception) -> str:
    """The first line of an error's message; its type where there is none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

"""Standard output and error that can always be written to: a reader that has gone, a closed stream
or a letter that it lacks is no reason to lose the work.
"""

import errno
import io
import os
import sys

GONE = (errno.EPIPE, errno.EIO, errno.EBADF)
"""What writing says once `head` or the terminal has ended, or to a stream for reading."""


def keep_writable() -> None:
    """Replace sys.stdout and sys.stderr: what nobody reads goes nowhere, and letters that the
    encoding lacks become escapes.

    To be called before any other file is opened, which would get the number of a closed stream, and
    with it what is printed there.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets this number, the lowest that is free
    sys.stdout = _stream(1, "standard output", getattr(sys.stdout, "encoding", None))
    sys.stderr = _stream(2, "standard error", getattr(sys.stderr, "encoding", None))


def _stream(number: int, name: str, encoding: str | None) -> io.TextIOWrapper:
    writer = io.BufferedWriter(_Raw(number, name))
    return io.TextIOWrapper(writer, encoding or "utf-8", "backslashreplace", line_buffering=True)


class _Raw(io.FileIO):
    def __init__(self, number: int, name: str):
        super().__init__(number, "w", closefd=False)
        self._called = name

    def write(self, content) -> int:  # type: ignore[no-untyped-def, override]
        try:
            return super().write(content)
        except OSError as error:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            if error.errno in GONE:
                return super().write(content)
            raise OSError(error.errno, error.strerror, self._called) from None

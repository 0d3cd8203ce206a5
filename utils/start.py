"""How a command begins: with streams that can be written to; and while its imports, some seconds,
go on, Ctrl-C is one line already.
"""

import contextlib
import importlib
import os
import signal
import sys
from typing import NoReturn

from utils.streams import keep_writable


def start(program: str) -> NoReturn:
    """Import a command's module and exit with what its `main` returns."""
    keep_writable()
    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not to be ignored
    if usual:
        signal.signal(signal.SIGINT, _leave)  # no exception: some imports walk past one
    module = importlib.import_module(program)
    if usual:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(module.main())


def _leave(*_: object) -> NoReturn:
    with contextlib.suppress(OSError):
        os.write(2, b"\nInterrupted; nothing had begun.\n")
    os._exit(130)

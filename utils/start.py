"""How a command begins: while its imports, some seconds, go on, Ctrl-C is one line already."""

import importlib
import os
import signal
import sys
from typing import NoReturn


def start(program: str) -> NoReturn:
    """Import a command's module and exit with what its `main` returns."""
    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not to be ignored
    if usual:
        signal.signal(signal.SIGINT, _leave)  # no exception: some imports walk past one
    module = importlib.import_module(program)
    if usual:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(module.main())


def _leave(*_: object) -> NoReturn:
    os.write(2, b"\nInterrupted; nothing had begun.\n")
    os._exit(130)

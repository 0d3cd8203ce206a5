"""How a command begins: with streams that can be written to; and while its imports, some seconds,
go on, Ctrl-C is one line already.
"""

import contextlib
import importlib
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

from utils.streams import keep_writable


def start(program: str) -> NoReturn:
    """Import a command's module and exit with what its `main` returns."""
    keep_writable()
    same_sums()
    few_lines_in_files()
    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not to be ignored
    if usual:
        signal.signal(signal.SIGINT, _leave)  # no exception: some imports walk past one
    module = importlib.import_module(program)
    if usual:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(module.main())


def same_sums() -> None:
    """Have MKL add in the same order whatever the number of threads; before its first product.

    On Intel's processors the last bits of its products depend on the threads unless it is told so
    ("strict CNR"). Others keep their own way: there the same word would mean older, slower code.
    """
    with contextlib.suppress(OSError):
        if "GenuineIntel" in Path("/proc/cpuinfo").read_text():
            os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")


def few_lines_in_files() -> None:
    """Have progress bars speak every ten seconds where they are no screen's."""
    with contextlib.suppress(ValueError):  # closed
        if not sys.stderr.isatty():
            os.environ.setdefault("TQDM_MININTERVAL", "10")


def _leave(*_: object) -> NoReturn:
    with contextlib.suppress(OSError):
        os.write(2, b"\nInterrupted; nothing had begun.\n")
    os._exit(130)

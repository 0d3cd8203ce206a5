"""What the commands print, and the same lines with times in the run folder."""

import contextlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from utils.runs.files import named

log = logging.getLogger(__name__)


class _Console(logging.Handler):
    """Prints messages as they are, above any progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        mark = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        tqdm.write(mark + record.getMessage(), file=sys.stdout)


@contextlib.contextmanager
def console(level: int = logging.INFO) -> Iterator[None]:
    """Show messages of this level and above while the context lasts."""
    handler = _Console(level)
    root, fonts = logging.getLogger(), logging.getLogger("matplotlib")
    before = root.level, fonts.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    fonts.setLevel(logging.WARNING)  # it tells of every one
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.removeHandler(handler)
        root.setLevel(before[0])
        fonts.setLevel(before[1])


class _LogFile(logging.FileHandler):
    """Raises what goes wrong in writing, which logging's own prints and walks past."""

    def emit(self, record: logging.LogRecord) -> None:
        with named(Path(self.baseFilename)):
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        raise

    def close(self) -> None:
        with contextlib.suppress(OSError):  # said when the line was written
            super().close()


@contextlib.contextmanager
def log_file(path: Path) -> Iterator[None]:
    """Append every message to `path` too, with its time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = _LogFile(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%Y-%m-%d %H:%M:%S"))
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    except BaseException as error:
        with contextlib.suppress(OSError):
            log.debug("Stopped: %s", str(error) or type(error).__name__)
        raise
    finally:
        root.removeHandler(handler)
        handler.close()

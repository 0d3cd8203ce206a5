"""`python -m utils.reproduction`: every published cell beside ours, from the committed records."""

import logging
from pathlib import Path

log = logging.getLogger(__name__)


def renew_report(record: str | None) -> None:
    """Write the report beside a sweep's record and say where; nothing without a record."""
    if record:
        from utils.reproduction.write import write_report  # drawing takes two seconds to import

        page, *others = write_report(Path(record))
        log.info("Report: %s (%s)", page, ", ".join(path.name for path in others))

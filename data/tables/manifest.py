"""What stands beside an embedding that is handed over: what was edited, by what, from what."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from data.tables.formats import format_of
from data.tables.user_table import UserTable
from utils.runs.files import file_checksum

VERSION = 1


def manifest_path(target: Path) -> Path:
    """Where it stands."""
    return target.with_name(f"{target.name}.manifest.json")


def manifest(
    source: Path,
    table: UserTable,
    labels: Path,
    target: Path,
    edited: np.ndarray,
    summary: Mapping[str, Any],
) -> dict[str, Any]:
    """For a store's loader, and for whoever asks later.

    Args:
        source, table: the file that was read, and its table.
        labels: the labels' file.
        target: the file that was written.
        edited: its vectors (n_users, d).
        summary: of the run that made them.
    """
    changed = (edited != table.vectors).any(1)
    config, ids = summary["config"], table.ids
    return {
        "version": VERSION,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "output": {
            "file": str(target),
            "sha256": file_checksum(target),
            "format": format_of(target).title,
            "users": len(edited),
            "dimensions": edited.shape[1],
            "dtype": str(edited.dtype),
            "ids": "row numbers, from 0" if ids is None else "as in the input, in its order",
        },
        "input": {"file": str(source), "sha256": file_checksum(source), "table": table.name},
        "labels": {
            "file": str(labels),
            "sha256": file_checksum(labels),
            "attribute": config["attribute"],
            "users_of_class": summary["users_of_class"],
        },
        "edited": {
            "users": int(changed.sum()),
            "left_alone": [
                str(row if ids is None else ids[row]) for row in np.flatnonzero(~changed)
            ],
            "method": config["method"],
            "seed": config["seed"],
            "key": summary["key"],
        },
        "environment": summary["environment"],
    }

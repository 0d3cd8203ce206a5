"""What stands beside an embedding that is handed over: what was edited, by what, from what."""

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from data.tables.files import save_table
from data.tables.formats import format_of
from data.tables.run_files import load_embedding
from data.tables.user_table import UserTable
from utils.config import RunConfig
from utils.runs.files import file_checksum, read_json_object, write_json
from utils.runs.folder import EDITED, WEIGHTS, RunFolder, check_outputs

log = logging.getLogger(__name__)

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


def edited_by(path: Path) -> tuple[str, str] | None:
    """The method that has edited a file's embedding, and the attribute that it was to hide, as the
    manifest beside it says, or the run in whose folder it is; None where neither does. A manifest
    of what was there before counts for nothing.
    """
    beside, run = manifest_path(path), path.parent.parent / "summary.json"
    if beside.is_file() and path.is_file():
        said = read_json_object(beside) or {}
        if said.get("version") == VERSION and said["output"]["sha256"] == file_checksum(path):
            return said["edited"]["method"], said["labels"]["attribute"]
    if run.is_file() and path.parent.name in (WEIGHTS, EDITED):
        config = (read_json_object(run) or {}).get("config", {})
        return config.get("method", "original"), config.get("attribute", "")
    return None


def forget(target: Path) -> None:
    """Take away the manifest of what a file was before, if there is one of ours."""
    path = manifest_path(target)
    if path.is_file() and (read_json_object(path) or {}).get("version") == VERSION:
        path.unlink()


def hand_over(
    config: RunConfig, table: UserTable, folder: RunFolder, summary: Mapping[str, Any]
) -> None:
    """Write the edited embedding where, and in the format that, the config says; beside it what was
    done, for whoever loads it into a store.

    Raises:
        UserError: the run's embedding is no longer there, or another one.
    """
    assert config.output and config.user_embedding and config.labels
    source, target = Path(config.user_embedding), Path(config.output)
    check_outputs(folder.path, folder.embedding_path)
    edited = load_embedding(folder.embedding_path)
    if target.exists() and edited_by(target) is None:
        log.info("  %s was there, and is replaced", target)
    save_table(target, table.edited(edited), source)
    write_json(
        manifest_path(target),
        manifest(source, table, Path(config.labels), target, edited, summary),
    )
    log.info("  handed over: %s, and what was done in %s", target, manifest_path(target))

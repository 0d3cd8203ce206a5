"""CSV files with a row a finished run or attack, small enough to commit.

A sweep whose config names one (key `record`) leaves out what has a row, so it can go on, on
another machine too, without the run folders; utils.reproduction makes its tables from them.
"""

import csv
import io
import json
import tempfile
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from utils.config import AttackConfig, Group, Groups, RunConfig, identity
from utils.errors import UserError
from utils.runs.files import named, replace_file
from utils.runs.folder import default, run_path
from utils.runs.locks import locked

Row = dict[str, str]

METRICS = ("HR@5", "NDCG@5", "HR@10", "NDCG@10")
SCORES = ("accuracy", "precision", "recall", "auc")

WHICH = ("dataset", "model", "method", "attribute", "regularizer", "au_trade_off", "seed")
"""Columns that both files begin with; empty where the method doesn't depend on them."""


@dataclass(frozen=True)
class Record:
    """A CSV file in which a row replaces the one that agrees with it in `identity`.

    Attributes:
        path: the file; need not exist.
        columns: its header.
        identity: the columns that tell rows apart; also the file's order.
    """

    path: Path
    columns: tuple[str, ...]
    identity: tuple[str, ...]

    def rows(self) -> list[Row]:
        """All rows; none where there is no file.

        Raises:
            UserError: the file is not one of these.
        """
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        except UnicodeDecodeError:
            raise UserError(f"record {self.path} is not UTF-8 text; name another folder") from None
        reader = csv.DictReader(io.StringIO(text, newline=""))
        if tuple(reader.fieldnames or ()) != self.columns:
            raise UserError(
                f"record {self.path} begins with other columns than {','.join(self.columns[:3])},"
                "...; name another folder"
            )
        rows = list(reader)
        for number, row in enumerate(rows, start=2):
            if None in row or None in row.values():
                raise UserError(f"record {self.path}, line {number}: not {len(self.columns)} cells")
        return rows

    def check(self) -> None:
        """Refuse, before the work, a file that is no record or can't be written.

        Raises:
            UserError: it is none.
            OSError: it can't be written.
        """
        self.rows()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with named(self.path), tempfile.TemporaryFile(dir=self.path.parent):
            pass

    def add(self, new: Iterable[Row]) -> None:
        """Add rows; other processes may do so too."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with locked(self.path, busy="wait"):
            rows = {self._of(row): row for row in (*self.rows(), *new)}
            text = io.StringIO(newline="")
            writer = csv.DictWriter(text, self.columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows[one] for one in sorted(rows))
            with replace_file(self.path) as file:
                file.write(text.getvalue().encode())

    def _of(self, row: Row) -> tuple[tuple[bool, float, str], ...]:
        """Sorts numbers as numbers: seed 2 before seed 10."""
        return tuple(_natural(row[column]) for column in self.identity)


def _natural(text: str) -> tuple[bool, float, str]:
    try:
        return False, float(text), ""
    except ValueError:
        return True, 0.0, text


def runs(folder: str | Path) -> Record:
    """The record of `main.py`'s runs in a folder."""
    outcome = (*METRICS, "seconds", "epoch", "users", "device", "threads", "commit", "run")
    path = Path(folder) / "runs.csv"
    return Record(path, (*WHICH, "settings", *outcome), (*WHICH, "settings"))


def attacks(folder: str | Path) -> Record:
    """The record of `attack.py`'s results in a folder; column `run` leads to a row of `runs`."""
    which = (*WHICH, "protocol", "settings", "attacker", "folder")
    outcome = (*SCORES, "auc_std", "users", "test_users", "rounds", "commit", "run")
    return Record(Path(folder) / "attacks.csv", (*which, *outcome), which)


def audits(folder: str | Path) -> Record:
    """The record of audits in a folder: a row a place, and one of all places together.

    Runs that differ in a method's settings follow one another in one folder: the run tells their
    audits apart.
    """
    which = (*WHICH, "settings", "place", "folder")
    outcome = (
        "attacker",
        "auc",
        "low",
        "high",
        "leakage",
        "null_95",
        "p",
        "leaks",
        "users",
        "kept",
    )
    columns = (*which, *outcome, "commit", "run")
    return Record(Path(folder) / "audits.csv", columns, (*which, "run"))


def check_recordable(config: RunConfig | AttackConfig) -> None:
    """Refuse, before the work, a record of what is no run on a dataset.

    Raises:
        UserError: says so.
    """
    if config.record and config.user_embedding:
        raise UserError(
            f"record {config.record} is for runs on a dataset; leave it out with user_embedding"
        )


def short(key: str) -> str:
    """A run's key as the records have it."""
    return key[:16]


def add_run(record: Record, config: RunConfig, groups: Groups, summary: dict[str, Any]) -> None:
    """Add a finished run.

    Args:
        record: see `runs`.
        config: the run's.
        groups: which of its keys the method's result depends on.
        summary: as in its summary.json.
    """
    others = {
        key: value
        for key, value in identity(config, groups).items()
        if key not in WHICH and value != default(config, key)
    }
    outcome = {metric: summary["test"][metric] for metric in METRICS} | {
        "seconds": summary["seconds"],
        "epoch": summary.get("chosen_epoch", ""),
        "users": summary["sizes"]["test"],
        "device": summary["environment"]["device"],
        "threads": summary["environment"]["threads"],
        "commit": (summary["environment"]["commit"] or "")[:7],
        "run": short(summary["key"]),
    }
    settings = json.dumps(others, sort_keys=True) if others else ""
    record.add([_text(_which(config, groups) | {"settings": settings} | outcome)])


def find_run(record: Record, config: RunConfig, key: str) -> dict[str, Any] | None:
    """The summary of a recorded run, as far as its row has it; None if there is no row."""
    for row in record.rows():
        if row["run"] == short(key):
            try:
                test = {metric: float(row[metric]) for metric in METRICS}
                seconds = float(row["seconds"])
            except ValueError as error:
                raise UserError(
                    f"record {record.path}, the row of run {key[:16]}: {error}"
                ) from None
            return {"config": asdict(config), "test": test, "seconds": seconds}
    return None


def add_attack(
    record: Record,
    config: AttackConfig,
    groups: Groups,
    result: dict[str, Any],
    run: str,
) -> None:
    """Add what the attackers of one attack found.

    Args:
        record: see `attacks`.
        config: the attack's.
        groups: which keys the attacked method's result depends on.
        result: as in attack.json.
        run: the attacked run's key.
    """
    users = result["users"]
    rows = [
        _attack_which(config, groups)
        | {"attacker": attacker}
        | {score: scores[score]["mean"] for score in SCORES}
        | {
            "auc_std": scores["auc"]["std"],
            "users": users["balanced"],
            "test_users": users["test"],
            "rounds": result["rounds"],
            "commit": (result["environment"]["commit"] or "")[:7],
            "run": short(run),
        }
        for attacker, scores in result["attackers"].items()
    ]
    record.add(map(_text, rows))


ALL_PLACES = "all"
"""What an audit's row of its verdict has for a place."""


def add_audit(
    record: Record, config: AttackConfig, groups: Groups, result: dict[str, Any], run: str
) -> None:
    """Add an audit's verdict, and what it found at each place.

    Args:
        record: see `audits`.
        config: the audit's.
        groups: which keys the audited method's result depends on.
        result: as in audit.json.
        run: the audited run's key.
    """
    which = _audit_which(config, groups)
    kept = result["utility"].get("NDCG@10", {}).get("change", {}).get("kept", "")
    verdict, places = result["verdict"], result["places"]
    rows = {ALL_PLACES: (verdict, verdict["attacker"], verdict["interval"])}
    for name, row in places.items():
        rows[name] = (row, row["worst"], row["attackers"][row["worst"]]["interval"])
    record.add(
        _text(
            which
            | {"place": place, "attacker": attacker, "low": low, "high": high}
            | {name: row[name] for name in ("auc", "leakage", "null_95", "p")}
            | {
                "leaks": "yes" if row["leaks"] else "no",
                "users": result["users"]["test"],
                "kept": kept,
                "commit": (result["environment"]["commit"] or "")[:7],
                "run": short(run),
            }
        )
        for place, (row, attacker, (low, high)) in rows.items()
    )


def has_audit(record: Record, config: AttackConfig, groups: Groups, run: str | None) -> bool:
    """Whether this audit has its row; `run` as in `has_attack`."""
    wanted = _text(_audit_which(config, groups) | {"place": ALL_PLACES})
    return any(
        wanted.items() <= row.items() and (run is None or row["run"] == short(run))
        for row in record.rows()
    )


def audit_keys(config: AttackConfig) -> dict[str, Any]:
    """Keys that an audit depends on besides the attribute and the attackers."""
    keys = identity(config, [Group.AUDIT]) | {"attack_seed": config.attack_seed}
    # whom an original's audit takes
    return keys if config.audit_whom == "everyone" else keys | {"labels_seen": config.labels_seen}


def _audit_which(config: AttackConfig, groups: Groups) -> dict[str, Any]:
    keys = audit_keys(config) | {"infer": config.infer}
    if config.attackers != AttackConfig.attackers:
        keys["attackers"] = list(config.attackers)
    settings = {key: value for key, value in keys.items() if value != getattr(AttackConfig, key)}
    return _which(config, groups, attack=True) | {
        "settings": json.dumps(settings, sort_keys=True) if settings else "",
        "folder": run_path(config, groups).as_posix(),
    }


def has_attack(
    record: Record,
    config: AttackConfig,
    groups: Groups,
    run: str | None,
    attackers: Collection[str],
) -> bool:
    """Whether every one of the attackers has a row of this attack.

    Args:
        record, config, groups: as in `add_attack`.
        run: key of the run that is there to be attacked; None where none is, so that whatever
            was attacked there counts.
        attackers: their names.
    """
    wanted = _text(_attack_which(config, groups))
    found = {
        row["attacker"]
        for row in record.rows()
        if wanted.items() <= row.items() and (run is None or row["run"] == short(run))
    }
    return found >= set(attackers)


def _attack_which(config: AttackConfig, groups: Groups) -> dict[str, Any]:
    # all of a protocol's settings belong to one group; those of the other protocol say nothing
    settings = {
        key: value
        for key, value in identity(config, [Group.ATTACK]).items()
        if key not in config.of_other_protocols and value != getattr(AttackConfig, key)
    }
    return _which(config, groups, attack=True) | {
        "protocol": config.protocol,
        "settings": json.dumps(settings, sort_keys=True) if settings else "",
        "folder": run_path(config, groups).as_posix(),
    }


def _which(
    config: RunConfig | AttackConfig, groups: Groups, attack: bool = False
) -> dict[str, Any]:
    keys = identity(config, groups)
    return {
        "dataset": config.dataset,
        "model": config.model,
        "method": config.method,
        "attribute": config.attribute if attack or Group.ATTRIBUTE in groups else "",
        "regularizer": keys.get("regularizer", ""),
        "au_trade_off": keys.get("au_trade_off", ""),
        "seed": config.seed,
    }


def _text(row: dict[str, Any]) -> Row:
    return {
        column: f"{value:.6g}" if isinstance(value, float) else str(value)
        for column, value in row.items()
    }

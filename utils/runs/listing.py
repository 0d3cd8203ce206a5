"""The finished runs of a results folder in a table (`--list`), from their JSON files alone."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from utils.messages import table
from utils.runs.files import read_json_object

HEADER = ["run", "HR@10", "NDCG@10", "seconds", "attacked", "by", "AUC"]
DAMAGED = (AttributeError, KeyError, TypeError, ValueError)
"""What reading another's JSON as ours can raise."""


def finished_runs(results_path: Path) -> str:
    """Every finished run below a folder with its figures, and the worst that each attack and audit
    found there.
    """
    folders = sorted(path.parent for path in results_path.rglob("summary.json"))
    rows = []
    for folder in folders:
        name = folder.relative_to(results_path).as_posix()
        try:
            figures, (first, *others) = _figures(folder), [*_found(folder)] or [[""] * 3]
        except DAMAGED:
            rows.append([name, "damaged", *[""] * 5])
            continue
        rows += [[name, *figures, *first], *(["", "", "", "", *other] for other in others)]
    return table(HEADER, rows) if rows else f"{results_path} holds no finished run"


def _read(path: Path) -> dict[str, Any]:
    if (content := read_json_object(path)) is None:
        raise ValueError
    return content


def _figures(folder: Path) -> list[str]:
    summary = _read(folder / "summary.json")
    test = summary.get("test", {})
    metrics = [f"{test[metric]:.4f}" if metric in test else "" for metric in ("HR@10", "NDCG@10")]
    return [*metrics, f"{summary['seconds']:.1f}"]


def _found(folder: Path) -> Iterator[list[str]]:
    """What was attacked and how, the worst attacker, its AUC."""
    attacks = folder / "attack.json"
    for how, result in (_read(attacks) if attacks.exists() else {}).items():
        worst, scores = max(result["attackers"].items(), key=lambda one: one[1]["leakage"])
        yield [how, worst, f"{scores['auc']['mean']:.3f}"]
    for path in sorted(folder.glob("audit*.json")):
        verdict = _read(path)["verdict"]
        yield [f"{path.stem}/{verdict['place']}", verdict["attacker"], f"{verdict['auc']:.3f}"]

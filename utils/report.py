"""What the commands show of a result, and what to do next."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

from utils.config import AttackConfig, ExperimentConfig
from utils.metrics import CUTOFFS

log = logging.getLogger(__name__)


def table(header: list[str], rows: list[list[str]]) -> str:
    """Text columns, the first flush left, the others flush right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return "\n".join(
        "  "
        + line[0].ljust(widths[0])
        + "".join(
            "  " + cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)
        )
        for line in (header, *rows)
    )


def describe_run(summary: dict[str, Any], folder: Path, next_steps: bool = True) -> None:
    """Log a finished run: its ranking metrics, what it cost, what comes next."""
    users = summary["sizes"]["test"]
    rows = [
        [metric, *(f"{summary['test'][f'{metric}@{k}']:.4f}" for k in CUTOFFS)]
        for metric in ("HR", "NDCG")
    ]
    log.info(table([f"test, {users} users", *(f"@{k}" for k in CUTOFFS)], rows))
    if "chosen_epoch" in summary:
        best = summary["best_on_test"]
        log.info(
            "  epoch %d of %d chosen; looking at test would have chosen epoch %d, HR@10 %.4f",
            summary["chosen_epoch"],
            summary["epochs"],
            best["epoch"],
            best["test"]["HR@10"],
        )
        log.info("  trained in %.1f s", summary["seconds"])
    else:
        before, after = summary["original"]["HR@10"], summary["test"]["HR@10"]
        log.info(
            "  HR@10 is %.1f %% of the original's %.4f; the embedding moved by %.3f of its norm",
            100 * after / before if before else float("nan"),
            before,
            summary["moved"],
        )
        log.info("  unlearned in %.1f s", summary["seconds"])
    log.info("  user embedding: %s", folder / "weights" / "user_embedding.npy")
    if next_steps:
        log.info("Next: %s", " or ".join(_next_steps(summary["config"])))


def _next_steps(config: dict[str, Any]) -> list[str]:
    """Commands that make sense after this run, naming what differs from the defaults."""
    steps = [command_for("attack.py", AttackConfig, config)]
    if config["method"] == "original":
        steps.append(command_for("main.py", ExperimentConfig, config | {"method": "d2d"}))
    return steps


def command_for(
    program: str,
    cls: type[ExperimentConfig] | type[AttackConfig],
    values: dict[str, Any],
) -> str:
    """A command that names those of the values that its config has and by default has not."""
    differs = [
        f"{field.name}={values[field.name]}"
        for field in dataclasses.fields(cls)
        if field.name in values and values[field.name] != field.default
    ]
    return " ".join(["python", program, *differs])


def sweep_table(paths: list[Path], summaries: list[dict[str, Any]]) -> None:
    """Log a line a run of a sweep."""
    metrics = ("HR@5", "NDCG@5", "HR@10", "NDCG@10")
    rows = [
        [
            str(path),
            *(f"{summary['test'][metric]:.4f}" for metric in metrics),
            f"{summary['seconds']:.1f}",
        ]
        for path, summary in zip(paths, summaries, strict=True)
    ]
    log.info("\n%s", table(["run", *metrics, "seconds"], rows))


def describe_attack(result: dict[str, Any]) -> None:
    """Log an attack: metrics as mean ± std over draws, beside what chance would give."""
    metrics = ("accuracy", "precision", "recall", "auc")
    rows = [
        [
            name,
            *(f"{scores[m]['mean']:.4f} ± {scores[m]['std']:.4f}" for m in metrics),
            f"{scores['leakage']:.4f}",
        ]
        for name, scores in result["attackers"].items()
    ]
    users = result["users"]
    log.info(
        "  %d balanced users (as many of every %s); %d train an attacker, %d test it; %d rounds",
        users["balanced"],
        result["attribute"],
        users["train"],
        users["test"],
        result["rounds"],
    )
    log.info(table(["attacker", "accuracy", "precision", "recall", "AUC", "leakage"], rows))
    log.info(
        "  %s; leakage = |AUC - 0.5|: an AUC below 0.5 leaks as much, "
        "the attacker need only flip the sign",
        f'positive class "{result["positive_class"]}"'
        if result["positive_class"]
        else "macro averages over classes, AUC one-vs-rest",
    )
    unconverged = sum(scores["unconverged"] for scores in result["attackers"].values())
    if unconverged:
        log.info("  %d attackers stopped at max_iter before converging", unconverged)

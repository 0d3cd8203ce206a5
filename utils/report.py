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
    if "test" in summary:
        rows = [
            [metric, *(f"{summary['test'][f'{metric}@{k}']:.4f}" for k in CUTOFFS)]
            for metric in ("HR", "NDCG")
        ]
        users = f"test, {summary['sizes']['test']} users"
        log.info(table([users, *(f"@{k}" for k in CUTOFFS)], rows))
    if "chosen_epoch" in summary:
        best = summary["best_on_test"]
        log.info(
            "  epoch %d of %d chosen; looking at test would have chosen epoch %d, HR@10 %.4f",
            summary["chosen_epoch"],
            summary["epochs"],
            best["epoch"],
            best["test"]["HR@10"],
        )
    if original := summary.get("original"):
        ratio = summary["test"]["HR@10"] / original["HR@10"] if original["HR@10"] else float("nan")
        log.info("  HR@10 is %.1f %% of the original's %.4f", 100 * ratio, original["HR@10"])
    if "moved" in summary:
        log.info("  the embedding moved by %.3f of its norm", summary["moved"])
    verb = "unlearned" if "moved" in summary else "trained"
    log.info("  %s in %.1f s", verb, summary["seconds"])
    log.info("  user embedding: %s", folder / "weights" / "user_embedding.npy")
    if next_steps:
        log.info("Next: %s", " or ".join(_next_steps(summary["config"], folder)))


def _next_steps(config: dict[str, Any], folder: Path) -> list[str]:
    """Commands that make sense after this run, naming what differs from the defaults."""
    if config["user_embedding"]:
        edited = folder / "weights" / "user_embedding.npy"
        config = {key: config[key] for key in ("labels", "attribute")}
        config["user_embedding"] = str(edited)
    steps = [command_for("attack.py", AttackConfig, config)]
    if config.get("method") == "original":
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


def sweep_table(summaries: list[dict[str, Any]]) -> None:
    """Log a line a run of a sweep: the keys that differ within it, then the results."""
    configs = [summary["config"] for summary in summaries]
    keys = [key for key in configs[0] if len({repr(config[key]) for config in configs}) > 1]
    metrics = [
        metric
        for metric in ("HR@5", "NDCG@5", "HR@10", "NDCG@10")
        if all("test" in summary for summary in summaries)
    ]
    rows = [
        [
            " ".join(str(summary["config"][key]) for key in keys),
            *(f"{summary['test'][metric]:.4f}" for metric in metrics),
            f"{summary['seconds']:.1f}",
        ]
        for summary in summaries
    ]
    log.info("\n%s", table([" ".join(keys), *metrics, "seconds"], rows))


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

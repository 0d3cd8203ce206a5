"""What the commands show of a result, and what to do next."""

import dataclasses
import json
import logging
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.audit.statistics import auc_standard_error
from utils.config import AttackConfig, Config, RunConfig
from utils.metrics import CUTOFFS
from utils.runs.folder import edited_path, embedding_path
from utils.schema import json_or_text

log = logging.getLogger(__name__)

TOLERATED_LOSS = 0.1
"""Share of the original's HR@10 or NDCG@10 that unlearning may cost before it is called
over-unlearning.
"""

TOLERATED_LEAKAGE = 0.2
"""|AUC - 0.5| of an attacker above which unlearning is said to have failed."""

NO_FINDING, BY_HEART = 0.05, 0.4
"""Leakage up to which an attacker has found nothing, and what it finds, then, in the users that it
was trained on, above which it has learnt these by heart.
"""

FEW_OF_A_CLASS = 50
"""Users of a class who take part in an attack: with fewer the error of an AUC is said."""

TOLERATED_SHARE = 0.5
"""Share of the distinguishability that may be left before unlearning is said not to have worked."""

ROUNDING_STEPS = 10
"""Users of a class who lie fewer roundings apart are said to lie within rounding."""


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


def describe_run(
    summary: dict[str, Any], folder: Path, kind: type[RunConfig], next_steps: bool = True
) -> None:
    """Log a finished run: its ranking metrics, what it cost, what comes next.

    Args:
        summary: as in its summary.json.
        folder: the run's.
        kind: its config's class, whose defaults a next command leaves out.
        next_steps: whether to name such commands.
    """
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
    for remark in summary.get("remarks", []):
        log.warning("%s", remark)
    if attributes := summary.get("attributes"):
        log.info("  attributes hidden: %s", attributes)
    if "moved" in summary:
        log.info("  the embedding moved by %.3f of its norm", summary["moved"])
    if lists := summary.get("top_items"):
        log.info(
            "  of a user's top %d of %d items %.2f stay, on average",
            lists["top"],
            lists["of"],
            lists["kept"],
        )
    if "left" in (losses := summary.get("losses", {})):
        log.info("  %s", _what_is_left(losses))
    verb = "unlearned" if "moved" in summary else "trained"
    log.info("  %s in %.1f s", verb, summary["seconds"])
    log.info("  user embedding: %s", embedding_path(folder))
    if next_steps:
        log.info("Next: %s", " or ".join(_next_steps(summary["config"], folder, kind)))


def _what_is_left(losses: dict[str, Any]) -> str:
    """What minimising eq. 1 achieved, in a line."""
    (before, chance), (after, chance_now) = (
        (losses[when]["distinguishability"], losses[when]["chance"]) for when in ("before", "after")
    )
    said = f"distinguishability {before:.4g} before, {after:.4g} after"
    if chance:
        said += f", of random groups {chance:.4g} and {chance_now:.4g}"
    if losses["left"] is None:
        return f"{said}: there was none to take away"
    beyond = " of what is beyond chance" if chance else ""
    return f"{said}: {100 * losses['left']:.1f} %{beyond} left"


def remarks(summary: dict[str, Any]) -> list[str]:
    """What a reader of a run's numbers must not miss, in words."""
    said = []
    if original := summary.get("original"):
        lost = {
            metric: 1 - summary["test"][metric] / original[metric]
            for metric in ("HR@10", "NDCG@10")
            if original[metric]
        }
        fell = [
            f"{metric} fell by {100 * share:.1f} %"
            for metric, share in lost.items()
            if share > TOLERATED_LOSS
        ]
        if fell:
            said.append(
                f"over-unlearned: {' and '.join(fell)}, more than {100 * TOLERATED_LOSS:.0f} %; "
                "raise au_trade_off, or lower unlearn_steps or unlearn_lr"
            )
    share = summary.get("losses", {}).get("left")
    if share is not None and share > TOLERATED_SHARE:
        said.append(
            f"it did not work: {100 * share:.0f} % of the distinguishability is left, more than "
            f"{100 * TOLERATED_SHARE:.0f} %; raise unlearn_steps or unlearn_lr, or lower "
            "au_trade_off"
        )
    if summary.get("directions_left") == 0:
        said.append(
            "nothing is left: there are as many directions that tell a class as dimensions, and "
            "all users have the same vector; join classes (years of age into brackets), or take "
            "method=calibrated, which needs a few users of each"
        )
    if told := summary.get("above_null"):
        said.append(
            f"it did not work: a few attackers still tell {' and '.join(told)} beyond chance from "
            "the edited vectors; hide it alone, or join small classes so that the combinations "
            "have 50 users each"
        )
    if unchecked := summary.get("unchecked"):
        said.append(
            f"whether {' and '.join(unchecked)} is hidden was not looked at: a class has too few "
            "users; join small classes"
        )
    if left := summary.get("served_unedited"):
        said.append(
            f"scores are made of {', '.join(left)}, which the method did not edit and which tells "
            "what it told, or more: python attack.py attack=audit looks there, scope=served edits "
            "it too"
        )
    if "spread" in summary:
        apart, rounding = summary["spread"], summary["rounding"]
        if apart <= ROUNDING_STEPS * rounding:
            said.append(
                f"users of a class lie {apart:.1e} of their size apart, within the rounding of the "
                f"saved numbers ({rounding:.1e}): what an attacker finds in the file depends on "
                "rounding, not on the method; raise au_trade_off"
            )
    return said


def attack_remarks(
    result: dict[str, Any], original: dict[str, Any] | None, unlearned: bool
) -> list[str]:
    """Too few users to say much; unlearning that failed; attackers that may have failed themselves;
    attackers that find more than in the original, by more than two standard errors.

    Args:
        result: what the attack found.
        original: what the same attack found in the original; None where it wasn't attacked.
        unlearned: whether a method was to hide the attribute.
    """
    said = []
    users, smallest = result["users"]["balanced"], result["users"]["smallest"]
    if smallest < FEW_OF_A_CLASS:
        error = auc_standard_error(0.5, smallest, users - smallest)
        said.append(
            f"{smallest} users of a class are few: an AUC of 0.5 comes out {2 * error:.2f} to "
            "either side of it by chance"
        )
    for name, scores in result["attackers"].items() if unlearned else ():
        auc, leaked = scores["auc"]["mean"], scores["leakage"]
        if leaked > TOLERATED_LEAKAGE:
            flipped = f", i.e. {1 - auc:.3f} flipped" if auc < 0.5 else ""
            said.append(
                f"not unlearned: {name} has AUC {auc:.3f}{flipped}, farther from 0.5 than "
                f"{TOLERATED_LEAKAGE:g}"
            )
        own = scores.get("own_auc", 0.5)
        if leaked <= NO_FINDING and own - 0.5 > BY_HEART:
            said.append(
                f"{name} finds next to nothing (AUC {auc:.3f}), but has learnt by heart the "
                f"{result['users']['train']} users that it was trained on (AUC {own:.3f}): that it "
                "fails is no proof; python attack.py attack=audit tries harder"
            )
    if original is None:
        return said
    for name, scores in result["attackers"].items():
        if name not in original["attackers"]:
            continue
        now, before = scores["leakage"], original["attackers"][name]["leakage"]
        sizes = smallest, users - smallest
        error = math.hypot(*(auc_standard_error(0.5 + leak, *sizes) for leak in (now, before)))
        if now - before > 2 * error:
            said.append(
                f"{name} finds more than in the original: leakage {now:.4f}, there {before:.4f} "
                f"(standard error of the difference at most {error:.4f})"
            )
    return said


def verdict_line(result: dict[str, Any]) -> str:
    """The verdict of an attack in one line."""
    found, place = result["verdict"], result["place"]
    auc = f"{found['auc']:.3f}"
    if found["auc"] < 0.5:
        auc += f", i.e. {1 - found['auc']:.3f} flipped"
    beside = (
        f"the null's 95 % {0.5 + found['null']['95']:.3f} "
        f"({len(found['null']['values'])} permutations, p = {found['p']:.2g})"
    )
    if found["leaks"]:
        return f"leaks: {place}, read by {found['worst']} at AUC {auc}; {beside}"
    return (
        f"no leak found: {place}, the worst of {len(result['attackers'])} attackers, "
        f"{found['worst']}, has AUC {auc}; {beside}. Reduced inference risk, not anonymity: "
        "another attacker may find more"
    )


def told(row: Mapping[str, Any], classes: int) -> tuple[str, str]:
    """How much a place tells, and what it tells by chance in 95 of 100 cases. Of two classes an
    AUC; of more, where one may lie above 0.5 and another below, the mean distance from it.
    """
    if classes > 2:
        return f"mean |AUC - 0.5| {row['leakage']:.3f}", f"{row['null_95']:.3f}"
    flipped = f", i.e. {1 - row['auc']:.3f} flipped" if row["auc"] < 0.5 else ""
    return f"AUC {row['auc']:.3f}{flipped}", f"{0.5 + row['null_95']:.3f}"


def audit_verdict(verdict: Mapping[str, Any], attackers: int, places: int) -> str:
    """An audit's verdict in one line."""
    at, bound = told(verdict, verdict["classes"])
    everywhere = " of all places together" if places > 1 else ""
    null = f"null 95 %{everywhere}: {bound}, p = {verdict['p']:.2g}"
    where = f"{verdict['place']}, read by {verdict['attacker']} at {at}"
    if verdict["leaks"]:
        return f"leaks: {where}; {null}"
    if not verdict["can_tell"]:
        return f"too few users to tell: {where}; {null}, so that nothing could be a leak"
    by, found = counted(attackers, "attacker"), counted(places, "place")
    return (
        f"no leak found: the worst of {by} at {found} is {where}; {null}. "
        "Reduced inference risk, not anonymity: another attacker may find more"
    )


def counted(number: int, what: str) -> str:
    """So many of them."""
    return f"{number} {what}{'s' * (number != 1)}"


def describe_audit(result: Mapping[str, Any]) -> None:
    """Log an audit: the verdict, a line a place and baseline, who pays."""
    places, baselines = result["places"], result["baselines"]
    tried = len(next(iter(places.values()))["attackers"])
    log.info("  %s", audit_verdict(result["verdict"], tried, len(places)))
    of_two = len(result["classes"]) == 2
    what = "AUC" if of_two else "|AUC - 0.5|"
    log.info("  %-24s %4s  %-13s %11s  %8s  %6s", "place", "d", "worst", what, "null 95", "p")
    for kind, rows in (("", places), ("baseline ", baselines)):
        for name, row in rows.items():
            log.info(
                "  %-24s %4d  %-13s %11.3f  %8.3f  %6.2g%s",
                kind + name,
                row["dimensions"],
                row["worst"],
                row["auc"] if of_two else row["leakage"],
                0.5 * of_two + row["null_95"],
                row["p"],
                "  leaks" if row["leaks"] and not kind else "",
            )
    if baselines:
        log.info("  (baselines are what is told without the vectors: no edit hides it)")
    for metric, found in result["utility"].items():
        kept = f" ({found['change']['kept']:.1%} of the original's)" if "change" in found else ""
        classes = ", ".join(f"{name} {one['mean']:.4f}" for name, one in found["classes"].items())
        log.info("  %s %.4f%s: %s", metric, found["all"]["mean"], kept, classes)


def _next_steps(config: dict[str, Any], folder: Path, kind: type[RunConfig]) -> list[str]:
    """Commands that make sense after this run, naming what differs from the defaults."""
    if config["user_embedding"]:
        edited = config.get("output") or edited_path(folder, Path(config["user_embedding"]))
        config = {key: config[key] for key in ("labels", "attribute", "table")}
        config["user_embedding"] = str(edited)
    steps = [command_for("attack.py", AttackConfig, config)]
    if config.get("method") == "original":
        for edits in ({"method": "d2d"}, {"method": "calibrated", "scope": "served"}):
            steps.append(command_for("main.py", kind, config | edits))
    else:
        steps.append(command_for("attack.py", AttackConfig, config | {"attack": "audit"}))
    return steps


def command_for(
    program: str,
    cls: type[RunConfig] | type[AttackConfig],
    values: dict[str, Any],
) -> str:
    """A command that names those of the values that its config has and by default has not."""
    differs = [
        shlex.quote(f"{field.name}={_value(values[field.name])}")
        for field in dataclasses.fields(cls)
        if field.name in values and values[field.name] != field.default
    ]
    return " ".join(["python", program, *differs])


def _value(value: Any) -> str:
    """As on a command line, where what isn't JSON is text."""
    plain = isinstance(value, str) and json_or_text(value) == value
    return value if plain else json.dumps(value)


def sweep_keys(configs: Sequence[Config]) -> list[str]:
    """The keys in which the configs of a sweep differ."""
    names = [field.name for field in dataclasses.fields(configs[0])]
    return [name for name in names if len({getattr(one, name) for one in configs}) > 1]


def sweep_point(config: Config, keys: Sequence[str]) -> str:
    """A config by the keys that it stands out with in its sweep, as on the command line."""
    return " ".join(f"{key}={getattr(config, key)}" for key in keys)


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


def describe_attack(result: dict[str, Any], balanced: bool) -> None:
    """Log an attack: metrics as mean ± std over draws, beside what chance would give.

    Args:
        result: what it found.
        balanced: whether as many users of every class took part.
    """
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
    who = "%d balanced users (as many of every %s)" if balanced else "%d users (all, of every %s)"
    log.info(
        f"  {who}; %d train an attacker, %d test it; %d rounds",
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
    if "verdict" in result:
        log.info("%s", verdict_line(result))
    for remark in result["remarks"]:
        log.warning("%s", remark)
    unconverged = sum(scores["unconverged"] for scores in result["attackers"].values())
    if unconverged:
        log.info("  %d attackers stopped at max_iter before converging", unconverged)

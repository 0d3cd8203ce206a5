"""Infer a user attribute from a saved user embedding, as an attacker would.

python attack.py [--config FILE] [key=value ...]; configs/attack_config.json says what to do.
"""

import sys
from pathlib import Path

if __name__ == "__main__":  # before the imports that take their time
    sys.path.insert(0, str(Path(__file__).parent))  # python -I leaves it out
    from utils.start import start

    start("attack")

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from typing import Any

import numpy as np
import torch

from data.dataset import PLUS, Attribute
from data.tables.files import load_table
from data.tables.manifest import edited_by
from methods import METHODS, ExperimentConfig
from methods.checks import check_attack, idle_in_attack, idle_in_run
from methods.targets import (
    DEFAULT_PLACE,
    Target,
    subject_of_file,
    subject_of_run,
    target_file,
    target_run,
)
from models import MODELS
from utils.audit.attackers import ATTACKERS, STRONG, battery
from utils.audit.audit import Settings, audit
from utils.audit.baselines import LISTS
from utils.audit.leakage import summarise
from utils.audit.null import audit_gate, gate, null_of_the_worst, verdict
from utils.audit.protocols import Protocol
from utils.audit.scores import out_of_sample
from utils.cli import Command, execute
from utils.config import AttackConfig, Group, identity
from utils.errors import UserError
from utils.messages import attack_remarks, command_for, counted, describe_attack, describe_audit
from utils.reproduction import renew_report
from utils.runs.files import read_json_object, replace_file, write_json
from utils.runs.folder import first_default, run_path
from utils.runs.locks import locked
from utils.runs.logs import log_file
from utils.runs.records import (
    Record,
    add_attack,
    add_audit,
    attacks,
    audit_keys,
    audits,
    has_attack,
    has_audit,
)
from utils.runtime import available_cores, environment

log = logging.getLogger(__name__)

REMEDY = ("calibrated", "served")
"""Method and scope that are proposed after an audit that found a leak."""


def run(config: AttackConfig) -> dict[str, Any]:
    """One attack or audit, of a finished run or of a file."""
    return run_audit(config) if config.attack == "audit" else run_attack(config)


def run_attack(config: AttackConfig) -> dict[str, Any]:
    """Attack one embedding: a run's, or that of a file."""
    file, groups = config.user_embedding, METHODS[config.method].groups
    folder = run_path(config, groups)
    record = record_of(config)
    with locked(Path(file) if file else folder, config.busy):
        names = battery(config.attackers)
        # a row has no verdict
        if (
            record
            and config.fail_above is None
            and has_attack(record, config, groups, run_key(folder), names)
        ):
            log.info("%s was attacked (%s) already: %s", folder, config.protocol, record.path)
            return {"found": True}
        if file:
            target = target_file(config, Path(file), load_table(Path(file), config.table))
        else:
            target = target_run(config, folder)
        with log_file(target.log):
            log.info("Attack (%s) on %s", config.protocol, target.title)
            jobs = config.threads or available_cores()
            labels, classes = target.attribute.labels, target.attribute.classes
            protocol = Protocol.of(config)
            with naming_smallest(target.attribute):
                found = out_of_sample(target.embedding, labels, names, protocol, jobs, own=True)
            result = summarise(found, labels)
            if config.null:
                null = null_of_the_worst(
                    target.embedding, labels, names, protocol, config.null, jobs
                )
                result["verdict"] = verdict(result["attackers"], null)
            result |= {
                "place": config.place,
                "attribute": target.attribute.name,
                "positive_class": classes[1] if len(classes) == 2 else None,
                "environment": environment(torch.device("cpu")),
                "checksums": target.checksums(),
            }
            method, hidden = treated(config)
            parts = [hidden, *hidden.split(PLUS)]
            unlearned = method != "original" and config.inferred in parts
            result["remarks"] = attack_remarks(result, original_result(config), unlearned)
            if config.fail_above is not None:
                result["gate"] = gate(result, config.fail_above)
            save(target.result, config, result)  # before printing: nobody may be reading
            if record:
                add_attack(record, config, groups, result, run_key(folder) or "")
            describe_attack(result, config.balance == "on")
            log.info("  saved in %s", target.result)
    return result


def run_audit(config: AttackConfig) -> dict[str, Any]:
    """Audit a run, or the arrays of a file."""
    file, groups = config.user_embedding, METHODS[config.method].groups
    folder = run_path(config, groups)
    record = record_of(config)
    with locked(Path(file) if file else folder, config.busy):
        if (
            record
            and config.fail_above is None
            and has_audit(record, config, groups, run_key(folder))
        ):
            log.info("%s was audited already: %s", folder, record.path)
            return {"found": True}
        if file:
            target, subject = subject_of_file(config, Path(file))
        else:
            target, subject = subject_of_run(config, folder)
        with log_file(target.log):
            log.info("Audit of %s", target.title)
            start = time.perf_counter()
            settings = Settings(
                battery(
                    config.attackers if config.attackers != AttackConfig.attackers else [STRONG]
                ),
                config.audit_users,
                config.audit_permutations,
                config.seed_of_attack,
            )
            log.info(
                "  %s at %s: %s",
                counted(len(settings.attackers), "attacker"),
                counted(len(subject.places), "place"),
                ", ".join(subject.places),
            )
            with naming_smallest(target.attribute):
                result = audit(subject, settings, config.threads or available_cores())
            result = {"title": target.title, **result}
            result |= {
                "treatment": subject.treatment,
                "remarks": subject.remarks,
                "config": asdict(config),
                "seconds": time.perf_counter() - start,
                "environment": environment(torch.device("cpu")),
                "checksums": {**target.checksums(), **subject.checksums},
            }
            if config.fail_above is not None:
                result["gate"] = audit_gate(result["verdict"], config.fail_above)
            page = save_audit(audit_path(config, target), result)
            if record:
                add_audit(record, config, groups, result, run_key(folder) or "")
            describe_audit(result)
            log.info("  the page: %s", page)
            if result["verdict"]["leaks"]:
                say_next(config, [name for name, one in result["places"].items() if one["leaks"]])
    return result


@contextmanager
def naming_smallest(attribute: Attribute) -> Iterator[None]:
    """Attackers know classes by number alone: say which has too few users for them."""
    try:
        yield
    except UserError as error:
        fewest = np.bincount(attribute.labels[attribute.labels >= 0]).argmin()
        raise UserError(f'{error} (the smallest is "{attribute.classes[fewest]}")') from None


def treated(config: AttackConfig) -> tuple[str, str]:
    """The method that has made the vectors, and the attribute that it was to hide."""
    if not config.user_embedding:
        return config.method, config.attribute
    return edited_by(Path(config.user_embedding)) or ("original", "")


def say_next(config: AttackConfig, leaking: Sequence[str]) -> None:
    """The command that edits what leaks, for all that is kept of a user, unless that was done.

    Args:
        config: of the audit.
        leaking: the places that leak, each by itself.
    """
    method, scope = REMEDY
    done, hidden = treated(config)
    if config.user_embedding and done == method:
        log.info("  %s was hidden by %s already; to do so again hides no more", hidden, done)
        return
    if (config.method, config.scope) == REMEDY:
        if set(leaking) == {LISTS}:
            log.info("  the lists alone tell: they leave out what a user has, which no edit hides")
        return
    keys = asdict(config) | {"method": method, "scope": "embedding" if config.labels else scope}
    if config.user_embedding and Path(config.user_embedding).is_dir():
        keys |= {"stream": "on", "output": "edited/"}
    names = {field.name for field in fields(ExperimentConfig)}
    proposed = {name: value for name, value in keys.items() if name in names}
    heeded = proposed.keys() - idle_in_run(ExperimentConfig(**proposed))
    values = {name: proposed[name] for name in heeded}
    log.info("Next: %s", command_for("main.py", ExperimentConfig, values))


def save_audit(path: Path, result: dict[str, Any]) -> Path:
    """Write the audit's JSON, then the same as a page and as Markdown; returns the page's path."""
    write_json(path, result)
    from utils.audit.page import audit_page  # drawing takes two seconds to import
    from utils.pages.render import html_page, markdown

    sections = audit_page(result)
    for ending, text in ((".html", html_page(sections)), (".md", markdown(sections))):
        with replace_file(path.with_suffix(ending)) as opened:
            opened.write(text.encode())
    return path.with_suffix(".html")


def audit_path(config: AttackConfig, target: Target) -> Path:
    """Beside attack.json's place; an audit with other keys than the defaults has another name."""
    parts = [config.inferred] if config.inferred != AttackConfig.attribute else []
    if config.attackers != AttackConfig.attackers:
        parts += config.attackers
    parts += [
        f"{key.removeprefix('attack_').removeprefix('audit_')}-{value}"
        for key, value in audit_keys(config).items()
        if value != getattr(AttackConfig, key)
    ]
    name = target.result.name.removesuffix("attack.json") + "-".join(["audit", *parts])
    return target.result.with_name(f"{name}.json")


def run_key(folder: Path) -> str | None:
    """What tells the finished run in a folder apart; None where there is none."""
    summary = folder / "summary.json"
    return (read_json_object(summary) or {}).get("key") if summary.exists() else None


def saved_results(path: Path) -> dict[str, Any]:
    """What an attack.json holds, an entry an attribute and protocol; nothing if it isn't there.

    Raises:
        UserError: it is damaged.
    """
    if not path.exists():
        return {}
    if (content := read_json_object(path)) is None:
        raise UserError(f"{path} is damaged; move it away and attack again")
    return content


def original_result(config: AttackConfig) -> dict[str, Any] | None:
    """What the same attack found in the original, if that was attacked."""
    if config.user_embedding or config.method == "original":
        return None
    original = run_path(replace(config, method="original"), METHODS["original"].groups)
    found = saved_results(original / "attack.json").get(entry(config))
    return found if found and same_settings(config, found) else None


def same_settings(config: AttackConfig, saved: dict[str, Any]) -> bool:
    """Whether an attack was saved with the config's; what it has no key for was of the default that
    the key came with.
    """
    own = identity(config, [Group.ATTACK])
    return {key: first_default(config, key) for key in own} | saved["settings"] == own


def entry(config: AttackConfig) -> str:
    """The name of an attack in attack.json; the default place is not named."""
    place = "" if config.place == DEFAULT_PLACE else f"/{config.place}"
    return f"{config.inferred}/{config.protocol}{place}"


def save(path: Path, config: AttackConfig, result: dict[str, Any]) -> None:
    """Add the result to the run's attack.json, an entry an attribute and protocol; what other
    attackers found in the same way on the same data stays in the entry.
    """
    content = saved_results(path)
    new = {"settings": identity(config, [Group.ATTACK]), **result}
    old = content.get(entry(config))
    if (
        old
        and same_settings(config, old)
        and old["checksums"] == new["checksums"]
        and old["users"].items() <= new["users"].items()
    ):
        new["attackers"] = old["attackers"] | new["attackers"]
    content[entry(config)] = new
    write_json(path, content)


def record_of(config: AttackConfig) -> Record | None:
    """Where an attack or audit leaves its rows, if anywhere."""
    make = audits if config.attack == "audit" else attacks
    return make(config.record) if config.record else None


def same(config: AttackConfig) -> str:
    """What tells an attack or audit apart within a sweep."""
    where = f"{config.attack} {run_path(config, METHODS[config.method].groups)}"
    if config.attack == "audit":
        return f"{where} {config.inferred} {audit_keys(config)} {config.attackers}"
    settings = identity(config, [Group.ATTACK])
    return f"{where} {entry(config)} {settings} {battery(config.attackers)}"


COMMAND = Command(
    program="attack.py",
    config=AttackConfig,
    default_config="configs/attack_config.json",
    choices={"method": METHODS, "model": MODELS, "attackers": [*ATTACKERS, STRONG]},
    check=check_attack,
    idle=idle_in_attack,
    record=record_of,
    same=same,
    run=run,
    close=lambda results, config: renew_report(config.record),  # each attack has shown its own
    kept="Attacks that had ended are saved.",
)


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    return execute(COMMAND, argv)

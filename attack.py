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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from data.dataset import UNKNOWN, Attribute, data_checksum, load_attribute, load_dataset
from data.tables.files import load_table, load_tables
from data.tables.formats import format_of
from data.tables.labels import load_labels
from data.tables.run_files import (
    load_embedding,
    load_lists,
    load_places,
    load_users,
)
from data.tables.user_table import UserTable, check_float32
from methods import METHODS, ExperimentConfig
from models import MODELS
from utils.audit.attackers import ATTACKERS, STRONG, battery
from utils.audit.audit import Settings, Subject, audit
from utils.audit.baselines import history_baselines, list_vectors
from utils.audit.leakage import summarise
from utils.audit.null import audit_gate, gate, null_of_the_worst, verdict
from utils.audit.protocols import Protocol
from utils.audit.scores import out_of_sample
from utils.audit.utility import METRICS
from utils.cli import Command, execute
from utils.config import AttackConfig, Group, identity
from utils.errors import UserError
from utils.messages import attack_remarks, command_for, describe_attack, describe_audit
from utils.reproduction import renew_report
from utils.runs.files import file_checksum, read_json_object, replace_file, write_json
from utils.runs.folder import (
    check_outputs,
    embedding_path,
    lists_path,
    places_path,
    run_path,
    users_path,
)
from utils.runs.locks import locked
from utils.runs.logs import log_file
from utils.runs.records import (
    Record,
    add_attack,
    add_audit,
    attacks,
    audit_keys,
    audits,
    check_recordable,
    has_attack,
    has_audit,
)
from utils.runtime import available_cores, environment

log = logging.getLogger(__name__)

DEFAULT_PLACE = AttackConfig.place
REMEDY = ("calibrated", "served")
"""Method and scope that are proposed after an audit that found a leak."""
FEWEST_PERMUTATIONS = 19
"""With fewer the largest of a null is no 95th percentile."""


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
                found = out_of_sample(target.embedding, labels, names, protocol, jobs)
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
                "remarks": attack_remarks(result, original_result(config)),
                "environment": environment(torch.device("cpu")),
                "checksums": target.checksums(),
            }
            if config.fail_above is not None:
                result["gate"] = gate(result, config.fail_above)
            save(target.result, config, result)  # before printing: nobody may be reading
            if record:
                add_attack(record, config, groups, result, run_key(folder) or "")
            describe_attack(result)
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
                config.attack_seed,
            )
            log.info(
                "  %d attackers at %d places: %s",
                len(settings.attackers),
                len(subject.places),
                ", ".join(subject.places),
            )
            with naming_smallest(target.attribute):
                result = audit(subject, settings, config.threads or available_cores())
            result = {"title": target.title, **result}
            result |= {
                "treatment": subject.treatment,
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
            if result["verdict"]["leaks"] and (config.method, config.scope) != REMEDY:
                log.info("Next: %s", remedy(config))
    return result


@contextmanager
def naming_smallest(attribute: Attribute) -> Iterator[None]:
    """Attackers know classes by number alone: say which has too few users for them."""
    try:
        yield
    except UserError as error:
        fewest = np.bincount(attribute.labels[attribute.labels >= 0]).argmin()
        raise UserError(f'{error} (the smallest is "{attribute.classes[fewest]}")') from None


def remedy(config: AttackConfig) -> str:
    """The command that edits what leaks, for all that is kept of a user."""
    method, scope = REMEDY
    keys = asdict(config) | {"method": method, "scope": "embedding" if config.labels else scope}
    return command_for("main.py", ExperimentConfig, keys)


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


def audit_path(config: AttackConfig, target: "Target") -> Path:
    """Beside attack.json's place; an audit with other keys than the defaults has another name."""
    parts = [config.attribute] if config.attribute != AttackConfig.attribute else []
    if config.attackers != AttackConfig.attackers:
        parts += config.attackers
    parts += [
        f"{key.removeprefix('attack_').removeprefix('audit_')}-{value}"
        for key, value in audit_keys(config).items()
        if value != getattr(AttackConfig, key)
    ]
    name = target.result.name.removesuffix("attack.json") + "-".join(["audit", *parts])
    return target.result.with_name(f"{name}.json")


def subject_of_file(config: AttackConfig, path: Path) -> tuple["Target", Subject]:
    """Every user table of a file; nothing more is known of its users."""
    tables = load_tables(path, config.table)
    target = target_file(config, path, tables[0])
    for table in tables[1:]:
        check_float32(path, table.vectors)
    return target, subject_of(target.attribute, {table.name: table.vectors for table in tables})


def subject_of_run(config: AttackConfig, folder: Path) -> tuple["Target", Subject]:
    """All places of a finished run, and what its dataset and its original tell beside it."""
    target, seed = target_run(config, folder), config.attack_seed
    audited = ""
    if config.audit_whom == "unseen":
        audited = " Audited are users whose label the method was not shown."
        everyone = target.attribute
        shown = everyone.seen(config.labels_seen, config.seed).labels >= 0
        unseen = np.where(shown, UNKNOWN, everyone.labels)
        if (unseen == UNKNOWN).all():
            raise UserError(f"labels_seen {config.labels_seen:g} leaves nobody unseen; lower it")
        target = replace(target, attribute=replace(everyone, labels=unseen))
    summary = read_json_object(folder / "summary.json") or {}
    made = summary.get("config")
    if not isinstance(made, dict) or "checksums" not in summary:
        raise UserError(f"{folder}/summary.json is damaged; move {folder} away, run main.py again")
    prepared = Path(config.dataset_path) / config.dataset / "preprocess"
    with locked(prepared, busy="wait"):
        held_out = made.get("selection", "validation") == "validation"
        dataset = load_dataset(prepared, config.dataset, held_out, made.get("split_seed", 0))
    sizes = (dataset.n_users, dataset.n_items)
    train, places = dataset.train.numpy(), places_of_run(folder, *sizes, seed)
    files = [places_path(folder), lists_path(folder), users_path(folder)]
    check_outputs(folder, *files)
    original, before = original_of(config, summary), None
    if original:
        before = load_users(users_path(original), METRICS, dataset.n_users)
        files.append(users_path(original))
    checksums = {"data": dataset.checksum} | {
        path.as_posix(): file_checksum(path) for path in files if path.exists()
    }
    first = places_of_run(original, *sizes, seed) if original else None
    subject = subject_of(
        target.attribute,
        places,
        baselines=history_baselines(train, *sizes, seed),
        activity=np.bincount(train[:, 0], minlength=dataset.n_users),
        metrics=load_users(users_path(folder), METRICS, dataset.n_users),
        before=before,
        treatment=treatment(config, summary, places, first) + audited,
        checksums=checksums,
    )
    return target, subject


def original_of(config: AttackConfig, summary: Mapping[str, Any]) -> Path | None:
    """The folder of the original that a run of an editing method started from, if it is there."""
    if not METHODS[config.method].fit:
        return None
    folder = run_path(replace(config, method="original"), METHODS["original"].groups)
    path, started = embedding_path(folder), summary["checksums"].get("original_embedding")
    if path.exists() and started == file_checksum(path):
        return folder
    log.info("  %s is not what the run started from: nothing is compared with it", folder)
    return None


def treatment(
    config: AttackConfig,
    summary: Mapping[str, Any],
    places: Mapping[str, np.ndarray],
    before: Mapping[str, np.ndarray] | None,
) -> str:
    """What the method did to which of the places, in words."""
    method = METHODS[config.method]
    shown = ""
    if config.labels_seen < 1:
        shown = f" It was shown the labels of {config.labels_seen:.0%} of the users."
    if method.penalty:
        return f"{method.title}: all vectors were trained so.{shown}"
    if not method.fit:
        return "Nothing was edited."
    edited = summary.get("edited") or [next(iter(places))]
    said = f"{method.title} edited {', '.join(edited)}."
    said += shown
    if config.scope == "served":
        said += " They are all that scores are made of."
    if before:
        others = [name for name in places if name not in edited and name in before]
        same = [name for name in others if np.array_equal(places[name], before[name])]
        changed = [name for name in others if name not in same]
        said += f" As trained: {', '.join(same)}." if same else ""
        said += f" Made from what was edited: {', '.join(changed)}." if changed else ""
    return said


@dataclass(frozen=True)
class Target:
    """What is attacked (and the file that it was read from), and where to write what came out."""

    title: str
    path: Path
    embedding: np.ndarray
    attribute: Attribute
    result: Path
    log: Path

    def checksums(self) -> dict[str, str]:
        """SHA-256 of all that the result depends on besides the config."""
        return {
            "user_embedding": file_checksum(self.path),
            "labels": self.attribute.checksum,
        }


def run_key(folder: Path) -> str | None:
    """What tells the finished run in a folder apart; None where there is none."""
    summary = folder / "summary.json"
    return (read_json_object(summary) or {}).get("key") if summary.exists() else None


def load_run(config: AttackConfig) -> np.ndarray:
    """The user embedding (n_users, d) of the finished run that the config names.

    Raises:
        UserError: there is no such run; names the command that makes it.
    """
    folder = run_path(config, METHODS[config.method].groups)
    if not (folder / "summary.json").exists():
        makes_it = command_for("main.py", ExperimentConfig, asdict(config))
        raise UserError(f"{folder} holds no finished run; first: {makes_it}")
    if config.place == DEFAULT_PLACE:
        return load_embedding(embedding_path(folder))
    path = places_path(folder)
    if not path.exists():
        raise UserError(
            f"{path} does not exist: {folder} is of a version that kept the user embedding alone; "
            "move it away and run main.py again"
        )
    return load_embedding(path, config.place)


def load_run_labels(config: AttackConfig, n_users: int) -> Attribute:
    """The true labels of the users of a run's embedding, which has `n_users` rows.

    Raises:
        UserError: what is prepared is not what the run was trained on.
    """
    prepared = Path(config.dataset_path) / config.dataset / "preprocess"
    if not prepared.is_dir():
        keys = {"dataset": config.dataset, "dataset_path": config.dataset_path}
        prepares_it = command_for("main.py", ExperimentConfig, keys)
        raise UserError(f"{prepared} does not exist; main.py prepares it: {prepares_it}")
    with locked(prepared, busy="wait"):
        check_data(prepared, run_path(config, METHODS[config.method].groups))
        attribute = load_attribute(prepared, config.attribute)
    if len(attribute.labels) != n_users:
        raise UserError(
            f"{prepared} describes {len(attribute.labels)} users, but the embedding has {n_users} "
            "rows: it was trained on other data; run main.py again"
        )
    return attribute


def check_data(prepared: Path, folder: Path) -> None:
    """Refuse a prepared folder with other data than a finished run was trained on: its users may be
    as many and others.
    """
    summary = read_json_object(folder / "summary.json") or {}
    known, made = summary.get("checksums", {}).get("data"), summary.get("config", {})
    if known is None:
        return
    held_out, split_seed = made.get("selection") == "validation", made.get("split_seed", 0)
    if data_checksum(prepared, held_out, split_seed) != known:
        again = command_for("main.py", ExperimentConfig, made)
        raise UserError(
            f"{prepared} holds other data than {folder} was trained on; to prepare that again: "
            f"{again}"
        )


def places_of_run(folder: Path, n_users: int, n_items: int, seed: int) -> dict[str, np.ndarray]:
    """All places of a finished run, (n_users, d) each; of an older one the user embedding alone.

    Args:
        folder: the run's.
        n_users, n_items: of its dataset.
        seed: of the SVD that makes vectors of lists.

    Raises:
        UserError: a damaged file.
    """
    if not places_path(folder).exists():
        return {"user_embedding": load_embedding(embedding_path(folder))}
    places = load_places(places_path(folder), n_users)
    if (path := lists_path(folder)).exists():
        places["lists"] = list_vectors(load_lists(path, n_users, n_items), seed)
    return places


def subject_of(attribute: Attribute, places: Mapping[str, np.ndarray], **known: Any) -> Subject:
    """Places and labels, and what else is known of the users."""
    return Subject(
        places, attribute.name, attribute.classes, attribute.labels, attribute.counts(), **known
    )


def target_run(config: AttackConfig, folder: Path) -> Target:
    """The embedding in a finished run's folder."""
    title = f"{METHODS[config.method].title}: {folder}"
    embedding = load_run(config)
    attribute = load_run_labels(config, len(embedding))
    logs = folder / "train_log-attack.log"
    path = embedding_path(folder) if config.place == DEFAULT_PLACE else places_path(folder)
    check_outputs(folder, path)
    return Target(title, path, embedding, attribute, folder / "attack.json", logs)


def target_file(config: AttackConfig, path: Path, table: UserTable) -> Target:
    """A table of your own, read from `path`; results go beside it."""
    assert config.labels  # checked at the door
    check_float32(path, table.vectors)
    attribute = load_labels(Path(config.labels), config.attribute, len(table.vectors), table.ids)
    named = path.stem if path.suffix in (".npy", ".npz") else path.name
    named += f".{table.name}" if config.table else ""
    beside = [path.with_name(f"{named}.attack{ending}") for ending in (".json", ".log")]
    return Target(str(path), path, table.vectors, attribute, *beside)


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
    same = found and found["settings"] == identity(config, [Group.ATTACK])
    return found if same else None


def entry(config: AttackConfig) -> str:
    """The name of an attack in attack.json; the default place is not named."""
    place = "" if config.place == DEFAULT_PLACE else f"/{config.place}"
    return f"{config.attribute}/{config.protocol}{place}"


def save(path: Path, config: AttackConfig, result: dict[str, Any]) -> None:
    """Add the result to the run's attack.json, an entry an attribute and protocol; what other
    attackers found in the same way on the same data stays in the entry.
    """
    content = saved_results(path)
    new = {"settings": identity(config, [Group.ATTACK]), **result}
    old = content.get(entry(config), {})
    if all(old.get(key) == new[key] for key in ("settings", "checksums", "users")):
        new["attackers"] = old["attackers"] | new["attackers"]
    content[entry(config)] = new
    write_json(path, content)


def check(config: AttackConfig) -> None:
    """Refuse keys that make no sense together."""
    if config.user_embedding and not config.labels:
        raise UserError(
            f"user_embedding {config.user_embedding} needs labels=FILE: who trains the attacker?"
        )
    if config.labels and not config.user_embedding:
        raise UserError(f"labels {config.labels} belongs to user_embedding=FILE, which is missing")
    if config.table and not config.user_embedding:
        raise UserError("table belongs to user_embedding=FILE, which is missing")
    if config.user_embedding:
        format_of(Path(config.user_embedding))
    if config.user_embedding and config.place != DEFAULT_PLACE:
        raise UserError(
            f"place {config.place} is of a run of main.py; user_embedding {config.user_embedding} "
            "is the place itself: leave place out"
        )
    if config.audit_whom == "unseen" and config.attack != "audit":
        raise UserError("audit_whom is for audits; add attack=audit")
    if config.user_embedding and config.labels_seen < 1:
        raise UserError("labels_seen is of a run of main.py; leave it out beside user_embedding")
    if config.audit_whom == "unseen" and config.labels_seen == 1:
        raise UserError(
            'audit_whom "unseen" is of a run whose method was shown a share of the labels; add '
            "labels_seen=0.5 to it and here"
        )
    if config.attack == "audit" and config.place != DEFAULT_PLACE:
        raise UserError(f"place {config.place} is for attacks; an audit takes every place")
    if (
        config.attack == "attack"
        and config.fail_above == "null-95"
        and config.null < FEWEST_PERMUTATIONS
    ):
        raise UserError(
            f"fail_above null-95 needs a null of at least {FEWEST_PERMUTATIONS} permutations; add "
            "null=99"
        )
    check_recordable(config)


def record_of(config: AttackConfig) -> Record | None:
    """Where an attack or audit leaves its rows, if anywhere."""
    make = audits if config.attack == "audit" else attacks
    return make(config.record) if config.record else None


def same(config: AttackConfig) -> str:
    """What tells an attack or audit apart within a sweep."""
    where = f"{config.attack} {run_path(config, METHODS[config.method].groups)}"
    if config.attack == "audit":
        return f"{where} {config.attribute} {audit_keys(config)} {config.attackers}"
    settings = identity(config, [Group.ATTACK])
    return f"{where} {entry(config)} {settings} {battery(config.attackers)}"


COMMAND = Command(
    program="attack.py",
    config=AttackConfig,
    default_config="configs/attack_config.json",
    choices={"method": METHODS, "model": MODELS, "attackers": [*ATTACKERS, STRONG]},
    check=check,
    record=record_of,
    same=same,
    run=run,
    close=lambda results, config: renew_report(config.record),  # each attack has shown its own
    kept="Attacks that had ended are saved.",
)


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    return execute(COMMAND, argv)

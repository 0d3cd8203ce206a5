"""What attack.py is given: the vectors of a finished run or of a file, and their users' labels; for
an audit all else that is known of these users.
"""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data.dataset import (
    UNKNOWN,
    Attribute,
    data_checksum,
    load_attribute,
    load_dataset,
    other_classes,
)
from data.tables.files import load_tables
from data.tables.labels import load_labels, warn_of_label
from data.tables.run_files import load_embedding, load_lists, load_places, load_users
from data.tables.user_table import UserTable, check_float32
from methods import METHODS, ExperimentConfig
from methods.shard_sample import sample_of_shards
from utils.audit.audit import Subject
from utils.audit.baselines import LISTS, history_baselines, list_vectors
from utils.audit.utility import METRICS
from utils.config import AttackConfig
from utils.errors import UserError
from utils.messages import command_for
from utils.runs.files import file_checksum, read_json_object
from utils.runs.folder import (
    check_outputs,
    embedding_path,
    lists_path,
    places_path,
    run_path,
    users_path,
)
from utils.runs.locks import locked

log = logging.getLogger(__name__)

DEFAULT_PLACE = AttackConfig.place
OWN_COORDINATES = ("scores", LISTS)
"""Places whose coordinates are a run's own, so that nothing learnt of another's applies to them."""


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
        if self.path.is_dir():  # shards: of what was drawn from them
            embedding = hashlib.sha256(self.embedding.tobytes()).hexdigest()
        else:
            embedding = file_checksum(self.path)
        return {"user_embedding": embedding, "labels": self.attribute.checksum}


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
    attribute = load_labels(Path(config.labels), config.inferred, len(table.vectors), table.ids)
    warn_of_label(path, table.vectors, attribute)
    return beside(config, path, table.vectors, attribute)


def beside(config: AttackConfig, path: Path, vectors: np.ndarray, attribute: Attribute) -> Target:
    """The target of your own vectors, whose results go beside `path`."""
    named = path.stem if path.suffix in (".npy", ".npz") and not path.is_dir() else path.name
    named += f".{config.table}" if config.table else ""
    found = [path.with_name(f"{named}.attack{ending}") for ending in (".json", ".log")]
    return Target(str(path), path, vectors, attribute, *found)


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
        attribute = load_attribute(prepared, config.inferred)
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


def subject_of_file(config: AttackConfig, path: Path) -> tuple[Target, Subject]:
    """Every user table of a file, or users of a folder of shards; nothing more is known of them."""
    if path.is_dir():
        sample = sample_of_shards(config)
        check_float32(path, sample.vectors)
        target = beside(config, path, sample.vectors, sample.attribute)
        places = {DEFAULT_PLACE: sample.vectors}
        return target, subject_of(sample.attribute, places, treatment=sample.said)
    tables = load_tables(path, config.table)
    target = target_file(config, path, tables[0])
    for table in tables[1:]:
        check_float32(path, table.vectors)
    return target, subject_of(target.attribute, {table.name: table.vectors for table in tables})


def subject_of_run(config: AttackConfig, folder: Path) -> tuple[Target, Subject]:
    """All places of a finished run, and what its dataset and its original tell beside it."""
    target, seed = target_run(config, folder), config.seed_of_attack
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
        others = other_classes(prepared, config.inferred)
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
    said, earlier = treatment(config, summary, places, first) + audited, None
    if config.audit_trained_on == "original":
        earlier = earlier_places(config, places, first)
        places = {name: places[name] for name in earlier}
        said += (
            " The attackers were trained on the original's vectors; scores and lists are left out, "
            "whose coordinates are each run's own."
        )
    subject = subject_of(
        target.attribute,
        places,
        baselines=history_baselines(train, *sizes, seed),
        activity=np.bincount(train[:, 0], minlength=dataset.n_users),
        others=others,
        metrics=load_users(users_path(folder), METRICS, dataset.n_users),
        before=before,
        earlier=earlier,
        treatment=said,
        remarks=tuple(summary.get("remarks", ())),
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


def earlier_places(
    config: AttackConfig,
    places: Mapping[str, np.ndarray],
    before: Mapping[str, np.ndarray] | None,
) -> dict[str, np.ndarray]:
    """The original's vectors at the places of an edited run, those with the model's coordinates.

    Raises:
        UserError: the original isn't there.
    """
    if before is None:
        keys = asdict(config) | {"method": "original"}
        raise UserError(
            "audit_trained_on original: the original that the run started from is not there, or is "
            f"another; move the run away, then {command_for('main.py', ExperimentConfig, keys)}, "
            "and the run again"
        )
    both = [name for name in places if name in before and name not in OWN_COORDINATES]
    return {name: before[name] for name in both}


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
        places[LISTS] = list_vectors(load_lists(path, n_users, n_items), seed)
    return places


def subject_of(attribute: Attribute, places: Mapping[str, np.ndarray], **known: Any) -> Subject:
    """Places and labels, and what else is known of the users."""
    return Subject(
        places, attribute.name, attribute.classes, attribute.labels, attribute.counts(), **known
    )

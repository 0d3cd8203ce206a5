"""Run folders: exp_results/<model>/<dataset>/<method>/[what differs from the defaults/]seed-<n>/.

    config.json             the whole config; `python main.py --config` on it repeats the run
    train_log.log           what was printed, with times
    metrics.jsonl           a line an epoch, or 20 steps of unlearning
    weights/final_model.pth state_dict of the recommender (its name is `target_model`)
    weights/user_embedding.npy (n_users, d) float32
    edited/                 somebody else's file, edited, if it is of another format
    weights/user_vectors.npz users' vectors by place: the model's tables, what it serves, and the
                            scores' widest directions
    weights/eraser.safetensors the fitted map, of a method whose map can be given to other users
    weights/user_lists.npy  (n_users, 20) int32 recommended items, best first
    users.csv               a line a row of the embedding: the dataset's own id, test metrics
    summary.json            results, seconds, environment, checksums; written last: done
    attack.json, train_log-attack.log   what attack.py found

While a training runs, checkpoint-<key>.pth holds its last finished epoch.
"""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from utils.config import AttackConfig, Group, Groups, RunConfig, identity
from utils.errors import UserError, first_line
from utils.runs.files import (
    file_checksum,
    read_json_object,
    replace_file,
    set_aside,
    set_aside_before,
    write_json,
)
from utils.runs.locks import locked

log = logging.getLogger(__name__)

WEIGHTS, EDITED = "weights", "edited"
"""Folders of a run's folder."""


def run_path(config: RunConfig | AttackConfig, groups: Groups) -> Path:
    """Where a run lives.

    Args:
        config: the run's config, or that of an attack on it.
        groups: the config keys that the method's result depends on; an attribute, share of
            seen labels, regulariser, trade-off or scope other than the default has a folder of its
            own.
    """
    if config.user_embedding:
        parts = ["external", Path(config.user_embedding).stem, config.method]
    else:
        parts = [config.model, config.dataset, config.method]
    if Group.ATTRIBUTE in groups and config.attribute != default(config, "attribute"):
        parts.append(config.attribute)
    if Group.ATTRIBUTE in groups and config.labels_seen != default(config, "labels_seen"):
        parts.append(f"labels-seen-{config.labels_seen:g}")
    keys = identity(config, groups)
    parts += [
        form.format(keys[name])
        for name, form in (("regularizer", "{}"), ("au_trade_off", "alpha-{:g}"))
        if name in keys and keys[name] != default(config, name)
    ]
    if Group.EDITING in groups and config.scope != default(config, "scope"):
        parts.append(f"scope-{config.scope}")
    return Path(config.results_path).joinpath(*parts, f"seed-{config.seed}")


def embedding_path(folder: Path) -> Path:
    """Where a run folder has its user embedding."""
    return folder / WEIGHTS / "user_embedding.npy"


def edited_path(folder: Path, source: Path) -> Path:
    """Where a run folder has somebody else's embedding, edited, in the format of its file."""
    own = embedding_path(folder)
    return own if source.suffix.lower() == own.suffix else folder / EDITED / source.name


def default(config: RunConfig | AttackConfig, key: str) -> Any:
    """The default of one of the config's keys."""
    return getattr(type(config), key)


def first_default(config: RunConfig | AttackConfig, key: str) -> Any:
    """The default that one of the config's keys came with."""
    fields = {field.name: field for field in dataclasses.fields(config)}
    return fields[key].metadata["first"]


def places_path(folder: Path) -> Path:
    """Where a run folder has the users' vectors of every place; not in the oldest."""
    return folder / WEIGHTS / "user_vectors.npz"


def lists_path(folder: Path) -> Path:
    """Where a run folder has the users' recommended items; not in the older ones."""
    return folder / WEIGHTS / "user_lists.npy"


def users_path(folder: Path) -> Path:
    """Where a run folder has its users' ids and test metrics; not in the older ones."""
    return folder / "users.csv"


def weights_files(folder: Path) -> list[Path]:
    """A run folder's weights, whatever their name."""
    ours = {path(folder).name for path in (embedding_path, places_path, lists_path)}
    found = (folder / WEIGHTS).glob("[!.]*")
    return sorted(path for path in found if path.name not in ours)


def output_checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of what came out of a run that an attack can read."""
    paths = [path(folder) for path in (embedding_path, places_path, lists_path, users_path)]
    return {path.stem: file_checksum(path) for path in paths if path.exists()}


def changed_outputs(folder: Path) -> set[str]:
    """Which of these a finished run did not leave as they are; older summaries have a checksum of
    the embedding alone.
    """
    known = (read_json_object(folder / "summary.json") or {}).get("checksums", {})
    found = output_checksums(folder)
    return {name for name in found if known.get(name, found[name]) != found[name]}


def check_outputs(folder: Path, *paths: Path) -> None:
    """Refuse these files of a finished run where they are not what it left there.

    Raises:
        UserError: another file is in the place of one.
    """
    changed = changed_outputs(folder)
    for path in paths:
        if path.stem in changed:
            raise UserError(
                f"{path} is not what the run left there (summary.json has another checksum); put "
                f"that back, or move {folder} away and run main.py again"
            )


@dataclass(frozen=True)
class RunFolder:
    """A run's folder and what tells the run apart from others in the same place.

    Attributes:
        path: the folder.
        key: hash of the keys and the data that the result depends on.
    """

    path: Path
    key: str

    @classmethod
    def of(cls, config: RunConfig, groups: Groups, checksums: Mapping[str, str]) -> "RunFolder":
        """The folder of this config.

        Args:
            config: the run's config.
            groups: which of its keys the method's result depends on.
            checksums: of everything else that it depends on.
        """
        # a key at its first default says nothing, so that a new key leaves finished runs valid, and
        # a new default doesn't pass them off as its own
        keys = identity(config, groups)
        said = {key: value for key, value in keys.items() if value != first_default(config, key)}
        depends_on = said | {"method": config.method, **checksums}
        key = hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()
        return cls(run_path(config, groups), key)

    def locked(self, busy: str) -> AbstractContextManager[None]:
        """Keep other processes out of the folder; see utils.runs.locks."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return locked(self.path, busy)

    @property
    def summary_path(self) -> Path:
        return self.path / "summary.json"

    @property
    def lists_path(self) -> Path:
        return lists_path(self.path)

    @property
    def users_path(self) -> Path:
        return users_path(self.path)

    @property
    def checkpoint(self) -> Path:
        """Named after the key, so that an interrupted run resumes only what is its own."""
        return self.path / f"checkpoint-{self.key[:16]}.pth"

    @property
    def embedding_path(self) -> Path:
        return embedding_path(self.path)

    @property
    def eraser_path(self) -> Path:
        return self.path / WEIGHTS / "eraser.safetensors"

    @property
    def places_path(self) -> Path:
        return places_path(self.path)

    def weights_path(self, target_model: str) -> Path:
        """Where the recommender's weights are."""
        return self.path / WEIGHTS / target_model

    def finished(
        self, original: Path | None = None, weights: bool = False
    ) -> dict[str, Any] | None:
        """The summary, if this very run is done.

        Args:
            original: the embedding that it starts from; if that is another one by now, it isn't.
            weights: whether another run starts from its weights; if they are gone, it isn't.
        """
        if not self.summary_path.exists():
            return None
        summary = read_json_object(self.summary_path)
        if summary is None or summary.get("key") != self.key or not self.embedding_path.exists():
            return None
        if weights and not weights_files(self.path):
            return None
        started_from = summary.get("checksums", {}).get("original_embedding")  # not in the oldest
        if original and original.exists() and started_from not in (None, file_checksum(original)):
            return None
        self.checkpoint.unlink(missing_ok=True)  # of a run killed between summary and this
        return summary

    def found(self, original: Path | None = None, weights: bool = False) -> dict[str, Any] | None:
        """As `finished`; this very run comes back from where `start` has kept it for another one,
        which is kept in its turn. Where nothing is in its place, somebody has moved that away, and
        it is not looked for.
        """
        if summary := self.finished(original, weights):
            return summary
        if not self.path.exists() or self.checkpoint.exists():
            return None
        before = [replace(self, path=path) for path in set_aside_before(self.path)]
        whole = [
            one
            for one in before
            if one.finished(original, weights) and not changed_outputs(one.path)
        ]
        if not whole:
            return None
        last = max(whole, key=lambda one: one.summary_path.stat().st_mtime)
        kept = set_aside(self.path)
        last.path.rename(self.path)
        log.info(
            "%s with these settings is back from %s; what was there is kept as %s",
            self.path,
            last.path.name,
            kept.name,
        )
        return self.finished(original, weights)

    def start(self, config: RunConfig) -> None:
        """Make room: a finished run that is another one, or has lost something, is kept under
        another name; this run's checkpoint comes back from there.
        """
        if self.summary_path.exists():
            same = (read_json_object(self.summary_path) or {}).get("key") == self.key
            why = "is not whole, or started from another original" if same else "had other settings"
            kept = set_aside(self.path)
            log.info("The run in %s %s; it was kept as %s", self.path, why, kept.name)
        self.path.mkdir(parents=True, exist_ok=True)
        for checkpoint in self.path.parent.glob(f"{self.path.name}.*/{self.checkpoint.name}"):
            checkpoint.replace(self.checkpoint)
        write_json(self.path / "config.json", dataclasses.asdict(config))

    def checksums(self) -> dict[str, str]:
        """SHA-256 of the config and of what came out."""
        return {"config": file_checksum(self.path / "config.json")} | output_checksums(self.path)

    def finish(self, results: dict[str, Any]) -> dict[str, Any]:
        """Write the summary, which makes the run done, drop the checkpoint; returns the summary."""
        summary = {"key": self.key, **results}
        write_json(self.summary_path, summary)
        self.checkpoint.unlink(missing_ok=True)
        return summary


def save_weights(path: Path, state: dict[str, torch.Tensor]) -> None:
    """Write a state_dict."""
    with replace_file(path) as file:
        torch.save(state, file)


def load_weights(path: Path, model: torch.nn.Module) -> None:
    """Read a state_dict into `model`; no code in the file can run.

    Raises:
        UserError: no such file, or not this model's weights.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(state)
    except FileNotFoundError:
        others = weights_files(path.parent.parent)
        mend = (
            f"target_model={others[0].name} is there"
            if others
            else f"move {path.parent.parent} away to train anew"
        )
        raise UserError(f"{path} does not exist; {mend}") from None
    except PermissionError:
        raise
    except Exception as error:  # a damaged pickle can raise anything at all
        raise UserError(
            f"{path} does not hold this model's weights ({first_line(error)}); nothing in it was "
            "run; move its folder away to train anew"
        ) from None

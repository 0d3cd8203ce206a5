"""Run folders: exp_results/<model>/<dataset>/<method>/[what differs from the defaults/]seed-<n>/.

    config.json             the whole config; `python main.py --config` on it repeats the run
    train_log.log           what was printed, with times
    metrics.jsonl           a line an epoch, or 20 steps of unlearning
    weights/final_model.pth state_dict of the recommender (its name is `target_model`)
    weights/user_embedding.npy (n_users, d) float32; of somebody else's file also the file itself,
                            edited
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from utils.config import AttackConfig, Group, Groups, RunConfig, identity
from utils.errors import UserError, first_line
from utils.runs.files import file_checksum, free_name, read_json_object, replace_file, write_json
from utils.runs.locks import locked

log = logging.getLogger(__name__)


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
    return folder / "weights" / "user_embedding.npy"


def edited_path(folder: Path, source: Path) -> Path:
    """Where a run folder has somebody else's embedding, edited, in the format of its file."""
    own = embedding_path(folder)
    return own if source.suffix == own.suffix else own.with_name(source.name)


def default(config: RunConfig | AttackConfig, key: str) -> Any:
    """The default of one of the config's keys."""
    return getattr(type(config), key)


def first_default(config: RunConfig, key: str) -> Any:
    """The default that one of the config's keys came with."""
    fields = {field.name: field for field in dataclasses.fields(config)}
    return fields[key].metadata["first"]


def places_path(folder: Path) -> Path:
    """Where a run folder has the users' vectors of every place; not in the oldest."""
    return folder / "weights" / "user_vectors.npz"


def lists_path(folder: Path) -> Path:
    """Where a run folder has the users' recommended items; not in the older ones."""
    return folder / "weights" / "user_lists.npy"


def users_path(folder: Path) -> Path:
    """Where a run folder has its users' ids and test metrics; not in the older ones."""
    return folder / "users.csv"


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
        return self.path / "weights" / "eraser.safetensors"

    @property
    def places_path(self) -> Path:
        return places_path(self.path)

    def weights_path(self, target_model: str) -> Path:
        """Where the recommender's weights are."""
        return self.path / "weights" / target_model

    def finished(self, original: Path | None = None) -> dict[str, Any] | None:
        """The summary, if this very run is done.

        Args:
            original: the embedding that it starts from; if that is another one by now, it isn't.
        """
        if not self.summary_path.exists():
            return None
        summary = read_json_object(self.summary_path)
        if summary is None or summary.get("key") != self.key or not self.embedding_path.exists():
            return None
        started_from = summary.get("checksums", {}).get("original_embedding")  # not in the oldest
        if original and original.exists() and started_from not in (None, file_checksum(original)):
            return None
        self.checkpoint.unlink(missing_ok=True)  # of a run killed between summary and this
        return summary

    def start(self, config: RunConfig) -> None:
        """Make room: a finished run with other settings is kept under another name; this run's
        checkpoint comes back from there.
        """
        if self.summary_path.exists():
            kept = free_name(self.path)
            self.path.rename(kept)
            log.info("The run in %s had other settings; it was kept as %s", self.path, kept.name)
        self.path.mkdir(parents=True, exist_ok=True)
        for checkpoint in self.path.parent.glob(f"{self.path.name}.*/{self.checkpoint.name}"):
            checkpoint.replace(self.checkpoint)
        write_json(self.path / "config.json", dataclasses.asdict(config))

    def checksums(self) -> dict[str, str]:
        """SHA-256 of the config and of what came out."""
        return {
            "config": file_checksum(self.path / "config.json"),
            "user_embedding": file_checksum(self.embedding_path),
        }

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
        others = sorted(one.name for one in path.parent.glob("*") if one.suffix != ".npy")
        mend = f"target_model={others[0]} is there" if others else "run main.py method=original"
        raise UserError(f"{path} does not exist; {mend}") from None
    except PermissionError:
        raise
    except Exception as error:  # a damaged pickle can raise anything at all
        raise UserError(
            f"{path} does not hold this model's weights ({first_line(error)}); nothing in it was "
            "run; move its folder away to train anew"
        ) from None

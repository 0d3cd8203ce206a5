"""Run folders: exp_results/<model>/<dataset>/<method>/[what differs from the defaults/]seed-<n>/.

    config.json             the whole config; `python main.py --config` on it repeats the run
    train_log.log           what was printed, with times
    metrics.jsonl           a line an epoch, or 20 steps of unlearning
    weights/final_model.pth state_dict of the recommender (its name is `target_model`)
    weights/user_embedding.npy (n_users, d) float32
    summary.json            results, seconds, environment, checksums; written last: done
    attack.json, train_log-attack.log   what attack.py found

While a training runs, checkpoint-<key>.pth holds its last finished epoch.
"""

import dataclasses
import hashlib
import json
import logging
import pickle
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from utils.config import AttackConfig, ExperimentConfig, Group, identity
from utils.errors import UserError
from utils.files import free_name, replace_file, write_json

log = logging.getLogger(__name__)


def run_path(config: ExperimentConfig | AttackConfig, groups: Collection[Group]) -> Path:
    """Where a run lives.

    Args:
        config: the run's config, or that of an attack on it.
        groups: the config keys that the method's result depends on; an attribute, regulariser
            or trade-off other than the default has a folder of its own.
    """
    if config.user_embedding:
        parts = ["external", Path(config.user_embedding).stem, config.method]
    else:
        parts = [config.model, config.dataset, config.method]
    if Group.ATTRIBUTE in groups and config.attribute != default("attribute"):
        parts.append(config.attribute)
    if Group.POST_TRAINING in groups and config.regularizer != default("regularizer"):
        parts.append(config.regularizer)
    if Group.POST_TRAINING in groups and config.au_trade_off != default("au_trade_off"):
        parts.append(f"alpha-{config.au_trade_off:g}")
    return Path(config.results_path).joinpath(*parts, f"seed-{config.seed}")


def default(key: str) -> Any:
    """The default of a key of the experiment config."""
    return getattr(ExperimentConfig, key)


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
    def of(
        cls, config: ExperimentConfig, groups: Collection[Group], checksums: Mapping[str, str]
    ) -> "RunFolder":
        """The folder of this config.

        Args:
            config: the run's config.
            groups: which of its keys the method's result depends on.
            checksums: of everything else that it depends on.
        """
        depends_on = identity(config, groups) | {"method": config.method, **checksums}
        key = hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()
        return cls(run_path(config, groups), key)

    @property
    def summary_path(self) -> Path:
        return self.path / "summary.json"

    @property
    def checkpoint(self) -> Path:
        """Named after the key, so that an interrupted run resumes only what is its own."""
        return self.path / f"checkpoint-{self.key[:16]}.pth"

    @property
    def embedding_path(self) -> Path:
        return self.path / "weights" / "user_embedding.npy"

    def weights_path(self, target_model: str) -> Path:
        """Where the recommender's weights are."""
        return self.path / "weights" / target_model

    def finished(self) -> dict[str, Any] | None:
        """The summary, if this very run is done."""
        summary = self._summary()
        return summary if summary and summary["key"] == self.key else None

    def start(self, config: ExperimentConfig) -> None:
        """Make room: a finished run with other settings is kept under another name."""
        if self._summary():
            kept = free_name(self.path)
            self.path.rename(kept)
            log.info("The run in %s had other settings; it was kept as %s", self.path, kept.name)
        write_json(self.path / "config.json", dataclasses.asdict(config))

    def finish(self, summary: dict[str, Any]) -> None:
        """Write the summary, which makes the run done, and drop the checkpoint."""
        write_json(self.summary_path, {"key": self.key, **summary})
        self.checkpoint.unlink(missing_ok=True)

    def _summary(self) -> dict[str, Any] | None:
        if not self.summary_path.exists():
            return None
        return json.loads(self.summary_path.read_text())


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
        raise UserError(f"{path} does not exist; run main.py method=original first") from None
    except (RuntimeError, pickle.UnpicklingError, EOFError, TypeError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} does not hold this model's weights ({reason})") from None

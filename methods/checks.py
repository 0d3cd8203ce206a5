"""Keys that make no sense together, refused before a command starts; and keys that do nothing."""

import dataclasses
from pathlib import Path
from typing import Any

import torch

from data.tables.formats import format_of
from data.tables.manifest import manifest_path
from methods import METHODS
from methods.d2d import D2DOptions
from methods.u2u import U2UOptions
from methods.unlearning import Eq1Options
from utils.config import AttackConfig, Group, RunConfig, identity
from utils.errors import UserError
from utils.ranks import launched
from utils.runs.folder import default
from utils.runs.records import check_recordable
from utils.runtime import resolve_device

FEWEST_PERMUTATIONS = 19
"""With fewer the largest of a null is no 95th percentile."""


def check_run(config: RunConfig) -> None:
    """Refuse keys that make no sense together.

    Raises:
        UserError: says which, and what to do.
    """
    if config.stream == "on":
        check_stream(config)
        return
    path = config.user_embedding
    if path and Path(path).is_dir() and not config.eraser:
        check_folder(config)
    device = resolve_device(config.device)
    if launched():
        check_launched(config, device)
    if config.eraser:
        check_eraser(config)
        return
    if config.target_model == "user_embedding.npy":
        raise UserError("target_model can't be \"user_embedding.npy\", the embedding's own name")
    if config.labels and not path:
        raise UserError(f"labels {config.labels} belongs to user_embedding=FILE, which is missing")
    method = METHODS[config.method]
    options = method.options_of(config)
    if path and not method.fit:
        able = ", ".join(name for name in METHODS if METHODS[name].fit)
        raise UserError(
            f"user_embedding {path} needs a method that edits a finished embedding ({able}); "
            f"{config.method} is none, and there is no model to train"
        )
    if path and not config.labels:
        raise UserError(f"user_embedding {path} needs labels=FILE, its users' classes")
    if path and ranks(options):
        raise UserError(
            f'user_embedding {path} needs regularizer "frobenius": there is no model to rank with'
        )
    for what in ("output", "table", "item_embedding"):
        if getattr(config, what) and not path:
            raise UserError(f"{what} belongs to user_embedding=FILE, which is missing")
    if path and config.labels_seen < 1:
        raise UserError(
            f"labels_seen {config.labels_seen:g} is of a run on a dataset; leave labels out of "
            f"{config.labels} instead"
        )
    if path:
        check_formats(config)
    if path and config.scope != "embedding":
        raise UserError(
            f'scope "{config.scope}" is of a recommender, and user_embedding {path} one table; '
            "leave scope out"
        )
    exact = isinstance(options, Eq1Options) and options.unlearn_optimizer == "exact"
    if exact and (config.method != "u2u" or ranks(options)):
        raise UserError(
            f'method "{config.method}" with regularizer "{options.regularizer}" has no closed '
            'form, only "u2u" with "frobenius"; take unlearn_optimizer "adam"'
        )
    if exact and isinstance(options, U2UOptions) and options.u2u_divergence != "one-hot":
        raise UserError(
            f'u2u_divergence "{options.u2u_divergence}" has no closed form here, only "one-hot"; '
            'take unlearn_optimizer "adam"'
        )
    if isinstance(options, D2DOptions) and options.d2d_divergence == "kl":
        for name in ("kernel_width", "pairs_users"):
            if getattr(options, name) != getattr(D2DOptions, name):
                raise UserError(f'{name} is of d2d_divergence "mmd"; leave it out beside "kl"')
    check_recordable(config)


def idle_in_run(config: RunConfig) -> dict[str, str]:
    """The keys that have no bearing on a run, each with the reason."""
    method, name = METHODS[config.method], config.method
    groups, heeded = {Group.PLACE, *method.groups}, {"seed", "attribute"}
    otherwise = f"method {name} has no such option"
    why = {
        Group.ATTRIBUTE: f"method {name} looks at no labels",
        Group.EDITING: f"method {name} edits no finished vectors",
    }
    if config.user_embedding:
        groups -= {Group.DATA, Group.TRAINING}
        why |= dict.fromkeys([Group.DATA, Group.TRAINING], "user_embedding is trained already")
    if config.eraser:
        groups, heeded, why, otherwise = {Group.PLACE}, set(), {}, "the eraser was fitted before"
    heeded |= identity(config, groups).keys()
    return {
        field.name: why.get(field.metadata["group"], otherwise)
        for field in dataclasses.fields(config)
        if field.name not in heeded
    }


def idle_in_attack(config: AttackConfig) -> dict[str, str]:
    """The keys that have no bearing on an attack or audit, each with the reason."""
    if config.attack == "audit":
        names = ["protocol", "null", "shadow_ratio", "draws", "folds", "repeats"]
        idle = dict.fromkeys(names, "an audit has a protocol of its own")
    else:
        why = f"protocol {config.protocol} has no such option"
        idle = dict.fromkeys(config.of_other_protocols, why)
        idle |= dict.fromkeys(identity(config, [Group.AUDIT]), "it is for audits; add attack=audit")
    own = {field.name for field in _options(config.method)}
    others = {field.name for method in METHODS for field in _options(method)} - own
    return idle | dict.fromkeys(others, f"method {config.method} has no such option")


def _options(method: str) -> tuple[dataclasses.Field[Any], ...]:
    """The fields of a method's options."""
    options = METHODS[method].options
    return dataclasses.fields(options) if options else ()


def check_folder(config: RunConfig) -> None:
    """Refuse a folder without stream=on, and say all that it takes.

    Raises:
        UserError: always.
    """
    method, path = METHODS[config.method], config.user_embedding
    if not method.streamed:
        raise UserError(
            f"user_embedding {path} is a folder, and method {config.method} has to have all users "
            "in memory; name one file of it, or another method"
        )
    keys = ["stream=on"] + ["labels=FOLDER"] * (not config.labels)
    keys += ["output=FOLDER"] * (not config.output)
    raise UserError(
        f"user_embedding {path} is a folder; add {' '.join(keys)}, or name a file of it"
    )


IN_MEMORY_ONLY = ("eraser", "record", "scope", "labels_seen", "item_embedding")
"""Keys that don't go with stream=on, whatever the method."""


def check_stream(config: RunConfig) -> None:
    """Refuse what can't be done in blocks, and to write over what is read.

    Raises:
        UserError: says which.
    """
    if not (config.user_embedding and config.labels and config.output):
        raise UserError(
            "stream=on needs user_embedding=FOLDER of shards, labels=FOLDER (or a file) and "
            "output=FOLDER"
        )
    streamed = METHODS[config.method].streamed
    if not streamed:
        *able, last = (name for name in METHODS if METHODS[name].streamed)
        raise UserError(
            f"stream=on needs method {', '.join(able)} or {last}; {config.method} has to have all "
            "users in memory"
        )
    for name in (*IN_MEMORY_ONLY, *streamed.in_memory_only):
        if getattr(config, name) != default(config, name):
            raise UserError(
                f"{name} {getattr(config, name)} does not go with stream=on; leave it out"
            )
    target = Path(config.output).resolve()
    for name in ("user_embedding", "labels"):
        source = Path(getattr(config, name)).resolve()
        if target == (source if source.is_dir() else source.parent):
            raise UserError(
                f"output {config.output} holds {name} {source.name}, which would be written over; "
                "name another folder"
            )


def check_launched(config: RunConfig, device: torch.device) -> None:
    """Refuse what several processes can't share.

    Raises:
        UserError: says which.
    """
    if config.eraser or not METHODS[config.method].shared:
        what = "eraser=FILE" if config.eraser else f"method {config.method}"
        *able, last = (name for name in METHODS if METHODS[name].shared)
        raise UserError(
            f"torchrun is for method {', '.join(able)} or {last}, and for stream=on; {what} is one "
            "process's: start python main.py"
        )
    if device.type != "cpu":
        raise UserError(
            f'torchrun shares work between CPUs, and device is "{device}"; add device=cpu, or '
            "start python main.py"
        )


def check_eraser(config: RunConfig) -> None:
    """Refuse an eraser without a table to edit, or with a method beside it.

    Raises:
        UserError: says which.
    """
    if not (config.user_embedding and config.output):
        raise UserError(f"eraser {config.eraser} needs user_embedding=FILE to edit and output=FILE")
    if config.method != "original" or config.labels or config.item_embedding:
        raise UserError(
            f"eraser {config.eraser} was fitted before; leave method, labels and item_embedding "
            "out, which are for fitting one"
        )
    if config.record:
        raise UserError(
            f"record {config.record} is of runs, and an eraser's use is none; leave it out"
        )
    check_formats(config)


def check_formats(config: RunConfig) -> None:
    """Refuse names of files that can't be read or written, and to write over what is read.

    Raises:
        UserError: says which.
    """
    assert config.user_embedding
    format_of(Path(config.user_embedding))
    if not config.output:
        return
    target = Path(config.output)
    format_of(target)
    written = [path.resolve() for path in (target, manifest_path(target))]
    for name in ("user_embedding", "item_embedding", "labels", "eraser"):
        path = getattr(config, name)
        if path and Path(path).resolve() in written:
            raise UserError(f"output {target} would write over {name} {path}; give it another name")


def ranks(options: Any) -> bool:
    """Whether a method with these options needs the recommender's scores."""
    return isinstance(options, Eq1Options) and options.regularizer == "ranking"


def check_attack(config: AttackConfig) -> None:
    """Refuse keys that make no sense together."""
    if launched():
        raise UserError("torchrun is for main.py; start python attack.py, which is one process")
    if config.user_embedding and not config.labels:
        raise UserError(
            f"user_embedding {config.user_embedding} needs labels=FILE: who trains the attacker?"
        )
    if config.labels and not config.user_embedding:
        raise UserError(f"labels {config.labels} belongs to user_embedding=FILE, which is missing")
    if config.table and not config.user_embedding:
        raise UserError("table belongs to user_embedding=FILE, which is missing")
    if config.user_embedding and Path(config.user_embedding).is_dir():
        if config.attack != "audit":
            raise UserError(
                f"user_embedding {config.user_embedding} is a folder of shards; add attack=audit, "
                "which draws users from them, or name one file"
            )
    elif config.user_embedding:
        format_of(Path(config.user_embedding))
    if config.user_embedding and config.place != AttackConfig.place:
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
    if config.audit_trained_on == "original":
        check_trained_on_original(config)
    if config.balance == "off" and config.protocol == "cv-artefact":
        raise UserError(
            'protocol "cv-artefact" draws balanced users as the artefact does; leave balance out'
        )
    if config.attack == "audit" and config.balance == "off":
        raise UserError("an audit takes all users as they are; leave balance out")
    if config.attack == "audit" and config.place != AttackConfig.place:
        raise UserError(f"place {config.place} is for attacks; an audit takes every place")
    if config.attack == "attack" and config.null < FEWEST_PERMUTATIONS:
        few = f"a null of at least {FEWEST_PERMUTATIONS} permutations; add null=99"
        if config.fail_above == "null-95":
            raise UserError(f"fail_above null-95 needs {few}")
        if config.null:
            raise UserError(f"null {config.null} could call nothing a leak, which needs {few}")
    check_recordable(config)


def check_trained_on_original(config: AttackConfig) -> None:
    """Refuse what has no original whose vectors are those of an earlier copy."""
    if config.attack != "audit":
        raise UserError("audit_trained_on is for audits; add attack=audit")
    if config.user_embedding:
        raise UserError(
            "audit_trained_on is of a run of main.py; leave it out beside user_embedding"
        )
    if not METHODS[config.method].fit:
        raise UserError(
            f"audit_trained_on original: method {config.method} starts from no original; take one "
            "that edits, such as method=calibrated"
        )

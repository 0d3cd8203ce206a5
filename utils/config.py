"""The two JSON files as frozen dataclasses, checked once, at the door.

Each field's type, default, bounds and docstring stand together below; `--help` and the error
messages are made from them, so that they can't drift. A key that distinguishes runs belongs to
a `Group`; the keys of a run's groups are its identity.
"""

import ast
import dataclasses
import difflib
import inspect
import itertools
import json
import math
import re
import textwrap
import types
import typing
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from utils.errors import UserError


class Group(Enum):
    """What a key has a bearing on."""

    PLACE = "where and how fast, never the result"
    DATA = "the prepared data"
    TRAINING = "the trained recommender"
    ATTRIBUTE = "which attribute is hidden"
    POST_TRAINING = "u2u and d2d"
    RETRAIN = "retrain"
    ADV = "adv"
    CALIBRATED = "calibrated"
    ATTACK = "the attack"
    AUDIT = "the audit"


def key(
    default: Any,
    group: Group,
    *,
    choices: Sequence[str] = (),
    low: float | None = None,
    above: float | None = None,
    high: float | None = None,
    pattern: str | None = None,
    sweep: bool = False,
    aliases: Mapping[str, str] | None = None,
    first: Any = dataclasses.MISSING,
) -> Any:
    """A config key: bounds are inclusive (`low`, `high`) or exclusive (`above`); `sweep` keys
    may be lists in JSON, every combination of which is a run.

    `first` is the default that the key came with, where that was another one: runs of before the
    key, or before its new default, are of that value (see utils.runs.folder).
    """
    rules = dict(
        group=group,
        choices=choices,
        low=low,
        above=above,
        high=high,
        pattern=pattern,
        sweep=sweep,
        aliases=aliases or {},
        first=default if first is dataclasses.MISSING else first,
    )
    return dataclasses.field(default=default, metadata=rules)


NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
GATE = r"null-95|0(\.\d+)?"
DEVICE = r"cpu|cuda(:\d{1,3})?"
WHOLE_MAX = 2**31 - 1
"""The largest whole number that a key takes where no other bound is stated."""


@dataclass(frozen=True)
class ExperimentConfig:
    """configs/exp_config.json: train a recommender, then unlearn (`python main.py`)."""

    target_model: str = key("final_model.pth", Group.PLACE, pattern=NAME)
    """File name of the trained model's weights in a run folder."""
    method: str = key("original", Group.PLACE, sweep=True)
    """What is done about the attribute: nothing, after training, or while training."""
    model: str = key("ncf", Group.TRAINING, sweep=True, aliases={"lgcn": "lgn"})
    """The recommender: neural collaborative filtering or LightGCN ("lgcn" means "lgn")."""
    lr: float = key(0.001, Group.TRAINING, above=0, high=10)
    """Adam's learning rate in training."""
    batch_size: int = key(256, Group.TRAINING, low=1)
    """Examples a training step, negatives included."""
    epochs: int = key(25, Group.TRAINING, low=1)
    """Passes over the training data."""
    dataset_path: str = key("data/datasets/", Group.PLACE)
    """Folder that holds a folder a dataset."""
    dataset: str = key("ml-100k", Group.DATA, pattern=NAME, sweep=True)
    """The dataset's name."""
    num_ng: int = key(4, Group.TRAINING, low=1)
    """Sampled negatives a training positive, redrawn every epoch."""
    test_num_ng: int = key(99, Group.DATA, low=1)
    """Sampled negatives that a held-out positive is ranked among."""
    device: str = key("cuda:0", Group.PLACE, pattern=DEVICE)
    """"cuda:N" or "cpu"; without a CUDA device everything runs on the CPU."""
    au_trade_off: float = key(1e-6, Group.POST_TRAINING, low=0, high=1e12, sweep=True)
    """alpha of eq. 1: weight of the regulariser against the distinguishability loss."""
    retrain_trade_off: float = key(1.0, Group.RETRAIN, low=0, high=1e12)
    """Weight of the MMD term in the training loss of retrain."""

    seed: int = key(0, Group.TRAINING, low=0, sweep=True)
    """Everything random in a run follows from it; the split has a seed of its own."""
    attribute: str = key("gender", Group.ATTRIBUTE, pattern=NAME, sweep=True)
    """The user attribute to hide."""
    selection: str = key("validation", Group.TRAINING, choices=("validation", "test", "last"))
    """Which epoch is kept: the best HR@10 on each user's validation interaction (held out from
    training), the best on test (as the artefact does: optimistic, for comparison), or the
    last."""
    embedding_size: int | None = key(None, Group.TRAINING, low=1, high=65536)
    """Dimensions of the user embedding; null = the model's own (ncf 32, lgn 64)."""
    loss: str = key("bce", Group.TRAINING, choices=("bce", "bpr"))
    """Recommendation loss: binary cross-entropy on positives and negatives (the artefact), or
    Bayesian personalised ranking of each positive above its negatives (original LightGCN, whose
    loss has an L2 term besides; there is none here)."""
    precision: str = key("float32", Group.TRAINING, choices=("float32", "tf32", "bf16"))
    """Precision of training's products: "tf32" lets a GPU's tensor cores round float32, "bf16" runs
    the model's forward pass in bfloat16 (autocast), which changes nothing in LightGCN: it has no
    product that autocast lowers. All else is float32 in any case."""
    retrain_interval: int = key(50, Group.RETRAIN, low=1)
    """Batches from one MMD term of retrain to the next."""
    adv_scale: float = key(0.5, Group.ADV, low=0, high=1e6)
    """Scale of adv's gradient-reversal layer."""
    adv_width: int = key(16, Group.ADV, low=1)
    """Hidden units of adv's adversary."""
    calibrated_rho: float = key(0.5, Group.CALIBRATED, low=0, high=1)
    """calibrated: how far the classes' new means are turned from the drawn directions (0) towards
    the old differences (1), which moves the embedding least."""
    calibrated_rounds: int = key(60, Group.CALIBRATED, low=0)
    """calibrated: rounds of its cross-fitted polish."""
    min_interactions: int | None = key(None, Group.DATA, low=1)
    """Users and items with fewer interactions are removed, repeatedly; 1 = none are, null = the
    dataset's own (lfm-2b 120, all others 5). Every user that stays needs 3."""
    user_column: str = key("user", Group.DATA)
    """The users' column in interactions.csv and users.csv of a dataset of your own."""
    item_column: str = key("item", Group.DATA)
    """The items' column in interactions.csv."""
    time_column: str | None = key("timestamp", Group.DATA)
    """The times' column in interactions.csv (numbers, or dates like 2020-01-31 12:00:00); null =
    there is none, and the file's order counts."""
    held_out: str = key("latest", Group.DATA, choices=("latest", "random"))
    """Each user's test interaction: the most recent one (the one before it is the validation), or
    one drawn at random (another one is the validation)."""
    time_ties: str = key("last", Group.DATA, choices=("last", "first"))
    """Which of a user's interactions with equal times is the more recent: the last one in the
    file, or the first one. Without times all are equal."""
    catalogue: str = key("filtered", Group.DATA, choices=("filtered", "whole"))
    """What negatives are drawn from: the items that the filter leaves, or all that the source's
    interactions have, as where removed items keep their numbers."""
    test_negatives: str = key(
        "different", Group.DATA, choices=("different", "repeated", "untrained")
    )
    """How validation and test negatives are drawn: different items that the user never touched, the
    same with repetition, or different items that the user has no training interaction with."""
    split_seed: int = key(0, Group.DATA, low=0)
    """Seed of the sampled negatives of validation and test, and of held_out "random"."""
    regularizer: str = key(
        "frobenius", Group.POST_TRAINING, choices=("frobenius", "ranking"), sweep=True
    )
    """What holds the embedding back: its distance from the original (eq. 7), or the artefact's
    hinge on each user's original top items."""
    unlearn_steps: int = key(500, Group.POST_TRAINING, low=1)
    """Full-batch steps of u2u and d2d; the last one is kept."""
    unlearn_lr: float = key(0.001, Group.POST_TRAINING, above=0, high=10)
    """Adam's learning rate in u2u and d2d."""
    unlearn_optimizer: str = key("adam", Group.POST_TRAINING, choices=("adam", "exact"))
    """How u2u and d2d minimise: the published Adam, or the closed form that u2u has with the
    Frobenius regulariser."""
    unlearn_tolerance: float = key(0.0, Group.POST_TRAINING, low=0, high=1)
    """End as soon as the distinguishability loss is this share of its first value; 0 = never."""
    ranking_top: int = key(20, Group.POST_TRAINING, low=2)
    """regularizer "ranking": how many of a user's original top items keep their order."""
    ranking_margin: float = key(0.05, Group.POST_TRAINING, low=0, high=1e12)
    """regularizer "ranking": by how much (in logits) neighbours in that order stay apart."""
    user_embedding: str | None = key(None, Group.PLACE)
    """Your own embedding instead of a model and a dataset: a .npy or .npz file (n_users, d)."""
    labels: str | None = key(None, Group.PLACE)
    """Labels of its rows, in order: a .npy file, or a CSV with a column named like `attribute`.
    Empty, NaN or a negative number is unknown; a whole number is one class however it is spelt (0,
    0.0, "0"); anything else is text as spelt ("NA", "None")."""
    results_path: str = key("exp_results/", Group.PLACE)
    """Folder of the run folders."""
    record: str | None = key(None, Group.PLACE)
    """A folder whose runs.csv gets a row a finished run; a run with a row is not run again, even
    where its run folder isn't, so that a sweep can go on from that file alone. null = none."""
    cuda_graphs: str = key("off", Group.PLACE, choices=("on", "off"))
    """"on": on a GPU a training step is recorded once and replayed as a CUDA graph. That has never
    run on a GPU so far."""
    propagation_mb: int = key(1024, Group.PLACE, low=0)
    """LightGCN: MiB that training may take to hold its propagation as one dense matrix, of which a
    small batch needs a few rows (4 bytes a pair of nodes: ml-1m 341); 0 = propagate all nodes. The
    results are equal up to rounding; the summary says which way was taken."""
    threads: int | None = key(None, Group.PLACE, low=1, high=4096)
    """CPU threads of training and unlearning; null = one, or every core this process may use,
    whichever is the faster at the moment."""
    busy: str = key("wait", Group.PLACE, choices=("wait", "end"))
    """What to do when another process is at work in the same run folder: wait for it, or end."""


@dataclass(frozen=True)
class AttackConfig:
    """configs/attack_config.json: attack a saved user embedding (`python attack.py`)."""

    attack: str = key("attack", Group.PLACE, choices=("attack", "audit"))
    """"attack": what the papers run, on one place. "audit": attackers of every kind at every place
    where a user has vectors, beside baselines and the null of the worst; writes audit.json and
    audit.html. It has a protocol of its own, which takes attack_seed and the two audit_ keys."""
    target_model: str = key("final_model.pth", Group.PLACE, pattern=NAME)
    """File name of the trained model's weights in a run folder; the attack needs only the
    embedding beside it."""
    method: str = key("original", Group.PLACE, sweep=True)
    """Whose embedding is attacked."""
    model: str = key("ncf", Group.PLACE, sweep=True, aliases={"lgcn": "lgn"})
    """The recommender."""
    dataset_path: str = key("data/datasets/", Group.PLACE)
    """Folder that holds a folder a dataset."""
    dataset: str = key("ml-100k", Group.PLACE, pattern=NAME, sweep=True)
    """The dataset's name."""
    device: str = key("cuda:0", Group.PLACE, pattern=DEVICE)
    """Kept from the artefact's file; both attackers run on the CPU."""

    seed: int = key(0, Group.PLACE, low=0, sweep=True)
    """Seed of the attacked run."""
    attribute: str = key("gender", Group.PLACE, pattern=NAME, sweep=True)
    """The user attribute to infer."""
    regularizer: str = key("frobenius", Group.PLACE, choices=("frobenius", "ranking"), sweep=True)
    """Regulariser of the attacked u2u or d2d run."""
    au_trade_off: float = key(1e-6, Group.PLACE, low=0, high=1e12, sweep=True)
    """Trade-off of the attacked u2u or d2d run."""
    attackers: tuple[str, ...] = key(("mlp", "xgb"), Group.PLACE)
    """The attacking classifiers; "strong" = every one of the others, which an audit takes unless
    other names are given than the published two."""
    place: str = key("user_embedding", Group.ATTACK, pattern=NAME, sweep=True)
    """Which of a run's users' vectors: the user embedding, another user table of the model (ncf:
    gmf, mlp; lgn: layer0), or the vectors that its scores are made of (lgn: propagated)."""
    null: int = key(0, Group.ATTACK, low=0, high=9999)
    """Permutations of the labels on which the whole attack is repeated: what the worst attacker
    finds where there is nothing to find. 99 take 99 times as long; 0 = no verdict."""
    fail_above: str | None = key(None, Group.PLACE, pattern=GATE)
    """Exit code 3 where the worst attacker's leakage |AUC - 0.5| is above this number, or above the
    95th percentile of the null ("null-95"); null = never."""
    audit_users: int = key(20_000, Group.AUDIT, low=8)
    """attack "audit": the most users that take part; of more so many are drawn."""
    audit_permutations: int = key(1999, Group.AUDIT, low=19, high=99_999)
    """attack "audit": permutations of the tested users' labels that make the null."""
    protocol: str = key("shadow", Group.PLACE, choices=("shadow", "cv"), sweep=True)
    """"shadow" trains on a small exposed share (the 2023 paper), "cv" cross-validates (what the
    artefact runs)."""
    shadow_ratio: float = key(0.1, Group.ATTACK, above=0, high=0.9)
    """protocol "shadow": share of the balanced users whose labels the attacker knows."""
    draws: int = key(10, Group.ATTACK, low=1)
    """protocol "shadow": how many times the balanced users and their split are drawn."""
    folds: int = key(5, Group.ATTACK, low=2)
    """protocol "cv": folds."""
    repeats: int = key(3, Group.ATTACK, low=1)
    """protocol "cv": how many times the balanced users are split in folds."""
    attack_seed: int = key(0, Group.ATTACK, low=0)
    """Seed of the draws and the attackers."""
    user_embedding: str | None = key(None, Group.PLACE)
    """Your own embedding instead of a model and a dataset: a .npy or .npz file (n_users, d)."""
    labels: str | None = key(None, Group.PLACE)
    """Labels of its rows, in order: a .npy file, or a CSV with a column named like `attribute`.
    Empty, NaN or a negative number is unknown; a whole number is one class however it is spelt (0,
    0.0, "0"); anything else is text as spelt ("NA", "None")."""
    results_path: str = key("exp_results/", Group.PLACE)
    """Folder of the run folders."""
    record: str | None = key(None, Group.PLACE)
    """A folder whose attacks.csv gets a row a finished attack and attacker; what has its rows is
    not done again, even where the run folder isn't. null = none."""
    threads: int | None = key(None, Group.PLACE, low=1, high=4096)
    """CPU threads; null = every core this process may use."""
    busy: str = key("wait", Group.PLACE, choices=("wait", "end"))
    """What to do when another process is at work in the same run folder: wait for it, or end."""


Config = TypeVar("Config", bound="ExperimentConfig | AttackConfig")
Choices = Mapping[str, Collection[str]]


def load_configs(
    cls: type[Config], path: Path, overrides: Sequence[str], choices: Choices
) -> list[Config]:
    """Read a config file, apply ``key=value`` overrides, check everything, expand the sweeps.

    Args:
        cls: which of the two configs.
        path: the JSON file: an object, or a list of objects that come one after another; keys
            that one leaves out have their defaults.
        overrides: ``key=value``, for every object; the value is JSON, or text where that doesn't
            parse.
        choices: names allowed for keys whose registry lives elsewhere, e.g. {"model": MODELS}.

    Returns:
        One config a combination of an object's sweep keys that are lists, its last key moving
        fastest.

    Raises:
        UserError: whatever is wrong with the file, a key or a value, in one line.
    """
    given = {}
    for override in overrides:
        name, equals, text = override.partition("=")
        if not equals:
            raise UserError(f'"{override}" is not of the form key=value, e.g. method=d2d')
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = text
        given[name] = (value, "command line")
    return [
        config
        for content in read_json(path)
        for config in _expanded(
            cls, {key: (value, str(path)) for key, value in content.items()} | given, choices
        )
    ]


def _expanded(
    cls: type[Config], values: Mapping[str, tuple[Any, str]], choices: Choices
) -> list[Config]:
    """One object's configs; `values` has a key's value and where that was given."""
    fields = {field.name: field for field in dataclasses.fields(cls)}
    spread: dict[str, list[Any]] = {}
    for name, (value, origin) in values.items():
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1, cutoff=0)
            unknown = json.dumps(name[:100])
            raise UserError(f'{origin}: unknown key {unknown}; did you mean "{near[0]}"?')
        many = fields[name].metadata["sweep"] and isinstance(value, list)
        if many and not value:
            raise UserError(f'{origin}: "{name}" is an empty list; name at least one value')
        allowed = choices.get(name) or fields[name].metadata["choices"]
        spread[name] = [
            checked(fields[name], one, allowed, cls, origin)
            for one in (dict.fromkeys(map(_hashable, value)) if many else [value])
        ]
    return [
        cls(**dict(zip(spread, combination, strict=True)))
        for combination in itertools.product(*spread.values())
    ]


def read_json(path: Path) -> list[dict[str, Any]]:
    """The JSON object in a file, or the objects of a list of them; each key once an object.

    Raises:
        UserError: missing, a folder, not UTF-8, not JSON (with the line), not objects.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; name another file with --config") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder; --config needs a JSON file") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text; save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}") from None
    except ValueError:
        raise UserError(f"{path!r} is not the name of a file") from None

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        if twice := {name for name in names if names.count(name) > 1}:
            raise UserError(f'{path}: key "{min(twice)}" is given more than once; keep one')
        return dict(pairs)

    try:
        content = json.loads(text, object_pairs_hook=once)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}, line {error.lineno}, column {error.colno}: not valid JSON ({error.msg})"
        ) from None
    except (ValueError, RecursionError) as error:  # a number of 5000 digits, 1000 brackets
        raise UserError(f"{path}: not a config ({str(error).split(';')[0]})") from None
    objects = content if isinstance(content, list) else [content]
    if not objects or not all(isinstance(one, dict) for one in objects):
        raise UserError(
            f'{path} must hold a JSON object {{"key": value, ...}}, or a list of such objects'
        )
    return objects


def checked(
    field: dataclasses.Field,
    value: Any,
    allowed: Collection[str],
    cls: type,
    origin: str,
) -> Any:
    """`value` as the field's type, or a UserError that says what it must be."""
    rules = field.metadata
    kind = typing.get_type_hints(cls)[field.name]
    optional = type(None) in typing.get_args(kind)
    if optional:
        (kind,) = (part for part in typing.get_args(kind) if part is not types.NoneType)
        if value is None:
            return None

    def refuse(expected: str) -> typing.NoReturn:
        expected += " or null" if optional else ""
        given = json.dumps(value)
        given = given if len(given) <= 100 else f"{given[:100]}..."
        raise UserError(f'{origin}: "{field.name}" must be {expected}, got {given}')

    if typing.get_origin(kind) is tuple:
        names = [value] if isinstance(value, str) else value
        if (
            not isinstance(names, list)
            or not names
            or not set(map(_hashable, names)) <= set(allowed)
        ):
            refuse(f"one or a list of {_listed(allowed)}")
        return tuple(dict.fromkeys(names))
    if kind is str:
        pattern = rules["pattern"] or r"(?s:.+)"
        if rules["pattern"] == GATE and isinstance(value, float | int):
            value = json.dumps(value)
        if isinstance(value, str):
            value = rules["aliases"].get(value, value)
        if allowed and (not isinstance(value, str) or value not in allowed):
            refuse(f"one of {_listed(allowed)}")
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            hint = {
                NAME: "a plain name",
                DEVICE: '"cpu" or "cuda:0"',
                GATE: '"null-95" or a number from 0 to 0.5',
            }
            refuse(hint.get(rules["pattern"], "text"))
        if any(unicodedata.category(character) in ("Cc", "Cs") for character in value):
            refuse("text without control characters")
        return value
    number = isinstance(value, int | float) and not isinstance(value, bool)
    bounds = [
        f"{word} {rules[bound]:g}"
        for bound, word in (("low", "at least"), ("above", "above"), ("high", "at most"))
        if rules[bound] is not None
    ]
    noun = "a whole number" if kind is int else "a number"
    expected = " ".join([noun, " and ".join(bounds)]).strip()
    if not number or (isinstance(value, float) and not math.isfinite(value)):
        refuse(expected)
    if kind is int and value != int(value):
        refuse(expected)
    inside = (
        (rules["low"] is None or value >= rules["low"])
        and (rules["above"] is None or value > rules["above"])
        and (rules["high"] is None or value <= rules["high"])
    )
    if not inside:
        refuse(expected)
    if kind is int and value > WHOLE_MAX:
        refuse(f"a whole number at most {WHOLE_MAX}")
    return kind(value)


def identity(config: Any, groups: Collection[Group]) -> dict[str, Any]:
    """The keys of these groups: two configs equal in them describe the same run."""
    return {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if field.metadata["group"] in groups
    }


def describe(cls: type, choices: Choices) -> str:
    """Every key with its default, its values and the docstring below it."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(tree, ast.ClassDef)
    documentation = {
        ast.unparse(line.target): " ".join(ast.literal_eval(below.value).split())
        for line, below in itertools.pairwise(tree.body)
        if isinstance(line, ast.AnnAssign) and isinstance(below, ast.Expr)
    }
    lines = []
    for field in dataclasses.fields(cls):
        allowed = choices.get(field.name) or field.metadata["choices"]
        lines.append(f"  {field.name} = {json.dumps(field.default)}")
        text = documentation[field.name]
        if allowed:
            text += f" One of {_listed(allowed)}."
        if field.metadata["sweep"]:
            text += " A list is a sweep."
        lines.append(textwrap.indent(textwrap.fill(text, 84), "      "))
    return "\n".join(lines)


def _listed(names: Collection[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _hashable(value: Any) -> Any:
    """Lists and objects inside a list are refused later, by their type; here they only need to
    survive being put in a set.
    """
    return value if isinstance(value, str | int | float | bool | None) else json.dumps(value)

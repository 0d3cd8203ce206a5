"""The two JSON files as frozen dataclasses, checked by pydantic once, at the door.

Each field's type with its bounds, default and docstring stand together below, but for two keys of
both configs, which have their docstring in their type; the JSON schema is made from them, and
`--help` and the error messages from the schema, so that they can't drift. A key that distinguishes
runs belongs to a `Group`; the keys of a run's groups are its identity.
"""

import dataclasses
import itertools
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from utils.errors import UserError
from utils.schema import (
    CHECKED,
    Attackers,
    Choices,
    Count,
    Device,
    File,
    Leakage,
    Model,
    Name,
    Names,
    Natural,
    Number,
    Rate,
    Registered,
    Share,
    Text,
    Weight,
    complaint,
    json_or_text,
    key,
    number,
)


class Group(Enum):
    """What a key has a bearing on."""

    PLACE = "where and how fast, never the result"
    DATA = "the prepared data"
    TRAINING = "the trained recommender"
    ATTRIBUTE = "which attribute is hidden"
    EDITING = "which of a recommender's vectors are edited after training"
    ATTACK = "the attack"
    AUDIT = "the audit"


Groups = Collection[Group | type]
"""What a method's result depends on: keys of a group, and the options of the method, a class."""

Scope = Literal["embedding", "tables", "served"]

Embedding = Annotated[
    File | None,
    Field(
        description="""Your own embedding (n_users, d) instead of a model and a dataset: .npy, .npz,
        .parquet, .safetensors, PyTorch's .pt, .pth, .bin or .ckpt (tensors alone), .csv, .tsv,
        word2vec's .txt or .vec, RecBole's .useremb."""
    ),
]
LabelFile = Annotated[
    File | None,
    Field(
        description="""Its users' labels: a .npy, .npz, .parquet or text file (CSV or other
        separators) with a column named like `attribute`, joined by id where both files have a
        column of ids (user_id, user, uid, id, ...), else row by row. Empty, NaN or a negative
        number is unknown; a whole number is one class however it is spelt (0, 0.0, "0"); anything
        else is text as spelt ("NA", "None")."""
    ),
]


@dataclass(frozen=True, config=CHECKED)
class RunConfig:
    """The keys of every run of main.py, whatever the method; `methods.ExperimentConfig` has all."""

    target_model: Name = key("final_model.pth", Group.PLACE)
    """File name of the trained model's weights in a run folder."""
    method: Registered = key("original", Group.PLACE, sweep=True)
    """What is done about the attribute: nothing, after training, or while training."""
    model: Model = key("ncf", Group.TRAINING, sweep=True)
    """The recommender: neural collaborative filtering or LightGCN ("lgcn" means "lgn")."""
    lr: Rate = key(0.001, Group.TRAINING)
    """Adam's learning rate in training."""
    batch_size: Count = key(256, Group.TRAINING)
    """Examples a training step, negatives included."""
    epochs: Count = key(25, Group.TRAINING)
    """Passes over the training data."""
    dataset_path: File = key("data/datasets/", Group.PLACE)
    """Folder that holds a folder a dataset."""
    dataset: Name = key("ml-100k", Group.DATA, sweep=True)
    """The dataset's name."""
    num_ng: Count = key(4, Group.TRAINING)
    """Sampled negatives a training positive, redrawn every epoch."""
    test_num_ng: Count = key(99, Group.DATA)
    """Sampled negatives that a held-out positive is ranked among."""
    device: Device = key("cuda:0", Group.PLACE)
    """"cuda:N" or "cpu"; without a CUDA device everything runs on the CPU."""

    seed: Natural = key(0, Group.TRAINING, sweep=True)
    """Everything random in a run follows from it; the split has a seed of its own."""
    attribute: Names = key("gender", Group.ATTRIBUTE, sweep=True)
    """The user attribute to hide, or several at once, as in "gender+age"."""
    labels_seen: Annotated[Share, Field(gt=0)] = key(1.0, Group.ATTRIBUTE, sweep=True)
    """Share of the labelled users whose label the method is shown, drawn by `seed`. What it does
    for the others it does for people who never said; audit_whom "unseen" audits them."""
    selection: Literal["validation", "test", "last"] = key("validation", Group.TRAINING)
    """Which epoch is kept: the best HR@10 on each user's validation interaction (held out from
    training), the best on test (as the artefact does: optimistic, for comparison), or the
    last."""
    embedding_size: Annotated[Count, Field(le=65536)] | None = key(None, Group.TRAINING)
    """Dimensions of the user embedding; null = the model's own (ncf 32, lgn 64)."""
    loss: Literal["bce", "bpr"] = key("bce", Group.TRAINING)
    """Recommendation loss: binary cross-entropy on positives and negatives (the artefact), or
    Bayesian personalised ranking of each positive above its negatives (original LightGCN, whose
    loss has an L2 term besides; there is none here)."""
    precision: Literal["float32", "tf32", "bf16"] = key("float32", Group.TRAINING)
    """Precision of training's products: "tf32" lets a GPU's tensor cores round float32, "bf16" runs
    the model's forward pass in bfloat16 (autocast), which changes nothing in LightGCN: it has no
    product that autocast lowers. All else is float32 in any case."""
    min_interactions: Count | None = key(None, Group.DATA)
    """Users and items with fewer interactions are removed, repeatedly; 1 = none are, null = the
    dataset's own (lfm-2b 120, all others 5). Every user that stays needs 3."""
    user_column: Text = key("user", Group.DATA)
    """The users' column in interactions.csv and users.csv of a dataset of your own."""
    item_column: Text = key("item", Group.DATA)
    """The items' column in interactions.csv."""
    time_column: Text | None = key("timestamp", Group.DATA)
    """The times' column in interactions.csv (numbers, or dates like 2020-01-31 12:00:00); null =
    there is none, and the file's order counts."""
    held_out: Literal["latest", "random"] = key("latest", Group.DATA)
    """Each user's test interaction: the most recent one (the one before it is the validation), or
    one drawn at random (another one is the validation)."""
    time_ties: Literal["last", "first"] = key("last", Group.DATA)
    """Which of a user's interactions with equal times is the more recent: the last one in the
    file, or the first one. Without times all are equal."""
    catalogue: Literal["filtered", "whole"] = key("filtered", Group.DATA)
    """What negatives are drawn from: the items that the filter leaves, or all that the source's
    interactions have, as where removed items keep their numbers."""
    test_negatives: Literal["different", "repeated", "untrained"] = key("different", Group.DATA)
    """How validation and test negatives are drawn: different items that the user never touched, the
    same with repetition, or different items that the user has no training interaction with."""
    split_seed: Natural = key(0, Group.DATA)
    """Seed of the sampled negatives of validation and test, and of held_out "random"."""
    scope: Scope = key("embedding", Group.EDITING, sweep=True)
    """What a method that edits after training edits: the user "embedding" that the papers attack,
    all user "tables" side by side, or what is "served": then the model keeps the vectors that its
    scores are made of instead of those that they come from (lgn: the propagated ones; layer 0 is
    gone)."""
    user_embedding: Embedding = key(None, Group.PLACE)
    table: Text | None = key(None, Group.PLACE)
    """Which table of a file with several: the name of an array, tensor or column. null = the only
    one, or the one called user_embedding."""
    item_embedding: File | None = key(None, Group.PLACE)
    """The items' vectors (n_items, d) that user_embedding's are multiplied with: a file of the same
    kinds, or the same one. Then the run says how many of a user's top 10 items stay."""
    labels: LabelFile = key(None, Group.PLACE)
    output: File | None = key(None, Group.PLACE)
    """Where to write the edited embedding besides the run folder, in the format of this name: the
    same as the file's keeps all else that it holds, another has ids and vectors. Beside it a run
    writes FILE.manifest.json: what was done."""
    stream: Literal["off", "on"] = key("off", Group.PLACE)
    """"on": go through user_embedding in blocks of rows, with method leace, barycentre or
    calibrated, in a memory that does not grow with the users (but for 2 bytes a user where labels
    are joined by id): a folder of .npy, .safetensors or .parquet shards, of one kind, or one such
    file. labels is a folder with a file of the same name a shard, of class numbers (.npy; negative
    = unknown) or with a column named like `attribute` (.parquet; joined by id where both have ids,
    else row by row), or one file as ever; output is a folder, which gets the edited shards. Started
    by torchrun, several processes share the work."""
    eraser: File | None = key(None, Group.PLACE)
    """A fitted eraser (weights/eraser.safetensors of a run) to apply to user_embedding instead of
    fitting a method: to users who came later, without labels. Needs output=FILE."""
    results_path: File = key("exp_results/", Group.PLACE)
    """Folder of the run folders."""
    record: File | None = key(None, Group.PLACE)
    """A folder whose runs.csv gets a row a finished run; a run with a row is not run again, even
    where its run folder isn't, so that a sweep can go on from that file alone. null = none."""
    cuda_graphs: Literal["on", "off"] = key("on", Group.PLACE)
    """"on": on a GPU a training step is recorded once and replayed as a CUDA graph, ten times as
    fast on an H200; equal up to rounding. "off": its kernels are launched one by one."""
    propagation_mb: Natural = key(1024, Group.PLACE)
    """LightGCN: MiB that training may take to hold its propagation as one dense matrix, of which a
    small batch needs a few rows (4 bytes a pair of nodes: ml-1m 341); 0 = propagate all nodes. The
    results are equal up to rounding; the summary says which way was taken."""
    threads: Annotated[Count, Field(le=4096)] | None = key(None, Group.PLACE)
    """CPU threads of training and unlearning; null = one, or every core this process may use,
    whichever is the faster at the moment."""
    busy: Literal["wait", "end"] = key("wait", Group.PLACE)
    """What to do when another process is at work in the same run folder: wait for it, or end."""


@dataclass(frozen=True, config=CHECKED)
class AttackConfig:
    """configs/attack_config.json: attack a saved user embedding (`python attack.py`)."""

    attack: Literal["attack", "audit"] = key("attack", Group.PLACE)
    """"attack": what the papers run, on one place. "audit": attackers of every kind at every place
    where a user has vectors, beside baselines and the null of the worst; writes audit.json and
    audit.html. It has a protocol of its own, which takes attack_seed and the audit_ keys."""
    target_model: Name = key("final_model.pth", Group.PLACE)
    """File name of the trained model's weights in a run folder; the attack needs only the
    embedding beside it."""
    method: Registered = key("original", Group.PLACE, sweep=True)
    """Whose embedding is attacked."""
    model: Model = key("ncf", Group.PLACE, sweep=True)
    """The recommender."""
    dataset_path: File = key("data/datasets/", Group.PLACE)
    """Folder that holds a folder a dataset."""
    dataset: Name = key("ml-100k", Group.PLACE, sweep=True)
    """The dataset's name."""
    device: Device = key("cuda:0", Group.PLACE)
    """Kept from the artefact's file; attackers run on the CPU."""

    seed: Natural = key(0, Group.PLACE, sweep=True)
    """Seed of the attacked run."""
    attribute: Names = key("gender", Group.PLACE, sweep=True)
    """The attribute that the attacked run was to hide, and that is inferred; of several, as in
    "gender+age", their combinations are."""
    infer: Names | None = key(None, Group.ATTACK, sweep=True)
    """What to infer from the same vectors instead, such as one attribute of several."""
    labels_seen: Annotated[Share, Field(gt=0)] = key(1.0, Group.PLACE, sweep=True)
    """labels_seen of the attacked run."""
    regularizer: Literal["frobenius", "ranking"] = key("frobenius", Group.PLACE, sweep=True)
    """Regulariser of the attacked u2u or d2d run."""
    au_trade_off: Weight = key(1e-6, Group.PLACE, sweep=True)
    """Trade-off of the attacked u2u or d2d run."""
    scope: Scope = key("embedding", Group.PLACE, sweep=True)
    """Scope of the attacked run."""
    attackers: Attackers = key(("mlp", "xgb"), Group.PLACE)
    """The attacking classifiers; "strong" = every one of the others, which an audit takes unless
    other names are given than the published two."""
    place: Name = key("user_embedding", Group.ATTACK, sweep=True)
    """Which of a run's users' vectors: the user embedding, another user table of the model (ncf:
    gmf, mlp; lgn: layer0), or the vectors that its scores are made of (lgn: propagated)."""
    null: Annotated[Natural, Field(le=9999)] = key(0, Group.ATTACK)
    """Permutations of the labels on which the whole attack is repeated: what the worst attacker
    finds where there is nothing to find. 99 take 99 times as long; 0 = no verdict."""
    fail_above: Leakage | Literal["null-95"] | None = key(None, Group.PLACE)
    """Exit code 3 where the worst attacker's leakage |AUC - 0.5| is above this number, or above the
    95th percentile of the null ("null-95"); null = never."""
    audit_users: Annotated[Count, Field(ge=8)] = key(20_000, Group.AUDIT)
    """attack "audit": the most users that take part; of more so many are drawn. user_embedding may
    then be a folder of .npy, .safetensors or .parquet shards, and labels one as of stream=on."""
    audit_permutations: Annotated[Count, Field(ge=19, le=99_999)] = key(1999, Group.AUDIT)
    """attack "audit": permutations of the tested users' labels that make the null."""
    audit_whom: Literal["everyone", "unseen"] = key("everyone", Group.AUDIT, sweep=True)
    """attack "audit": "unseen" = only users whose label the method was not shown (labels_seen);
    half of them trains the attackers, the other half tests them."""
    audit_trained_on: Literal["audited", "original"] = key("audited", Group.AUDIT, sweep=True)
    """attack "audit": the vectors that train the attackers: those that are audited, or the
    original's of the same users, of which an earlier copy may have got about."""
    protocol: Literal["shadow", "cv", "cv-artefact"] = key("shadow", Group.PLACE, sweep=True)
    """"shadow" trains on a small exposed share (the 2023 paper), "cv" cross-validates (what the
    artefact runs); "cv-artefact" does so with the artefact's own draw of users and folds."""
    shadow_ratio: Annotated[Number, Field(gt=0, le=0.9)] = key(0.1, Group.ATTACK)
    """protocol "shadow": share of the balanced users whose labels the attacker knows."""
    draws: Count = key(10, Group.ATTACK)
    """protocol "shadow": how many times the balanced users and their split are drawn."""
    folds: Annotated[Count, Field(ge=2)] = key(5, Group.ATTACK)
    """protocols "cv" and "cv-artefact": folds."""
    repeats: Count = key(3, Group.ATTACK)
    """The same: how many times the balanced users are split in folds."""
    balance: Literal["on", "off"] = key("on", Group.ATTACK)
    """"on": as many users of every class take part as the smallest has, which the papers do; "off":
    all do. An audit always takes all."""
    attack_seed: Natural | Literal["run"] = key(0, Group.ATTACK)
    """Seed of the draws and the attackers. With a number the runs of several seeds are attacked on
    the same users; "run" takes the attacked run's own `seed`, so that what varies over seeds is
    the draw of users too."""
    user_embedding: Embedding = key(None, Group.PLACE)
    table: Text | None = key(None, Group.PLACE)
    """Which table of a file with several: the name of an array, tensor or column. null = the only
    one, or the one called user_embedding; an audit takes all of users."""
    labels: LabelFile = key(None, Group.PLACE)
    results_path: File = key("exp_results/", Group.PLACE)
    """Folder of the run folders."""
    record: File | None = key(None, Group.PLACE)
    """A folder whose attacks.csv gets a row a finished attack and attacker, or whose audits.csv a
    row an audited place; what has its rows is not done again, even where the run folder isn't.
    null = none."""
    threads: Annotated[Count, Field(le=4096)] | None = key(None, Group.PLACE)
    """CPU threads; null = every core this process may use."""
    busy: Literal["wait", "end"] = key("wait", Group.PLACE)
    """What to do when another process is at work in the same run folder: wait for it, or end."""

    @property
    def of_other_protocols(self) -> tuple[str, ...]:
        """The settings that this protocol has not."""
        return ("folds", "repeats") if self.protocol == "shadow" else ("shadow_ratio", "draws")

    @property
    def inferred(self) -> str:
        """The attribute to infer."""
        return self.infer or self.attribute

    @property
    def seed_of_attack(self) -> int:
        """What `attack_seed` stands for."""
        return self.seed if self.attack_seed == "run" else self.attack_seed


Config = TypeVar("Config", bound="RunConfig | AttackConfig")


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
        given[name] = json_or_text(text)
    configs: list[Config] = []
    for content in read_json(path):
        origins = dict.fromkeys(content, str(path)) | dict.fromkeys(given, "command line")
        configs += _expanded(cls, content | given, origins, choices)
    return configs


def _expanded(
    cls: type[Config], values: Mapping[str, Any], origins: Mapping[str, str], choices: Choices
) -> Iterable[Config]:
    """One object's configs, each once; `origins` says where a key was given."""
    sweeps = {field.name for field in dataclasses.fields(cls) if field.metadata["sweep"]}
    spread = {
        name: value if name in sweeps and isinstance(value, list) else [value]
        for name, value in values.items()
    }
    for name, some in spread.items():
        if not some:
            raise UserError(f'{origins[name]}: "{name}" is an empty list; name at least one value')
    checker = TypeAdapter(cls)
    commands = {RunConfig: "main.py", AttackConfig: "attack.py"}
    other, program = next(one for one in commands.items() if not issubclass(cls, one[0]))
    configs: dict[Config, None] = {}
    for combination in itertools.product(*spread.values()):
        one = dict(zip(spread, combination, strict=True))
        try:
            configs[checker.validate_python(one, context=choices)] = None
        except ValidationError as error:
            name = str(error.errors()[0]["loc"][0])
            if name in _names(other) - _names(cls):
                raise UserError(f'{origins[name]}: "{name}" is a key of {program}') from None
            wrong = complaint(name, one[name], cls, choices)
            raise UserError(f"{origins[name]}: {wrong}") from None
    return configs


def _names(cls: type) -> set[str]:
    return {field.name for field in dataclasses.fields(cls)}


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
        content = json.loads(text, object_pairs_hook=once, parse_float=number)
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
    for one in objects:
        one.pop("$schema", None)  # says to an editor where our schema is
    return objects


def identity(config: Any, groups: Groups) -> dict[str, Any]:
    """The config's keys of these groups: two configs equal in them describe the same run."""
    options = [group for group in groups if isinstance(group, type)]
    names = {field.name for one in options for field in dataclasses.fields(one)}
    return {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if field.metadata["group"] in groups or field.name in names
    }

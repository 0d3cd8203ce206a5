"""Who trains the attacker, and who tests it.

Both protocols balance the classes by down-sampling all to the size of the smallest, unless they are
told to take the classes as they are:

shadow  (MM23) a small share of the balanced users is exposed with labels and trains the
        attacker; the rest tests it. Users and split are drawn anew `draws` times.
cv      (the artefact; behind RC25's Table 3) stratified cross-validation with `folds` folds,
        repeated `repeats` times on balanced users that are drawn once.

cv-artefact is cv to the letter of the artefact's code, where cv has seeds: users are drawn by
Python's random.seed(4), whatever the seed, and the folds are not shuffled, so that every repeat has
the same and differs in the attackers' seeds alone.
"""

import math
import random
from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import RepeatedStratifiedKFold, StratifiedKFold, train_test_split

from utils.config import AttackConfig
from utils.errors import UserError
from utils.seeds import numpy_generator, seed32


@dataclass(frozen=True)
class Protocol:
    """Keys of the attack config that an attack depends on."""

    name: str
    shadow_ratio: float
    draws: int
    folds: int
    repeats: int
    seed: int
    balanced: bool = True

    @property
    def family(self) -> str:
        """Which settings the papers' attackers have: "shadow" or "cv"."""
        return "shadow" if self.name == "shadow" else "cv"

    @classmethod
    def of(cls, config: AttackConfig) -> "Protocol":
        """The protocol that an attack config asks for."""
        return cls(
            config.protocol,
            config.shadow_ratio,
            config.draws,
            config.folds,
            config.repeats,
            config.seed_of_attack,
            config.balance == "on",
        )


@dataclass(frozen=True)
class Round:
    """One split: row numbers of the users that train and that test the attacker."""

    train: np.ndarray
    test: np.ndarray


def balanced_users(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Row numbers of equally many users of every class (labels -1 are left out), sorted."""
    classes, counts = np.unique(labels[labels >= 0], return_counts=True)
    size = counts.min()
    chosen = [rng.choice(np.flatnonzero(labels == c), size, replace=False) for c in classes]
    return np.sort(np.concatenate(chosen))


ARTEFACT_SEED = 4


def artefact_users(labels: np.ndarray) -> np.ndarray:
    """Balanced users as the artefact draws and orders them: class after class, in the drawing's
    order where a class is sampled, by number where it is taken whole.
    """
    generator = random.Random(ARTEFACT_SEED)
    classes = [np.flatnonzero(labels == c).tolist() for c in np.unique(labels[labels >= 0])]
    size = min(map(len, classes))
    drawn = [users if len(users) == size else generator.sample(users, size) for users in classes]
    return np.concatenate(drawn)


def rounds(labels: np.ndarray, protocol: Protocol) -> list[Round]:
    """The splits of a protocol.

    Raises:
        UserError: too few users of a class for a stratified split.
    """
    classes, counts = np.unique(labels[labels >= 0], return_counts=True)
    smallest = counts.min()
    if protocol.name == "shadow":
        total = smallest * len(classes) if protocol.balanced else counts.sum()
        exposed = round(total * protocol.shadow_ratio)
        # a stratified draw takes a class's share of the exposed users, rounded down or up
        least, most = smallest * exposed // total, -(-smallest * exposed // total)
        if smallest < 2 or least < 1 or most >= smallest:
            raise UserError(
                f"shadow_ratio {protocol.shadow_ratio:g} of {total}"
                f"{' balanced' * protocol.balanced} users exposes {exposed}: at least one of each "
                f"of the {len(classes)} classes must be on either side; {_ratios(smallest)}"
            )
        return [_shadow_round(labels, exposed, protocol, draw) for draw in range(protocol.draws)]
    if smallest < protocol.folds:
        able = f"take folds={smallest}, or " if smallest > 1 else ""
        raise UserError(
            f"the smallest class has {smallest} users, fewer than folds {protocol.folds}; {able}"
            "leave that class out of the labels, or join it with another"
        )
    if protocol.name == "cv-artefact":
        users = artefact_users(labels)
        folds = StratifiedKFold(protocol.folds).split(users, labels[users])
        return [Round(users[train], users[test]) for train, test in folds] * protocol.repeats
    users = _participants(labels, protocol)
    splitter = RepeatedStratifiedKFold(
        n_splits=protocol.folds,
        n_repeats=protocol.repeats,
        random_state=seed32(protocol.seed, "folds"),
    )
    return [
        Round(users[train], users[test]) for train, test in splitter.split(users, labels[users])
    ]


def _ratios(smallest: int) -> str:
    """Which shadow ratios put each of `smallest` users a class on either side."""
    lowest = math.ceil(100 / smallest) / 100
    if smallest < 2 or lowest > 1 - lowest:
        return "one class is too small for any: leave it out of the labels, or join it with another"
    return f"take shadow_ratio from {lowest:g} to {min(0.9, 1 - lowest):g}, or larger classes"


def _participants(labels: np.ndarray, protocol: Protocol, *draw: int) -> np.ndarray:
    """Row numbers, sorted, of the users who take part."""
    if not protocol.balanced:
        return np.flatnonzero(labels >= 0)
    return balanced_users(labels, numpy_generator(protocol.seed, "balance", *draw))


def _shadow_round(labels: np.ndarray, exposed: int, protocol: Protocol, draw: int) -> Round:
    users = _participants(labels, protocol, draw)
    train, test = train_test_split(
        users,
        train_size=exposed,
        stratify=labels[users],
        random_state=seed32(protocol.seed, "shadow", draw),
    )
    return Round(train, test)

"""The audit's own protocol: one half of the users trains the attackers, the other half tests them.

Every attacker is trained once, at every place. So the null costs nothing: what an attacker has
learnt from one half says nothing of the labels of the other, if the vectors don't tell them, and
permuting the tested half's labels is an exact test of that, for the worst of any number of
attackers and places (Westfall and Young, 1993). Where rounds share users, as in cv, or in shadow's
draws, that is wrong: there the null needs retraining (utils.audit.null).

All users with a label take part, in the classes' own sizes: an AUC doesn't ask for balance.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from joblib import Parallel, delayed
from sklearn.model_selection import train_test_split
from tqdm import tqdm

from utils.audit.attackers import ATTACKERS
from utils.audit.null import Judged
from utils.audit.protocols import Round
from utils.audit.scores import Scores, train_and_score
from utils.audit.statistics import class_aucs, leakage, permuted_leakages
from utils.errors import UserError
from utils.seeds import numpy_generator, seed32

FEWEST = 4
"""Users that every class must have."""


def participants(labels: np.ndarray, most: int, seed: int) -> np.ndarray:
    """Row numbers, sorted, of the users with a label, or of `most` of them.

    Args:
        labels: (n,) int64, classes 0 .. C-1, -1 where unknown.
        most: of more, so many are drawn, in the classes' shares, at least FEWEST of each.
        seed: of the draw.

    Raises:
        UserError: too few users of a class.
    """
    users = np.flatnonzero(labels >= 0)
    counts = np.bincount(labels[users])
    if counts.min() < FEWEST:
        raise UserError(
            f"the smallest class has {counts.min()} users, and an audit needs {FEWEST}: leave it "
            "out of the labels, or join it with another"
        )
    if len(users) > most:
        rng = numpy_generator(seed, "subsample")
        sizes = np.maximum(FEWEST, np.round(counts * (most / len(users)))).astype(int)
        drawn = [
            rng.choice(np.flatnonzero(labels == c), min(size, counts[c]), replace=False)
            for c, size in enumerate(sizes)
        ]
        users = np.concatenate(drawn)
    return np.sort(users)


def halves(labels: np.ndarray, seed: int) -> Round:
    """Half of the users of every class, to train on, and the other half.

    Args:
        labels: (n,) int64, classes 0 .. C-1.
        seed: of the draw.
    """
    train, test = train_test_split(
        np.arange(len(labels)),
        test_size=0.5,
        stratify=labels,
        random_state=seed32(seed, "halves"),
    )
    return Round(np.sort(train), np.sort(test))


def attack_places(
    places: Mapping[str, np.ndarray],
    labels: np.ndarray,
    attackers: Sequence[str],
    split: Round,
    seed: int,
    jobs: int = 1,
    quiet: bool = False,
) -> dict[str, dict[str, Scores]]:
    """Every attacker at every place: place -> attacker -> scores on the tested half.

    Args:
        places: (n, d) vectors by name; a place's own d.
        labels: (n,) int64.
        attackers: names in ATTACKERS.
        split: who trains, who tests.
        seed: of the attackers.
        jobs: processes; changes the speed alone.
        quiet: without progress.
    """
    pairs = [(place, name) for place in places for name in attackers]
    features = {place: x.astype(np.float32, copy=False) for place, x in places.items()}
    work = (
        delayed(train_and_score)(
            ATTACKERS[name]("cv", seed32(seed, "attacker", name)),
            features[place],
            labels,
            split,
        )
        for place, name in pairs
    )
    results = tqdm(
        Parallel(n_jobs=jobs, return_as="generator")(work),
        total=len(pairs),
        desc="attacking (halves)",
        unit="fit",
        leave=False,
        disable=quiet,
    )
    found: dict[str, dict[str, Scores]] = {place: {} for place in places}
    for (place, name), scores in zip(pairs, results, strict=True):
        found[place][name] = scores
    return found


def worst(
    found: Mapping[str, Mapping[str, Scores]],
    labels: np.ndarray,
    permutations: int,
    seed: int,
) -> dict[str | None, Judged]:
    """The worst attacker of each place, and, by the name None, that of all places together.

    Args:
        found: as from `attack_places`, one split for all.
        labels: (n,) int64.
        permutations: B; the same for every place.
        seed: of the permutations.
    """
    flat = [(place, name, one) for place, row in found.items() for name, one in row.items()]
    truth = labels[flat[0][2].split.test]
    scores = np.stack([one.scores for *_, one in flat])
    rng = numpy_generator(seed, "permutations")
    null = permuted_leakages(scores, truth, permutations, rng)  # (B, m)
    aucs = [class_aucs(one, truth) for one in scores]
    leakages = np.array([leakage(one) for one in aucs])
    result: dict[str | None, Judged] = {}
    for which in (None, *found):
        members = np.array([which in (None, place) for place, *_ in flat])
        chosen = max(np.flatnonzero(members), key=lambda i: leakages[i])
        place, attacker, _ = flat[chosen]
        auc, leaked = float(np.nanmean(aucs[chosen])), float(leakages[chosen])
        result[which] = Judged(attacker, auc, leaked, null[:, members].max(1), place)
    return result

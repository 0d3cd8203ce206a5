"""Several attributes at once, by any method that edits after training.

Their combinations ("gender+age": F and 18-24, F and 25-34, ...) are the classes of one attribute,
which no attacker can tell without telling more than each by itself. Where the smallest of them has
too few users to say anything of, one attribute is hidden after the other, over and over: what is
done for the second may bring back some of the first, less in every cycle. After each cycle a few
attackers are trained on one half of the users and tested on the other, drawn anew (the audit's way,
on halves of its own): none of the attributes is above its null, or it goes on, up to CYCLES times.
"""

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.dataset import PLUS
from methods.base import Fit, TopScorer
from methods.eraser import (
    Eraser,
    Labels,
    TransductiveEraser,
    UserTables,
    apart,
    share_moved,
    side_by_side,
)
from methods.unlearning import FromHere
from utils.audit.halves import attack_places, halves, participants, worst
from utils.errors import UserError
from utils.runs.checkpoint import FORGETFUL, Progress
from utils.threads import Threads

FEWEST = 50
"""Users that every combination must have to be a class of its own."""
CYCLES = 6
CHECKED_BY = ("logistic", "qda", "boosting")
CHECKED_USERS = 5_000
PERMUTATIONS = 199
ROUNDING = 1e-12
"""Of a variance."""


def fit_several(
    fit: Fit,
    tables: UserTables,
    labels: Tensor,
    parts: Labels,
    options: Any,
    rng: np.random.Generator,
    scorer: TopScorer | None,
    threads: Threads,
    progress: Progress = FORGETFUL,
) -> Eraser:
    """A method's `fit` to one attribute or more.

    Args:
        fit: the method's.
        labels: (n_users,) int64, the combinations of all attributes, -1 where any is unknown; such
            users are of unknown class in each.
        parts: the attributes by name; of one alone the same as `labels`.
        tables, options, rng, scorer, threads, progress: as of every fit.
    """
    name, several = PLUS.join(parts), len(parts) > 1
    if not several or int(torch.bincount(labels[labels >= 0]).min()) >= FEWEST:
        eraser = fit(tables, {name: labels}, options, rng, scorer, threads, progress)
        if several:
            eraser.record["attributes"] = "their combinations"
        return eraser
    return _in_turn(fit, tables, parts, options, rng, scorer, threads, progress)


def _in_turn(
    fit: Fit,
    tables: UserTables,
    parts: Labels,
    options: Any,
    rng: np.random.Generator,
    scorer: TopScorer | None,
    threads: Threads,
    progress: Progress,
) -> Eraser:
    """One attribute after the other, until none is above its null. An interruption costs the fit of
    one attribute.
    """
    start, before = time.perf_counter(), side_by_side(tables)
    kept = FromHere(progress, torch.from_numpy(before), rng)
    state = dict(kept.load() or {"fits": 0, "edited": torch.from_numpy(before), "history": []})
    edited, names = apart(state["edited"].cpu().numpy(), tables), list(parts)
    while True:
        cycle, turn = divmod(state["fits"], len(parts))
        if cycle and not turn:
            told, unchecked = above_null(side_by_side(edited), parts, rng)
            if not told or cycle == CYCLES:
                break
        one = names[turn]
        eraser = fit(edited, {one: parts[one]}, options, rng, scorer, threads)
        edited = eraser.apply(edited)
        state = {
            "fits": state["fits"] + 1,
            "edited": torch.from_numpy(side_by_side(edited)),
            "history": state["history"] + [{"cycle": cycle + 1, **row} for row in eraser.history],
        }
        kept.save(state.copy)
    record = {
        "attributes": f"one after the other, {cycle} time{'s' * (cycle > 1)}",
        "above_null": told,
        "unchecked": unchecked,
        "directions_left": directions(side_by_side(edited), before),
        "moved": share_moved(before, side_by_side(edited)),
        "seconds": time.perf_counter() - start,
    }
    return TransductiveEraser(dict(tables), edited, record, state["history"])


def directions(edited: np.ndarray, before: np.ndarray) -> int:
    """In how many of their d directions users (n, d) still differ, beyond rounding."""
    spreads = [np.linalg.eigvalsh(np.atleast_2d(np.cov(x, rowvar=False))) for x in (edited, before)]
    return int((spreads[0] > ROUNDING * spreads[1].max()).sum())


def above_null(
    x: np.ndarray, parts: Labels, rng: np.random.Generator
) -> tuple[list[str], list[str]]:
    """The attributes that a few attackers tell from vectors (n, d) beyond chance, on halves of the
    users; and those that have too few users of a class to look.
    """
    seed = int(rng.integers(2**31))
    told, unchecked = [], []
    for name, own in parts.items():
        labels = own.cpu().numpy()
        try:
            users = participants(labels, CHECKED_USERS, seed)
        except UserError:
            unchecked.append(name)
            continue
        classes, split = labels[users], halves(labels[users], seed)
        found = attack_places({"": x[users]}, classes, CHECKED_BY, split, seed, quiet=True)
        if worst(found, classes, PERMUTATIONS, seed)[None].leaks:
            told.append(name)
    return told, unchecked

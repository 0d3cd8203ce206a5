"""Several attributes at once, by any method that edits after training.

Their combinations ("gender+age": F and 18-24, F and 25-34, ...) are the classes of one attribute,
which no attacker can tell without telling more than each by itself. Where the smallest of them has
too few users to say anything of, one attribute is hidden after the other, over and over: what is
done for the second may bring back some of the first, less in every cycle.
"""

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.dataset import PLUS
from methods.base import Fit, TopScorer
from methods.eraser import Eraser, Labels, TransductiveEraser, UserTables, share_moved, side_by_side
from utils.runs.checkpoint import FORGETFUL, Progress
from utils.threads import Threads

FEWEST = 50
"""Users that every combination must have to be a class of its own."""
CYCLES = 3


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
    start, edited, history = time.perf_counter(), dict(tables), []
    for cycle in range(CYCLES):
        for one, own in parts.items():
            eraser = fit(edited, {one: own}, options, rng, scorer, threads)
            edited = eraser.apply(edited)
            history += [{"cycle": cycle + 1, **row} for row in eraser.history]
    record = {
        "attributes": f"one after the other, {CYCLES} times",
        "moved": share_moved(side_by_side(tables), side_by_side(edited)),
        "seconds": time.perf_counter() - start,
    }
    return TransductiveEraser(dict(tables), edited, record, history)

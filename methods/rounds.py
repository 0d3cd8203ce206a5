"""The polish's rounds as arrays, which a file keeps, and which are done to users in blocks.

A user's fold follows from the user's number: who is in the sample that a round was learnt of is
edited by the ridge that was fitted without the user's fold, everybody else by one of those ridges.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from methods.blocks import slices
from methods.polish import CHUNK, FOLDS, Form, Round, View
from utils.seeds import scattered


@dataclass(frozen=True)
class Rounds:
    """The polish's rounds, as arrays: R of them, whose views have D features in all. That is
    120 rounds' 0.96 MB a class and 0.2 MB a dimension.

    Attributes:
        seed: (), of the folds.
        unit: (), of the radii.
        features: (R,), how many of these are whose.
        kinds: (R, 3), a view's form and shifts, and whether it is of radius · v.
        weights: (D, d), offsets: (D,), ridges: (FOLDS, D, C), steps: (R, C), drifts: (R, C, d);
            `methods.polish.Round`.
    """

    seed: np.ndarray
    unit: np.ndarray
    features: np.ndarray
    kinds: np.ndarray
    weights: np.ndarray
    offsets: np.ndarray
    ridges: np.ndarray
    steps: np.ndarray
    drifts: np.ndarray

    @classmethod
    def of(cls, seed: int, unit: float, rounds: Sequence[Round], classes: int, d: int) -> "Rounds":
        """Of C classes and d dimensions."""
        views = [one.view for one in rounds]
        none = np.zeros((0, d), np.float32)
        ridges = [np.zeros((FOLDS, 0, classes), np.float32), *(one.ridges for one in rounds)]
        return cls(
            np.array(seed),
            np.array(unit),
            np.array([len(view.weights) for view in views], np.int64),
            np.array([(one.view.form, one.view.shifts, one.scaled) for one in rounds], np.int8),
            np.concatenate([none, *(view.weights for view in views)]),
            np.concatenate([none[:, 0], *(view.offset for view in views)]),
            np.concatenate(ridges, 1),
            np.array([one.steps for one in rounds], np.float32).reshape(-1, classes),
            np.array([one.drift for one in rounds], np.float32).reshape(-1, classes, d),
        )

    def __iter__(self) -> Iterator[Round]:
        ends = self.features.cumsum()
        for number, (start, end) in enumerate(zip(ends - self.features, ends, strict=True)):
            form, shifts, scaled = self.kinds[number].tolist()
            view = View(Form(form), self.weights[start:end], self.offsets[start:end], bool(shifts))
            ridges = self.ridges[:, start:end]
            yield Round(view, bool(scaled), ridges, self.steps[number], self.drifts[number])

    def done(
        self, v: np.ndarray, radius: np.ndarray, labels: np.ndarray, numbers: np.ndarray
    ) -> np.ndarray:
        """(n, d) float64 of users v (n, d), radius (n,), labels (n,), numbers (n,)."""
        if not len(self.features):
            return v
        polished, near = v.astype(np.float32), (radius / self.unit).astype(np.float32)
        with threadpool_limits(1):  # the same bytes, however many threads there are
            for number, one in enumerate(self):
                fold = folds(numbers, int(self.seed), number)
                for at in slices(len(v), CHUNK):
                    polished[at] = one.moved(polished[at], near[at], labels[at], fold[at])
        return polished.astype(np.float64)


def folds(numbers: np.ndarray, seed: int, number: int) -> np.ndarray:
    """(n,) int64 folds, in a round, of users by their numbers (n,)."""
    return scattered(numbers, FOLDS, seed, "fold", number)

"""Post-training unlearning: minimise l_u(θ) + alpha l_r(θ) over the user embedding (eq. 1)."""

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
import pydantic
import torch
from pydantic import Field
from torch import Tensor
from tqdm import tqdm

from methods.base import Fit, TopScorer
from methods.eraser import Labels, TransductiveEraser, UserTables, share_moved
from methods.losses.objective import Objective
from methods.losses.regularizers import frobenius, ranking
from utils.errors import UserError
from utils.ranks import ALONE, SAME_FOLDERS, Ranks
from utils.runs.checkpoint import FORGETFUL, Progress
from utils.schema import CHECKED, Count, Rate, Share, Weight, key
from utils.threads import UNCHANGED, Threads, one_thread

log = logging.getLogger(__name__)

REPORT_EVERY = 20
"""Steps from one evaluation of the losses to the next."""

LONG = 60.0
"""Seconds; of more the log says how long it will take."""

PUBLISHED_SPREAD = 0.25
"""The spread for which the published rate and trade-off were chosen, in round numbers: the root
mean square deviation of users from their dimensions' means is 0.26 in NCF's embedding of ML-100K
(published settings, seed 0)."""


@pydantic.dataclasses.dataclass(frozen=True, config=CHECKED)
class Eq1Options:
    """What u2u and d2d, the methods that minimise eq. 1, can be told."""

    au_trade_off: Weight = key(1e-6, sweep=True)
    """alpha of eq. 1: weight of the regulariser against the distinguishability loss."""
    regularizer: Literal["frobenius", "ranking"] = key("frobenius", sweep=True)
    """What holds the embedding back: its distance from the original (eq. 7), or the artefact's
    hinge on each user's original top items."""
    unlearn_steps: Count = key(500)
    """Full-batch steps of u2u and d2d; the last one is kept."""
    unlearn_lr: Rate = key(0.001)
    """Adam's learning rate in u2u and d2d."""
    unlearn_scale: Literal["absolute", "relative"] | None = key(None)
    """What unlearn_lr and au_trade_off are measured in: the embedding's own numbers ("absolute",
    published), or numbers "relative" to its spread, which is brought to that of the papers'
    embeddings and back. null = relative for the embedding of a file, absolute for a model's."""
    unlearn_optimizer: Literal["adam", "exact"] = key("adam")
    """How u2u and d2d minimise: the published Adam, or the closed form that u2u has with the
    Frobenius regulariser."""
    unlearn_tolerance: Share = key(0.0)
    """End as soon as the distinguishability loss is this share of its first value; 0 = never."""
    ranking_top: Annotated[Count, Field(ge=2)] = key(20)
    """regularizer "ranking": how many of a user's original top items keep their order."""
    ranking_margin: Weight = key(0.05)
    """regularizer "ranking": by how much (in logits) neighbours in that order stay apart."""

    def optimizer(self) -> "Optimizer":
        """How to minimise."""
        return Optimizer(
            self.unlearn_optimizer, self.unlearn_steps, self.unlearn_lr, self.unlearn_tolerance
        )


@dataclass(frozen=True)
class Optimizer:
    """How eq. 1 is minimised.

    Attributes:
        name: a key of STEPPERS.
        steps: at most this many.
        lr: Adam's rate.
        tolerance: end as soon as l_u is at most this share of its first value, looked at every
            REPORT_EVERY steps; 0 = never.
    """

    name: str
    steps: int
    lr: float
    tolerance: float = 0.0


@dataclass(frozen=True)
class Unlearned:
    """What unlearning gives back.

    Attributes:
        embedding: (n, K), the new user embedding.
        moved: ||θ - θ*||_F / ||θ*||_F; 0 where nothing moved.
        spread: of the edited users within their classes; see `class_spread`.
        history: dicts of step, distinguishability (l_u) and regularizer (l_r) after that step;
            the first is that of θ*, the last that of the result.
        chance: l_u's `Objective.chance` at θ* and at the result; 0 where it has none.
        seconds: time of the optimisation alone, as in the papers' Table 2.
    """

    embedding: Tensor
    moved: float
    spread: float
    history: list[dict[str, float]]
    chance: tuple[float, float]
    seconds: float

    @property
    def left(self) -> float | None:
        """What is left of the distinguishability, as a share of what there was; of both only what
        random groups of the users don't have. None where there was no more than that.
        """
        before, after = (
            self.history[which]["distinguishability"] - by_chance
            for which, by_chance in zip((0, -1), self.chance, strict=True)
        )
        return max(after, 0.0) / before if before > 0 else None

    def summary(self) -> dict[str, Any]:
        """What a run's summary records."""
        first, last = (
            self.history[which] | {"chance": by_chance}
            for which, by_chance in zip((0, -1), self.chance, strict=True)
        )
        return {
            "moved": self.moved,
            "spread": self.spread,
            "losses": {"before": first, "after": last, "left": self.left},
            "seconds": self.seconds,
        }


@dataclass(frozen=True)
class Problem:
    """Eq. 1 for the users of known label; the others' rows stay as they are.

    Attributes:
        distinguishability: l_u of the known users' rows.
        regularizer: l_r of all rows.
        alpha: weight of l_r.
        known: (n,) bool.
        everyone: whether all are known.
    """

    distinguishability: Objective
    regularizer: Objective
    alpha: float
    known: Tensor
    everyone: bool

    def values(self, theta: Tensor) -> tuple[float, float]:
        """l_u and l_r."""
        hidden = self.distinguishability.value(self._rows(theta))
        return hidden.item(), self.regularizer.value(theta).item()

    def chance(self, theta: Tensor) -> float:
        """l_u of random groups of the users; 0 where l_u is no difference of groups."""
        by_chance = self.distinguishability.chance
        return by_chance(self._rows(theta)).item() if by_chance else 0.0

    def gradient(self, theta: Tensor) -> Tensor:
        """(n, K); zero for users of unknown label."""
        hidden = self.distinguishability.gradient(self._rows(theta))
        if self.alpha:
            kept = self.regularizer.gradient(theta)
            hidden.add_(self._rows(kept), alpha=self.alpha)
        if self.everyone:
            return hidden
        gradient = torch.zeros_like(theta)
        gradient[self.known] = hidden
        return gradient

    def _rows(self, theta: Tensor) -> Tensor:
        return theta if self.everyone else theta[self.known]


Tick = Callable[[Tensor], None]
"""Called with θ after every step."""

Report = Callable[[int, Tensor], bool]
"""Takes note of the losses of θ after a step; True if it is good enough."""

Keep = Callable[[int, Tensor, torch.optim.Optimizer], None]
"""Called with a step, θ and the optimiser after it, when its losses have been noted."""


def _adam(
    problem: Problem,
    theta: Tensor,
    optimizer: Optimizer,
    threads: Threads,
    report: Report,
    tick: Tick,
    keep: Keep,
    before: Mapping[str, Any],
) -> None:
    """Full-batch Adam on θ in place, the published optimiser.

    Args:
        before: "step" and the optimiser's state "adam" after it, to go on from; or nothing.
    """
    adam = torch.optim.Adam([theta], lr=optimizer.lr, fused=True)
    if before:
        adam.load_state_dict(before["adam"])
    for step in range(before.get("step", 0) + 1, optimizer.steps + 1):
        with threads.step():
            # a zero gradient all along leaves a row as it is: Adam divides 0 by epsilon
            theta.grad = problem.gradient(theta)
            adam.step()
        tick(theta)
        if step % REPORT_EVERY == 0 or step == optimizer.steps:
            if report(step, theta):
                return
            keep(step, theta, adam)


def _exact(
    problem: Problem,
    theta: Tensor,
    optimizer: Optimizer,
    threads: Threads,
    report: Report,
    tick: Tick,
    keep: Keep,
    before: Mapping[str, Any],
) -> None:
    """The closed form, of an l_u that has one with the Frobenius regulariser."""
    closed_form = problem.distinguishability.minimiser
    assert closed_form is not None
    theta[problem.known] = closed_form(theta[problem.known], problem.alpha)
    report(1, theta)


STEPPERS: dict[str, Callable[..., None]] = {"adam": _adam, "exact": _exact}


def unlearn(
    theta_star: Tensor,
    labels: Tensor,
    distinguishability: Callable[[Tensor], Objective],
    regularizer: Objective,
    alpha: float,
    optimizer: Optimizer,
    threads: Threads = UNCHANGED,
    progress: Progress = FORGETFUL,
    ranks: Ranks = ALONE,
) -> Unlearned:
    """Minimise eq. 1 from θ*; the last step is kept, as in the artefact.

    Args:
        theta_star: (n, K) original user embedding.
        labels: (n,) int64, classes 0 .. C-1; users of unknown label (-1) are left untouched.
        distinguishability: gives l_u for the labels of known users.
        regularizer: l_r, of all users.
        alpha: weight of l_r.
        optimizer: which, and how far.
        threads: of the steps, on a CPU.
        progress: keeps the state after a step whose losses were looked at; one that was kept from
            the same θ* is gone on from, to the same bytes.
        ranks: who make the same steps, each of its own θ.

    Raises:
        UserError: a loss is not finite.
    """
    known = labels >= 0
    problem = Problem(
        distinguishability(labels[known]), regularizer, alpha, known, bool(known.all())
    )
    theta = theta_star.clone()
    history: list[dict[str, float]] = []
    before = progress.load() or {}
    if before:
        theta.copy_(before["theta"])
        history += json.loads(before["history"])
        log.info("Resuming after step %d of %d", before["step"], optimizer.steps)
    spent, first = before.get("seconds", 0.0), before.get("step", 0)
    ranks.check_same({"the step that unlearning goes on after": first}, SAME_FOLDERS)
    bar = tqdm(total=optimizer.steps, initial=first, desc="unlearning", unit="step", leave=False)

    # whether θ was finite after each step since the last report; read together, since reading
    # makes the CPU wait for the device
    finite: list[Tensor] = []

    warm = 0.0  # the first step's seconds, which are more than others'

    def tick(theta: Tensor) -> None:
        nonlocal warm
        warm = warm or time.perf_counter() - start
        finite.append(theta.isfinite().all())
        bar.update()

    def check(step: int, alive: list[bool]) -> None:
        if not all(alive):
            raise _diverged(step + 1 - len(alive) + alive.index(False), optimizer, history)

    def report(step: int, theta: Tensor) -> bool:
        alive = torch.stack(finite).tolist() if finite else []
        ranks.agree(lambda: check(step, alive))
        finite.clear()
        hidden, kept = problem.values(theta)
        ranks.agree(lambda: check(step, [math.isfinite(hidden) and math.isfinite(kept)]))
        history.append({"step": step, "distinguishability": hidden, "regularizer": kept})
        bar.set_postfix_str(f"distinguishability {hidden:.4g}", refresh=False)
        enough = optimizer.tolerance * history[0]["distinguishability"]
        return optimizer.tolerance > 0 and hidden <= enough

    def keep(step: int, theta: Tensor, adam: torch.optim.Optimizer) -> None:
        passed = time.perf_counter() - start
        if step - first == REPORT_EVERY:
            left = (passed - warm) / (REPORT_EVERY - 1) * (optimizer.steps - step)
            if left > LONG:
                minutes = math.ceil(left / 60)
                log.info("  about %d minutes; an interruption costs one at most", minutes)
        progress.save(
            lambda: {
                "step": step,
                "theta": theta,
                "adam": adam.state_dict(),
                "history": json.dumps(history),
                "seconds": spent + passed,
            }
        )

    with bar, torch.no_grad():
        if not before:
            report(0, theta)
        start = time.perf_counter()
        STEPPERS[optimizer.name](problem, theta, optimizer, threads, report, tick, keep, before)
        seconds = spent + time.perf_counter() - start
        chance = problem.chance(theta_star), problem.chance(theta)
    spread = class_spread(theta[known], labels[known])
    return Unlearned(theta, share_moved(theta_star, theta), spread, history, chance, seconds)


def class_spread(theta: Tensor, labels: Tensor) -> float:
    """How far users lie from their class's mean, as a share of how far from zero: the root of
    Σ_i ||θ_i - mean of i's class||² / Σ_i ||θ_i||²; 0 where all are zero.

    Args:
        theta: (n, K).
        labels: (n,) int64, classes 0 .. C-1.
    """
    theta = theta.double()
    members = torch.nn.functional.one_hot(labels).double()  # (n, C)
    means = members.T @ theta / members.sum(0)[:, None]
    size = theta.norm().item()
    return (theta - means[labels]).norm().item() / size if size else 0.0


def _diverged(step: int, optimizer: Optimizer, history: list[dict[str, float]]) -> UserError:
    before = f", {history[-1]['distinguishability']:g} before" if history else ""
    return UserError(
        f"step {step} of {optimizer.steps}: the loss is no longer finite{before}; lower "
        f"unlearn_lr (now {optimizer.lr:g}) or au_trade_off. Last good state: the original, "
        "which is as it was"
    )


@dataclass(frozen=True)
class Units:
    """Numbers x in which a table has PUBLISHED_SPREAD: θ = centre + size · x, in float64, so that
    a table times a power of two has the same x.

    Attributes:
        centre: (K,) float64.
        size: 1 where all users are one point.
    """

    centre: Tensor
    size: float

    @classmethod
    def of(cls, theta: Tensor) -> "Units":
        """Those of users (n, K)."""
        theta = theta.double()
        with one_thread():
            centre = theta.mean(0)
            spread = (theta - centre).square().mean().sqrt().item()
        return cls(centre, spread / PUBLISHED_SPREAD if spread else 1.0)

    def of_own(self, theta: Tensor) -> Tensor:
        """The x of θ (n, K), in θ's dtype."""
        return ((theta.double() - self.centre) / self.size).to(theta.dtype)

    def to_own(self, x: Tensor) -> Tensor:
        """The θ (n, K) of x, in x's dtype."""
        return (self.centre + self.size * x.double()).to(x.dtype)

    def brought_back(self, done: Unlearned, theta_star: Tensor, labels: Tensor) -> Unlearned:
        """What was unlearned from x of θ* as an embedding beside θ*; a row that did not move has
        the bytes that it had. The history stays in x.
        """
        moved = (done.embedding != self.of_own(theta_star)).any(1, keepdim=True)
        theta = torch.where(moved, self.to_own(done.embedding), theta_star)
        known = labels >= 0
        return replace(
            done,
            embedding=theta,
            moved=share_moved(theta_star, theta),
            spread=class_spread(theta[known], labels[known]),
        )


@dataclass(frozen=True)
class FromHere:
    """Progress of work that starts from an embedding and draws from a generator, whose state is
    kept too. What was kept of another embedding doesn't count: an original may have been trained
    again, on another machine.
    """

    progress: Progress
    start: Tensor
    rng: np.random.Generator

    def load(self) -> Mapping[str, Any] | None:
        """What was kept; the generator goes on from there."""
        state = self.progress.load()
        if state is None or state.get("start") != self._start():
            return None
        self.rng.bit_generator.state = json.loads(state["generator"])
        return state

    def save(self, state: Callable[[], Mapping[str, Any]]) -> None:
        """The state, and what it belongs to."""

        def whole() -> Mapping[str, Any]:
            generator = json.dumps(self.rng.bit_generator.state)
            return {**state(), "start": self._start(), "generator": generator}

        self.progress.save(whole)

    def _start(self) -> str:
        return hashlib.sha256(self.start.cpu().numpy().tobytes()).hexdigest()


LossFactory = Callable[[Tensor, Tensor, Any, np.random.Generator], Objective]
"""Known users' rows of θ* (n, K), their labels (n,), the method's options, generator -> l_u."""


def eq1(loss: LossFactory, ranks: Ranks = ALONE) -> Fit:
    """The fit of a method that minimises eq. 1 with this l_u, of which several ranks each get the
    same; all else of a step each does by itself.
    """

    def fit(
        tables: UserTables,
        labels: Labels,
        options: Eq1Options,
        rng: np.random.Generator,
        scorer: TopScorer | None,
        threads: Threads,
        progress: Progress = FORGETFUL,
    ) -> TransductiveEraser:
        (classes,) = labels.values()
        own = torch.cat(list(tables.values()), 1)
        known = classes >= 0
        units = Units.of(own[known]) if options.unlearn_scale == "relative" else None
        theta_star = units.of_own(own) if units else own
        if options.regularizer == "frobenius":
            regularizer = frobenius(theta_star)
        else:
            assert scorer is not None  # checked at the door
            if len(tables) > 1:
                raise UserError(
                    'regularizer "ranking" looks at one user table, and there are '
                    f'{", ".join(tables)}; take scope "embedding" or regularizer "frobenius"'
                )
            regularizer = ranking(scorer(options.ranking_top), options.ranking_margin)
            if units:
                regularizer = regularizer.of_affine(units.size, units.centre.to(own.dtype))

        def distinguishability(of_known: Tensor) -> Objective:
            return loss(theta_star[known], of_known, options, rng)

        done = unlearn(
            theta_star,
            classes,
            distinguishability,
            regularizer,
            options.au_trade_off,
            options.optimizer(),
            threads,
            FromHere(progress, theta_star, rng),
            ranks,
        )
        if units:
            done = units.brought_back(done, own, classes)
        widths = [table.shape[1] for table in tables.values()]
        edited = dict(zip(tables, done.embedding.split(widths, 1), strict=True))
        return TransductiveEraser(dict(tables), edited, done.summary(), done.history)

    return fit

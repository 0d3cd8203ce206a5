"""Post-training unlearning: minimise l_u(θ) + alpha l_r(θ) over the user embedding (eq. 1)."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from utils.errors import UserError

Objective = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Maps θ (n, K) to its loss (a scalar) and the gradient (n, K)."""


@dataclass(frozen=True)
class Unlearned:
    """What unlearning gives back.

    Attributes:
        embedding: (n, K), the new user embedding.
        moved: ||θ - θ*||_F / ||θ*||_F.
        history: a dict every 50 steps: step, distinguishability (l_u) and regularizer (l_r)
            before the step.
        seconds: time of the optimisation loop alone, as in the papers' Table 2.
    """

    embedding: Tensor
    moved: float
    history: list[dict[str, float]]
    seconds: float

    def summary(self) -> dict[str, Any]:
        """What a run's summary records."""
        return {"moved": self.moved, "losses": self.history[-1], "seconds": self.seconds}


def unlearn(
    theta_star: Tensor,
    labels: Tensor,
    distinguishability: Callable[[Tensor], Objective],
    regularizer: Objective,
    alpha: float,
    steps: int,
    lr: float,
) -> Unlearned:
    """`steps` full-batch Adam steps from θ*; the last one is kept, as in the artefact.

    Args:
        theta_star: (n, K) original user embedding.
        labels: (n,) int64, classes 0 .. C-1; users of unknown label (-1) are left untouched.
        distinguishability: gives l_u for the labels of known users.
        regularizer: l_r, of all users.
        alpha: weight of l_r.
        steps, lr: Adam's.

    Raises:
        UserError: a loss is not finite.
    """
    known = labels >= 0
    hidden_loss = distinguishability(labels[known])
    theta = theta_star.clone()
    optimizer = torch.optim.Adam([theta], lr=lr)
    history: list[dict[str, float]] = []
    pending: list[tuple[Tensor, Tensor]] = []
    start = time.perf_counter()
    bar = tqdm(range(1, steps + 1), desc="unlearning", unit="step", leave=False)
    with torch.no_grad():
        for step in bar:
            hidden, hidden_gradient = hidden_loss(theta[known])
            kept, gradient = regularizer(theta)
            # a zero gradient all along leaves a row as it is: Adam divides 0 by epsilon
            theta.grad = torch.zeros_like(theta)
            theta.grad[known] = hidden_gradient + alpha * gradient[known]
            optimizer.step()
            pending.append((hidden, kept))
            if step == 1 or step % 50 == 0 or step == steps:
                # read together: reading a loss makes the CPU wait for the device
                losses = [(a.item(), b.item()) for a, b in pending]
                pending.clear()
                for number, (a, b) in enumerate(losses, start=step + 1 - len(losses)):
                    if not (math.isfinite(a) and math.isfinite(b)):
                        raise _diverged(number, steps, lr, f"the loss is {a:g} + alpha * {b:g}")
                a, b = losses[-1]
                history.append({"step": step, "distinguishability": a, "regularizer": b})
                bar.set_postfix_str(f"distinguishability {a:.4g}")
    seconds = time.perf_counter() - start
    if not theta.isfinite().all():
        raise _diverged(steps, steps, lr, f"the embedding is not finite after a loss of {a:g}")
    moved = (theta - theta_star).norm() / theta_star.norm()
    return Unlearned(theta, moved.item(), history, seconds)


def _diverged(step: int, steps: int, lr: float, what: str) -> UserError:
    return UserError(
        f"step {step} of {steps}: {what}; lower unlearn_lr (now {lr:g}) or au_trade_off. "
        "Last good state: the original, which is as it was"
    )

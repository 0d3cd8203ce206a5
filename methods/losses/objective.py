"""What unlearning minimises: a function of the user embedding and its gradient."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Objective:
    """A loss of θ (n, K).

    Attributes:
        value: θ -> a scalar.
        gradient: θ -> (n, K), a fresh tensor. Apart from the value, since an Adam step needs
            the gradient alone.
        minimiser: where there is a closed form, (θ*, alpha) -> the θ that minimises this loss
            + alpha ||θ - θ*||_F².
    """

    value: Callable[[Tensor], Tensor]
    gradient: Callable[[Tensor], Tensor]
    minimiser: Callable[[Tensor, float], Tensor] | None = None

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
        chance: where random groups of the users differ too, θ -> the mean of this loss over all
            permutations of their labels.
    """

    value: Callable[[Tensor], Tensor]
    gradient: Callable[[Tensor], Tensor]
    minimiser: Callable[[Tensor, float], Tensor] | None = None
    chance: Callable[[Tensor], Tensor] | None = None

    def of_affine(self, factor: Tensor | float, shift: Tensor | float = 0.0) -> "Objective":
        """The loss of shift + factor θ as a function of θ; `factor` and `shift` are numbers or
        (K,). Without a closed form.
        """
        value, gradient, chance = self.value, self.gradient, self.chance
        return Objective(
            lambda theta: value(shift + factor * theta),
            lambda theta: gradient(shift + factor * theta).mul_(factor),
            chance=chance and (lambda theta: chance(shift + factor * theta)),
        )

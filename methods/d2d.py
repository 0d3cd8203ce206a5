"""D2D-R, distribution-to-distribution (Li et al., ACM MM 2023, eq. 6 and 11).

    l_D(θ) = MMD(S_1, S_2)

with the artefact's five radial kernels, whose width follows θ; `methods.losses.mmd` holds the
mathematics and what is done for more than two classes.
"""

from torch import Tensor

from methods.base import Method
from methods.losses.mmd import Classes, mmd, mmd_gradient
from methods.losses.objective import Objective
from methods.unlearning import Eq1Options, eq1


def distinguishability(labels: Tensor) -> Objective:
    """l_D for these labels ((n,) int64, 0 .. C-1) as a function of θ (n, K)."""
    classes = Classes.of(labels)
    return Objective(lambda theta: mmd(theta, classes), lambda theta: mmd_gradient(theta, classes))


METHOD = Method("D2D-R", Eq1Options, eq1(distinguishability))

"""How sure an attack's figures are."""

import math


def auc_standard_error(auc: float, n_positive: int, n_negative: int) -> float:
    """Standard error of an AUC over so many test users (Hanley and McNeil, Radiology 1982).

    With A the AUC, Q1 = A / (2 - A) and Q2 = 2 A² / (1 + A),

        se² = (A (1 - A) + (n_p - 1) (Q1 - A²) + (n_n - 1) (Q2 - A²)) / (n_p n_n).
    """
    first, second = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = (
        auc * (1 - auc) + (n_positive - 1) * (first - auc**2) + (n_negative - 1) * (second - auc**2)
    )
    return math.sqrt(variance / (n_positive * n_negative))

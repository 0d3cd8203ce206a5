"""The attacking classifiers: user embedding -> attribute, scikit-learn's interface.

Each factory takes the protocol's name and a seed. "mlp" and "xgb" are the papers' attackers with
each protocol's own settings (MM23 for "shadow", the artefact for "cv"). The papers' MLP sees
unscaled features, a few hundredths in size, under a strong L2 penalty, which makes it a weak
attacker; "mlp-scaled" and "svm" see standardised ones and show what that hides.
"""

from collections.abc import Callable
from typing import Any

from sklearn.base import ClassifierMixin
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from xgboost import XGBClassifier

MLP_SETTINGS: dict[str, dict[str, Any]] = {
    "shadow": dict(hidden_layer_sizes=(100,), alpha=1.0, max_iter=1000),
    "cv": dict(hidden_layer_sizes=(100,), alpha=1.0, max_iter=500, learning_rate_init=0.01),
}

XGB_SETTINGS: dict[str, dict[str, Any]] = {
    "shadow": {},
    "cv": dict(max_depth=4, n_estimators=50, learning_rate=0.5, tree_method="hist"),
}


def mlp(protocol: str, seed: int) -> ClassifierMixin:
    """The papers' MLP: one hidden layer of 100 on the raw embedding."""
    return MLPClassifier(random_state=seed, **MLP_SETTINGS[protocol])


def mlp_scaled(protocol: str, seed: int) -> ClassifierMixin:
    """The same on standardised features."""
    return make_pipeline(StandardScaler(), mlp(protocol, seed))


def xgb(protocol: str, seed: int) -> ClassifierMixin:
    """The papers' gradient-boosted trees; one thread, since rounds run in parallel."""
    return XGBClassifier(random_state=seed, n_jobs=1, **XGB_SETTINGS[protocol])


def svm(protocol: str, seed: int) -> ClassifierMixin:
    """A support vector machine with an RBF kernel on standardised features."""
    return make_pipeline(StandardScaler(), SVC(random_state=seed))


ATTACKERS: dict[str, Callable[[str, int], ClassifierMixin]] = {
    "mlp": mlp,
    "xgb": xgb,
    "mlp-scaled": mlp_scaled,
    "svm": svm,
}

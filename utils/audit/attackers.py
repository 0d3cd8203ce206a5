"""The attacking classifiers: user embedding -> attribute, scikit-learn's interface.

Each factory takes the protocol's name and a seed. "mlp" and "xgb" are the papers' attackers with
each protocol's own settings (MM23 for "shadow", the artefact for "cv"). The papers' MLP sees
unscaled features, a few hundredths in size, under a strong L2 penalty, which makes it a weak
attacker; "mlp-scaled" and "svm" see standardised ones and show what that hides.

STRONG is all of them: what a class gives away may be a shift (logistic), a spread (qda), an
interaction (svm, forest, boosting) or a neighbourhood (knn), and an attacker who tries looks for
each. Scalers are fitted on the attacker's own users. Settings are customary ones, chosen on no data
of ours.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
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


def mlp_whitened(protocol: str, seed: int) -> ClassifierMixin:
    """The MLP on whitened features: narrow directions count as much as wide ones."""
    whiten = PCA(n_components=0.999, whiten=True, svd_solver="full")
    return make_pipeline(StandardScaler(), whiten, mlp(protocol, seed))


def logistic(protocol: str, seed: int) -> ClassifierMixin:
    """Logistic regression on standardised features."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))


class _Quadratic(QuadraticDiscriminantAnalysis):
    """Takes the nearest mean where it knows too few users of a class for a covariance."""

    def fit(self, X: Any, y: Any) -> Any:
        self.nearest_ = None
        try:
            return super().fit(X, y)
        except (ValueError, np.linalg.LinAlgError):  # one user of a class, or two alike
            self.nearest_ = GaussianNB(var_smoothing=1.0).fit(X, y)
            self.classes_ = self.nearest_.classes_
            return self

    def predict(self, X: Any) -> Any:
        return self.nearest_.predict(X) if self.nearest_ else super().predict(X)

    def predict_proba(self, X: Any) -> Any:
        return self.nearest_.predict_proba(X) if self.nearest_ else super().predict_proba(X)


def qda(protocol: str, seed: int) -> ClassifierMixin:
    """Quadratic discriminant analysis, for classes that differ in spread; covariances shrunk."""
    return make_pipeline(StandardScaler(), _Quadratic(solver="eigen", shrinkage="auto"))


class _Nearest(KNeighborsClassifier):
    """Asks all users where the attacker knows fewer than it would ask."""

    n_neighbors: int

    def fit(self, X: Any, y: Any) -> "_Nearest":
        self.n_neighbors = min(self.n_neighbors, len(X))
        return super().fit(X, y)


def knn(protocol: str, seed: int) -> ClassifierMixin:
    """The fifteen nearest of the attacker's users."""
    return make_pipeline(StandardScaler(), _Nearest(n_neighbors=15))


def forest(protocol: str, seed: int) -> ClassifierMixin:
    """A random forest; blind to scale, sharp where many users share a value."""
    return RandomForestClassifier(n_estimators=100, min_samples_leaf=3, random_state=seed)


def boosting(protocol: str, seed: int) -> ClassifierMixin:
    """Gradient boosting on histograms."""
    return HistGradientBoostingClassifier(
        max_iter=60, learning_rate=0.1, max_leaf_nodes=15, early_stopping=False, random_state=seed
    )


ATTACKERS: dict[str, Callable[[str, int], ClassifierMixin]] = {
    "mlp": mlp,
    "xgb": xgb,
    "mlp-scaled": mlp_scaled,
    "svm": svm,
    "mlp-whitened": mlp_whitened,
    "logistic": logistic,
    "qda": qda,
    "knn": knn,
    "forest": forest,
    "boosting": boosting,
}

STRONG = "strong"
"""Stands for every attacker there is."""


def battery(names: Sequence[str]) -> tuple[str, ...]:
    """The attackers that these names stand for, each once."""
    spread = (one for name in names for one in (ATTACKERS if name == STRONG else [name]))
    return tuple(dict.fromkeys(spread))

"""What each choice, on which paper, companion and artefact disagree, is worth; measured."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from utils.reproduction.cells import Measured
from utils.reproduction.results import (
    METHODS,
    POST_TRAINING,
    RC25,
    Results,
    Setting,
    on_common_seeds,
)

Figures = dict[str, Measured | None]


@dataclass(frozen=True)
class Choice:
    """One way to do a thing.

    Attributes:
        name: in the table.
        settings: keys of the experiment config that differ from the defaults.
        regularizer, alpha: of the post-training methods.
        protocol, attackers: how the AUC columns are measured; the attackers stand in for the
            published MLP and XGB.
    """

    name: str
    settings: Mapping[str, Any]
    regularizer: str = RC25.regularizer
    alpha: float = RC25.alpha
    protocol: str = "cv"
    attackers: tuple[str, str] = ("mlp", "xgb")

    @property
    def setting(self) -> Setting:
        """Which runs were made so."""
        return Setting(
            self.regularizer, self.alpha, lambda model, settings: settings == dict(self.settings)
        )


@dataclass(frozen=True)
class Deviation:
    """A disagreement.

    Attributes:
        title: what about.
        text: who does what, and what we do.
        choices: ours first.
        methods: methods that show it.
        model, dataset: what it is measured with and on.
    """

    title: str
    text: str
    choices: tuple[Choice, ...]
    methods: tuple[str, ...] = ("original", "d2d")
    model: str = "ncf"
    dataset: str = "ml-100k"


OURS = Choice("ours", {})

DEVIATIONS = (
    Deviation(
        "Choice of epoch",
        "The artefact keeps the epoch with the best HR@10 on test, and trains on all but the test "
        "interactions. We hold a validation interaction out and choose by that; "
        "`selection=test` does as the artefact.",
        (OURS, Choice("on test", {"selection": "test"})),
    ),
    Deviation(
        "Equal timestamps",
        "Nobody says which of several interactions at a user's last second is the test. We take "
        "the later line of the file; `time_ties=first` the earlier.",
        (OURS, Choice("earlier line", {"time_ties": "first"})),
    ),
    Deviation(
        "Which interaction is left out",
        "RC25 leaves out the most recent interaction, MM23 splits at random (80/10/10); "
        "`held_out=random` leaves out random ones.",
        (OURS, Choice("random", {"held_out": "random"})),
    ),
    Deviation(
        "Filter",
        "Both papers remove users and items with fewer than 5 interactions; `min_interactions=1` "
        "removes none. The last row adds the artefact's choice of epoch.",
        (
            OURS,
            Choice("none", {"min_interactions": 1}),
            Choice("none, on test", {"min_interactions": 1, "selection": "test"}),
        ),
    ),
    Deviation(
        "Which items are negatives",
        "Nobody says whether the items that the filter removes are gone, or can still be drawn: "
        "where interactions are filtered and items keep their numbers, they can, untouched and "
        "easy to rank low. `catalogue=whole` draws from all 1,682. (In which order, and how often, "
        "users and items are filtered makes no difference here: the first pass over the items "
        "leaves every user 19 interactions.)",
        (OURS, Choice("removed ones too", {"catalogue": "whole"})),
    ),
    Deviation(
        "How negatives are drawn",
        "Ours are 99 different items that the user never touched. `test_negatives=repeated` draws "
        "with repetition, `test_negatives=untrained` spares only the user's training items and the "
        "positive.",
        (
            OURS,
            Choice("with repetition", {"test_negatives": "repeated"}),
            Choice("untrained", {"test_negatives": "untrained"}),
        ),
    ),
    Deviation(
        "Regulariser",
        "Both papers write the Frobenius norm; the artefact runs a hinge on each user's original "
        "top 20 (`ranking`). The default of `main.py` is `frobenius`; the tables beside RC25 show "
        "both.",
        (Choice("frobenius (default)", {}, regularizer="frobenius"), Choice("ranking", {})),
        POST_TRAINING,
    ),
    Deviation(
        "Embedding size",
        "RC25's artefact has K = 32 (NMF), MM23 K = 16.",
        (OURS, Choice("K = 16", {"embedding_size": 16})),
    ),
    Deviation(
        "LightGCN's loss",
        "LightGCN's own paper trains with BPR, the artefact with binary cross-entropy.",
        (OURS, Choice("bpr", {"loss": "bpr"})),
        model="lgn",
    ),
    Deviation(
        "LightGCN's batch",
        "The artefact has 256. Larger ones, at the same number of epochs: on ML-100K, 1024 makes "
        "about as many steps as 8192 does on ML-1M. Retrain's MMD term comes with every 50th "
        "batch, so a larger batch has fewer of them.",
        (OURS, Choice("1024", {"batch_size": 1024}), Choice("8192", {"batch_size": 8192})),
        ("original", "d2d", "retrain", "adv"),
        "lgn",
    ),
    Deviation(
        "LightGCN's batch on ML-1M",
        "The same on ML-1M, which was trained with 8192 alone at first: batch 256 took half a day "
        "a run then. Runs at 256 were trained on a GPU.",
        (OURS, Choice("8192", {"batch_size": 8192})),
        tuple(METHODS),
        "lgn",
        "ml-1m",
    ),
    Deviation(
        "D2D's rate on ML-1M",
        "The artefact's rate is 0.001 for every embedding. How far 500 steps reach depends on how "
        "large it is: LightGCN's on ML-1M has a spread of 1.4, NMF's on ML-100K 0.26. With a "
        "sixteenth of the rate the attackers find nearly all that they found before.",
        (OURS, Choice("lr / 16", {"unlearn_lr": 6.25e-05})),
        ("d2d",),
        "lgn",
        "ml-1m",
    ),
    Deviation(
        "Retrain's interval on ML-1M",
        "The artefact adds the MMD term on every 50th batch. With its batches of 256 that makes "
        "386 terms an epoch on ML-1M, with 8192 only 13; `retrain_interval=2` makes 302.",
        (
            Choice("every 50th of 256", {}),
            Choice("every 50th of 8192", {"batch_size": 8192}),
            Choice("every 2nd of 8192", {"batch_size": 8192, "retrain_interval": 2}),
        ),
        ("retrain",),
        "lgn",
        "ml-1m",
    ),
    Deviation(
        "Who trains the attacker",
        "MM23 exposes a tenth of the users (`shadow`), the artefact cross-validates (`cv`): 436 "
        "users instead of 55 train the attacker, and D2D-R's signature turns from below 0.5 "
        "towards 0.5.",
        (Choice("cv", {}), Choice("shadow", {}, protocol="shadow")),
        tuple(METHODS),
    ),
    Deviation(
        "Which men, which folds",
        "The artefact draws as many men as there are women by Python's `random.seed(4)`, and does "
        "not shuffle its five folds: its three repeats test the same users in the same folds, and "
        "differ in the MLP's seeds alone. Our `cv` draws both by `attack_seed`, folds anew for "
        "each repeat; `cv-artefact` does as the artefact. All its seeds, and ours, attack the same "
        "546 users, so that no ± here counts the draw.",
        (Choice("cv", {}), Choice("cv-artefact", {}, protocol="cv-artefact")),
        tuple(METHODS),
    ),
    Deviation(
        "How the adversary starts",
        "The artefact leaves Adv-InT's adversary as PyTorch makes linear layers; ours has Xavier's "
        "weights and biases of zero. `adv_init=pytorch` does as the artefact.",
        (OURS, Choice("PyTorch's", {"adv_init": "pytorch"})),
        ("adv",),
    ),
    Deviation(
        "What the MLP sees",
        "Both papers feed the raw embedding, whose features are of size 0.01 to 0.1, into an MLP "
        "with an L2 penalty of 1; `mlp-scaled` standardises them first.",
        (Choice("raw", {}), Choice("standardised", {}, attackers=("mlp-scaled", "xgb"))),
        tuple(METHODS),
    ),
)


def figures(results: Results, runs: pd.DataFrame, choice: Choice) -> Figures:
    """HR@10, NDCG@10 and the attackers' AUC of one method's runs under one choice."""
    mlp, xgb = choice.attackers
    return {
        "HR@10": results.recommendation(runs, "HR@10"),
        "NDCG@10": results.recommendation(runs, "NDCG@10"),
        "AUC of MLP": results.attack(runs, choice.protocol, mlp, "auc"),
        "AUC of XGB": results.attack(runs, choice.protocol, xgb, "auc"),
    }


@dataclass(frozen=True)
class Worth:
    """One row: a method under one choice, over the seeds that all of its choices have."""

    method: str
    choice: str
    figures: Figures


def worth(results: Results, deviation: Deviation) -> Iterator[Worth]:
    """The rows of one deviation's table: the choices that were run, over the same seeds."""
    for method in deviation.methods:
        runs = on_common_seeds(
            {
                choice.name: results.of(choice.setting, deviation.dataset, deviation.model, method)
                for choice in deviation.choices
            }
        )
        if len(runs) < 2:
            continue
        for choice in deviation.choices:
            if choice.name in runs:
                yield Worth(
                    METHODS[method], choice.name, figures(results, runs[choice.name], choice)
                )

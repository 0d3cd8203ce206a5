"""Methods that edit, audited: who still reads the attribute, where, and what it costs."""

import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from methods import METHODS, ExperimentConfig
from utils.config import Group, identity
from utils.pages.parts import Grid, Section, Tone
from utils.reproduction.frontier import at_a_glance, frontier_sections
from utils.reproduction.results import block_title
from utils.runs import records

INTRODUCTION = (
    "What ten attackers read of an attribute after a method has edited the user vectors, at every "
    "place where a user has some: the model's user tables, what it serves, its scores, its top-20 "
    "lists. Half of the users trains the attackers, the other half tests them "
    "([how](../README.md#an-audit)). A leak is a worst attacker beyond 95 of 100 permutations of "
    "the tested labels, on either side of 0.5.",
    "The rows: audits.csv beside this page, by `python main.py --config FILE` and `python "
    "attack.py --config FILE` with configs/erasers_ml100k.json and erasers_audit_ml100k.json, "
    "erasers_ml1m.json and erasers_audit_ml1m.json, on two CPU cores (AMD EPYC without AVX-512), "
    "but for LightGCN's Original, D2D-R (`embedding`), Retrain and Adv-InT on ML-1M, of an H200; "
    "this page by `python -m utils.reproduction`. The methods' settings are their defaults, but in "
    "the last sections, the frontiers, and where Calibrated's are said: these were its defaults "
    "when the rows were made. All audits have the same halves (`attack_seed=0`), and "
    "models of different seeds share their users: seeds are no independent samples of people.",
)

WORST = (
    "**Worst**: |AUC - 0.5| of the worst attacker at the worst place, mean over seeds (least to "
    "most), beside what the worst finds by chance (95 %). **NDCG@10**: share of the original's "
    "that is kept. **Seconds**: of the edit alone. `scope` is what was edited "
    "([methods](../../methods/README.md#what-is-edited-scope))."
)
BY_PLACE = (
    "By place: the worst attacker's |AUC - 0.5|, mean over seeds, and in how many of them it is a "
    "leak for this place by itself."
)
METHODS_SAID = (
    "x are a user's vectors side by side, c the user's class with share p_c, mean m_c and "
    "covariance A_c; x̄ and Σ of all users. Formulas and sources: "
    "[methods](../../methods/README.md).",
    "**LEACE** x - W⁺ P W (x - x̄), W = Σ^-½, P onto the columns of W Σ_xz: no linear predictor of "
    "the label z beats a constant *on these users*, and no affine map that achieves it moves them "
    "less. **Gaussian barycentre** μ + T(A_c, S) (x - m_c): the classes' means and covariances "
    "become equal *on these users*. **Calibrated** gives each class, instead of equal moments, "
    "those of its group in a random partition, and radii likewise: for Gaussian data, and with "
    "`calibrated_rho=0`, the labels then look drawn at random, from any half of the users too. "
    "What is not Gaussian only the polish removes, and only what a ridge finds, on linear or "
    "random Fourier features, or what else it looks at (`calibrated_views`).",
    "The first two, and D2D's MMD, make the classes of all users alike beyond chance. Who trains "
    "on one half finds the other half's differences to be the first one's with the sign turned: "
    "hence AUCs far below 0.5, the more dimensions the farther.",
)
LIMITS = (
    "Two data sets, the larger with one to three seeds; other attributes than gender with three "
    "seeds on the smaller one, on the larger with one, or three of LightGCN's `batch_size=8192`; "
    "one pair of halves: each verdict is exact "
    "for its halves, and how many seeds leak is no estimate of how often one would. Users whose "
    "label the method has not seen are not protected. The lists leave out what a user is known to "
    "have. That tells of the history whatever the vectors are, and no edit of vectors hides it: a "
    "baseline of each audit, the most popular items without the known ones, shows how much. "
    "Embeddings of other libraries: [strangers.md](strangers.md).",
)
SCOPES = ("embedding", "tables", "served")
EARLIER = ("calibrated_band=0 calibrated_views=scaled", "calibrated_views=both")
"""Dials: calibrated's first defaults, and the ones after."""
OF_ORIGINAL = identity(ExperimentConfig(), {Group.DATA, Group.TRAINING}).keys()
"""Keys that make another original."""


def erasers_page(folder: Path) -> list[Section]:
    """The page's sections, the first its title; none where there are no audits.

    Args:
        folder: holds audits.csv and runs.csv; the frontier's are in frontier/.
    """
    audits = _frame(folder)
    if audits.empty:
        return []
    title, frontier = "Erasers, audited", _frame(folder / "frontier")
    return [
        Section(title, list(INTRODUCTION)),
        *at_a_glance(frontier),
        Section("Methods", list(METHODS_SAID)),
        *_blocks(
            audits[
                audits["dial"].isin(["", *EARLIER])
                & (audits["original"] == "")
                & (audits["trained_on"] == "audited")
            ]
        ),
        *frontier_sections(frontier),
        Section("Limits", list(LIMITS)),
    ]


def _blocks(audits: pd.DataFrame) -> Iterator[Section]:
    for (dataset, model, attribute), block in audits.groupby(["dataset", "model", "attribute"]):
        seeds = sorted(set(block["seed"]), key=int)
        title = f"{block_title(dataset, model)}, {attribute}"
        said = f"Seeds {', '.join(seeds)}; {block['users'].iloc[0]} tested users."
        yield Section(title, [said, WORST, _worst(block), BY_PLACE, _by_place(block)])


def _worst(block: pd.DataFrame) -> Grid:
    rows: list[list[str]] = []
    tones: list[list[Tone]] = []
    for name, scope, group in _methods(block[block["place"] == records.ALL_PLACES]):
        leaks = int(group["leaks"].sum())
        found = group["leakage"]
        place = group["place_of_worst"].mode()[0]
        rows.append(
            [
                name,
                scope,
                f"{found.mean():.3f}{_range(found)}",
                f"{group['null_95'].mean():.3f}",
                f"{leaks} of {len(group)}",
                place,
                _share(group["kept"]),
                "–" if group["seconds"].isna().all() else f"{group['seconds'].mean():.1f}",
            ]
        )
        tone: Tone = "bad" if leaks == len(group) else "fair" if leaks else "good"
        tones.append(["", "", tone, "", tone, "", "", ""])
    header = ["Method", "scope", "Worst", "By chance", "Leaks", "Mostly at", "NDCG@10", "Seconds"]
    return Grid(header, rows, tones)


def _by_place(block: pd.DataFrame) -> Grid:
    block = block[block["place"] != records.ALL_PLACES]
    places = list(dict.fromkeys(block["place"]))
    rows: list[list[str]] = []
    tones: list[list[Tone]] = []
    for name, scope, group in _methods(block):
        row, tone = [name, scope], ["", ""]
        for place in places:
            of = group[group["place"] == place]
            leaks = int(of["leaks"].sum())
            row.append(f"{of['leakage'].mean():.3f} ({leaks} of {len(of)})" if len(of) else "–")
            tone.append(
                "" if not len(of) else "bad" if leaks == len(of) else "" if leaks else "good"
            )
        rows.append(row)
        tones.append(tone)  # type: ignore[arg-type]
    return Grid(["Method", "scope", *places], rows, tones)


def _methods(block: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Title, scope and rows, in the registry's order; a method that edits nothing has no scope."""
    for method, scope, dial in product(METHODS, SCOPES, ("", *EARLIER)):
        of = (block["method"] == method) & (block["scope"] == scope) & (block["dial"] == dial)
        if of.any():
            title = METHODS[method].title + (f", `{dial}`" if dial else "")
            yield title, scope if METHODS[method].fit else "–", block[of]


def _range(found: pd.Series) -> str:
    return f" ({found.min():.3f} to {found.max():.3f})" if len(found) > 1 else ""


def _share(kept: pd.Series) -> str:
    return "–" if kept.isna().all() else f"{kept.mean():.1%}"


def _frame(folder: Path) -> pd.DataFrame:
    """Audits with the settings and seconds of their runs."""
    record = records.audits(folder)
    audits = pd.DataFrame(record.rows(), columns=list(record.columns), dtype=str)
    own = [json.loads(settings or "{}") for settings in audits["settings"]]
    inferred = [one.pop("infer", None) for one in own]
    audits["attribute"] = [
        f"{infer}, of {hidden}" if infer else hidden
        for infer, hidden in zip(inferred, audits["attribute"], strict=True)
    ]
    audits["trained_on"] = [one.pop("audit_trained_on", "audited") for one in own]
    default = np.array([not one for one in own], dtype=bool)  # of everyone, by the default keys
    audits = audits[default].copy()
    runs: dict[str, dict[str, Any]] = {row["run"]: row for row in records.runs(folder).rows()}
    for column in ("auc", "leakage", "null_95", "p", "kept"):
        audits[column] = pd.to_numeric(audits[column])
    audits["leaks"] = audits["leaks"] == "yes"
    settings = [json.loads(runs.get(run, {}).get("settings") or "{}") for run in audits["run"]]
    audits["scope"] = [one.pop("scope", "embedding") for one in settings]
    trained = [{key: one.pop(key) for key in OF_ORIGINAL & one.keys()} for one in settings]
    audits["original"] = [_as_arguments(one) for one in trained]
    audits["dial"] = [
        _dial(one, alpha) for one, alpha in zip(settings, audits["au_trade_off"], strict=True)
    ]
    audits["seconds"] = [float(runs.get(run, {}).get("seconds", "nan")) for run in audits["run"]]
    edited = audits["method"].map(lambda method: METHODS[method].fit is not None)
    audits["seconds"] = audits["seconds"].where(edited)
    places = audits[audits["place"] != records.ALL_PLACES]
    which = ["run", "attribute", "trained_on"]  # an original has one audit an attribute
    worst = places.loc[places.groupby(which)["leakage"].idxmax(), [*which, "place"]]
    return audits.merge(worst.rename(columns={"place": "place_of_worst"}), on=which)


def _dial(settings: dict[str, Any], alpha: str) -> str:
    """What a run was told of its method, as on the command line."""
    if alpha and float(alpha) != ExperimentConfig.au_trade_off:
        settings = settings | {"au_trade_off": alpha}
    return _as_arguments(settings)


def _as_arguments(settings: dict[str, Any]) -> str:
    """As on the command line."""
    return " ".join(f"{key}={value}" for key, value in sorted(settings.items()))

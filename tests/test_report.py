"""The report: its arithmetic against simulations, its cells against the records by hand."""

import csv
import io
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import attack
import main
import methods
import models
from utils.reproduction.__main__ import main as report_command
from utils.reproduction.cells import (
    Measured,
    auc_error,
    measured,
    ndcg_error,
    order_verdicts,
    share_error,
    verdicts,
)
from utils.reproduction.claims import FAILS, HOLDS, OPEN, PARTLY, Claim, Finding, claims
from utils.reproduction.deviations import DEVIATIONS, worth
from utils.reproduction.results import (
    BLOCKS,
    DATASETS,
    METHODS,
    MM23,
    MODELS,
    POST_TRAINING,
    RC25,
    RC25_FROBENIUS,
    TIMES,
    Results,
    block_title,
    published,
)
from utils.reproduction.sections import spread
from utils.reproduction.tables import tables
from utils.reproduction.trade_off import trade_off
from utils.runs import records

PROJECT = Path(__file__).resolve().parents[1]


def run_row(method="original", seed=0, model="ncf", settings="", hr=0.6, seconds=1.0, **changes):
    """A row of runs.csv whose metrics all follow from `hr`."""
    unlearns = method in ("u2u", "d2d")
    row = {
        "dataset": "ml-100k",
        "model": model,
        "method": method,
        "attribute": "" if method == "original" else "gender",
        "regularizer": "ranking" if unlearns else "",
        "au_trade_off": "1e-06" if unlearns else "",
        "seed": seed,
        "settings": settings,
        "HR@5": hr - 0.1,
        "NDCG@5": hr / 2 - 0.1,
        "HR@10": hr,
        "NDCG@10": hr / 2,
        "seconds": seconds,
        "epoch": "",
        "users": 900,
        "device": "cpu",
        "threads": 1,
        "commit": "0000000",
        **changes,
    }
    which = (row[k] for k in ("dataset", "model", "method", "regularizer", "au_trade_off", "seed"))
    return {key: str(value) for key, value in (row | {"run": f"{(*which, settings)}"}).items()}


def attack_row(run, attacker="mlp", auc=0.7, protocol="cv", accuracy=0.65, **changes):
    """A row of attacks.csv on a row of `run_row`."""
    row = {column: run[column] for column in records.WHICH} | {
        "attribute": "gender",
        "protocol": protocol,
        "settings": "",
        "attacker": attacker,
        "folder": "somewhere",
        "accuracy": accuracy,
        "precision": 0.6,
        "recall": 0.55,
        "auc": auc,
        "auc_std": 0.01,
        "users": 500,
        "test_users": 450,
        "rounds": 15,
        "commit": "0000000",
        "run": run["run"],
        **changes,
    }
    return {key: str(value) for key, value in row.items()}


@pytest.fixture
def write(tmp_path):
    """Writes rows as records; returns what the report reads of them."""

    def write_rows(runs, attacks=()):
        records.runs(tmp_path).add(runs)
        records.attacks(tmp_path).add(attacks)
        return Results.read(tmp_path)

    return write_rows


MADE = {}


def table(results, name):
    """One table; all are made at once, so once for the same results."""
    if id(results) not in MADE:
        MADE[id(results)] = results, tables(results)
    return next(one for one in MADE[id(results)][1] if one.name == name)


def cell(found, method, column, model="ncf", dataset="ml-100k"):
    where = (dataset, model, method, column)
    (one,) = [c for c in found.cells if (c.dataset, c.model, c.method, c.column) == where]
    return one


# --- arithmetic -----------------------------------------------------------------------------


def test_a_standard_error_counts_seeds_and_users():
    ours = measured([0.5, 0.6, 0.7], sampling=0.03)
    assert ours.mean == pytest.approx(0.6) and ours.std == pytest.approx(0.1)
    assert ours.error == pytest.approx(math.sqrt(0.1**2 / 3 + 0.03**2))
    assert measured([0.5], 0.02) == Measured(0.5, 0.0, 1, 0.02)


@pytest.mark.parametrize("share", [0.1, 0.6, 0.95])
def test_share_error_is_what_drawing_users_gives(share):
    drawn = np.random.default_rng(0).binomial(400, share, 20_000) / 400
    assert share_error(share, 400) == pytest.approx(drawn.std(), rel=0.03)
    assert share_error(share, 0) == 0


@pytest.mark.parametrize("auc", [0.5, 0.7, 0.9, 0.3])
def test_auc_error_is_what_drawing_users_gives(auc):
    from scipy.stats import norm

    rng, users = np.random.default_rng(1), 200
    truth = np.repeat([0, 1], users // 2)
    shift = math.sqrt(2) * norm.ppf(auc)  # of two normal scores with this AUC
    scores = rng.normal(size=(800, users)) + shift * truth
    positive, negative = scores[:, truth == 1, None], scores[:, None, truth == 0]
    drawn = (positive > negative).mean((1, 2))
    assert auc_error(auc, users) == pytest.approx(np.std(drawn), rel=0.12)


def test_ndcg_error_is_the_least_possible():
    rng = np.random.default_rng(2)
    for _ in range(50):
        ranks = rng.integers(0, 30, 300)
        gains = np.where(ranks < 10, 1 / np.log2(ranks + 2), 0)
        truth = gains.std() / math.sqrt(300)
        assert 0.6 * truth < ndcg_error(gains.mean(), (gains > 0).mean(), 300) <= truth
    same = np.where(np.arange(300) < 120, 0.5, 0.0)  # all hits weigh the same: attained
    assert ndcg_error(same.mean(), 0.4, 300) == pytest.approx(same.std() / math.sqrt(300))
    assert ndcg_error(0.0, 0.0, 300) == 0


def sure(mean):
    return Measured(mean, 0.0, 1, 0.01)


def test_the_verdicts():
    there = {"a": 0.50, "b": 0.60, "c": 0.70}
    near = {"a": sure(0.51), "b": sure(0.585), "c": sure(0.719)}
    assert verdicts(near, there) == {"a": "=", "b": "=", "c": "="}
    lower = {"a": sure(0.40), "b": sure(0.50), "c": sure(0.60)}
    assert verdicts(lower, there) == {"a": "~", "b": "~", "c": "~"}
    swapped = {"a": sure(0.50), "b": sure(0.40), "c": sure(0.60)}  # b fell below a
    assert verdicts(swapped, there) == {"a": "=", "b": "x", "c": "~"}
    undecided = {"a": sure(0.50), "b": sure(0.48), "c": sure(0.60)}  # b below a, but within noise
    assert verdicts(undecided, there) == {"a": "=", "b": "~", "c": "~"}
    assert verdicts({"a": sure(0.4), "z": sure(0.1)}, there) == {"a": "~"}
    assert order_verdicts(near, there) == {"a": "~", "b": "~", "c": "~"}


def test_published_ties_contradict_nobody():
    there = {"a": 0.50, "b": 0.505}
    assert verdicts({"a": sure(0.9), "b": sure(0.1)}, there) == {"a": "~", "b": "~"}


# --- published cells ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "rows", "where", "column", "value"),
    [
        ("companion2025_recommendation", 30, ("ml-100k", "ncf", "d2d"), "hr@10", 0.6330),
        ("companion2025_recommendation", 30, ("ml-1m", "lgn", "original"), "ndcg@10", 0.4032),
        ("companion2025_seconds", 24, ("lfm-2b", "lgn", "adv"), "seconds", 191366),
        ("companion2025_attack", 30, ("ml-100k", "ncf", "u2u"), "xgb_auc", 0.9997),
        ("acmmm2023_attack", 30, ("ml-1m", "ncf", "original"), "mlp_acc", 0.7485),
        ("acmmm2023_recommendation", 30, ("ml-100k", "ncf", "original"), "hr@5", 0.6098),
        ("acmmm2023_seconds", 24, ("ml-100k", "ncf", "d2d"), "seconds", 2.69),
    ],
)
def test_the_published_cells_are_there(name, rows, where, column, value):
    cells = published(name)
    assert len(cells) == rows and not cells.isna().any().any() and cells.index.is_unique
    assert cells.loc[where, column] == value


def test_what_the_papers_name_has_their_titles():
    assert list(METHODS.values()) == ["Original", "U2U-R", "D2D-R", "Retrain", "Adv-InT"]
    assert POST_TRAINING == ("u2u", "d2d") and METHODS.keys() < methods.METHODS.keys()
    assert MODELS == {"ncf": "NMF", "lgn": "LightGCN"}
    assert DATASETS == {"ml-100k": "ML-100K", "ml-1m": "ML-1M", "lfm-2b": "LFM-2B"}
    assert all(model.title for model in models.MODELS.values())
    assert BLOCKS[0] == ("ml-100k", "ncf") and len(set(BLOCKS)) == 6
    assert block_title("ml-1m", "lgn") == "LightGCN on ML-1M"
    assert block_title("lfm-2b", "ncf", TIMES) == "NMF on LFM-2B (synthetic-lfm-2b)"


# --- tables ---------------------------------------------------------------------------------


def test_a_cell_is_the_mean_over_seeds_beside_the_published_one(write):
    runs = [run_row(seed=seed, hr=hr) for seed, hr in enumerate((0.58, 0.60, 0.65))]
    one = cell(table(write(runs), "rc25-1"), "original", "hr@10")
    assert one.ours.mean == pytest.approx(0.61) and one.ours.n == 3
    assert one.ours.std == pytest.approx(np.std([0.58, 0.60, 0.65], ddof=1))
    assert one.ours.sampling == pytest.approx(math.sqrt(0.61 * 0.39 / 900))
    assert one.published == 0.6353 and one.verdict == "="
    assert cell(table(write(runs), "rc25-1"), "d2d", "hr@10").ours is None


def confusion_tables(acc: float, precision: float, recall: float) -> Iterator[tuple]:
    """Of a published test size, tables that have these three figures to all their four digits."""
    for users in (82, 110, 133, 171, 266, 342):
        for positives in range(1, users):
            hits = round(recall * positives)
            alarms = round(hits / precision - hits) if hits else -1
            if not 0 <= alarms <= users - positives:
                continue
            rejections = users - positives - alarms
            found = (hits + rejections) / users, hits / (hits + alarms), hits / positives
            if np.abs(np.subtract(found, (acc, precision, recall))).max() < 6e-5:
                yield hits / positives, rejections / (users - positives)


def test_what_mm23_calls_auc_is_a_balanced_accuracy():
    """Folded at a half. In half of its rows there is a confusion table, and in each it is so."""
    fitted = flipped = 0
    for _, row in published("acmmm2023_attack").iterrows():
        for attacker in ("mlp", "xgb"):
            *figures, auc = (row[f"{attacker}_{k}"] for k in ("acc", "precision", "recall", "auc"))
            balanced = [(tpr + tnr) / 2 for tpr, tnr in confusion_tables(*figures)]
            if balanced:
                fitted += 1
                assert min(abs(max(b, 1 - b) - auc) for b in balanced) < 1.01e-4
                flipped += all(b < 0.5 for b in balanced)
    assert (fitted, flipped) == (30, 3)


def test_an_attack_cell_knows_how_many_users_it_rests_on(write):
    run = run_row()
    attacks = [attack_row(run, auc=0.72), attack_row(run, protocol="shadow", auc=0.64)]
    results = write([run], attacks)
    cv = cell(table(results, "rc25-3"), "original", "mlp_auc").ours
    shadow = cell(table(results, "mm23-3-rc25"), "original", "mlp_auc").ours
    assert (cv.mean, cv.sampling) == (0.72, auc_error(0.72, 500))
    # what MM23 calls AUC is an accuracy
    assert (shadow.mean, shadow.sampling) == (0.65, share_error(0.65, 450))
    found = table(results, "rc25-3")
    assert cell(found, "original", "mlp_acc").ours.sampling == share_error(0.65, 500)
    assert cell(found, "original", "mlp_recall").ours.sampling == share_error(0.55, 250)
    called = 0.55 * 250 / 0.6  # users that the attacker calls positive
    assert cell(found, "original", "mlp_precision").ours.sampling == share_error(0.6, called)
    assert cell(found, "original", "xgb_auc").ours is None


def test_the_papers_cells_are_of_gender_whatever_else_an_original_is_attacked_for(write, tmp_path):
    run = run_row()
    results = write([run], [attack_row(run, auc=0.72), attack_row(run, auc=0.6, attribute="age")])
    ours = cell(table(results, "rc25-3"), "original", "mlp_auc").ours
    assert (ours.mean, ours.n) == (0.72, 1)
    mine = run_row(dataset="mine")
    results = write([mine], [attack_row(mine, auc=0.8, attribute=one) for one in ("age", "town")])
    assert report_command([str(tmp_path)]) == 0
    text = (tmp_path / "reproduction.md").read_text()
    assert "mlp (cv, age) 0.800; mlp (cv, town) 0.800" in text


def test_each_table_takes_the_runs_of_its_setting(write):
    frobenius = {"regularizer": "frobenius"}
    paper = '{"embedding_size": 16, "epochs": 50}'
    results = write(
        [
            run_row("d2d", hr=0.1),
            run_row("d2d", hr=0.2, **frobenius),
            run_row("d2d", hr=0.3, au_trade_off="0.0001", settings=paper, **frobenius),
            run_row("d2d", hr=0.4, au_trade_off="0.01"),  # of Figure 2
            run_row("d2d", hr=0.5, settings='{"selection": "test"}'),  # of a deviation
            run_row("d2d", hr=0.6, attribute="age"),
        ]
    )
    for setting, hr in ((RC25, 0.1), (RC25_FROBENIUS, 0.2), (MM23, 0.3)):
        runs = results.of(setting, "ml-100k", "ncf", "d2d")
        assert runs["HR@10"].tolist() == [hr]


def test_another_batch_stands_in_where_the_published_was_not_run_and_is_named(write):
    larger = run_row(model="lgn", hr=0.5, settings='{"batch_size": 8192}')
    found = table(write([larger]), "rc25-1")
    assert cell(found, "original", "hr@10", "lgn").ours.mean == 0.5
    assert found.settings["ml-100k", "lgn"] == "batch_size 8192"
    found = table(write([run_row(model="lgn", hr=0.6)]), "rc25-1")
    assert cell(found, "original", "hr@10", "lgn").ours.mean == 0.6
    assert found.settings["ml-100k", "lgn"] == ""


def test_a_cell_pools_no_batch_sizes(write):
    def of_batch(batch, hr, seed=0, **settings):
        text = json.dumps({"batch_size": batch} | settings)
        return run_row("retrain", seed, "lgn", text, hr, seconds=100 * hr)

    larger = [of_batch(8192, 0.5), of_batch(1024, 0.6), of_batch(1024, 0.7, seed=1)]
    found = table(write(larger), "rc25-1")
    assert cell(found, "retrain", "hr@10", "lgn").ours.mean == pytest.approx(0.65)
    assert found.settings["ml-100k", "lgn"] == "batch_size 1024"
    timed = [of_batch(8192, 0.1, epochs=2), of_batch(512, 0.2, epochs=2)]
    found = table(write(timed), "rc25-2")
    assert cell(found, "retrain", "seconds", "lgn").ours.mean == pytest.approx(20 * 25 / 2)
    assert found.settings["ml-100k", "lgn"] == "batch_size 512, epochs 2"
    at_256 = run_row("retrain", 2, "lgn", '{"epochs": 2}', seconds=30.0)
    found = table(write([at_256]), "rc25-2")
    assert cell(found, "retrain", "seconds", "lgn").ours.mean == pytest.approx(30 * 25 / 2)
    assert found.settings["ml-100k", "lgn"] == "epochs 2"


def test_batch_sizes_that_differ_between_methods_are_named(write):
    rows = [run_row("original", model="lgn"), run_row("d2d", 0, "lgn", '{"batch_size": 8192}')]
    found = table(write(rows), "rc25-1")
    assert found.settings["ml-100k", "lgn"] == "batch_size 256, 8192"


def test_deviations_compare_the_same_seeds(write):
    results = write(
        [run_row(seed=seed, hr=0.6 + seed / 100) for seed in range(4)]
        + [run_row(seed=seed, hr=0.7, settings='{"selection": "test"}') for seed in (1, 2)]
    )
    rows = list(worth(results, DEVIATIONS[0]))
    found = {(row.method, row.choice): row.figures["HR@10"] for row in rows}
    assert found["Original", "ours"].mean == pytest.approx(0.615)
    assert found["Original", "ours"].n == found["Original", "on test"].n == 2
    assert len(found) == 2  # D2D-R was not run


def test_a_choice_that_was_not_run_keeps_none_of_the_others_back(write):
    (filtering,) = [one for one in DEVIATIONS if one.title == "Filter"]
    results = write([run_row(), run_row(hr=0.7, settings='{"min_interactions": 1}')])
    assert [row.choice for row in worth(results, filtering)] == ["ours", "none"]


def test_a_deviation_names_its_dataset(write):
    (interval,) = [one for one in DEVIATIONS if one.title == "Retrain's interval on ML-1M"]
    ours, denser = '{"batch_size": 8192}', '{"batch_size": 8192, "retrain_interval": 2}'
    on_ml1m = {"model": "lgn", "dataset": "ml-1m"}
    results = write(
        [
            run_row("retrain", hr=0.6, settings=ours, **on_ml1m),
            run_row("retrain", hr=0.7, settings=denser, **on_ml1m),
            run_row("retrain", hr=0.8, settings=denser, model="lgn"),  # on ML-100K
        ]
    )
    found = [row.figures["HR@10"].mean for row in worth(results, interval)]
    assert found == [0.6, 0.7]


def test_seconds_are_those_of_the_runs_made_for_them(write):
    timed = '{"batch_size": 8192, "epochs": 2}'
    frobenius = {"regularizer": "frobenius", "settings": timed}
    results = write(
        [
            run_row("retrain", seconds=900.0),  # beside other work
            run_row("retrain", seconds=8.0, settings=timed),
            run_row("d2d", seconds=3.0, **frobenius),
            run_row("d2d", seconds=5.0, dataset="synthetic-lfm-2b", **frobenius),
        ]
    )
    found = table(results, "rc25-2")
    assert cell(found, "retrain", "seconds").ours.mean == 8.0 * 25 / 2
    assert cell(found, "d2d", "seconds").ours.mean == 3.0
    assert cell(found, "d2d", "seconds", dataset="lfm-2b").ours.mean == 5.0
    assert cell(found, "d2d", "seconds").verdict == "~"  # never "=": another machine


def test_a_dataset_that_stands_in_is_named(write):
    timed = {"dataset": "synthetic-lfm-2b", "settings": '{"epochs": 2}'}
    written = {"regularizer": "frobenius", **timed}
    results = write([run_row("d2d", **written), run_row("u2u", **written)])
    found = table(results, "rc25-2")
    assert found.settings["lfm-2b", "ncf"] == "synthetic-lfm-2b, epochs 2"
    (faster,) = [one for one in claims(results) if one.sentence.startswith("D2D-R takes less")]
    assert [one.where for one in faster.findings] == ["NMF on LFM-2B (synthetic-lfm-2b)"]


# --- claims ---------------------------------------------------------------------------------


def test_a_claim_is_asked_of_each_block(write):
    runs = [
        run_row("original", hr=0.60), run_row("d2d", hr=0.595), run_row("u2u", hr=0.45),
        run_row("original", hr=0.60, model="lgn"), run_row("d2d", hr=0.50, model="lgn"),
    ]  # fmt: skip
    said = {claim.sentence: claim for claim in claims(write(runs))}
    keeps = said["D2D-R keeps HR@10 within 1.5 % of the original's"]
    assert keeps.verdict == PARTLY
    assert [(one.where, one.holds) for one in keeps.findings] == [
        ("NMF on ML-100K", True), ("LightGCN on ML-100K", False),
    ]  # fmt: skip
    assert keeps.findings[0].figures == "0.5950 from 0.6000 (-0.8 %)"
    assert said["D2D-R beats U2U-R in recommendation (NDCG@10)"].verdict == HOLDS
    assert said["D2D-R even improves NDCG@10"].verdict == FAILS
    assert said["Retrain takes less time than Adv-InT"].verdict == OPEN


def test_a_claim_compares_methods_on_the_seeds_that_all_have(write):
    runs = [run_row("original", seed=seed, hr=hr) for seed, hr in enumerate((0.6, 0.6, 0.9))]
    runs += [run_row("d2d", seed=seed, hr=0.595) for seed in (1, 0)]
    said = {claim.sentence: claim for claim in claims(write(runs))}
    keeps = said["D2D-R keeps HR@10 within 1.5 % of the original's"]
    assert keeps.verdict == HOLDS and "0.5950 from 0.6000" in keeps.findings[0].figures


def test_below_one_half_is_a_leak_in_the_comparison_of_methods(write):
    d2d, u2u = run_row("d2d"), run_row("u2u")
    attacks = [attack_row(d2d, "mlp", 0.1), attack_row(d2d, "xgb", 0.5)]
    attacks += [attack_row(u2u, "mlp", 0.5), attack_row(u2u, "xgb", 0.8)]
    said = {claim.sentence: claim for claim in claims(write([d2d, u2u], attacks))}
    (one,) = [claim for sentence, claim in said.items() if "beats U2U-R in unlearning" in sentence]
    assert one.verdict == FAILS and "0.900 (MLP), U2U-R at 0.800 (XGB)" in one.findings[0].figures


@pytest.mark.parametrize(("spread", "verdict"), [(0.04, HOLDS), (0.06, FAILS)])
def test_robustness_to_alpha(write, spread, verdict):
    runs = [
        run_row("d2d", hr=0.6 + 2 * spread * step / 4, au_trade_off=f"{alpha:g}")
        for step, alpha in enumerate((1e-6, 1e-5, 1e-4, 1e-3, 1e-2))
    ]
    attacks = [attack_row(run, protocol="shadow", auc=0.5) for run in runs]
    *_, last = claims(write(runs, attacks))
    assert last.verdict == verdict and len(last.findings) == 1


def test_alphas_are_compared_on_the_seeds_that_all_of_them_have(write):
    def of_alpha(alpha, seed):
        return run_row("d2d", seed=seed, hr=0.5 + seed / 10, au_trade_off=f"{alpha:g}")

    runs = [run_row(seed=seed, hr=0.6 + seed / 10) for seed in range(4)]
    runs += [of_alpha(1e-6, seed) for seed in range(4)]
    runs += [of_alpha(alpha, seed) for alpha in (1e-5, 1e-4) for seed in range(3)]
    attacks = [attack_row(run, protocol="shadow", auc=0.5 + int(run["seed"]) / 10) for run in runs]
    two = trade_off(write(runs, attacks[:-1]), "ml-100k", "ncf", "mlp")
    assert two.seeds == 2 and len(two.points) == 4
    assert two.points["original", "", 0.0] == (pytest.approx(0.325), pytest.approx(0.55))
    for alpha in (1e-6, 1e-5, 1e-4):
        found = two.points["d2d", "ranking", alpha]
        assert found == (pytest.approx(0.275), pytest.approx(0.55))
    three = trade_off(write([], attacks[-1:]), "ml-100k", "ncf", "mlp")
    assert three.seeds == 3
    assert trade_off(write([], []), "ml-100k", "lgn", "mlp") is None


def test_a_claim_without_figures_is_open():
    assert Claim("", "", ()).verdict == OPEN
    assert Claim("", "", (Finding("", True, ""),)).verdict == HOLDS


# --- files ----------------------------------------------------------------------------------


@pytest.mark.thorough
def test_the_committed_pages_are_those_of_their_rows(tmp_path):
    committed = PROJECT / "exp_results"
    for name in ("tables", "figures"):
        shutil.copytree(committed / name, tmp_path / name)
    assert report_command([str(tmp_path / "tables")]) == 0
    stems = ("reproduction.md", "reproduction.html", "reproduction.csv", "deviations.md")
    for name in (*stems, "erasers.md"):
        made = (tmp_path / "tables" / name).read_text()
        assert made == (committed / "tables" / name).read_text(), name


def test_all_three_forms_hold_the_same_cells(write, tmp_path, capsys):
    write([run_row(seed=seed, hr=0.58 + seed / 100) for seed in range(3)])
    tables_folder = tmp_path
    (tables_folder / "findings.md").write_text("# F\n\nSaid by\na person.\n\nAnd more.\n")
    assert report_command([str(tables_folder)]) == 0
    written = capsys.readouterr().out.split()
    assert len(written) == 4 and all(Path(path).stat().st_size > 500 for path in written)
    text = (tables_folder / "reproduction.md").read_text()
    assert "| 0.5900 ± 0.0100 (3)<br>0.6353 -0.0453 ~ |" in text
    assert "## Findings\n\nSaid by a person.\n\nAnd more.\n" in text
    page = (tables_folder / "reproduction.html").read_text()
    assert '<td class="fair">0.5900 ± 0.0100 (3)<br><small>0.6353 -0.0453 ~</small></td>' in page
    rows = list(csv.DictReader(io.StringIO((tables_folder / "reproduction.csv").read_text())))
    (one,) = [
        row
        for row in rows
        if (row["table"], row["dataset"], row["model"], row["method"], row["column"])
        == ("rc25-1", "ml-100k", "ncf", "original", "hr@10")
    ]
    assert (one["mean"], one["n"], one["published"], one["verdict"]) == ("0.59", "3", "0.6353", "~")
    assert len([row for row in rows if row["table"] == "rc25-1"]) == 30 * 4  # what is missing too


def test_a_record_of_ones_own_shows_what_was_run_and_no_empty_blocks(write, tmp_path):
    mine = [
        run_row("d2d", seed=seed, dataset="mine", hr=0.2, settings='{"lr": 0.01}')
        for seed in (0, 1)
    ]
    run = run_row(hr=0.6)
    write([*mine, run], [attack_row(mine[0], "xgb", 0.3)])
    assert report_command([str(tmp_path)]) == 0
    text = (tmp_path / "reproduction.md").read_text()
    assert "| mine | NMF | D2D-R | gender, ranking, lr=0.01 | 2 | 0.2000 |" in text
    assert "| xgb (cv) 0.300 |" in text
    assert "| ML-100K | Original |" in text  # beside the published cells
    assert "LFM-2B" not in text and "| not measured |" not in text
    assert "claims of the papers. Not measured: " in text
    assert "Not measured yet" not in (tmp_path / "deviations.md").read_text()


def test_one_seed_has_no_spread():
    assert spread(measured([0.5], 0.01)) == "0.5000 (1)"
    assert spread(measured([0.5, 0.6], 0.01), 2) == "0.55 ± 0.07 (2)"


# --- commands -------------------------------------------------------------------------------


@pytest.mark.thorough
def test_the_smoke_sweep_ends_in_a_report(workspace, monkeypatch, capsys):
    for name in ("reproduce_smoke.json", "reproduce_attack_smoke.json"):
        path = workspace / "configs" / name
        path.write_text((PROJECT / "configs" / name).read_text())
    small = ["threads=1", "device=cpu", "seed=0"]
    fast = ["epochs=1", "batch_size=2048", "num_ng=1", "embedding_size=8", "unlearn_steps=3"]
    with monkeypatch.context() as patch:
        renewed = []
        patch.setattr(main, "renew_report", renewed.append)
        assert main.main(["--config", "configs/reproduce_smoke.json", *small, *fast]) == 0
        assert renewed == ["exp_results/smoke/tables/"]
    one_fit = ["protocol=cv", "folds=2", "repeats=1", "attackers=xgb", "attack_seed=0"]
    command = ["--config", "configs/reproduce_attack_smoke.json", *small[::2], *one_fit]
    assert attack.main(command) == 0
    folder = workspace / "exp_results/smoke/tables"
    assert len(records.runs(folder).rows()) == 2 * 7
    assert len(records.attacks(folder).rows()) == 2 * 7
    assert f"Report: {folder.relative_to(workspace)}/reproduction.html" in capsys.readouterr().out
    for name in ("reproduction.md", "reproduction.html", "reproduction.csv", "deviations.md"):
        assert (folder / name).stat().st_size > 500


def test_without_records_the_command_says_what_to_run(tmp_path, capsys):
    assert report_command([str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "holds no runs.csv; first: python main.py --config" in said and said.count("\n") == 1
    (tmp_path / "runs.csv").write_text("nonsense\n")
    assert report_command([str(tmp_path)]) == 2
    assert "begins with other columns" in capsys.readouterr().err

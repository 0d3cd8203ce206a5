"""The page of audited erasers counts what the rows say."""

import json

from utils.pages.parts import Grid
from utils.pages.render import markdown
from utils.reproduction.erasers import erasers_page
from utils.runs import records


def rows(
    folder, method, seed, scope, leakages, kept="0.99", alpha="", trained_on="audited", **dial
):
    """One audited run: a leakage a place, the null's bound 0.1 everywhere."""
    run = "-".join([method, scope, str(seed), alpha, *map(str, dial.values())])
    which = {
        "dataset": "ml-100k",
        "model": "ncf",
        "method": method,
        "attribute": "gender",
        "regularizer": "",
        "au_trade_off": alpha,
        "seed": str(seed),
    }
    settings = json.dumps(dial | ({} if scope == "embedding" else {"scope": scope}))
    record = records.runs(folder)
    blank = dict.fromkeys(record.columns, "0")
    record.add([blank | which | {"settings": settings, "seconds": "1.5", "run": run}])
    record = records.audits(folder)
    blank = dict.fromkeys(record.columns, "")
    asked = {} if trained_on == "audited" else {"audit_trained_on": trained_on}
    found = {records.ALL_PLACES: max(leakages.values()), **leakages}
    record.add(
        blank
        | which
        | {
            "place": place,
            "folder": f"{method}/{scope}/{seed}",
            "attacker": "svm",
            "auc": str(0.5 - leakage),
            "settings": json.dumps(asked),
        }
        | {"leakage": str(leakage), "null_95": "0.1", "p": "0.5", "users": "472", "kept": kept}
        | {"leaks": "yes" if leakage > 0.1 else "no", "run": run}
        for place, leakage in found.items()
    )


def test_the_pages_rows_are_means_and_counts(tmp_path):
    for seed, first in enumerate((0.05, 0.15)):
        rows(tmp_path, "calibrated", seed, "embedding", {"gmf": first, "mlp": 0.02})
        rows(tmp_path, "calibrated", seed, "served", {"gmf": 0.04, "mlp": 0.06})
        rows(tmp_path, "original", seed, "embedding", {"gmf": 0.25, "mlp": 0.12}, kept="")
    title, _, section, _ = erasers_page(tmp_path)
    assert section.title == "NMF on ML-100K, gender"
    worst, places = (part for part in section.parts if isinstance(part, Grid))
    assert [row[:5] for row in worst.rows] == [
        ["Original", "–", "0.250 (0.250 to 0.250)", "0.100", "2 of 2"],
        ["Calibrated", "embedding", "0.100 (0.050 to 0.150)", "0.100", "1 of 2"],
        ["Calibrated", "served", "0.060 (0.060 to 0.060)", "0.100", "0 of 2"],
    ]
    assert [row[5:] for row in worst.rows] == [
        ["gmf", "–", "–"],
        ["gmf", "99.0%", "1.5"],
        ["mlp", "99.0%", "1.5"],
    ]
    assert places.header == ["Method", "scope", "gmf", "mlp"]
    assert places.rows[1] == ["Calibrated", "embedding", "0.100 (1 of 2)", "0.020 (0 of 2)"]
    assert markdown([title, section]).startswith("# Erasers, audited")


def test_no_audits_no_page(tmp_path):
    assert erasers_page(tmp_path) == []


def test_the_frontiers_stars_are_of_points_that_none_beats(tmp_path):
    def of(leakage, lists=0.02):
        return {"gmf": leakage, "mlp": 0.02, "lists": lists}

    rows(tmp_path, "calibrated", 0, "served", of(0.05))
    folder = tmp_path / "frontier"
    for seed in (0, 1):
        rows(folder, "original", seed, "embedding", of(0.25), kept="")
        rows(folder, "calibrated", seed, "served", of(0.09, 0.3), "0.98")
        rows(folder, "calibrated", seed, "served", of(0.13), "0.99", calibrated_rounds=0)
        rows(folder, "d2d", seed, "served", of(0.3), "0.985", alpha="1e-06")
        rows(folder, "d2d", seed, "served", of(0.13 + seed / 50), "0.99", alpha="0.01")
        known = {"gmf": 0.2 + seed / 10, "mlp": 0.05}
        rows(folder, "calibrated", seed, "served", known, "0.98", trained_on="original")
    rows(folder, "d2d", 0, "served", {"gmf": 0.4}, "0.98", "1e-06", trained_on="original")
    rows(folder, "calibrated", 2, "served", of(0.49), "0.98")  # a seed that the others haven't
    _, glance, *_, tables, _, frontier, _ = erasers_page(tmp_path)

    assert glance.parts[1].header[1:] == ["D2D-R", "LEACE", "Calibrated"]
    found = ["0.200, 98.5%, 1.5 s", "–", "-0.010, 98.0%, 1.5 s"]
    assert glance.parts[1].rows == [["NMF on ML-100K, gender (2 seeds)", *found]]
    worst = next(part for part in tables.parts if isinstance(part, Grid))
    assert [(row[0], row[2]) for row in worst.rows] == [("Calibrated", "0.050")]  # of its own rows
    assert frontier.title == "Frontier: NMF on ML-100K, gender"
    assert frontier.parts[0] == "Seeds 0, 1."
    grid = next(part for part in frontier.parts if isinstance(part, Grid))
    assert [[*row[:2], *row[3:7]] for row in grid.rows] == [
        ["★", "Calibrated", "", "-0.010 (-0.010 to -0.010)", "0 of 2", "0.200"],
        ["★", "Calibrated", "`calibrated_rounds=0`", "0.030 (0.030 to 0.030)", "2 of 2", "-0.080"],
        ["", "D2D-R", "`au_trade_off=0.01`", "0.040 (0.030 to 0.050)", "2 of 2", "-0.080"],
        ["", "D2D-R", "", "0.200 (0.200 to 0.200)", "2 of 2", "-0.080"],
    ]
    assert [row[7] for row in grid.rows] == ["0.150 (0.100 to 0.200)", "–", "–", "–"]
    assert grid.rows[0][8] == "98.0% (98.0% to 98.0%)"


def test_rows_of_calibrated_s_earlier_defaults_stay_apart_and_say_so(tmp_path):
    rows(tmp_path, "calibrated", 0, "served", {"gmf": 0.04})
    earlier = {"calibrated_band": 0, "calibrated_views": "scaled"}
    rows(tmp_path, "calibrated", 0, "served", {"gmf": 0.2}, **earlier)
    rows(tmp_path, "calibrated", 0, "served", {"gmf": 0.1}, calibrated_views="both")
    *_, section, _ = erasers_page(tmp_path)
    worst, places = (part for part in section.parts if isinstance(part, Grid))
    dials = ["", ", `calibrated_band=0 calibrated_views=scaled`", ", `calibrated_views=both`"]
    titles = [f"Calibrated{dial}" for dial in dials]
    assert [row[:3] for row in worst.rows] == [
        [titles[0], "served", "0.040"],
        [titles[1], "served", "0.200"],
        [titles[2], "served", "0.100"],
    ]
    assert [row[0] for row in places.rows] == titles


def test_originals_of_another_training_have_a_frontier_of_their_own(tmp_path):
    rows(tmp_path, "calibrated", 0, "served", {"gmf": 0.04})
    rows(tmp_path, "calibrated", 1, "served", {"gmf": 0.3}, batch_size=8192)
    for training in ({}, {"batch_size": 8192}):
        over = 0.2 if training else 0.1
        rows(tmp_path / "frontier", "calibrated", 0, "served", {"gmf": over}, **training)
    *_, tables, _, plain, other, _ = erasers_page(tmp_path)
    assert tables.parts[0].startswith("Seeds 0;")
    assert [one.title for one in (plain, other)] == [
        "Frontier: NMF on ML-100K, gender",
        "Frontier: NMF on ML-100K, `batch_size=8192`, gender",
    ]
    grids = [part for one in (plain, other) for part in one.parts if isinstance(part, Grid)]
    assert [[row[3][:5], row[4][:5]] for grid in grids for row in grid.rows] == [
        ["", "0.000"],
        ["", "0.100"],
    ]


def test_a_dial_moves_no_row_of_the_tables(tmp_path):
    rows(tmp_path, "calibrated", 0, "served", {"gmf": 0.04})
    rows(tmp_path, "calibrated", 1, "served", {"gmf": 0.3}, calibrated_rounds=0)
    *_, section, _ = erasers_page(tmp_path)
    worst = next(part for part in section.parts if isinstance(part, Grid))
    assert worst.rows[0][2] == "0.040"

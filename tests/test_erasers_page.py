"""The page of audited erasers counts what the rows say."""

from utils.pages.parts import Grid
from utils.pages.render import markdown
from utils.reproduction.erasers import erasers_page
from utils.runs import records


def rows(folder, method, seed, scope, leakages, kept="0.99"):
    """One audited run: a leakage a place, the null's bound 0.1 everywhere."""
    run = f"{method}-{scope}-{seed}"
    which = {
        "dataset": "ml-100k",
        "model": "ncf",
        "method": method,
        "attribute": "gender",
        "regularizer": "",
        "au_trade_off": "",
        "seed": str(seed),
    }
    settings = "" if scope == "embedding" else f'{{"scope": "{scope}"}}'
    record = records.runs(folder)
    blank = dict.fromkeys(record.columns, "0")
    record.add([blank | which | {"settings": settings, "seconds": "1.5", "run": run}])
    record = records.audits(folder)
    blank = dict.fromkeys(record.columns, "")
    found = {records.ALL_PLACES: max(leakages.values()), **leakages}
    record.add(
        blank
        | which
        | {"place": place, "folder": run, "attacker": "svm", "auc": str(0.5 - leakage)}
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

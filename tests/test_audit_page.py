"""The audit's page: every number is the audit's, nothing is loaded, a browser has no complaint."""

import contextlib
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

import attack
from tests.conftest import few_draws, write_workspace
from utils.audit.page import audit_page
from utils.pages.render import html_page, markdown

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
AUDIT = ["attack=audit", "labels=labels.csv", 'attackers=["logistic","qda"]', "threads=1"]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Of a file with two places, one of which tells; a class's name is not to be taken for HTML."""
    workspace = write_workspace(tmp_path_factory.mktemp("audited"))
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 300)
    names = np.array(["<b>old</b>", "you_ng*"])
    lines = "\n".join(names[labels])
    (workspace / "labels.csv").write_text(f"gender\n{lines}\n")
    told = rng.normal(size=(300, 4)) + 0.9 * labels[:, None]
    np.savez(workspace / "told.npz", first=rng.normal(size=(300, 4)), second=told)
    with contextlib.chdir(workspace), pytest.MonkeyPatch.context() as patch:
        few_draws(patch)
        assert attack.main([*AUDIT, "user_embedding=told.npz"]) == 0
    return workspace / "told.audit-logistic-qda.html"


@pytest.fixture
def audited(page):
    return page, json.loads(page.with_suffix(".json").read_text())


def test_the_pages_numbers_are_the_audits(audited):
    page, result = audited
    text = re.sub(r"<[^>]+>", " ", page.read_text())
    verdict = result["verdict"]
    assert "Leaks: second, read by" in text
    assert f"AUC {verdict['auc']:.3f}: 0.5 is chance" in text
    assert f"95 % interval of this attacker {verdict['interval'][0]:.3f} to" in text
    of_all = f"null 95 % of all places together: {0.5 + verdict['null_95']:.3f}"
    assert f"{of_all}, p = {verdict['p']:.2g}" in text
    for row in result["places"].values():
        for found in row["attackers"].values():
            assert f"{found['auc']:.3f}" in text
    rates = result["places"]["second"]["attackers"][verdict["attacker"]]["at_fpr"]
    for one in rates.values():
        assert f"{one['found']} found ({one['tpr']:.1%}), {one['accused']} accused" in text
    assert "&lt;b&gt;old&lt;/b&gt;" in page.read_text()
    assert "<b>old</b>" not in page.read_text()


def test_nothing_is_loaded_and_no_name_is_given_twice(audited):
    text = audited[0].read_text()
    assert not re.findall(r'(?:src|href)="(?!#|data:)', text)
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert text.count("<svg") == 3
    assert audited[0].with_suffix(".md").read_text().startswith("# Can gender be told from")


def test_a_verdict_without_a_leak_says_what_it_is_not(audited):
    result = audited[1]
    result["verdict"] |= {"leaks": False, "p": 0.4}
    text = markdown(audit_page(result))
    assert "No leak found" in text
    assert "not anonymity" in text
    assert 'class="banner ok"' in html_page(audit_page(result))


def test_several_classes_have_no_roc_curve(workspace, small_audit):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 300)
    np.save("x.npy", rng.normal(size=(300, 3)))
    (workspace / "labels.csv").write_text(
        "gender\n" + "\n".join("abc"[one] for one in labels) + "\n"
    )
    assert attack.main([*AUDIT, "user_embedding=x.npy"]) == 0
    text = (workspace / "x.audit-logistic-qda.html").read_text()
    assert text.count("<svg") == 2
    assert "one class against all others" in text
    assert "flipped" not in text


def test_classes_read_from_either_side_are_a_leak_in_the_page_too(workspace, small_audit):
    """Their mean AUC is 0.5."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 600)
    np.save("x.npy", rng.normal(size=(600, 2)) + 1.5 * np.eye(3)[labels][:, :2])
    (workspace / "labels.csv").write_text(
        "gender\n" + "\n".join("abc"[one] for one in labels) + "\n"
    )
    assert attack.main([*AUDIT, "user_embedding=x.npy"]) == 0
    result = json.loads((workspace / "x.audit-logistic-qda.json").read_text())
    verdict, text = result["verdict"], (workspace / "x.audit-logistic-qda.html").read_text()
    assert verdict["leaks"]
    assert (
        f"at mean |AUC - 0.5| {verdict['leakage']:.3f}; null 95 %: {verdict['null_95']:.3f}" in text
    )
    for row in result["places"].values():
        for found in row["attackers"].values():
            assert f'<td class="bad">{found["leakage"]:.3f}</td>' in text


def test_what_a_run_warns_of_is_in_red_on_the_page(audited):
    warned = audited[1] | {"remarks": ["it did not work: 75 % of the <b> is left"]}
    assert "The run itself warns" not in html_page(audit_page(audited[1]))
    page = html_page(audit_page(warned))
    assert 'class="banner leaks"><strong>The run itself warns</strong>' in page
    assert "It did not work: 75 % of the &lt;b&gt; is left." in page


def test_a_places_name_may_hold_anything(workspace, small_audit):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 200)
    names = np.array(["old", "new"])[labels]
    (workspace / "labels.csv").write_text("gender\n" + "\n".join(names) + "\n")
    told = rng.normal(size=(200, 2)) + 2 * labels[:, None]
    np.savez("x.npz", **{"random": told, "a$\\frac$b": told, "<i>_*": told})
    assert attack.main([*AUDIT, "user_embedding=x.npz"]) == 0
    result = json.loads((workspace / "x.audit-logistic-qda.json").read_text())
    assert all(row["leaks"] for row in result["places"].values())
    assert not result["baselines"]["random"]["auc"] > 0.9
    assert "<i>" not in (workspace / "x.audit-logistic-qda.html").read_text()


@pytest.mark.skipif(not CHROMIUM, reason="no chromium here")
def test_a_browser_shows_it_without_complaint(audited, tmp_path):
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
        "--disable-background-networking --disable-component-update --enable-logging=stderr "
        f"--window-size=390,844 --user-data-dir={tmp_path / 'profile'} --dump-dom"
    )
    done = subprocess.run(
        [CHROMIUM, *flags.split(), audited[0].as_uri()],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "CONSOLE" not in done.stderr
    assert done.stdout.count("<svg") == 3
    assert '<th scope="col"><button' in done.stdout  # the script ran: tables can be sorted

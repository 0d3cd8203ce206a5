"""The audit's protocol: AUCs, intervals and the exact null of the worst; and the audit itself."""

import json
import re
import shlex
import shutil
from contextlib import nullcontext

import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.stats import kstest, norm
from sklearn.metrics import roc_auc_score

import attack
import main
from tests.simple import admit
from utils.audit import scores
from utils.audit.attackers import ATTACKERS
from utils.audit.audit import Settings, Subject, audit
from utils.audit.baselines import history_baselines, list_vectors, popular_lists, widest
from utils.audit.groups import friedman_rafsky
from utils.audit.halves import attack_places, halves, participants, worst
from utils.audit.statistics import (
    auc_interval,
    class_aucs,
    leakage,
    p_value,
    permuted_leakages,
    tpr_at,
    upper_bound,
)
from utils.config import AttackConfig
from utils.errors import UserError

TINY = ["epochs=2", "batch_size=512", "lr=0.01", "embedding_size=4", "num_ng=1", "threads=1"]
QUICK = ("logistic", "qda", "knn")


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_aucs_are_scikit_learns_with_ties(classes):
    rng = np.random.default_rng(classes)
    scores, labels = rng.random((200, classes)).round(1), rng.integers(0, classes, 200)
    judged = range(1, 2) if classes == 2 else range(classes)
    expected = [roc_auc_score(labels == c, scores[:, c]) for c in judged]
    assert class_aucs(scores, labels) == pytest.approx(expected)
    assert leakage(class_aucs(scores, labels)) == pytest.approx(
        np.abs(np.array(expected) - 0.5).mean()
    )


def test_a_class_without_users_has_no_auc():
    aucs = class_aucs(np.random.default_rng(0).random((30, 3)), np.arange(30) % 2)
    assert np.isnan(aucs).tolist() == [False, False, True]
    assert leakage(aucs) == pytest.approx(np.abs(aucs[:2] - 0.5).mean())


@pytest.mark.parametrize("shift", [0.0, 0.36, 0.95, -0.95, 2.3])
def test_intervals_cover_the_true_auc_of_500_simulated_audits(shift):
    rng = np.random.default_rng(0)
    truth, covered = norm.cdf(shift / 2**0.5), 0
    labels = (np.arange(150) < 50).astype(np.int64)
    for _ in range(500):
        x = rng.normal(size=150) + shift * labels
        low, high = auc_interval(np.stack([-x, x], axis=1), labels)
        covered += low <= truth <= high
    # 95 % within three standard errors of 500 draws
    assert 0.92 <= covered / 500 <= 0.98


@pytest.mark.thorough
def test_an_interval_of_several_classes_covers_too():
    rng = np.random.default_rng(1)
    means = np.array([[0.0, 0.0], [0.8, 0.0], [0.0, 0.5]])

    def aucs(n):
        labels = rng.integers(0, 3, n)
        x = rng.normal(size=(n, 2)) + means[labels]
        return -((x[:, None] - means) ** 2).sum(2), labels

    truth = class_aucs(*aucs(200_000)).mean()
    intervals = [auc_interval(*aucs(120)) for _ in range(500)]
    assert 0.92 <= np.mean([low <= truth <= high for low, high in intervals]) <= 0.98


def test_a_perfect_auc_has_an_interval():
    labels = np.repeat([0, 1], 20)
    low, high = auc_interval(np.stack([-labels, labels], axis=1).astype(float), labels)
    assert 0.8 < low < 1 == high
    low, high = auc_interval(np.stack([labels, -labels], axis=1).astype(float), labels)
    assert low == 0 < high < 0.2


def test_permuted_leakages_are_those_of_the_aucs_of_permuted_labels():
    rng = np.random.default_rng(0)
    scores, labels = rng.random((4, 60, 3)).round(1), rng.integers(0, 3, 60)
    found = permuted_leakages(scores, labels, 5, np.random.default_rng(7))
    again = np.random.default_rng(7)
    for row in found:
        permuted = again.permutation(labels)
        assert row == pytest.approx([leakage(class_aucs(one, permuted)) for one in scores])


def test_the_true_positive_rate_at_a_false_positive_rate():
    scores = np.array([9, 8, 8, 7, 6, 5, 4, 3, 2, 1.0])
    positive = np.array([1, 1, 0, 1, 0, 0, 0, 0, 0, 0], dtype=bool)
    assert tpr_at(scores, positive, 0.0) == {"tpr": 1 / 3, "fpr": 0.0, "found": 1, "accused": 0}
    # the tie at 8 is taken whole
    assert tpr_at(scores, positive, 0.2) == {"tpr": 1.0, "fpr": 1 / 7, "found": 3, "accused": 1}
    assert tpr_at(np.zeros(10), positive, 0.1)["found"] == 0


def test_halves_are_stratified_and_disjoint_and_who_is_unknown_takes_no_part():
    labels = np.random.default_rng(0).choice([-1, 0, 1, 2], 500, p=[0.1, 0.6, 0.2, 0.1])
    users = participants(labels, 10**6, 0)
    np.testing.assert_array_equal(users, np.flatnonzero(labels >= 0))
    known = labels[users]
    split = halves(known, 0)
    assert sorted([*split.train, *split.test]) == list(range(len(users)))
    counts = [np.bincount(known[side]) for side in (split.train, split.test)]
    assert np.abs(counts[0] - counts[1]).max() <= 1
    few = labels[participants(labels, 100, 0)]
    assert abs(len(few) - 100) <= 2  # rounded class by class
    np.testing.assert_allclose(np.bincount(few) / 100, np.bincount(known) / len(known), atol=0.01)
    with pytest.raises(UserError, match="smallest class has 3 users"):
        participants(np.array([0] * 50 + [1] * 3), 100, 0)
    for sizes, most in (((500, 30), 60), ((20_000, 1), 20_000), ((50, 50), 99), ((5000, 5), 100)):
        labels = np.repeat([0, 1], sizes)
        if min(sizes) < 4:
            with pytest.raises(UserError, match="smallest class has 1 users"):
                participants(labels, most, 0)
        else:
            drawn = np.bincount(labels[participants(labels, most, 0)])
            assert drawn.min() >= 4
            assert abs(drawn.sum() - most) <= 4


def audit_of(x, labels, seed, permutations=199, attackers=QUICK):
    split = halves(labels, seed)
    places = {"all": x, "some": x[:, :2]}
    return worst(
        attack_places(places, labels, attackers, split, seed, quiet=True),
        labels,
        permutations,
        seed,
    )


def uniform(attackers):
    """Several attackers and places, classes of 29 % and 71 %, as in an audit of ML-100K. With more
    draws, users and attackers: python -m benchmarks.audit.
    """
    rng = np.random.default_rng(0)
    p, leaks = [], []
    for draw in range(100):
        x, labels = rng.normal(size=(546, 8)), (rng.random(546) < 0.29).astype(np.int64)
        found = audit_of(x, labels, draw, 99, attackers)[None]
        p.append(found.p)
        leaks.append(found.leaks)
    assert kstest(p, "uniform").pvalue > 0.01
    assert np.mean(leaks) < 0.05 + 3 * (0.05 * 0.95 / 100) ** 0.5


@pytest.mark.thorough
def test_the_p_value_of_the_worst_is_uniform_where_there_is_nothing_to_find(monkeypatch):
    monkeypatch.setattr(scores, "threadpool_limits", lambda _: nullcontext())
    uniform(admit(monkeypatch))


@pytest.mark.slow
def test_the_p_value_of_the_worst_of_real_attackers_is_uniform_too():
    uniform(("logistic", "knn"))


@pytest.mark.parametrize("plant", ["shift", "spread", "flipped"])
def test_what_is_planted_is_found_at_its_place(plant):
    rng = np.random.default_rng(3)
    x, labels = rng.normal(size=(600, 40)), rng.integers(0, 2, 600)
    if plant == "shift":
        x[:, 4] += 1.0 * labels
    elif plant == "spread":
        x[:, 2:] *= np.where(labels == 1, 1.5, 1.0)[:, None]
    else:  # erased on the whole sample: the halves' differences are each other's mirror images
        for c in (0, 1):
            x[labels == c] -= x[labels == c].mean(0)
    found = audit_of(x, labels, 0)
    assert found[None].place == "all"
    assert found[None].leaks
    assert found["all"].p < 0.02
    if plant == "flipped":
        assert found[None].auc < 0.45
    else:
        assert not found["some"].leaks


@pytest.mark.parametrize("permutations", [19, 21, 29, 39, 99, 101, 1999])
def test_the_bound_and_the_p_value_say_the_same(permutations):
    rng = np.random.default_rng(permutations)
    null = rng.random(permutations)
    for observed in (*null + 1e-9, *null - 1e-9, 0.0, 2.0):
        assert (observed > upper_bound(null)) == (p_value(observed, null) <= 0.05)


def test_a_place_that_tells_nothing_at_all_does_not_hide_one_that_leaks():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 200)
    places = {"told": rng.normal(size=(200, 3)) + 3 * labels[:, None]}
    places |= {"constant": np.zeros((200, 2)), "nearly": 0.1 + 1e-9 * rng.normal(size=(200, 2))}
    split = halves(labels, 0)
    found = attack_places(places, labels, tuple(ATTACKERS), split, 0, quiet=True)
    of_places = worst(found, labels, 199, 0)
    assert of_places[None].place == "told"
    assert of_places[None].leaks
    assert np.isfinite(of_places[None].null).all()
    assert not of_places["constant"].leaks
    assert of_places["constant"].auc == 0.5


def test_p_values_count_the_observed_one():
    assert p_value(1.0, np.zeros(99)) == 0.01
    assert p_value(0.0, np.zeros(99)) == 1.0


def test_friedman_and_rafsky_see_classes_apart_and_pushed_into_each_other():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 300)
    x = rng.normal(size=(300, 3))
    apart = friedman_rafsky(x + 2 * labels[:, None], labels, 199, rng)
    assert apart.edges < apart.expected
    assert apart.p == 0.01
    pairs = np.repeat(rng.normal(size=(150, 3)), 2, axis=0) + 1e-3 * rng.normal(size=(300, 3))
    pushed = friedman_rafsky(pairs, np.arange(300) % 2, 199, rng)
    assert pushed.edges > pushed.expected
    assert pushed.p == 0.01
    p = [
        friedman_rafsky(rng.normal(size=(60, 3)), rng.integers(0, 2, 60), 99, rng).p
        for _ in range(300)
    ]
    assert np.mean(np.array(p) <= 0.1) < 0.1 + 3 * (0.1 * 0.9 / 300) ** 0.5


def test_users_at_the_same_point_are_no_obstacle_to_the_tree():
    labels = np.arange(40) % 2
    found = friedman_rafsky(np.zeros((40, 3)), labels, 99, np.random.default_rng(0))
    assert 0 < found.edges < 40


def test_baselines_by_hand():
    train = np.array([[0, 0], [0, 1], [1, 0], [2, 3]])
    found = history_baselines(train, 4, 10, seed=0)
    assert found["activity"][:, 0] == pytest.approx(np.log1p([2, 1, 1, 0]))
    assert found["popularity"].shape == (4, 10)
    assert found["popularity"].sum(1) == pytest.approx([1, 1, 1, 0])
    assert found["popularity"][1, 9] == 1  # item 0 is the most popular
    gram = found["history"] @ found["history"].T
    assert gram == pytest.approx(
        np.array([[2, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]), abs=1e-5
    )


def test_popular_lists_leave_out_what_a_user_has():
    rng = np.random.default_rng(0)
    seen = rng.random((30, 12)) < 0.4
    seen[0], seen[1], seen[2, 1:] = True, False, True
    popularity = seen.sum(0)
    for user, shown in enumerate(popular_lists(csr_array(seen.astype(np.float32)), 5)):
        order = sorted(range(12), key=lambda item: (seen[user, item], -popularity[item], item))
        assert shown.tolist() == order[:5]


def test_lists_become_vectors_with_the_same_inner_products():
    lists = np.array([[0, 1], [0, 2], [5, 6], [1, 0]])
    vectors = list_vectors(lists, 0)
    assert vectors @ vectors.T == pytest.approx(
        np.array([[2, 1, 0, 2], [1, 2, 0, 1], [0, 0, 2, 0], [2, 1, 0, 2]]), abs=1e-5
    )
    assert widest(np.ones((5, 3)), 0).shape == (5, 2)


def test_who_is_found_is_told_by_activity_and_by_other_attributes():
    rng = np.random.default_rng(0)
    labels, old = rng.integers(0, 2, 600), rng.integers(0, 2, 600) > 0
    vectors = rng.normal(size=(600, 3))
    vectors[old, 0] += 3 * labels[old]  # only the old are told apart
    age = np.where(old, "old", "young")
    age[:5] = ""
    age[5:15] = "few"
    subject = Subject(
        {"table": vectors},
        "gender",
        ("F", "M"),
        labels,
        {"F": 300, "M": 300},
        activity=np.arange(600) // 100,
        others={"age": age, "town": np.full(600, "")},
    )
    found = audit(subject, Settings(("logistic",), 600, 19, 0), 1)["groups"]
    assert list(found) == ["activity", "age"]
    assert list(found["age"]) == ["old", "young"]  # too few are of the third
    assert found["age"]["old"]["auc"] > 0.95
    low, high = found["age"]["young"]["interval"]
    assert low < 0.5 < high
    assert len(found["activity"]) == 3
    assert next(iter(found["activity"])).startswith("0 to ")
    assert sum(one["users"] for one in found["activity"].values()) == 300


@pytest.mark.parametrize("model", ["ncf", "lgn"])
def test_an_audit_of_a_run_takes_all_places_and_compares_with_the_original(
    workspace, plain_audit, model, capsys
):
    assert main.main([*TINY, f"model={model}", "method=d2d", "unlearn_steps=20"]) == 0
    capsys.readouterr()
    arguments = [
        "attack=audit",
        f"model={model}",
        "method=d2d",
        "threads=1",
        "audit_permutations=99",
    ]
    assert attack.main([*arguments, "attackers=logistic"]) == 0
    text = capsys.readouterr().out
    folder = workspace / f"exp_results/{model}/ml-100k/d2d/seed-0"
    result = json.loads((folder / "audit-logistic-permutations-99.json").read_text())
    tables = {"ncf": ["gmf", "mlp"], "lgn": ["layer0", "propagated"]}[model]
    assert list(result["places"]) == [*tables, "scores", "lists"]
    assert list(result["baselines"]) == [
        "activity",
        "popularity",
        "history",
        "left out",
        "random",
    ]
    kept = result["utility"]["NDCG@10"]["change"]["kept"]
    before = json.loads((folder.parents[1] / "original/seed-0/summary.json").read_text())["test"]
    after = json.loads((folder / "summary.json").read_text())["test"]
    assert kept == pytest.approx(after["NDCG@10"] / before["NDCG@10"], abs=1e-4)
    verdict = result["verdict"]
    assert verdict["leakage"] == max(row["leakage"] for row in result["places"].values())
    assert f"{verdict['place']}, read by logistic at AUC" in text
    assert ("Next: python main.py method=calibrated" in text) == verdict["leaks"]
    assert "NaN" not in (folder / "audit-logistic-permutations-99.json").read_text()


def test_an_audit_gates_on_its_own_null(workspace, plain_audit):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 200)
    np.save("labels.npy", labels)
    np.savez(
        "told.npz",
        first=rng.normal(size=(200, 3)),
        second=rng.normal(size=(200, 3)) + labels[:, None],
    )
    np.save("untold.npy", rng.normal(size=(200, 3)))
    command = [
        "attack=audit",
        "labels=labels.npy",
        "attackers=logistic",
        "fail_above=null-95",
        "threads=1",
    ]
    assert attack.main([*command, "user_embedding=told.npz"]) == 3
    result = json.loads((workspace / "told.audit-logistic.json").read_text())
    assert (result["verdict"]["place"], result["gate"]) == ("second", "failed")
    assert attack.main([*command, "user_embedding=untold.npy"]) == 0
    assert attack.main([*command, "user_embedding=untold.npy", "record=somewhere"]) == 2


def test_audits_of_several_attributes_and_an_attack_lie_side_by_side(workspace, plain_audit):
    assert main.main([*TINY, "method=original"]) == 0
    audit = {"attack": "audit", "attackers": ["logistic"], "threads": 1}
    sweep = [
        {"attackers": ["svm"], "draws": 1, "shadow_ratio": 0.5, "threads": 1},
        audit | {"audit_permutations": 19, "attribute": ["gender", "occupation"]},
        audit | {"audit_permutations": 29},
    ]
    (workspace / "sweep.json").write_text(json.dumps(sweep))
    assert attack.main(["--config", "sweep.json"]) == 0
    folder = workspace / "exp_results/ncf/ml-100k/original/seed-0"
    assert sorted(path.name for path in folder.glob("*.json")) == [
        "attack.json",
        "audit-logistic-permutations-19.json",
        "audit-logistic-permutations-29.json",
        "audit-occupation-logistic-permutations-19.json",
        "config.json",
        "summary.json",
    ]


def test_the_command_on_the_page_makes_the_same_audit_again(workspace, small_audit):
    rng = np.random.default_rng(0)
    np.savez("an embedding.npz", x=rng.normal(size=(80, 3)), ids=np.arange(80))
    np.save("labels.npy", rng.integers(0, 2, 80))
    keys = [
        "user_embedding=an embedding.npz",
        "labels=labels.npy",
        "audit_permutations=19",
        "threads=1",
    ]
    assert attack.main(["attack=audit", *keys, 'attackers=["logistic","knn"]']) == 0
    path = workspace / "an embedding.audit-logistic-knn-permutations-19"
    first = json.loads(path.with_suffix(".audit-logistic-knn-permutations-19.json").read_text())
    said = path.with_suffix(".audit-logistic-knn-permutations-19.md").read_text()
    command = re.search(r"`python attack.py (.*)`", said)[1]
    assert attack.main(shlex.split(command)) == 0
    again = json.loads(path.with_suffix(".audit-logistic-knn-permutations-19.json").read_text())
    for changes in ("seconds", "environment"):
        del first[changes], again[changes]
    assert first == again


def test_an_original_of_other_settings_is_not_compared_with(workspace, plain_audit, capsys):
    assert main.main([*TINY, "method=u2u", "unlearn_steps=2"]) == 0
    assert main.main([*TINY, "method=original", "lr=0.02"]) == 0
    assert attack.main(["attack=audit", "method=u2u", "attackers=logistic", "threads=1"]) == 0
    assert "is not what the run started from" in capsys.readouterr().out
    folder = workspace / "exp_results/ncf/ml-100k/u2u/seed-0"
    result = json.loads((folder / "audit-logistic.json").read_text())
    assert "change" not in result["utility"]["NDCG@10"]


def test_a_handful_of_users_can_not_tell(workspace, capsys):
    rng = np.random.default_rng(0)
    np.save("x.npy", rng.normal(size=(9, 2)))
    np.save("labels.npy", np.arange(9) % 2)
    command = ["attack=audit", "user_embedding=x.npy", "labels=labels.npy", "attackers=logistic"]
    assert attack.main([*command, "fail_above=null-95", "threads=1"]) == 3
    assert "too few users to tell" in capsys.readouterr().out
    assert 'class="banner unknown"' in (workspace / "x.audit-logistic.html").read_text()


@pytest.mark.parametrize("change", [lambda x: x + 1e9, lambda x: x * 1e-60])
def test_what_float32_can_not_tell_apart_is_refused(workspace, capsys, change):
    np.save("x.npy", change(np.random.default_rng(0).normal(size=(40, 2))))
    np.save("labels.npy", np.arange(40) % 2)
    for kind in ("audit", "attack"):
        command = [f"attack={kind}", "user_embedding=x.npy", "labels=labels.npy"]
        assert attack.main(command) == 2
        assert "float32 can't tell" in capsys.readouterr().err


DAMAGES = {
    "summary.json": lambda path: path.write_text("{}"),
    "users.csv": lambda path: path.write_text("user,HR@10\n1,0.5\n"),
    "weights/user_lists.npy": lambda path: np.save(path, np.full((80, 20), 2**40)),
    "weights/user_vectors.npz": lambda path: np.savez(path, gmf=np.zeros((3, 2))),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_file_of_a_run_is_one_line(workspace, capsys, name):
    assert main.main([*TINY, "method=original"]) == 0
    folder = workspace / "exp_results/ncf/ml-100k/original/seed-0"
    DAMAGES[name](folder / name)
    capsys.readouterr()
    assert attack.main(["attack=audit", "threads=1"]) == 2
    assert name in capsys.readouterr().err


def test_a_recorded_audit_is_not_done_again(workspace, plain_audit, monkeypatch, capsys):
    monkeypatch.setattr(attack, "renew_report", lambda record: None)
    assert main.main([*TINY, "method=original"]) == 0
    command = ["attack=audit", "attackers=logistic", "record=rows/", "threads=1"]
    assert attack.main(command) == 0
    rows = (workspace / "rows/audits.csv").read_text().splitlines()
    assert [row.split(",")[8] for row in rows] == ["place", "all", "gmf", "lists", "mlp", "scores"]
    shutil.rmtree(workspace / "exp_results")
    capsys.readouterr()
    assert attack.main(command) == 0
    assert "was audited already" in capsys.readouterr().out
    assert attack.main([*command, "attack_seed=1"]) == 2  # another audit, and nothing to audit


@pytest.mark.parametrize(
    ("keys", "leaking", "said"),
    [
        ({"method": "calibrated", "scope": "served"}, ["lists"], "the lists alone tell"),
        ({"method": "calibrated", "scope": "served"}, ["gmf", "lists"], None),
        (
            {"method": "d2d", "regularizer": "ranking", "seed": 3},
            ["gmf"],
            "Next: python main.py method=calibrated seed=3 scope=served",
        ),
    ],
)
def test_what_is_said_after_a_leak(keys, leaking, said, caplog):
    """What is proposed has no key that does nothing there."""
    caplog.set_level("INFO")
    attack.say_next(AttackConfig(attack="audit", **keys), leaking)
    lines = [record.getMessage().strip() for record in caplog.records]
    assert len(lines) == (said is not None)
    assert all(line.startswith(said) for line in lines)

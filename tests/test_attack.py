"""Attack protocols: who trains, who tests, and whether a planted attribute is found."""

import random
import re

import numpy as np
import pytest
import torch
from sklearn.model_selection import cross_validate
from xgboost import XGBClassifier

from methods import d2d
from methods.losses.regularizers import frobenius
from methods.unlearning import Optimizer, unlearn
from utils.audit import attackers
from utils.audit.attackers import ATTACKERS, XGB_SETTINGS
from utils.audit.leakage import summarise
from utils.audit.protocols import Protocol, balanced_users, rounds
from utils.audit.scores import out_of_sample
from utils.audit.statistics import auc_standard_error
from utils.config import AttackConfig
from utils.errors import UserError


def protocol(name="shadow", **changes):
    settings = dict(shadow_ratio=0.2, draws=3, folds=4, repeats=2, seed=0)
    return Protocol(name, **(settings | changes))


def attack(embedding, labels, names, protocol, jobs=1):
    return summarise(out_of_sample(embedding, labels, names, protocol, jobs), labels)


def planted(strength, n=240, classes=2, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    embedding = rng.normal(size=(n, 6))
    embedding[:, 0] += strength * labels
    return embedding, labels


def test_balanced_users_are_equally_many_of_each_known_class():
    labels = np.array([0] * 50 + [1] * 20 + [2] * 30 + [-1] * 9)
    users = balanced_users(labels, np.random.default_rng(0))
    assert np.bincount(labels[users]).tolist() == [20, 20, 20]
    assert len(set(users)) == 60


def test_shadow_rounds_are_disjoint_stratified_and_redrawn():
    labels = np.array([0] * 100 + [1] * 300)
    splits = rounds(labels, protocol(shadow_ratio=0.1, draws=4))
    for split in splits:
        assert not set(split.train) & set(split.test)
        assert np.bincount(labels[split.train]).tolist() == [10, 10]
        assert np.bincount(labels[split.test]).tolist() == [90, 90]
    assert len({tuple(sorted(split.train)) for split in splits}) == 4
    majority = {tuple(u for u in sorted([*s.train, *s.test]) if u >= 100) for s in splits}
    assert len(majority) == 4


@pytest.mark.parametrize("name", ["shadow", "cv"])
def test_classes_as_they_are_keep_their_sizes_and_nobody_is_left_out(name):
    labels = np.array([0] * 40 + [1] * 100 + [-1] * 9)
    splits = rounds(labels, protocol(name, shadow_ratio=0.25, draws=3, folds=4, balanced=False))
    for split in splits:
        assert sorted([*split.train, *split.test]) == list(range(140))
        share = {"shadow": 0.25, "cv": 0.75}[name]
        assert np.bincount(labels[split.train]).tolist() == [40 * share, 100 * share]
    assert len({tuple(sorted(split.train)) for split in splits[:3]}) == 3


def test_a_share_that_leaves_a_small_class_out_is_refused():
    labels = np.array([0] * 4 + [1] * 100)
    with pytest.raises(UserError, match=r"0\.1 of 104 users exposes 10: at least one of each"):
        rounds(labels, protocol(shadow_ratio=0.1, balanced=False))
    for split in rounds(labels, protocol(shadow_ratio=0.3, balanced=False)):
        assert set(labels[split.train]) == set(labels[split.test]) == {0, 1}


def test_an_attack_may_be_seeded_by_its_run():
    fixed, own = ([rounds_of_run(seed, given) for seed in (1, 2)] for given in (7, "run"))
    assert fixed[0] == fixed[1] == rounds_of_run(7, "run")
    assert own[0] == rounds_of_run(5, 1) != own[1] == rounds_of_run(5, 2)


def rounds_of_run(seed, attack_seed):
    """Who is tested in each round of an attack on the run of a seed."""
    labels = np.array([0] * 40 + [1] * 90)
    config = AttackConfig(seed=seed, attack_seed=attack_seed, draws=2)
    return [split.test.tolist() for split in rounds(labels, Protocol.of(config))]


def test_cv_rounds_test_every_balanced_user_once_a_repeat():
    labels = np.array([0] * 40 + [1] * 90)
    splits = rounds(labels, protocol("cv"))
    assert len(splits) == 8
    for repeat in (splits[:4], splits[4:]):
        tested = np.concatenate([split.test for split in repeat])
        assert len(tested) == len(set(tested)) == 80
    assert set(splits[0].train) | set(splits[0].test) == set(splits[5].train) | set(splits[5].test)


def test_cv_artefact_finds_what_a_script_of_its_kind_finds():
    """Class after class, men by random.seed(4), folds in that order."""
    embedding, labels = planted(1.0)
    labels = np.where(np.arange(len(labels)) % 5 == 0, 1 - labels, labels)
    labels[::7] = -1
    women, men = (np.flatnonzero(labels == c).tolist() for c in (0, 1))
    size = min(len(women), len(men))
    assert len(women) != len(men)
    random.seed(4)
    drawn = [one if len(one) == size else random.sample(one, size) for one in (women, men)]
    users = np.concatenate(drawn)
    x, y = embedding[users].astype(np.float32), labels[users]
    expected = cross_validate(XGBClassifier(**XGB_SETTINGS["cv"]), x, y, cv=5, scoring="roc_auc")
    artefact = protocol("cv-artefact", folds=5, repeats=3, seed=9)
    found = attack(embedding, labels, ["xgb"], artefact, jobs=1)
    assert found["rounds"] == 15
    mean = found["attackers"]["xgb"]["auc"]["mean"]
    assert mean == pytest.approx(expected["test_score"].mean())


@pytest.mark.parametrize("name", ["shadow", pytest.param("cv", marks=pytest.mark.thorough)])
@pytest.mark.parametrize("attacker", ATTACKERS)
def test_a_planted_attribute_is_found_and_an_absent_one_is_not(name, attacker):
    found = attack(*planted(6.0), [attacker], protocol(name), jobs=1)["attackers"][attacker]
    absent = attack(*planted(0.0), [attacker], protocol(name), jobs=1)["attackers"][attacker]
    assert found["auc"]["mean"] > 0.9
    assert absent["leakage"] < 0.15
    assert found["leakage"] == pytest.approx(found["auc"]["mean"] - 0.5)


@pytest.mark.parametrize("attacker", ATTACKERS)
def test_more_than_two_classes(attacker):
    result = attack(*planted(8.0, n=480, classes=4), [attacker], protocol(), jobs=1)
    scores = result["attackers"][attacker]
    assert scores["auc"]["mean"] > 0.8
    assert scores["accuracy"]["mean"] > 0.5


def test_mean_std_and_counts():
    result = attack(*planted(1.0), ["svm"], protocol(), jobs=1)
    auc = result["attackers"]["svm"]["auc"]
    assert auc["mean"] == pytest.approx(np.mean(auc["values"]))
    assert auc["std"] == pytest.approx(np.std(auc["values"], ddof=1))
    labels = planted(1.0)[1]
    smallest = np.bincount(labels).min()
    assert result["users"]["balanced"] == 2 * smallest
    assert result["users"]["train"] == round(0.2 * 2 * smallest)


@pytest.mark.thorough
def test_the_number_of_processes_changes_nothing():
    one = attack(*planted(1.0), ["mlp", "xgb"], protocol(draws=2), jobs=1)
    two = attack(*planted(1.0), ["mlp", "xgb"], protocol(draws=2), jobs=2)
    assert one == two


def test_an_mlp_that_does_not_converge_is_counted_not_shouted(monkeypatch):
    monkeypatch.setitem(attackers.MLP_SETTINGS, "shadow", dict(max_iter=2))
    result = attack(*planted(1.0), ["mlp"], protocol(), jobs=1)
    assert result["attackers"]["mlp"]["unconverged"] == 3


def test_scores_are_of_the_test_users_alone_and_the_metrics_are_theirs():
    embedding, labels = planted(1.0)
    (found,) = out_of_sample(embedding, labels, ["xgb"], protocol(draws=1)).values()
    (one,) = found
    assert one.scores.shape == (len(one.split.test), 2)
    np.testing.assert_allclose(one.scores.sum(1), 1, rtol=1e-6)
    np.testing.assert_array_equal(one.predicted, one.scores.argmax(1))
    truth = labels[one.split.test]
    positive, negative = one.scores[truth == 1, 1], one.scores[truth == 0, 1]
    above = (positive[:, None] > negative).mean() + (positive[:, None] == negative).mean() / 2
    result = summarise({"xgb": found}, labels)["attackers"]["xgb"]
    assert result["auc"]["mean"] == pytest.approx(above)
    assert result["accuracy"]["mean"] == np.mean(one.predicted == truth)


def test_the_standard_error_of_an_auc_is_that_of_repeated_draws():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [100, 80])
    scores = rng.normal(size=(1500, 180)) + labels
    aucs = (scores[:, labels == 1, None] > scores[:, None, labels == 0]).mean((1, 2))
    assert auc_standard_error(np.mean(aucs), 80, 100) == pytest.approx(np.std(aucs), rel=0.1)


def test_d2d_leaves_an_attacker_below_chance_the_fewer_the_users_the_further():
    """The classes agree over all users together: where they differ in the half that trains the
    attacker, they differ the other way round in the half that tests it.
    """

    def audit(n):
        embedding, labels = planted(2.0, n)
        theta, optimizer = torch.from_numpy(embedding), Optimizer("adam", 60, 0.05)
        objective = d2d.distinguishability
        arguments = (theta, torch.from_numpy(labels), objective, frobenius(theta), 1e-6, optimizer)
        edited = unlearn(*arguments).embedding.numpy()
        half = protocol(shadow_ratio=0.5, draws=5)
        both = [attack(table, labels, ["svm"], half) for table in (embedding, edited)]
        return [result["attackers"]["svm"] for result in both]

    (_, few), (before, many) = audit(80), audit(1200)
    assert before["auc"]["mean"] > 0.85
    assert few["auc"]["mean"] < many["auc"]["mean"] < 0.5
    assert few["leakage"] > 0.2
    assert many["leakage"] < 0.15


def test_too_few_users_of_a_class():
    embedding, labels = planted(1.0, n=30)
    labels[:] = 1
    labels[:3] = 0
    with pytest.raises(UserError, match=r"shadow_ratio 0\.1 of 6 balanced users exposes 1"):
        attack(embedding, labels, ["mlp"], protocol(shadow_ratio=0.1), jobs=1)
    with pytest.raises(UserError, match="has 3 users, fewer than folds 4; take folds=3"):
        attack(embedding, labels, ["mlp"], protocol("cv"), jobs=1)


@pytest.mark.parametrize("smallest", [2, 3, 7, 16, 40])
@pytest.mark.parametrize("classes", [2, 21])
def test_the_ratios_that_are_named_work_and_others_do_not(smallest, classes):
    labels = np.repeat(np.arange(classes), smallest)

    def tried(ratio):
        return rounds(labels, protocol(shadow_ratio=ratio, draws=1))

    with pytest.raises(UserError) as error:
        tried(1e-4)
    low, high = map(float, re.search(r"from (\S+) to (\S+),", str(error.value)).groups())
    for ratio in (low, (low + high) / 2, high):
        (one,) = tried(ratio)
        assert set(labels[one.train]) == set(labels[one.test]) == set(range(classes))
    if smallest > 2:
        with pytest.raises(UserError):
            tried(0.4 * low)
    with pytest.raises(UserError, match="one class is too small for any: leave it out"):
        rounds(np.array([0, 1, 1, 1]), protocol(shadow_ratio=0.5))

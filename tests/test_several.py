"""Several attributes at once: their combinations, or one after the other."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

import attack
import main
from data.dataset import Attribute
from methods import METHODS
from methods.calibrated import CalibratedOptions
from methods.eraser import TransductiveEraser
from methods.several import CYCLES, above_null, fit_several
from tests.test_audit import CV
from utils.audit.leakage import summarise
from utils.audit.null import Worst
from utils.audit.scores import out_of_sample
from utils.errors import UserError
from utils.messages import remarks
from utils.threads import UNCHANGED

TINY = ["epochs=2", "batch_size=512", "lr=0.01", "embedding_size=4", "num_ng=1", "threads=1"]


def attribute(name, *values):
    return Attribute.from_values(name, pd.Series(values))


def test_the_joint_classes_are_the_combinations_that_occur():
    gender = attribute("gender", "F", "M", "F", "", "M")
    age = attribute("age", "56+", "18", "18", "18", "")
    both = Attribute.joint([gender, age])
    assert both.name == "gender+age"
    assert both.classes == ("F+18", "F+56+", "M+18")
    assert both.labels.tolist() == [1, 2, 0, -1, -1]
    # who is unknown in one is unknown in each
    apart = {name: labels.tolist() for name, labels in both.apart().items()}
    assert apart == {"gender": [0, 1, 0, -1, -1], "age": [1, 0, 0, -1, -1]}
    assert Attribute.joint([age]) is age
    assert age.apart()["age"] is not None and list(age.apart()) == ["age"]


def test_a_share_of_labels_is_the_same_users_in_each_part():
    rng = np.random.default_rng(0)
    one, other = (attribute(name, *rng.choice(["a", "b"], 200)) for name in ("x", "y"))
    shown = Attribute.joint([one, other]).seen(0.25, 0)
    for labels in (shown.labels, *shown.apart().values()):
        assert (labels >= 0).sum() == 50
        np.testing.assert_array_equal(labels >= 0, shown.labels >= 0)


def planted(n, share):
    """Two attributes, each planted in a direction of its own; `share` of users have the second."""
    rng = np.random.default_rng(1)
    labels = np.stack([rng.integers(0, 2, n), (rng.random(n) < share).astype(int)], 1)
    x = rng.normal(size=(n, 5))
    x[:, :2] += 1.2 * labels
    return x, labels


@pytest.mark.parametrize(
    ("share", "how", "chance"), [(0.5, "their combinations", 0.05), (0.04, "one after", 0.15)]
)
def test_both_attributes_are_hidden(share, how, chance):
    """Chance: of the worse of the two attackers, in 95 of 100 draws of random labels (60 draws)."""
    x, labels = planted(1500, share)
    whole = torch.from_numpy(2 * labels[:, 0] + labels[:, 1])
    parts = {name: torch.from_numpy(labels[:, n].copy()) for n, name in enumerate("ab")}
    tables = {"table": torch.from_numpy(x)}
    options = CalibratedOptions(
        calibrated_rounds=6, calibrated_views="both"
    )  # few rounds, few views
    arguments = (parts, options, np.random.default_rng(2))
    fit = METHODS["calibrated"].fit
    eraser = fit_several(fit, tables, whole, *arguments, None, UNCHANGED)
    assert eraser.record["attributes"].startswith(how)
    cycles = 0 if share == 0.5 else eraser.history[-1]["cycle"]
    assert len(eraser.history) == (12 if share == 0.5 else 12 * 2 * cycles)  # both views
    assert eraser.record.get("above_null", []) == []
    edited = eraser.apply(tables)["table"].numpy()
    for own in labels.T:
        before, after = (
            Worst.of(
                summarise(out_of_sample(vectors, own, ["logistic", "qda"], CV), own)["attackers"]
            )
            for vectors in (x, edited)
        )
        assert before.leakage > 0.2
        assert after.leakage < chance


class Kept:
    """Progress that keeps every state, and ends the work after so many."""

    def __init__(self, last=1000):
        self.last, self.state, self.times = last, None, 0

    def load(self):
        return self.state

    def save(self, state):
        self.state, self.times = state(), self.times + 1
        if self.times == self.last:
            raise KeyboardInterrupt


def in_turn(fit, progress, seed=2):
    x, labels = planted(600, 0.04)
    parts = {name: torch.from_numpy(labels[:, n].copy()) for n, name in enumerate("ab")}
    whole = torch.from_numpy(2 * labels[:, 0] + labels[:, 1])
    options, rng = CalibratedOptions(calibrated_rounds=2), np.random.default_rng(seed)
    tables = {"one": torch.from_numpy(x[:, :3]).float(), "two": torch.from_numpy(x[:, 3:])}
    eraser = fit_several(fit, tables, whole, parts, options, rng, None, UNCHANGED, progress)
    return eraser, eraser.apply(tables)


@pytest.mark.parametrize("interrupted_after", [1, 2])
def test_interrupted_between_two_attributes_it_goes_on_to_the_same(interrupted_after):
    fit = METHODS["calibrated"].fit
    whole, edited = in_turn(fit, Kept())
    kept = Kept(interrupted_after)
    with pytest.raises(KeyboardInterrupt):
        in_turn(fit, kept)
    again, edited_again = in_turn(fit, kept, seed=3)  # the generator's state is the kept one
    assert again.history == whole.history
    assert again.record["above_null"] == whole.record["above_null"]
    for name, table in edited.items():
        assert torch.equal(table, edited_again[name])


def test_what_no_cycle_hides_is_said():
    def idle(tables, labels, options, rng, *_):
        return TransductiveEraser(dict(tables), dict(tables), {}, [])

    eraser, _ = in_turn(idle, Kept())
    assert eraser.record["attributes"] == f"one after the other, {CYCLES} times"
    assert "a" in eraser.record["above_null"]
    assert "a few attackers still tell a" in remarks(eraser.record)[0]


@pytest.mark.thorough
def test_random_labels_are_above_their_null_in_one_case_of_twenty():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3))
    parts = {str(n): torch.from_numpy(rng.integers(0, 2, 200)) for n in range(30)}
    assert len(above_null(x, parts, rng)[0]) <= 4  # binomial(30, .05): p = .02
    parts = {"told": torch.from_numpy((x[:, 0] > 0).astype(int))}
    parts["rare"] = torch.tensor([0] * 199 + [1])
    assert above_null(x, parts, rng) == (["told"], ["rare"])


def test_that_nothing_is_left_and_that_nobody_looked_is_said_of_one_after_the_other():
    """As of leace with years of age: as many directions as dimensions."""
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(300, 4)))
    parts = {"a": torch.from_numpy(rng.integers(0, 2, 300)), "years": torch.arange(300) // 3}
    joint = torch.unique(parts["a"] + 2 * parts["years"], return_inverse=True)[1]
    fit = METHODS["leace"].fit
    eraser = fit_several(fit, {"x": x}, joint, parts, None, rng, None, UNCHANGED)
    assert float(eraser.apply({"x": x})["x"].std(0).max()) < 1e-9
    said = remarks(eraser.record)
    assert any(line.startswith("nothing is left") for line in said)
    assert "whether years is hidden was not looked at: a class has too few users" in said[-1]


@pytest.mark.parametrize("method", ["d2d", "retrain"])
def test_the_command_hides_both_and_the_attack_infers_each(workspace, capsys, method):
    run = [*TINY, "attribute=gender+occupation", f"method={method}"]
    steps = ["unlearn_steps=3"] if method == "d2d" else []
    assert main.main([*run, *steps]) == 0
    folder = workspace / f"exp_results/ncf/ml-100k/{method}/gender+occupation/seed-0"
    counts = json.loads((folder / "summary.json").read_text())["users_of_class"]
    assert set(counts) == {f"{g}+{o}" for g in "FM" for o in ("artist", "doctor", "student")}
    which = [
        "attribute=gender+occupation",
        f"method={method}",
        "draws=2",
        "shadow_ratio=0.3",
        "threads=1",
    ]
    for inferred in ("gender", "occupation", None):
        key = [f"infer={inferred}"] if inferred else []
        assert attack.main([*which, *key, "attackers=xgb"]) == 0
        found = json.loads((folder / "attack.json").read_text())
        wanted = inferred or "gender+occupation"
        assert found[f"{wanted}/shadow"]["attribute"] == wanted
    assert len(found) == 3


@pytest.mark.thorough
def test_an_audit_of_one_of_several_is_beside_that_of_all(workspace, capsys):
    both = ["attribute=gender+occupation", "method=leace"]
    assert main.main([*TINY, *both]) == 0
    arguments = [*both, "attack=audit", "attackers=logistic", "record=tables/", "threads=1"]
    assert attack.main([*arguments, "infer=gender"]) == 0
    assert attack.main(arguments) == 0
    folder = workspace / "exp_results/ncf/ml-100k/leace/gender+occupation/seed-0"
    classes = {
        name: json.loads((folder / f"audit-{name}.json").read_text())["classes"]
        for name in ("logistic", "gender+occupation-logistic")
    }
    assert classes["logistic"] == ["F", "M"]
    assert len(classes["gender+occupation-logistic"]) == 6
    text = capsys.readouterr().out
    assert attack.main([*arguments, "infer=gender"]) == 0
    assert "was audited already" in capsys.readouterr().out.replace(text, "")


def test_names_of_several_attributes_that_make_no_sense_are_one_line(workspace, capsys):
    for value, says in (
        ("gender+", "several as in gender+age"),
        ("gender+shoes", 'attribute "shoes" is not in'),
        ("gender+gender", "names one twice"),
    ):
        assert main.main([*TINY, f"attribute={value}", "method=leace"]) == 2
        assert says in capsys.readouterr().err


def of_two(first, second):
    return Attribute.joint(
        [
            Attribute.from_values("x", pd.Series(first)),
            Attribute.from_values("y", pd.Series(second)),
        ]
    )


def test_combinations_are_no_numbers_and_none_stands_for_two():
    whole = of_two(["1e", "10e", "-2e", "1e"], ["5", "4", "5", ""])
    assert whole.classes == ("-2e+5", "10e+4", "1e+5")
    assert whole.labels.tolist() == [2, 1, 0, -1]
    assert of_two(["a", "b"], ["56+", "1"]).classes == ("a+56+", "b+1")
    with pytest.raises(UserError, match=r'"x" has the class "a\+b".*name "x" last'):
        of_two(["a", "a+b"], ["b+c", "c"])

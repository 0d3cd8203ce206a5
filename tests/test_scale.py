"""Other people's embeddings are unlearned too: of any scale, with heavy tails, of many users."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict

import main
from methods import METHODS, d2d
from methods.losses.objective import Objective
from methods.losses.regularizers import frobenius
from methods.unlearning import PUBLISHED_SPREAD, Optimizer, Units, unlearn
from utils.messages import remarks
from utils.seeds import numpy_generator
from utils.threads import UNCHANGED

TINY = ["epochs=2", "batch_size=512", "lr=0.01", "embedding_size=4", "num_ng=1", "threads=1"]


def planted(n, d, shift, dtype=np.float64, seed=0):
    """Gaussian users of two classes, a third of them in class 1, means `shift` spreads apart."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(n) % 3 == 0).astype(int)
    direction = rng.normal(size=d)
    direction /= np.linalg.norm(direction)
    x = rng.normal(size=(n, d)) + shift * labels[:, None] * direction + 3
    return x.astype(dtype), labels


def leakage(x, labels):
    """|AUC - 0.5| of logistic regression out of fold."""
    scores = cross_val_predict(LogisticRegression(), (x - x.mean(0)) / x.std(0), labels, cv=3)
    return abs(roc_auc_score(labels, scores) - 0.5)


def edited(x, labels, *arguments, results="exp_results"):
    """What main.py makes of a file, and its summary."""
    np.save("x.npy", x)
    np.save("labels.npy", labels)
    files = ["user_embedding=x.npy", "labels=labels.npy", "threads=1"]
    assert main.main([*files, *arguments, f"results_path={results}"]) == 0
    method = next(one for one in arguments if one.startswith("method="))[7:]
    folder = Path(results) / "external/x" / method / "seed-0"
    summary = json.loads((folder / "summary.json").read_text())
    return np.load(folder / "weights/user_embedding.npy"), summary


@pytest.mark.parametrize("method", ["u2u", "d2d"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_table_times_a_power_of_two_gives_the_result_times_it(workspace, method, dtype):
    x, labels = planted(60, 4, 2.0, dtype)
    labels[:5] = -1
    results = {}
    for power in (-20, 0, 13):
        scaled = x * dtype(2.0**power)
        result, _ = edited(scaled, labels, f"method={method}", "unlearn_steps=30")
        assert result.dtype == dtype
        assert np.array_equal(result[:5], scaled[:5])
        results[power] = result * dtype(2.0**-power)
    assert (results[0][5:] != x[5:]).any(1).all()
    for power in (-20, 13):
        np.testing.assert_array_equal(results[power], results[0])


def test_d2d_hides_as_well_whatever_the_scale(workspace):
    x, labels = planted(300, 8, 2.0)
    before, found = leakage(x, labels), []
    assert before > 0.25
    for scale in (0.01, 1.0, 100.0):
        result, summary = edited(x * scale, labels, "method=d2d")
        found.append((leakage(result, labels), summary["moved"], summary["losses"]["left"]))
        assert summary["remarks"] == []
    np.testing.assert_allclose(found, [found[1]] * 3, atol=0.01)
    assert found[0][0] < 0.5 * before
    assert found[0][2] < 0.05


def test_u2u_leaves_the_same_share_whatever_the_scale(workspace):
    x, labels = planted(300, 8, 2.0)
    left = [
        edited(x * scale, labels, "method=u2u")[1]["losses"]["left"] for scale in (0.01, 1.0, 100.0)
    ]
    np.testing.assert_allclose(left, left[0], rtol=1e-4)
    assert left[0] < 0.1


def test_the_units_are_those_of_the_published_spread():
    theta = torch.from_numpy(planted(200, 5, 1.0)[0]) * 7
    x = Units.of(theta).of_own(theta)
    assert x.mean(0).abs().max() < 1e-12
    assert x.square().mean().sqrt() == pytest.approx(PUBLISHED_SPREAD)
    torch.testing.assert_close(Units.of(theta).to_own(x), theta)
    point = torch.full((9, 2), 3.0)
    assert Units.of(point).size == 1


def test_relative_unlearning_is_published_unlearning_of_the_table_in_these_units():
    theta = torch.from_numpy(planted(60, 4, 2.0)[0]) * 40
    labels = torch.from_numpy(planted(60, 4, 2.0)[1])
    labels[0] = -1
    options = d2d.D2DOptions(unlearn_scale="relative", unlearn_steps=40, au_trade_off=0.01)
    arguments = ({"gmf": theta}, {"gender": labels}, options, numpy_generator(0), None, UNCHANGED)
    eraser = METHODS["d2d"].fit(*arguments)
    units = Units.of(theta[1:])
    x = units.of_own(theta)
    optimizer = Optimizer("adam", 40, 0.001)
    done = unlearn(x, labels, d2d.distinguishability, frobenius(x), 0.01, optimizer)
    assert eraser.history == done.history
    result = eraser.edited["gmf"]
    assert torch.equal(result[1:], units.to_own(done.embedding)[1:])
    moved = (result - theta).norm() / theta.norm()  # in the table's own numbers
    assert eraser.record["moved"] == pytest.approx(moved.item())


def test_a_run_on_a_file_says_that_it_was_relative(workspace):
    x, labels = planted(30, 3, 2.0)
    _, summary = edited(x, labels, "method=u2u", "unlearn_steps=2")
    assert summary["config"]["unlearn_scale"] == "relative"
    _, again = edited(x, labels, "method=u2u", "unlearn_steps=2", "unlearn_scale=relative")
    assert again["key"] == summary["key"]


@pytest.mark.parametrize("regularizer", ["frobenius", "ranking"])
def test_a_models_embedding_is_taken_as_relative_when_asked(workspace, regularizer):
    keys = [*TINY, "method=d2d", f"regularizer={regularizer}", "unlearn_steps=3", "ranking_top=5"]
    found = []
    for scale in ("absolute", "relative"):
        assert main.main([*keys, f"unlearn_scale={scale}", f"results_path={scale}"]) == 0
        (path,) = Path(scale, "ncf/ml-100k/d2d").rglob("user_embedding.npy")
        found.append(np.load(path))
    assert (found[0] != found[1]).any()


def test_a_loss_of_an_affine_map_against_autograd():
    star, theta = torch.from_numpy(planted(9, 3, 1.0)[0]), torch.ones(9, 3, dtype=torch.float64)
    factor, shift = torch.tensor([1.0, 2.0, 0.5]), torch.tensor([3.0, 0.0, 1.0])
    loss = frobenius(star).of_affine(factor, shift)
    theta.requires_grad_()
    expected = (shift + factor * theta - star).square().sum()
    torch.testing.assert_close(loss.value(theta), expected)
    (gradient,) = torch.autograd.grad(expected, theta)
    torch.testing.assert_close(loss.gradient(theta.detach()), gradient)
    assert loss.chance is None and loss.minimiser is None


def unlearned(values, chance=None, steps=1):
    """`Unlearned` of a loss that has these values before and after."""
    given = iter(values)
    loss = Objective(
        lambda theta: torch.tensor(next(given)),
        torch.zeros_like,
        chance=chance and (lambda theta: torch.tensor(chance)),
    )
    none = Objective(lambda theta: 0 * theta.sum(), torch.zeros_like)
    labels = torch.tensor([0, 1, 0, 1])
    return unlearn(torch.ones(4, 2), labels, lambda _: loss, none, 0, Optimizer("adam", steps, 0.1))


@pytest.mark.parametrize(
    ("values", "chance", "left"),
    [
        ((0.5, 0.25), None, 0.5),
        ((0.5, 0.25), 0.25, 0.0),
        ((0.5, 0.375), 0.25, 0.5),
        ((0.5, 0.125), 0.25, 0.0),  # less than random groups have
        ((0.25, 0.125), 0.25, None),
        ((0.0, 0.0), None, None),
    ],
)
def test_what_is_left_is_a_share_of_what_is_beyond_chance(values, chance, left):
    done = unlearned(values, chance)
    assert done.left == left
    assert done.summary()["losses"]["left"] == left


def test_that_it_did_not_work_is_said_in_words():
    def of(*values, chance=None):
        return remarks({"losses": unlearned(values, chance).summary()["losses"]})

    assert of(1.0, 0.5) == of(0.0, 0.0) == []
    (remark,) = of(1.0, 0.75)
    assert remark.startswith("it did not work: 75 % of the distinguishability is left")
    assert "raise unlearn_steps or unlearn_lr" in remark
    assert of(1.0, 0.75, chance=0.5) == []
    assert len(of(1.0, 0.875, chance=0.5)) == 1
    old = {"before": {"distinguishability": 1.0}, "after": {"distinguishability": 1.0}}
    assert remarks({"losses": old}) == []


def test_a_run_says_what_it_left(workspace, capsys):
    x, labels = planted(90, 4, 2.0)
    _, summary = edited(x, labels, "method=d2d", "unlearn_steps=1")
    before, after = (summary["losses"][when] for when in ("before", "after"))
    left = (after["distinguishability"] - after["chance"]) / (
        before["distinguishability"] - before["chance"]
    )
    assert summary["losses"]["left"] == pytest.approx(left)
    printed = capsys.readouterr().out
    assert f"distinguishability {before['distinguishability']:.4g} before, " in printed
    assert f": {100 * left:.1f} % of what is beyond chance left" in printed
    assert f"warning: it did not work: {100 * left:.0f} % of the" in printed
    _, summary = edited(x, labels, "method=u2u", "unlearn_steps=1")
    assert f"after: {100 * summary['losses']['left']:.1f} % left" in capsys.readouterr().out


@pytest.mark.thorough
def test_users_of_uneven_activity_need_a_median_width():
    """Norms follow activity, the class lies in the direction: b, a mean, follows the most active,
    and to the kernels all others are one point.
    """
    x, labels = planted(400, 8, 2.0)
    x -= 3
    activity = np.exp(2 * np.random.default_rng(1).normal(size=(400, 1)))
    x *= activity / np.linalg.norm(x, axis=1, keepdims=True)
    known, options = torch.from_numpy(labels), {"unlearn_scale": "relative"}

    def left(width):
        tables = {"mine": torch.from_numpy(x)}
        given = d2d.D2DOptions(kernel_width=width, unlearn_lr=0.002, unlearn_steps=250, **options)
        arguments = (tables, {"gender": known}, given, numpy_generator(0), None, UNCHANGED)
        return directions_tell(METHODS["d2d"].fit(*arguments).edited["mine"].numpy(), labels)

    assert directions_tell(x, labels) > 0.25
    mean, median = left("mean"), left("median")
    assert mean > 0.1
    assert median < 0.05


def directions_tell(x, labels):
    return leakage(x / np.linalg.norm(x, axis=1, keepdims=True), labels)


def test_a_file_of_many_users_is_unlearned_on_sampled_pairs(workspace):
    x, labels = planted(300, 4, 2.0)
    few = ["method=d2d", "pairs_users=100", "unlearn_steps=200", "unlearn_lr=0.004"]
    result, summary = edited(x, labels, *few)
    assert leakage(result, labels) < 0.5 * leakage(x, labels)
    assert summary["losses"]["left"] < 0.1
    again, _ = edited(x, labels, *few, results="again")
    np.testing.assert_array_equal(result, again)
    exact, _ = edited(x, labels, *few[:1], "pairs_users=300", *few[2:])
    assert (result != exact).any()

"""The distances and divergences that the paper names beside its own, against plain oracles."""

import json
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

import main
from benchmarks import naive
from methods import METHODS, d2d, u2u
from methods.losses.kl import RIDGE, kl, kl_gradient
from methods.losses.mmd import Classes
from methods.losses.regularizers import frobenius
from methods.losses.softmax import Graph, predicted, weighted
from methods.unlearning import Optimizer, unlearn
from tests.test_losses import autograd, users
from utils.errors import UserError
from utils.seeds import numpy_generator
from utils.threads import UNCHANGED

DIVERGENCES = {
    "kl": lambda theta, labels: d2d.gaussian(labels, numpy_generator(0)),
    "softmax": lambda theta, labels: of_u2u(theta, labels, "softmax"),
    "adaptive": lambda theta, labels: of_u2u(theta, labels, "adaptive"),
}


def of_u2u(theta, labels, divergence):
    options = u2u.U2UOptions(u2u_divergence=divergence)
    return u2u.loss(theta, labels, options, numpy_generator(0))


def of_d2d(theta, labels, **options):
    return d2d.loss(theta, labels, d2d.D2DOptions(**options), numpy_generator(0))


def gaussians(theta, labels):
    """Means and covariances of the classes, with the ridge."""
    added = RIDGE * theta.var(0, correction=0).mean() * torch.eye(theta.shape[1]).to(theta)
    own = [theta[labels == c] for c in range(int(labels.max()) + 1)]
    return [(x.mean(0), torch.cov(x.T, correction=0) + added) for x in own]


def textbook(one, other):
    """KL of two Gaussians."""
    (mean, covariance), (there, around) = one, other
    inverse, apart = torch.linalg.inv(around), there - mean
    return (
        torch.trace(inverse @ covariance)
        + apart @ inverse @ apart
        - len(mean)
        + torch.logdet(around)
        - torch.logdet(covariance)
    ) / 2


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_kl_is_the_textbook_formula_over_all_ordered_pairs(classes):
    theta, labels = users(classes=classes)
    pairs = list(permutations(gaussians(theta, labels), 2))
    assert len(pairs) == classes * (classes - 1)
    by_formula = torch.stack([textbook(*pair) for pair in pairs])
    by_torch = torch.stack(
        [kl_divergence(*(MultivariateNormal(*one) for one in pair)) for pair in pairs]
    )
    torch.testing.assert_close(by_formula, by_torch)
    torch.testing.assert_close(kl(theta, labels), by_formula.mean())


def test_kl_by_hand_in_one_dimension():
    # class 0 at -2 and 0, class 1 at 0 and 4: means -1 and 2, variances 1 and 4, of all 4.75
    theta = torch.tensor([[-2.0], [0.0], [0.0], [4.0]])
    one, four = 1 + RIDGE * 4.75, 4 + RIDGE * 4.75
    expected = ((one + 9) / four + (four + 9) / one - 2) / 4
    assert kl(theta, torch.tensor([0, 0, 1, 1])).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("k", [4, 30])  # 30: more dimensions than users in a class
def test_the_gradient_of_kl_equals_finite_differences(classes, k):
    theta, labels = users(n=24, k=k, classes=classes)
    gradient, step = kl_gradient(theta, labels), 1e-5
    slopes = torch.zeros_like(theta)
    for place in np.ndindex(*theta.shape):
        moved = torch.zeros_like(theta)
        moved[place] = step
        slopes[place] = (kl(theta + moved, labels) - kl(theta - moved, labels)) / (2 * step)
    torch.testing.assert_close(gradient, slopes, rtol=1e-5, atol=1e-6)
    assert gradient.abs().max() > 1e-2

    def oracle(theta):
        pairs = list(permutations(gaussians(theta, labels), 2))
        return sum(textbook(*pair) for pair in pairs) / len(pairs)

    torch.testing.assert_close(gradient, autograd(oracle, theta)[1])


def test_kl_of_equal_moments_is_zero_whatever_else_differs():
    x, _ = users(n=30)
    theta, labels = torch.cat([x, 2 * x.mean(0) - x]), torch.arange(60) // 30  # mirrored
    assert abs(kl(theta, labels)) < 1e-12
    assert kl_gradient(theta, labels).abs().max() < 1e-12
    assert kl(theta + labels[:, None], labels) > 0.1
    assert kl(theta * (1 + labels[:, None]), labels) > 0.1


def test_kl_sees_neither_translation_nor_scale_nor_the_order_or_names_of_classes():
    theta, labels = users()
    value, gradient = kl(theta, labels), kl_gradient(theta, labels)
    torch.testing.assert_close(kl(theta + 100, labels), value)
    torch.testing.assert_close(kl(3 * theta, labels), value)
    torch.testing.assert_close(kl(theta, 1 - labels), value)
    order = torch.randperm(len(theta))
    torch.testing.assert_close(kl(theta[order], labels[order]), value)
    torch.testing.assert_close(kl_gradient(theta[order], labels[order]), gradient[order])


def test_kl_is_finite_for_a_class_of_one_and_for_users_who_are_one_point():
    theta, labels = users(n=40, k=8)[0], torch.zeros(40, dtype=torch.int64)
    labels[0] = 1
    assert kl(theta, labels).isfinite() and kl_gradient(theta, labels).isfinite().all()
    assert kl(torch.ones(40, 8), labels) == 0
    assert not kl_gradient(torch.ones(40, 8), labels).any()
    apart = labels[:, None].double().expand(40, 8)  # two points, no spread within a class
    assert 1 < kl(apart, labels).item() < 1e5


def test_the_chance_of_kl_is_the_mean_over_permutations_of_the_labels():
    theta, labels = users(n=60, k=3)
    loss = of_d2d(theta, labels, d2d_divergence="kl")
    generator = torch.Generator().manual_seed(0)
    values = torch.stack(
        [kl(theta, labels[torch.randperm(60, generator=generator)]) for _ in range(500)]
    )
    chance = loss.chance(theta)
    assert abs(values.mean() - chance) < 4 * values.std() / d2d.CHANCE_DRAWS**0.5
    assert torch.equal(loss.chance(theta), chance)  # the same permutations every time
    assert kl(theta + 2 * labels[:, None], labels) > chance + 4 * values.std()


def weights(theta, labels, vectors):
    """W of users' vectors, plainly."""
    cosine = torch.cosine_similarity(vectors[:, None], vectors[None], dim=-1)
    return (labels[:, None] != labels[None]) * (1 - cosine)


def double_sum(theta, of_pairs):
    """Σ_i Σ_j W_ij ||θ_i - θ_j||²."""
    total = theta.new_zeros(())
    for i in range(len(theta)):
        for j in range(len(theta)):
            total = total + of_pairs[i, j] * (theta[i] - theta[j]).square().sum()
    return total


@pytest.mark.parametrize("divergence", ["softmax", "adaptive"])
@pytest.mark.parametrize("classes", [2, 3])
def test_a_weighted_u2u_is_the_double_sum_of_eq_4(classes, divergence):
    star, labels = users(n=18, k=3, classes=classes)
    theta = star + 0.3 * users(n=18, k=3, seed=1)[0]
    loss = of_u2u(star, labels, divergence)
    seen = star if divergence == "softmax" else theta
    held = weights(seen, labels, predicted(seen, labels))
    value, gradient = autograd(double_sum, theta, held)
    torch.testing.assert_close(loss.value(theta), value)
    torch.testing.assert_close(loss.gradient(theta), gradient)
    other = of_u2u(star, labels, "adaptive" if divergence == "softmax" else "softmax")
    assert abs(other.value(theta) - value) > 1e-3 * value
    assert loss.minimiser is None


@pytest.mark.parametrize("classes", [2, 5])
def test_the_cosine_of_one_hot_vectors_is_the_published_graph(classes):
    theta, labels = users(classes=classes)
    vectors = torch.nn.functional.one_hot(labels)
    graph = Graph.of(vectors, Classes.of(labels))
    torch.testing.assert_close(graph.product(theta), naive.dense_laplacian(labels) @ theta)
    loss, published = weighted(lambda _: graph), u2u.distinguishability(labels)
    torch.testing.assert_close(loss.value(theta), published.value(theta))
    torch.testing.assert_close(loss.gradient(theta), published.gradient(theta))


@pytest.mark.parametrize("classes", [2, 3])
def test_what_is_predicted_is_the_posterior_of_gaussians_of_one_covariance(classes):
    theta, labels = users(classes=classes)
    own = [theta[labels == c] for c in range(classes)]
    within = sum(torch.cov(x.T, correction=0) * len(x) for x in own) / len(theta)
    within += RIDGE * theta.var(0, correction=0).mean() * torch.eye(5).double()
    density = torch.stack(
        [MultivariateNormal(x.mean(0), within).log_prob(theta).exp() * len(x) for x in own], 1
    )
    found = predicted(theta, labels)
    torch.testing.assert_close(found, density / density.sum(1, keepdim=True))
    telling = torch.cat([labels[:, None].double(), theta], 1)
    assert (predicted(10 * telling, labels).argmax(1) == labels).all()
    assert predicted(torch.ones(60, 2), labels).isfinite().all()


def test_the_defaults_are_the_published_losses_to_the_byte():
    theta, labels = users(dtype=torch.float32)
    for loss, published in (
        (of_d2d(theta, labels), d2d.distinguishability(labels)),
        (of_u2u(theta, labels, "one-hot"), u2u.distinguishability(labels)),
    ):
        assert torch.equal(loss.value(theta), published.value(theta))
        assert torch.equal(loss.gradient(theta), published.gradient(theta))
    assert u2u.U2UOptions().u2u_divergence == "one-hot"
    assert d2d.D2DOptions().d2d_divergence == "mmd"


@pytest.mark.parametrize("name", DIVERGENCES)
def test_float32_is_close_to_float64_and_keeps_its_type(name):
    theta, labels = users(n=200, k=8)
    one, half = (DIVERGENCES[name](x, labels) for x in (theta, theta.float()))
    torch.testing.assert_close(half.value(theta.float()), one.value(theta), rtol=1e-5, atol=0)
    gradient = half.gradient(theta.float())
    assert gradient.dtype == torch.float32
    torch.testing.assert_close(gradient.double(), one.gradient(theta), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", [(943, 32), (1300, 128)])
@pytest.mark.parametrize("name", DIVERGENCES)
def test_the_bytes_are_the_same_with_any_number_of_threads(name, size):
    theta, labels = users(*size, dtype=torch.float32)

    def found(number):
        torch.set_num_threads(number)
        loss = DIVERGENCES[name](theta, labels)
        return loss.gradient(theta).numpy().tobytes() + loss.value(theta).numpy().tobytes()

    assert len({found(number) for number in (1, 2, 5)}) == 1


@pytest.mark.parametrize("name", DIVERGENCES)
def test_unlearning_lowers_every_divergence_and_leaves_unknown_users(name):
    theta, labels = users(n=200)
    theta += labels[:, None]
    labels[::7] = -1
    known = labels >= 0
    loss = DIVERGENCES[name](theta[known], labels[known])
    optimizer = Optimizer("adam", 200, 0.01)
    done = unlearn(theta, labels, lambda _: loss, frobenius(theta), 1e-6, optimizer)
    assert done.left < 0.3
    assert torch.equal((done.embedding != theta).any(1), known)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_numbers_that_are_not_finite_are_one_line(name):
    theta, labels = users()
    loss = DIVERGENCES[name](theta, labels)
    theta[3, 1] = torch.inf
    with pytest.raises(UserError, match="no longer finite"):
        unlearn(theta, labels, lambda _: loss, frobenius(theta), 1.0, Optimizer("adam", 2, 0.01))


@pytest.mark.parametrize(
    "method, option",
    [("d2d", {"d2d_divergence": "kl"}), ("u2u", {"u2u_divergence": "adaptive"})],
)
def test_a_fit_takes_the_option_and_its_steps_do_as_the_loss_says(method, option):
    theta, labels = users(40, 3)
    options = METHODS[method].options(unlearn_steps=3, unlearn_lr=0.01, **option)
    rng = numpy_generator(0)
    eraser = METHODS[method].fit({"a": theta}, {"b": labels}, options, rng, None, UNCHANGED)
    name = next(iter(option.values()))
    loss = DIVERGENCES[name](theta, labels)
    optimizer = Optimizer("adam", 3, 0.01)
    expected = unlearn(theta, labels, lambda _: loss, frobenius(theta), 1e-6, optimizer)
    assert torch.equal(eraser.apply({"a": theta})["a"], expected.embedding)


QUICK = ["epochs=2", "batch_size=512", "embedding_size=4", "num_ng=1", "threads=1"]


@pytest.mark.parametrize(
    "method, option",
    [("d2d", "d2d_divergence=kl"), ("u2u", "u2u_divergence=softmax")],
)
def test_the_command_unlearns_by_another_divergence(workspace, method, option):
    steps = ["unlearn_steps=40", "unlearn_lr=0.01", f"method={method}"]
    found = {}
    for results, arguments in (("published", []), ("other", [option])):
        assert main.main([*QUICK, *steps, *arguments, f"results_path={results}"]) == 0
        folder = Path(results, "ncf/ml-100k", method, "seed-0")
        losses = json.loads((folder / "summary.json").read_text())["losses"]
        assert losses["after"]["distinguishability"] < losses["before"]["distinguishability"]
        assert (losses["before"]["chance"] > 0) == (method == "d2d")
        found[results] = np.load(folder / "weights/user_embedding.npy")
    assert (found["published"] != found["other"]).any()


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["method=d2d", "d2d_divergence=kl", "kernel_width=median"], "kernel_width is of"),
        (["method=d2d", "d2d_divergence=kl", "pairs_users=500"], "pairs_users is of"),
        (
            ["method=u2u", "u2u_divergence=softmax", "unlearn_optimizer=exact"],
            'u2u_divergence "softmax" has no closed form here',
        ),
        (["method=u2u", "u2u_divergence=cosine"], '"u2u_divergence" must be one of "one-hot"'),
    ],
)
def test_what_makes_no_sense_together_is_refused_in_one_line(workspace, capsys, arguments, words):
    assert main.main([*QUICK, *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1

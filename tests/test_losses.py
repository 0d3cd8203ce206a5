"""U2U, D2D and the regularisers against dense, autograd and closed-form oracles."""

import pytest
import torch

from benchmarks import naive
from methods import METHODS, d2d, u2u
from methods.losses.mmd import Classes, median_squared_distance, mmd, mmd_chance, mmd_gradient
from methods.losses.regularizers import frobenius, ranking
from methods.unlearning import Optimizer, class_spread, unlearn
from models import EmbeddingScorer
from utils.errors import UserError
from utils.seeds import numpy_generator
from utils.threads import UNCHANGED


def users(n=60, k=5, classes=2, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    theta = torch.randn(n, k, generator=generator, dtype=dtype)
    labels = torch.arange(n) % classes
    labels[: n // 3] = 0  # unequal classes
    theta += labels[:, None] * 0.5
    return theta, labels[torch.randperm(n, generator=generator)]


def autograd(function, theta, *arguments):
    theta = theta.clone().requires_grad_()
    value = function(theta, *arguments)
    (gradient,) = torch.autograd.grad(value, theta)
    return value.detach(), gradient


@pytest.mark.parametrize("classes", [2, 5])
def test_u2u_equals_the_dense_laplacian(classes):
    theta, labels = users(classes=classes)
    loss = u2u.distinguishability(labels)
    value, gradient = loss.value(theta), loss.gradient(theta)
    expected_value, expected_gradient = autograd(naive.u2u, theta, labels)
    torch.testing.assert_close(value, expected_value)
    torch.testing.assert_close(gradient, expected_gradient)


def test_u2u_is_the_sum_over_pairs_of_eq_9():
    theta, labels = users(n=12)
    pairs = sum(
        (theta[i] - theta[j]).square().sum()
        for i in range(12)
        for j in range(12)
        if labels[i] != labels[j]
    )
    torch.testing.assert_close(u2u.distinguishability(labels).value(theta), pairs)


@pytest.mark.parametrize("classes", [2, 5])
def test_u2u_minimiser_solves_the_dense_system_and_is_stationary(classes):
    theta_star, labels = users(classes=classes)
    alpha = 3.0
    n = len(labels)
    system = 2 * naive.dense_laplacian(labels) + alpha * torch.eye(n, dtype=torch.float64)
    expected = torch.linalg.solve(system, alpha * theta_star)
    theta = u2u.minimiser(theta_star, labels, alpha)
    torch.testing.assert_close(theta, expected)
    loss, held = u2u.distinguishability(labels), frobenius(theta_star)
    gradient = loss.gradient(theta) + alpha * held.gradient(theta)
    assert gradient.abs().max() < 1e-9 < loss.gradient(theta_star).abs().max()


@pytest.mark.parametrize("alpha", [1e-6, 1e-3, 1.0])
def test_u2u_minimiser_of_float32_is_that_of_float64_rounded_once(alpha):
    theta_star, labels = users(dtype=torch.float32)
    theta = u2u.minimiser(theta_star, labels, alpha)
    assert torch.equal(theta, u2u.minimiser(theta_star.double(), labels, alpha).float())


def test_the_spread_within_classes_by_hand():
    theta = torch.tensor([[3.0, 0.0], [3.0, 2.0], [0.0, 1.0]])
    # class 0's mean is (3, 1), class 1's its only user; Σ||θ_i||² = 9 + 13 + 1
    spread = class_spread(theta, torch.tensor([0, 0, 1]))
    assert spread == pytest.approx((2 / 23) ** 0.5)
    assert class_spread(torch.zeros(3, 2), torch.tensor([0, 0, 1])) == 0


def test_every_optimiser_reaches_the_minimiser_of_u2u():
    theta_star, labels = users(n=20)
    alpha = 10.0
    goal = u2u.minimiser(theta_star, labels, alpha)
    arguments = (theta_star, labels, u2u.distinguishability, frobenius(theta_star), alpha)
    results = {
        name: unlearn(*arguments, Optimizer(name, steps, 0.01)).embedding
        for name, steps in (("adam", 3000), ("exact", 1))
    }
    early = unlearn(*arguments, Optimizer("adam", 50, 0.01)).embedding
    assert (early - goal).norm() > 0.1
    for name, theta in results.items():
        assert (theta - goal).norm() < 1e-3, name


@pytest.mark.parametrize("tile", [1, 7, 16, 1000])
@pytest.mark.parametrize("classes", [2, 5])
def test_mmd_equals_naive_autograd(classes, tile):
    theta, labels = users(classes=classes)
    value, gradient = mmd(theta, labels, tile), mmd_gradient(theta, labels, tile)
    expected_value, expected_gradient = autograd(naive.mmd, theta, labels)
    torch.testing.assert_close(value, expected_value)
    torch.testing.assert_close(gradient, expected_gradient)


def test_mmd_gradient_is_that_of_a_constant_bandwidth():
    # finite differences along one coordinate, with the bandwidth frozen at theta
    theta, labels = users(n=14, k=2)
    n, step = len(theta), 1e-6
    squared = (theta[:, None] - theta[None]).square().sum(-1)
    bandwidth = squared.sum() / (n * (n - 1))

    def frozen(x):
        squared = (x[:, None] - x[None]).square().sum(-1)
        kernel = sum(torch.exp(-squared / (bandwidth * f)) for f in (0.25, 0.5, 1, 2, 4))
        a, b = labels == 0, labels == 1
        return kernel[a][:, a].mean() + kernel[b][:, b].mean() - 2 * kernel[a][:, b].mean()

    moved = torch.zeros_like(theta)
    moved[3, 1] = step
    slope = (frozen(theta + moved) - frozen(theta - moved)) / (2 * step)
    torch.testing.assert_close(mmd_gradient(theta, labels)[3, 1], slope, rtol=1e-6, atol=1e-9)


def test_mmd_of_a_sample_with_itself_is_zero():
    x, _ = users(n=30)
    theta, labels = torch.cat([x, x]), torch.arange(60) // 30
    assert abs(mmd(theta, labels)) < 1e-12
    assert mmd_gradient(theta, labels).abs().max() < 1e-12
    assert mmd(theta + labels[:, None], labels) > 0.1  # and not of shifted ones


def test_mmd_sees_neither_translation_nor_scale_nor_the_order_or_names_of_classes():
    theta, labels = users()
    value, gradient = mmd(theta, labels), mmd_gradient(theta, labels)
    torch.testing.assert_close(mmd(theta + 100, labels), value)
    torch.testing.assert_close(mmd(3 * theta, labels), value)  # the bandwidth follows
    torch.testing.assert_close(mmd(theta, 1 - labels), value)
    order = torch.randperm(len(theta))
    torch.testing.assert_close(mmd(theta[order], labels[order]), value)
    torch.testing.assert_close(mmd_gradient(theta[order], labels[order]), gradient[order])


def test_mmd_of_one_point_is_zero_and_stays_there():
    theta, labels = torch.ones(10, 3), torch.arange(10) % 2
    assert mmd(theta, labels) == 0
    assert not mmd_gradient(theta, labels).any()


def test_float32_is_close_to_float64():
    theta, labels = users(n=300, k=16)
    value, gradient = mmd(theta.float(), labels), mmd_gradient(theta.float(), labels)
    torch.testing.assert_close(value, mmd(theta, labels), rtol=1e-4, atol=1e-6)
    expected = mmd_gradient(theta, labels)
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-3, atol=1e-7)


def test_a_median_width_is_that_of_all_pairs_or_of_a_fixed_sample():
    theta, _ = users(n=40)
    squares = (theta[:, None] - theta[None]).square().sum(-1)
    of_pairs = squares[torch.triu_indices(40, 40, 1).unbind()].sort().values
    width = median_squared_distance(40, numpy_generator(0))
    torch.testing.assert_close(width(theta), of_pairs[(len(of_pairs) - 1) // 2])
    many, _ = users(n=3000)
    of_some = median_squared_distance(3000, numpy_generator(0))
    assert torch.equal(of_some(many), of_some(many))
    exact = torch.pdist(many).median().square()
    assert of_some(many) == pytest.approx(exact.item(), rel=0.1)
    assert of_some(many) != exact
    point = torch.zeros(40, 3)
    point[0] = 1  # most pairs are at distance 0
    assert width(point) > 0


@pytest.mark.parametrize("width", ["mean", "median", "standardised"])
@pytest.mark.parametrize("classes", [2, 5])
def test_every_kernel_width_equals_naive_autograd(classes, width):
    theta_star, labels = users(classes=classes)
    theta_star *= torch.tensor([1.0, 10.0, 0.1, 1.0, 0.0])  # a dimension that tells nothing
    theta = theta_star + 0.1 * users(seed=1)[0]
    loss = d2d.loss(theta_star, labels, d2d.D2DOptions(kernel_width=width), numpy_generator(0))

    def oracle(theta):
        if width == "standardised":
            deviations = theta_star.std(0)
            theta = theta / torch.where(deviations > 0, deviations, 1)
        b = torch.pdist(theta.detach()).median().square() if width == "median" else None
        return naive.mmd(theta, labels, b)

    value, gradient = autograd(oracle, theta)
    torch.testing.assert_close(loss.value(theta), value)
    torch.testing.assert_close(loss.gradient(theta), gradient)
    others = {"mean", "median", "standardised"} - {width}
    for other in others:
        options = d2d.D2DOptions(kernel_width=other)
        differs = d2d.loss(theta_star, labels, options, numpy_generator(0)).value(theta)
        assert abs(differs - value) > 1e-3 * value


@pytest.mark.parametrize("classes", [2, 3])
def test_chance_is_the_mean_over_permutations_of_the_labels(classes):
    theta, labels = users(n=40, classes=classes)
    generator = torch.Generator().manual_seed(0)
    values = torch.stack(
        [mmd(theta, labels[torch.randperm(40, generator=generator)]) for _ in range(1000)]
    )
    error = values.std() / len(values) ** 0.5
    chance = mmd_chance(theta, labels)
    assert abs(values.mean() - chance) < 4 * error
    assert error < 0.01 * chance
    assert mmd(theta + 2 * labels[:, None], labels) > chance + 4 * values.std()
    loss = d2d.distinguishability(labels).of_affine(3.0, 1.0)
    torch.testing.assert_close(loss.chance(theta), chance)


@pytest.mark.thorough
def test_sampled_pairs_are_an_unbiased_estimate_of_all():
    counts = [30, 15, 3, 1]  # drawn: 12, 6, 2, 1
    theta, _ = users(n=sum(counts), k=3)
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    theta += labels[:, None] * 0.3
    loss, draws = d2d.sampled(labels, 20, numpy_generator(0)), 600
    for name in ("value", "gradient", "chance"):
        function = getattr(loss, name)
        drawn = torch.stack([function(theta) for _ in range(draws)])
        exact = getattr(d2d.distinguishability(labels), name)(theta)
        error = drawn.std(0) / draws**0.5
        assert (error > 0).any(), name
        score = (drawn.mean(0) - exact) / error
        assert score.abs().max() < 4.5, name
        assert error.norm() < 0.15 * exact.norm(), name


def test_a_sample_is_stratified_without_repetition_and_all_users_are_the_exact_loss():
    labels = torch.tensor([0] * 70 + [1] * 27 + [2] * 3)
    theta = users(n=100)[0]
    everyone = Classes.of(labels)
    drawn = everyone.sample(20, numpy_generator(0))
    assert drawn.counts == [14, 5, 2]
    assert len(set(drawn.order.tolist())) == 21
    assert torch.equal(labels[drawn.order], torch.tensor([0] * 14 + [1] * 5 + [2] * 2))
    gradient = mmd_gradient(theta, drawn)
    assert torch.equal(gradient.any(1).nonzero().flatten(), drawn.order.sort().values)
    whole = everyone.sample(100, numpy_generator(0))
    assert torch.equal(mmd(theta, whole), mmd(theta, labels))
    assert torch.equal(mmd_gradient(theta, whole), mmd_gradient(theta, labels))


def test_every_step_draws_other_users_only_where_there_are_more_than_pairs_users():
    theta, labels = users(n=150)

    def loss(pairs_users):
        options = d2d.D2DOptions(pairs_users=pairs_users)
        return d2d.loss(theta, labels, options, numpy_generator(0))

    exact = loss(150)
    assert torch.equal(exact.gradient(theta), mmd_gradient(theta, labels))
    assert torch.equal(exact.gradient(theta), exact.gradient(theta))
    few, again = loss(149), loss(149)
    first = few.gradient(theta)
    assert not torch.equal(first, few.gradient(theta))
    assert torch.equal(first, again.gradient(theta))  # the same seed, the same draws


def test_frobenius_against_autograd():
    theta, _ = users()
    star = theta + 0.1
    value, gradient = frobenius(star).value(theta), frobenius(star).gradient(theta)
    expected = autograd(lambda t: torch.linalg.matrix_norm(t - star) ** 2, theta)
    torch.testing.assert_close((value, gradient), expected)


def test_ranking_hinge_by_hand():
    # two users, three top items each, scores are the embedding's own entries
    theta = torch.tensor([[3.0, 2.98, 1.0], [1.0, 2.0, 0.0]])
    scorer = EmbeddingScorer(lambda t: (t,), lambda shared, users: shared[0][users], [slice(0, 2)])
    loss = ranking(scorer, margin=0.05)
    value, gradient = loss.value(theta), loss.gradient(theta)
    # user 0: 0.05 - 0.02, and 0; user 1: 0.05 - (1 - 2), and 0
    assert value.item() == pytest.approx(0.03 + 1.05, abs=1e-6)
    assert gradient.tolist() == [[-1, 1, 0], [-1, 1, 0]]


def test_unlearning_leaves_users_of_unknown_label_untouched():
    theta, labels = users()
    labels[::7] = -1
    result = unlearn(
        theta, labels, d2d.distinguishability, frobenius(theta), 1e-6, Optimizer("adam", 20, 1e-2)
    )
    moved = (result.embedding != theta).any(1)
    assert torch.equal(moved, labels >= 0)


def test_d2d_lowers_the_mmd_and_alpha_holds_it_back():
    theta, labels = users(n=200)
    before = mmd(theta, labels)

    def after(alpha):
        return unlearn(
            theta,
            labels,
            d2d.distinguishability,
            frobenius(theta),
            alpha,
            Optimizer("adam", 200, 1e-2),
        )

    free, held = after(1e-6), after(10.0)
    assert mmd(free.embedding, labels) < before / 20
    assert held.moved < free.moved / 5


def test_history_starts_with_the_original_and_ends_with_the_result():
    theta, labels = users()
    arguments = (theta, labels, d2d.distinguishability, frobenius(theta), 1e-3)
    result = unlearn(*arguments, Optimizer("adam", 50, 1e-2))
    assert [record["step"] for record in result.history] == [0, 20, 40, 50]
    first, last = result.history[0], result.history[-1]
    assert first["distinguishability"] == pytest.approx(mmd(theta, labels).item())
    assert first["regularizer"] == 0
    assert last["distinguishability"] == pytest.approx(mmd(result.embedding, labels).item())
    move = (result.embedding - theta).norm()
    assert last["regularizer"] == pytest.approx(move.item() ** 2)
    assert result.moved == pytest.approx((move / theta.norm()).item())


def test_tolerance_ends_at_the_stated_share():
    theta, labels = users(n=200)
    arguments = (theta, labels, d2d.distinguishability, frobenius(theta), 1e-6)
    before = mmd(theta, labels)
    result = unlearn(*arguments, Optimizer("adam", 1000, 1e-2, tolerance=0.1))
    assert result.history[-1]["step"] < 1000
    assert mmd(result.embedding, labels) <= 0.1 * before
    assert result.history[-2]["distinguishability"] > 0.1 * before


@pytest.mark.parametrize("optimizer", [Optimizer("adam", 3, 1e-2), Optimizer("exact", 1, 0)])
def test_u2u_leaves_unknown_users_untouched_with_every_optimiser(optimizer):
    theta, labels = users()
    labels[::7] = -1
    result = unlearn(theta, labels, u2u.distinguishability, frobenius(theta), 1.0, optimizer)
    assert torch.equal((result.embedding != theta).any(1), labels >= 0)


def test_a_transductive_eraser_edits_the_users_it_was_fitted_on_and_no_others():
    theta, labels = users(40, 3)
    tables, optimizer = {"gmf": theta}, Optimizer("adam", 3, 0.01)
    options, rng = d2d.D2DOptions(unlearn_steps=3, unlearn_lr=0.01), numpy_generator(0)
    eraser = METHODS["d2d"].fit(tables, {"gender": labels}, options, rng, None, UNCHANGED)
    expected = unlearn(theta, labels, d2d.distinguishability, frobenius(theta), 1e-6, optimizer)
    edited = eraser.apply(tables)
    assert torch.equal(edited["gmf"], expected.embedding)
    edited["gmf"].zero_()  # the caller's own
    assert torch.equal(eraser.apply(tables)["gmf"], expected.embedding)
    for others in ({"gmf": theta + 1}, {"gmf": theta[:9]}, {"mlp": theta}):
        with pytest.raises(UserError, match="not the one that the method was fitted on"):
            eraser.apply(others)

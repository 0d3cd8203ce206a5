"""Retrain's MMD term and Adv-InT's adversary."""

import pytest
import torch

from benchmarks import naive
from methods.adv import AdversaryPenalty, reverse_gradient
from methods.losses.mmd import mmd
from methods.retrain import MMDPenalty
from utils.seeds import torch_generator


def embedding_and_labels(n=40, k=6, classes=2):
    generator = torch_generator(0)
    labels = torch.arange(n) % classes
    theta = torch.randn(n, k, generator=generator, dtype=torch.float64) + labels[:, None]
    return theta.requires_grad_(), labels


@pytest.mark.parametrize("classes", [2, 5])
def test_retrain_adds_the_weighted_mmd_of_all_users(classes):
    theta, labels = embedding_and_labels(classes=classes)
    term = MMDPenalty(labels, weight=3.0, interval=50)(theta, torch.arange(4))
    (gradient,) = torch.autograd.grad(term, theta)
    expected = 3 * naive.mmd(theta, labels)
    torch.testing.assert_close(term, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, theta)[0])


def test_retrain_adds_it_every_fiftieth_batch():
    _, labels = embedding_and_labels()
    penalty = MMDPenalty(labels, weight=1.0, interval=50)
    assert [b for b in range(151) if penalty.applies(b)] == [0, 50, 100, 150]


def test_retrain_leaves_unknown_users_out():
    theta, labels = embedding_and_labels()
    labels[::5] = -1
    term = MMDPenalty(labels, weight=1.0, interval=1)(theta, torch.arange(4))
    (gradient,) = torch.autograd.grad(term, theta)
    known = labels >= 0
    torch.testing.assert_close(term.detach(), mmd(theta[known].detach(), labels[known]))
    assert torch.equal(gradient.any(1), known)


def test_the_reversal_layer_is_the_identity_and_negates_gradients():
    x = torch.randn(4, 3, requires_grad=True)
    y = reverse_gradient(x, 0.5)
    assert torch.equal(y, x)
    weights = torch.randn(4, 3)
    (gradient,) = torch.autograd.grad((y * weights).sum(), x)
    torch.testing.assert_close(gradient, -0.5 * weights)


def adversary(labels, scale=0.5):
    return AdversaryPenalty(labels, 6, width=16, scale=scale, generator=torch_generator(0))


def test_the_adversary_descends_while_the_embedding_ascends():
    theta, labels = embedding_and_labels()
    theta = theta.detach().float().requires_grad_()
    users = torch.arange(40)
    forward = adversary(labels)
    loss = forward(theta, users)
    loss.backward()
    own = [parameter.grad.clone() for parameter in forward.parameters()]
    plain = torch.nn.functional.cross_entropy(forward.layers(theta), labels)
    torch.testing.assert_close(loss, plain)
    parameters = [theta, *forward.parameters()]
    expected = torch.autograd.grad(plain, parameters)
    torch.testing.assert_close(theta.grad, -0.5 * expected[0])
    torch.testing.assert_close(own, list(expected[1:]))
    assert [tuple(p.shape) for p in forward.parameters()] == [(16, 6), (16,), (2, 16), (2,)]


def test_the_adversary_starts_as_asked():
    _, labels = embedding_and_labels()
    for init, biases in (("xavier", False), ("pytorch", True)):
        made = AdversaryPenalty(labels, 6, 16, 0.5, torch_generator(0), init).layers
        for layer in (made[0], made[2]):
            inputs, outputs = layer.in_features, layer.out_features
            bound = {"xavier": (6 / (inputs + outputs)) ** 0.5, "pytorch": inputs**-0.5}[init]
            assert 0.8 * bound < layer.weight.abs().max() <= bound
            assert bool(layer.bias.any()) == biases
            assert layer.bias.abs().max() <= bound


def test_the_adversary_ignores_unknown_users_and_survives_a_batch_of_them():
    theta, labels = embedding_and_labels()
    theta = theta.detach().float()
    labels[:10] = -1
    penalty = adversary(labels)
    some = penalty(theta, torch.arange(5, 15))
    torch.testing.assert_close(some, penalty(theta, torch.arange(10, 15)))
    assert penalty(theta, torch.arange(10)) == 0

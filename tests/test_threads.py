"""The number of threads follows what is faster, and no byte of a result follows it."""

import hashlib
import random

import pytest
import torch

from benchmarks import problems
from benchmarks.problems import interactions, users
from data.sampling import NegativeSampler
from methods import d2d, u2u
from methods.adv import AdversaryPenalty
from methods.losses.regularizers import frobenius, ranking
from methods.retrain import MMDPenalty
from methods.unlearning import Optimizer, unlearn
from models import MODELS
from models.training.step import Trainer, TrainingSettings
from utils.seeds import torch_generator
from utils.threads import UNCHANGED, Threads, one_thread


class Machine:
    """Two cores whose steps take as long as `seconds(number of threads, time)` says."""

    def __init__(self, seconds, noise=0.0):
        self.seconds, self.noise = seconds, random.Random(0)
        self.spread = noise
        self.now, self.number, self.numbers = 0.0, 1, []
        self.threads = Threads(2, use=self.use, clock=lambda: self.now)

    def use(self, number):
        self.number = number

    def run(self, until, kind=None):
        while self.now < until:
            with self.threads.step(kind):
                self.numbers.append(self.number)
                factor = self.noise.lognormvariate(0, self.spread)
                self.now += factor * self.seconds(self.number, self.now)
        return len(self.numbers)


QUIET, BUSY = {1: 0.020, 2: 0.012}, {1: 0.024, 2: 0.200}
EVEN = {1: 0.010, 2: 0.0099}


@pytest.mark.parametrize("noise", [0.0, 0.2])
@pytest.mark.parametrize("times", [QUIET, BUSY, EVEN, {1: 0.0003, 2: 0.0006}])
def test_never_much_slower_than_the_better_number(times, noise):
    machine = Machine(lambda number, now: times[number], noise)
    steps = machine.run(until=60)
    mean = torch.tensor(noise**2 / 2).exp().item()
    assert 60 / steps <= 1.1 * mean * min(times.values())


@pytest.mark.parametrize("period", [20, 45])
def test_it_follows_a_machine_that_becomes_busy_and_quiet_again(period):
    machine = Machine(lambda number, now: (QUIET, BUSY)[int(now / period) % 2][number], 0.1)
    steps = machine.run(until=8 * period)
    best = 4 * period * (1 / QUIET[2] + 1 / BUSY[1])
    assert steps >= best / 1.2


def test_kinds_are_not_compared_with_one_another():
    """Every second step has a term that takes ten times as long, whatever the number."""
    machine = Machine(lambda number, now: QUIET[number] * (1, 10)[len(machine.numbers) % 2])
    for _ in range(400):
        machine.run(machine.now + 1e-9, kind=len(machine.numbers) % 2)
    assert machine.numbers[-100:].count(2) >= 85


def test_a_fixed_number_is_left_alone():
    torch.set_num_threads(1)
    with UNCHANGED.step():
        assert torch.get_num_threads() == 1
    assert UNCHANGED.used == 1


def test_the_record_says_which_numbers_were_used():
    machine = Machine(lambda number, now: QUIET[number])
    machine.run(until=1)
    assert machine.threads.used == "1-2"


def test_one_thread_for_a_while():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def digest(*tensors):
    content = b"".join(tensor.detach().contiguous().numpy().tobytes() for tensor in tensors)
    return hashlib.sha256(content).hexdigest()


NUMBERS = (1, 2, 5)


PAIRS = interactions("ml-100k")
WITH_LABELS = users(943, 32, 0.71)[1]


@pytest.mark.thorough
@pytest.mark.parametrize("memory_mb", [0, 64])
@pytest.mark.parametrize("method", ["original", "retrain", "adv"])
@pytest.mark.parametrize("name", MODELS)
def test_training_has_the_same_bytes_with_any_number_of_threads(name, method, memory_mb):
    """At ML-100K's size: small products are not split between threads at all."""
    sampler = NegativeSampler(PAIRS, 943, 1349, 4)
    data = [part[:1200] for part in sampler.examples(torch_generator(0))]

    def trained(number):
        torch.set_num_threads(number)
        model = problems.model_of(name, "ml-100k", PAIRS)
        model.prepare_training(512, memory_mb)
        size = model.user_embedding.shape[1]
        penalty = {
            "original": lambda: None,
            "retrain": lambda: MMDPenalty(WITH_LABELS, 1.0, 2),
            "adv": lambda: AdversaryPenalty(WITH_LABELS, size, 16, 0.5, torch_generator(0)),
        }[method]()
        settings = TrainingSettings(0.01, 256, 1, "bce", "last", 0)
        Trainer(model, penalty, settings).epoch(data, lambda: None)
        return digest(*model.parameters())

    assert len({trained(number) for number in NUMBERS}) == 1


@pytest.mark.parametrize("size", [(943, 32), (1300, 128)])  # less and more than 5 x 32768 numbers
@pytest.mark.parametrize("method", ["u2u", "d2d"])
def test_unlearning_has_the_same_bytes_with_any_number_of_threads(method, size):
    theta, labels = users(*size, 0.71)
    make = {"u2u": u2u, "d2d": d2d}[method].distinguishability

    def edited(number):
        torch.set_num_threads(number)
        optimizer = Optimizer("adam", 3, 0.001)
        return digest(unlearn(theta, labels, make, frobenius(theta), 1e-6, optimizer).embedding)

    assert len({edited(number) for number in NUMBERS}) == 1


@pytest.mark.parametrize("name", MODELS)
def test_the_ranking_regularizer_too(name):
    model = problems.model_of(name, "ml-100k", PAIRS)
    scorer = model.embedding_scorer(torch.randint(1349, (943, 20), generator=torch_generator(0)))
    theta = model.user_embedding.detach()

    def gradient(number):
        torch.set_num_threads(number)
        return digest(ranking(scorer, 10.0).gradient(theta))

    assert len({gradient(number) for number in NUMBERS}) == 1

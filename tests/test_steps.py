"""Recorded steps train as plain ones do, to the bit; precision is what the config says."""

import contextlib
import dataclasses
import math

import pytest
import torch

from data.sampling import NegativeSampler
from methods.adv import AdversaryPenalty
from methods.retrain import MMDPenalty
from models import MODELS
from models.training import step as trainer
from models.training.graphs import WARM_UP, PlainSteps, ReplayedSteps, recorder_for
from models.training.loop import train
from models.training.step import LOSSES, Trainer, TrainingSettings
from tests.tape import NothingRead, TapeRecorder
from tests.test_training import N_ITEMS, N_USERS, checkerboard, model_of
from utils.runs.folder import RunFolder
from utils.seeds import torch_generator

SETTINGS = TrainingSettings(0.01, 64, 6, "bce", "last", 0, cuda_graphs="on")
LABELS = torch.arange(N_USERS) % 2
LABELS[::7] = -1
PENALTIES = {
    "none": lambda: None,
    "retrain": lambda: MMDPenalty(LABELS, 1.0, 5),
    "adv": lambda: AdversaryPenalty(LABELS, 4, 16, 0.5, torch_generator(0)),
}


def sampler():
    return NegativeSampler(checkerboard()[0], N_USERS, N_ITEMS, num_ng=2)


def trained(folder, recorder, name="ncf", loss="bce", penalty="none", patch=None, **changes):
    """The checkpoint after the last epoch, which has everything, and the history."""
    patch.setattr(trainer, "recorder_for", lambda *_: recorder)
    settings = dataclasses.replace(SETTINGS, loss=loss, **changes)
    run = RunFolder(folder, "key")
    candidates = checkerboard()[1]
    made = train(model_of(name), sampler(), None, candidates, settings, run, PENALTIES[penalty]())
    saved = torch.load(run.checkpoint, weights_only=True)
    history = [{**record, "seconds": 0} for record in made.history]
    return saved["trained"], saved["optimizer"]["state"], history


@pytest.mark.thorough
@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", MODELS)
def test_recorded_training_equals_plain_training_to_the_bit(
    tmp_path, monkeypatch, caplog, name, loss, penalty
):
    recorder = TapeRecorder()
    plain = trained(tmp_path / "a", None, name, loss, penalty, monkeypatch)
    recorded = trained(tmp_path / "b", recorder, name, loss, penalty, monkeypatch)
    torch.testing.assert_close(recorded, plain, rtol=0, atol=0)
    assert not caplog.records
    # full batches and the last one; retrain's with its term too, of which the last is none
    kinds = 3 if penalty == "retrain" else 2
    assert len(recorder.tapes) == kinds
    assert recorder.warmed == kinds * WARM_UP
    examples = len(sampler().examples(torch_generator(0))[0])
    if loss == "bpr":
        examples = examples * 2 // 3
    steps = SETTINGS.epochs * math.ceil(examples / SETTINGS.batch_size)
    assert examples % SETTINGS.batch_size
    assert recorder.replayed == steps - recorder.warmed


@pytest.mark.parametrize("recorder", [None, TapeRecorder()])
@pytest.mark.parametrize("penalty", PENALTIES)
def test_nothing_is_read_back_within_an_epoch(monkeypatch, penalty, recorder):
    monkeypatch.setattr(trainer, "recorder_for", lambda *_: recorder)
    epoch = Trainer(model_of("lgn"), PENALTIES[penalty](), SETTINGS).epoch
    data = sampler().examples(torch_generator(0))
    with NothingRead():
        epoch(data, lambda: None)
    with pytest.raises(RuntimeError, match="while recording"), NothingRead():
        data[0].max().item()


def summing_step():
    """A step on no model: the batch's sums, and whether it was told of a penalty."""

    def step(batch, with_penalty):
        users, items, labels = batch
        assert len(users) == len(items) == len(labels)
        total = labels.sum() + users.sum() * 100
        return items.sum().float(), total + with_penalty * 0.5

    return step


def some_data(n, shift=0):
    users = torch.arange(n) + shift
    return users, users * 3, users / 8


@pytest.mark.parametrize("n", [1, 3, 4, 5, 8, 23])
def test_batches_losses_and_penalties_come_in_order(n):
    plain, replayed = (
        PlainSteps(summing_step(), 4),
        ReplayedSteps(summing_step(), 4, TapeRecorder()),
    )
    for epoch in range(6):  # other data every time, in the same place
        results, ticks = [], [0, 0]
        for which, steps in enumerate((plain, replayed)):

            def tick(which=which, ticks=ticks):
                ticks[which] += 1

            results.append(steps.epoch(some_data(n, epoch), lambda b: b % 3 == 0, tick))
        assert torch.equal(*results)
        assert ticks == [math.ceil(n / 4)] * 2
        users, items, labels = (part.split(4) for part in some_data(n, epoch))
        assert results[0].tolist() == [
            [i.sum().item(), (x.sum() + u.sum() * 100).item() + (number % 3 == 0) / 2]
            for number, (u, i, x) in enumerate(zip(users, items, labels, strict=True))
        ]


def test_an_epoch_of_another_length_is_recorded_anew():
    recorder = TapeRecorder()
    plain, replayed = PlainSteps(summing_step(), 4), ReplayedSteps(summing_step(), 4, recorder)
    for n in (20, 20, 24, 24, 20):
        first, second = (
            steps.epoch(some_data(n), lambda b: False, lambda: None) for steps in (plain, replayed)
        )
        assert torch.equal(first, second)
    assert len(recorder.tapes) == 3


class Refusing(TapeRecorder):
    """Records one kind, then no more."""

    def record(self, work):
        if self.tapes:
            self.tapes.append(None)
            raise RuntimeError("operation not permitted\nwhen stream is capturing")
        return super().record(work)


def test_where_recording_fails_training_goes_on_after_one_warning(tmp_path, monkeypatch, caplog):
    plain = trained(tmp_path / "a", None, penalty="retrain", patch=monkeypatch)
    recorder = Refusing()
    recorded = trained(tmp_path / "b", recorder, penalty="retrain", patch=monkeypatch)
    torch.testing.assert_close(recorded, plain, rtol=0, atol=0)
    assert len(recorder.tapes) == 2  # it is not asked again
    (warning,) = (record.getMessage() for record in caplog.records)
    assert warning == (
        "a training step can't be recorded (operation not permitted); going on without"
    )


def test_the_cpu_records_nothing_and_graphs_can_be_off(monkeypatch):
    assert recorder_for(torch.device("cpu"), 256) is None
    assert recorder_for(torch.device("cuda:0"), 10_000) is None  # its gradient waits for the GPU
    monkeypatch.setattr(trainer, "recorder_for", lambda *_: TapeRecorder())
    kinds = [
        type(Trainer(model_of(), None, dataclasses.replace(SETTINGS, cuda_graphs=graphs))._steps)
        for graphs in ("on", "off")
    ]
    assert kinds == [ReplayedSteps, PlainSteps]


def test_adam_is_told_of_a_recording_and_of_nothing_else(monkeypatch):
    told = []

    class Watching(torch.optim.Adam):
        def step(self, *arguments):
            told.append([group["capturable"] for group in self.param_groups])
            super().step(*arguments)

    monkeypatch.setattr(torch.optim, "Adam", Watching)
    one = Trainer(model_of(), None, SETTINGS)
    batch = tuple(part[:64] for part in sampler().examples(torch_generator(0)))
    monkeypatch.setattr(one, "_on_gpu", True)
    for recording in (False, True, False):
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda r=recording: r)
        one._step(batch, False)
        assert not one.optimizer.state_dict()["param_groups"][0]["capturable"]
    assert told == [[False], [True], [False]]


@pytest.mark.parametrize("breaks", [False, True])
def test_cuda_graphs_warm_up_and_record_on_a_stream_of_their_own(monkeypatch, breaks):
    """What a GPU is told, by a stand-in for torch.cuda: order and streams, no arithmetic."""
    events, current = [], ["main"]

    class Stream:
        def __init__(self, name):
            self.name = name if isinstance(name, str) else "side"

        def wait_stream(self, other):
            events.append(f"{self.name} waits for {other.name}")

    class Graph:
        def replay(self):
            events.append(f"replay on {current[0]}")

    @contextlib.contextmanager
    def graph(made, stream):
        current[0] = stream.name  # as PyTorch's, left so where ending the recording raises
        events.append("begin")
        yield
        if breaks:
            raise RuntimeError("operation failed due to a previous error during capture")
        events.append("end")
        current[0] = "main"

    @contextlib.contextmanager
    def on(stream):
        before = current[0]
        current[0] = stream.name
        try:
            yield
        finally:
            current[0] = before

    for name, stand_in in {
        "Stream": Stream,
        "current_stream": lambda device: Stream(current[0]),
        "stream": on,
        "device": lambda device: contextlib.nullcontext(),
        "CUDAGraph": Graph,
        "graph": graph,
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    graphs = recorder_for(torch.device("cuda:0"), 256)
    graphs.warm_up(lambda: events.append(f"work on {current[0]}"))
    assert events == ["side waits for main", "work on side", "main waits for side"]
    events.clear()
    if breaks:
        with pytest.raises(RuntimeError):
            graphs.record(lambda: None)
        assert current == ["main"]
        return
    replay = graphs.record(lambda: events.append(f"work on {current[0]}"))
    assert events == ["begin", "work on side", "end"]
    replay()
    assert events[-1] == "replay on main"


def test_float32_is_the_plain_loop_to_the_bit():
    data = sampler().examples(torch_generator(0))
    ours, by_hand = model_of(), model_of()
    losses, totals = Trainer(ours, None, SETTINGS).epoch(data, lambda: None)
    optimizer = torch.optim.Adam(by_hand.parameters(), lr=SETTINGS.lr, fused=True)
    expected = []
    for users, items, labels in zip(*(part.split(64) for part in data), strict=True):
        optimizer.zero_grad()
        logits = by_hand(users, items)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
    assert losses == totals == expected
    for a, b in zip(ours.parameters(), by_hand.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.thorough
@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("name", MODELS)
def test_bf16_trains_in_float32_parameters_near_float32(tmp_path, monkeypatch, name, penalty):
    full = trained(tmp_path / "a", None, name, penalty=penalty, patch=monkeypatch)
    half = trained(tmp_path / "b", None, name, penalty=penalty, patch=monkeypatch, precision="bf16")
    assert {tensor.dtype for tensor in half[0].values()} == {torch.float32}
    assert half[2][0]["loss"] == pytest.approx(full[2][0]["loss"], rel=0.02)
    assert half[2][-1]["loss"] < half[2][0]["loss"] / 2
    same = all(torch.equal(half[0][key], full[0][key]) for key in full[0])
    assert same == (name == "lgn")  # LightGCN has no product that autocast lowers
    recorder = TapeRecorder()
    again = trained(
        tmp_path / "c", recorder, name, penalty=penalty, patch=monkeypatch, precision="bf16"
    )
    torch.testing.assert_close(again, half, rtol=0, atol=0)
    assert recorder.replayed


def test_tf32_is_allowed_in_training_only(monkeypatch):
    seen = []

    def watching(logits, batch):
        seen.append(torch.get_float32_matmul_precision())
        if len(seen) == 3:
            raise KeyboardInterrupt
        return LOSSES["bpr"](logits, batch)

    monkeypatch.setitem(LOSSES, "bce", watching)
    data = sampler().examples(torch_generator(0))
    with pytest.raises(KeyboardInterrupt):
        Trainer(model_of(), None, dataclasses.replace(SETTINGS, precision="tf32")).epoch(
            tuple(part.long() for part in data), lambda: None
        )
    assert seen == ["high"] * 3
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("name", MODELS)
def test_on_a_gpu_recorded_training_is_near_plain_training(caplog, name, penalty):
    device = torch.device("cuda:0")
    losses = []
    for graphs in ("on", "off"):
        pairs = checkerboard()[0].to(device)
        draw = NegativeSampler(pairs, N_USERS, N_ITEMS, 2).examples
        settings = dataclasses.replace(SETTINGS, cuda_graphs=graphs)
        made = PENALTIES[penalty]()
        if made is not None and penalty == "retrain":
            made = MMDPenalty(LABELS.to(device), 1.0, 5)
        elif made is not None:
            made = AdversaryPenalty(LABELS.to(device), 4, 16, 0.5, torch_generator(0))
        epoch = Trainer(model_of(name).to(device), made, settings).epoch
        drawn = (draw(torch_generator(0, n, device=device)) for n in range(5))
        losses.append([epoch(data, lambda: None)[1] for data in drawn])
    torch.testing.assert_close(*losses, rtol=1e-3, atol=1e-4)
    assert not caplog.records  # every kind of step could be recorded

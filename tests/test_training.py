"""NCF and the training loop."""

import json

import pytest
import torch

from data.adjacency import normalised_adjacency, to_torch
from data.sampling import NegativeSampler
from models import MODELS, build_model, top_items
from models.training.loop import train
from models.training.step import LOSSES, TrainingSettings
from utils.errors import UserError
from utils.metrics import Candidates, evaluate
from utils.runs.folder import RunFolder
from utils.seeds import derive, torch_generator

N_USERS, N_ITEMS = 20, 40


def model_of(name="ncf", seed=0, size=4):
    pairs = checkerboard()[0].numpy()
    graph = to_torch(normalised_adjacency(pairs, N_USERS, N_ITEMS))
    return build_model(name, N_USERS, N_ITEMS, size, torch_generator(seed, "init"), lambda: graph)


def checkerboard():
    """Even users like even items, odd users odd ones; one item each is held out."""
    users, items = torch.meshgrid(torch.arange(N_USERS), torch.arange(N_ITEMS), indexing="ij")
    liked = (users + items) % 2 == 0
    held_out = torch.arange(N_USERS) % N_ITEMS  # item u for user u: of the right colour
    liked[torch.arange(N_USERS), held_out] = False
    disliked = [torch.arange((u + 1) % 2, N_ITEMS, 2) for u in range(N_USERS)]
    candidates = Candidates(
        torch.arange(N_USERS), torch.cat([held_out[:, None], torch.stack(disliked)], 1)
    )
    return liked.nonzero(), candidates


def interrupted(function, calls):
    """`function`, interrupted by Ctrl-C once it has been called `calls` times."""
    left = iter(range(calls))

    def call(*arguments):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return function(*arguments)

    return call


def run(
    folder, epochs=15, selection="validation", seed=0, interrupt_after=None, name="ncf", loss="bce"
):
    pairs, candidates = checkerboard()
    model = model_of(name, seed=seed)
    sampler = NegativeSampler(pairs, N_USERS, N_ITEMS, num_ng=2)
    if interrupt_after:
        sampler.examples = interrupted(sampler.examples, interrupt_after)
    settings = TrainingSettings(0.01, 64, epochs, loss, selection, seed)
    validation = candidates if selection == "validation" else None
    return model, train(model, sampler, validation, candidates, settings, folder)


@pytest.mark.parametrize("name", MODELS)
def test_scores_are_made_of_the_served_vectors_and_follow_every_user_table(name):
    model = model_of(name)
    users, items = torch.arange(N_USERS)[:, None], torch.arange(N_ITEMS).expand(N_USERS, -1)
    scores, served = model.scorer()(users, items), model.served()
    assert all(len(vectors) == N_USERS for vectors in served.values())
    assert model.user_embedding is next(iter(model.user_tables().values()))
    for table in model.user_tables().values():
        with torch.no_grad():
            table.mul_(3)
        assert (model.scorer()(users, items) != scores).any()
        assert any(not torch.equal(model.served()[which], served[which]) for which in served)
        scores, served = model.scorer()(users, items), model.served()
    if name == "lgn":  # a dot product with the propagated items
        items_table = model._nodes(model.user_table, model.item_table)[1]
        torch.testing.assert_close(served["propagated"] @ items_table.T, scores)


@pytest.mark.parametrize("name", MODELS)
def test_score_and_scorer_agree_with_the_training_forward(name):
    model = model_of(name)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch_generator(1)) * 0.3)
    items = torch.stack([torch.randperm(N_ITEMS)[:7] for _ in range(N_USERS)])
    users = torch.arange(N_USERS)[:, None].expand(-1, 7)
    expected = model(users.reshape(-1), items.reshape(-1)).reshape(N_USERS, 7).detach()
    torch.testing.assert_close(model.scorer()(users[:, :1], items), expected)
    scorer = model.embedding_scorer(items)
    torch.testing.assert_close(scorer(model.user_embedding.detach()), expected)
    # after a change of the user embedding too
    changed = model.user_embedding.detach() + 0.5
    with torch.no_grad():
        model.user_embedding.add_(0.5)
    torch.testing.assert_close(scorer(changed), model.scorer()(users[:, :1], items))
    assert not torch.allclose(scorer(changed), expected)


@pytest.mark.parametrize("name", MODELS)
def test_top_items_are_the_best_of_all(name):
    model = model_of(name)
    everything = model.scorer()(
        torch.arange(N_USERS)[:, None], torch.arange(N_ITEMS).expand(N_USERS, -1)
    )
    expected = everything.topk(5).indices
    torch.testing.assert_close(
        everything.gather(1, top_items(model, N_USERS, N_ITEMS, 5)),
        everything.gather(1, expected),
    )


def no_graph():
    raise AssertionError("NCF needs no graph")


def test_ncf_is_initialised_as_published():
    model = build_model("ncf", 400, 500, None, torch_generator(0), no_graph)
    shapes = [tuple(t.shape) for t in (model.gmf_user, model.gmf_item, model.mlp_user)]
    assert shapes == [(400, 32), (500, 32), (400, 128)]
    assert [tuple(layer.weight.shape) for layer in model.layers] == [
        (128, 256),
        (64, 128),
        (32, 64),
    ]
    assert model.output.weight.shape == (1, 64)
    assert model.gmf_user.std().item() == pytest.approx(0.01, rel=0.05)
    assert model.layers[0].weight.abs().max().item() <= (6 / (256 + 128)) ** 0.5
    assert model.output.weight.abs().max().item() <= (3 / 64) ** 0.5  # Kaiming, a = 1
    assert not model.output.bias.any()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", MODELS)
def test_training_learns_the_checkerboard(tmp_path, name, loss):
    model, trained = run(RunFolder(tmp_path, "key"), name=name, loss=loss)
    _, candidates = checkerboard()
    assert evaluate(model_of("ncf").scorer(), candidates)["HR@5"] < 0.7
    assert evaluate(model.scorer(), candidates)["HR@5"] == 1
    assert trained.history[-1]["loss"] < trained.history[0]["loss"] / 2
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == list(range(1, 16))


def test_the_chosen_epoch_has_the_best_validation_and_its_weights_are_kept(tmp_path):
    model, trained = run(RunFolder(tmp_path, "key"))
    values = [record["validation"]["HR@10"] for record in trained.history]
    assert trained.epoch == values.index(max(values)) + 1
    _, candidates = checkerboard()
    assert evaluate(model.scorer(), candidates) == trained.history[trained.epoch - 1]["validation"]
    assert run(RunFolder(tmp_path / "last", "key"), 3, "last")[1].epoch == 3


def test_one_step_by_hand(tmp_path):
    pairs, candidates = checkerboard()
    model, by_hand = model_of(), model_of()
    sampler = NegativeSampler(pairs, N_USERS, N_ITEMS, num_ng=1)
    settings = TrainingSettings(0.01, 10_000, 1, "bce", "last", 0)
    train(model, sampler, None, candidates, settings, RunFolder(tmp_path, "key"))
    users, items, labels = sampler.examples(torch_generator(0, "train", "epoch", 1))
    logits = by_hand(users, items)
    chances = torch.sigmoid(logits)
    loss = -(labels * chances.log() + (1 - labels) * (1 - chances).log()).mean()
    loss.backward()
    # Adam's first step is lr * g / (|g| + eps)
    for new, old in zip(model.parameters(), by_hand.parameters(), strict=True):
        expected = old - 0.01 * old.grad / (old.grad.abs() + 1e-8)
        torch.testing.assert_close(new, expected, rtol=1e-3, atol=1e-5)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(tmp_path):
    weights = [
        run(RunFolder(tmp_path / f"{n}", "key"), 3, seed=s)[0] for n, s in enumerate((0, 0, 1))
    ]
    first, again, other = (model.user_embedding.detach().numpy().tobytes() for model in weights)
    assert first == again != other


def test_an_interrupted_training_ends_with_the_same_bytes(tmp_path):
    whole, _ = run(RunFolder(tmp_path / "a", "key"), 6)
    folder = RunFolder(tmp_path / "b", "key")
    with pytest.raises(KeyboardInterrupt):
        run(folder, 6, interrupt_after=3)
    assert folder.checkpoint.exists()
    resumed, trained = run(folder, 6)
    assert [record["epoch"] for record in trained.history] == [1, 2, 3, 4, 5, 6]
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    # another run's checkpoint in the same folder is not resumed from
    assert RunFolder(tmp_path / "b", "other").checkpoint != folder.checkpoint


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    pairs, candidates = checkerboard()
    model = model_of()
    with torch.no_grad():
        model.output.bias.fill_(float("inf"))
    sampler = NegativeSampler(pairs, N_USERS, N_ITEMS, num_ng=1)
    settings = TrainingSettings(0.01, 64, 2, "bce", "last", 0)
    with pytest.raises(
        UserError, match=r"epoch 1, batch 1 of \d+: the training loss is nan; lower lr \(now 0.01\)"
    ):
        train(model, sampler, None, candidates, settings, RunFolder(tmp_path, "k"))


def test_seeds_are_derived_by_name():
    assert derive(0, "a") == derive(0, "a")
    assert len({derive(0, "a"), derive(1, "a"), derive(0, "b"), derive(0, "a", 1)}) == 4

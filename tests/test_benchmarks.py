"""The benchmarks run; what they print is for people."""

import csv
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import frontier, naive, problems, run, strangers, streaming
from methods import ExperimentConfig
from utils.metrics import CUTOFFS, Candidates, evaluate
from utils.pages.render import markdown
from utils.seeds import torch_generator

ROOT = Path(__file__).resolve().parents[1]
CPU = run.Place(torch.device("cpu"), "float32")


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch):
    for size in ("ml-100k", "ml-1m"):
        monkeypatch.setitem(problems.SIZES, size, (40, 150, 600, 0.7))


@pytest.mark.parametrize("work", run.works(quick=True), ids=lambda work: work[0])
def test_every_quick_work_and_its_reference_run_on_a_small_size(work):
    _, ours, with_ours, reference, with_reference = work

    def small(arguments):
        return tuple({60: 2, 20: 2, 943: 60}.get(a, a) for a in arguments)

    assert ours(CPU, *small(with_ours)) > 0
    assert reference(CPU, *small(with_reference)) > 0


def test_500_steps_can_be_worked_out_from_few():
    assert run.unlearn_ours(CPU, "d2d", 60, 4, 0.7, 5) != 0


def test_the_works_of_a_gpu_have_whole_epochs_with_and_without_graphs():
    assert not [name for name, *_ in run.works(quick=False) if "graphs" in name]
    works = {name: ours for name, _, ours, *_ in run.works(quick=False, on_gpu=True)}
    assert works["NCF, ml-1m, epoch"] == ("ncf", "ml-1m", None)
    assert works["LightGCN, ml-1m, epoch, cuda_graphs=off"] == ("lgn", "ml-1m", None, "off")
    assert run.epoch_ours(CPU, *works["NCF, ml-100k, epoch, cuda_graphs=off"]) > 0


def test_a_gpu_that_is_not_there_is_said(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["run", "--device", "cuda:0"])
    with pytest.raises(SystemExit):
        run.main()
    assert "cuda:0 can't be timed: no CUDA device here" in capsys.readouterr().err


def test_the_table_says_what_was_timed():
    said = run._conditions(True, run.Place(torch.device("cpu"), "bf16"))
    assert "`python -m benchmarks.run --quick --precision bf16` on " in said
    assert "training in bf16, references in float32" in said


def test_random_interactions_are_of_the_stated_size_without_repeats():
    pairs = problems.interactions("ml-100k")
    assert len(pairs) == len({tuple(pair) for pair in pairs.tolist()}) == 600
    assert pairs.max(0).values.tolist() <= [39, 149]


@pytest.mark.parametrize("samples", naive.SAMPLES)
def test_the_plain_evaluation_is_ours(samples):
    generator = torch_generator(0)
    items = torch.stack([torch.randperm(50, generator=generator)[:30] for _ in range(20)])
    scores = torch.rand(20, 50, generator=generator)
    users = torch.arange(20)

    def model(users, items):
        return scores[users, items]

    ours = evaluate(model, Candidates(users, items))
    assert naive.evaluate(model, users, items, CUTOFFS, samples) == pytest.approx(ours)


@pytest.mark.parametrize("samples", naive.SAMPLES)
def test_the_plain_epoch_has_every_pair_and_its_negatives(samples):
    pairs = [(user, item) for user in range(6) for item in range(user, 9)]
    rows = [
        row
        for batch in naive.batches(pairs, 12, 2, 16, samples)
        for row in zip(*(column.tolist() for column in batch), strict=True)
    ]
    assert len(rows) == 3 * len(pairs)
    assert {row[:2] for row in rows if row[2]} == set(pairs)
    assert not {row[:2] for row in rows if not row[2]} & set(pairs)


def test_the_frontiers_audits_are_of_the_run():
    config = ExperimentConfig(model="lgn", method="d2d", scope="served", seed=2, au_trade_off=0.01)
    audits = frontier.audits_of(config)
    assert [audit.audit_trained_on for audit in audits] == ["audited", "original"]
    for audit in audits:
        assert (audit.attack, audit.model, audit.method, audit.seed) == ("audit", "lgn", "d2d", 2)
        assert (audit.scope, audit.au_trade_off) == ("served", 0.01)
        assert audit.attackers == ("mlp", "xgb")


@pytest.mark.thorough
def test_the_page_of_streaming_is_made_of_what_was_measured(tmp_path):
    streaming.write_shards(tmp_path, 400)
    for method in streaming.METHODS:
        seconds, _ = streaming.in_memory(tmp_path, method)
        assert seconds > 0
    seconds = {method: {10**5: 1.0, 10**6: 10.0, 10**7: 100.0} for method in streaming.PASSES}
    seconds[streaming.POLISHED] = {10**6: 360.0}
    text = streaming.page([], seconds, 0.5, streaming.Constants(1e9, 5e8, 1e10))
    assert text.count("to the power of 1.00 (") == 2
    # 1.25e8 rows, twice as wide
    assert "360 µs a user of 1,000,000" in text and "a machine 25 h at most" in text
    # 1.25e8 rows: 5 times 512 bytes and 6 labels read, 512 written; 9 products of 2 128² each
    assert "| read, GB (with labels, int64) | 131 | 326 |" in text
    assert "| seconds of the disk | 259 | 454 |" in text
    assert "| operations in matrix products, 10^12 | 8.2 | 36.9 |" in text
    assert "| seconds of the products, one thread | 819 | 3,686 |" in text


def test_the_page_of_strangers_is_that_of_its_rows():
    with (ROOT / "exp_results/tables/strangers.csv").open(newline="") as file:
        made = markdown(strangers.page(list(csv.DictReader(file))))
    assert (ROOT / "exp_results/tables/strangers.md").read_text() == made

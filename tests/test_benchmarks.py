"""The benchmarks run; what they print is for people."""

import pytest

from benchmarks import run


@pytest.mark.parametrize("work", run.works(quick=True), ids=lambda work: work[0])
def test_every_quick_work_and_its_reference_run_on_a_small_size(work, monkeypatch):
    monkeypatch.setitem(run.SIZES, "ml-100k", (40, 150, 600, 0.7))
    _, ours, with_ours, reference, with_reference = work

    def small(arguments):
        return tuple(
            {300: 2, 200: 2, 500: 2, 100: 2, 60: 2, 20: 2, 943: 60}.get(a, a) for a in arguments
        )

    assert ours(*small(with_ours)) > 0
    assert reference(*small(with_reference)) > 0


def test_random_interactions_are_of_the_stated_size_without_repeats(monkeypatch):
    monkeypatch.setitem(run.SIZES, "ml-100k", (40, 150, 600, 0.7))
    pairs = run.interactions("ml-100k")
    assert len(pairs) == len({tuple(pair) for pair in pairs.tolist()}) == 600
    assert pairs.max(0).values.tolist() <= [39, 149]

"""The synthetic LFM-2b: sizes, planted taste, and that it says what it is."""

import json
from pathlib import Path

import numpy as np
import pytest

from data import synthetic
from data.dataset import load_attribute, load_dataset
from data.prepare import prepared_folder
from data.sources.formats import default_min_interactions
from data.sources.readers import PrepareSettings
from data.synthetic import Recipe, draw_pairs, draw_women

SMALL = {"users": 120, "women": 40, "items": 200, "interactions": 4500}
NAME = "synthetic-small"


def make(dataset_path: Path, **options: object) -> int:
    given = {"dataset-path": dataset_path, "name": NAME, **SMALL, **options}
    return synthetic.main([f"--{key}={value}" for key, value in given.items()])


def test_it_is_prepared_whole_and_called_synthetic_everywhere(tmp_path, capsys, caplog):
    assert make(tmp_path) == 0
    assert NAME in capsys.readouterr().out
    minimum = default_min_interactions(NAME)
    with caplog.at_level("INFO"):
        folder = prepared_folder(tmp_path, NAME, PrepareSettings(minimum, 20, 0))
    assert f"Preparing {NAME} from" in caplog.text
    meta = json.loads((folder / "meta.json").read_text())
    assert meta["dataset"] == NAME
    assert [meta[key] for key in ("users", "items", "interactions")] == [120, 200, 4500]
    assert load_attribute(folder, "gender").counts() == {"F": 40, "M": 80}
    assert load_dataset(folder, NAME, True).sizes()["train"] == 4500 - 240


def test_the_seed_decides_every_byte(tmp_path):
    for place, seed in (("a", 3), ("b", 3), ("c", 4)):
        assert make(tmp_path / place, seed=seed) == 0
    files = ("users.tsv", "listening-counts.tsv")
    a, b, c = (
        [(tmp_path / place / NAME / "raw" / file).read_bytes() for file in files] for place in "abc"
    )
    assert a == b
    assert a[0] != c[0]
    assert a[1] != c[1]


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_taste_is_where_it_was_planted_and_only_there(strength):
    recipe = Recipe(**SMALL, strength=strength)
    women, pairs = draw_women(recipe), draw_pairs(recipe, draw_women(recipe))
    by_women = np.bincount(pairs[women[pairs[:, 0]], 1], minlength=recipe.items)
    plays = np.bincount(pairs[:, 1], minlength=recipe.items)
    share = by_women.sum() / plays.sum()
    # chi-square of the items' shares of women per item: 1 where gender plays no part
    deviation = (by_women - plays * share) ** 2 / (plays * share * (1 - share))
    assert (deviation.mean() > 2) == (strength > 0)
    assert np.sort(plays)[-20:].sum() > 2 * np.sort(plays)[:20].sum()  # a long tail
    assert np.unique(pairs, axis=0).shape == pairs.shape


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "lfm-2b"}, '--name must be a plain name that begins with "synthetic"'),
        ({"name": "synthetic/../../x"}, "--name must be a plain name"),
        ({"interactions": 100}, "--interactions must be from 3200 to 6000"),
        ({"women": 120}, "--women must be from 1 to 119"),
        ({"strength": -1}, "--strength and --seed must be at least 0"),
    ],
)
def test_what_cannot_be_made_is_refused(tmp_path, capsys, options, message):
    assert make(tmp_path, **options) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_existing_set_is_not_overwritten(tmp_path, capsys):
    assert make(tmp_path) == 0
    assert make(tmp_path) == 2
    assert "delete" in capsys.readouterr().err

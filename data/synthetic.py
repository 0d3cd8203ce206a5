r"""A synthetic set of LFM-2b's published size, in LFM-2b's raw format.

LFM-2b can't be had any more, so whoever wants to see what its size costs needs a stand-in:

    python -m data.synthetic                        # then: python main.py dataset=synthetic-lfm-2b
    python -m data.synthetic --users 500 --women 200 --items 800 --interactions 20000 \
        --name synthetic-small

Items have long-tailed popularity, users long-tailed activity, and each item leans to one gender
by a normal draw g: women come to it with odds multiplied by exp(strength * g), men with odds
divided by it. Nothing else about people is in it: its results say how long things take and
whether a planted signal is found, and nothing about music.
"""

import argparse
import logging
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from utils.errors import UserError
from utils.runs.files import write_json
from utils.runs.logs import console
from utils.schema import NAME
from utils.seeds import numpy_generator

log = logging.getLogger(__name__)

PREFIX = "synthetic"
FLOOR = 8  # draws that each user and item gets before popularity decides; the filter asks for 5
TAIL_START, TAIL_POWER = 50, 0.9  # an item's popularity is (TAIL_START + rank)^-TAIL_POWER
ACTIVITY_SPREAD = 0.8  # of the log of a user's activity
LINES_AT_ONCE = 200_000
COUNTRIES = ("BR", "DE", "GB", "PL", "RU", "US")


@dataclass(frozen=True)
class Recipe:
    """What a synthetic set is made from; the defaults are LFM-2b's published sizes."""

    users: int = 19_972
    women: int = 4_415
    items: int = 99_639
    interactions: int = 2_829_503
    strength: float = 0.5
    seed: int = 0

    def check(self) -> None:
        """Refuse sizes that can't be met."""
        if not 0 < self.women < self.users:
            raise UserError(f"--women must be from 1 to {self.users - 1}, got {self.women}")
        low, high = 2 * FLOOR * max(self.users, self.items), self.users * self.items // 4
        if not low <= self.interactions <= high:
            raise UserError(
                f"--interactions must be from {low} to {high} with {self.users} users and "
                f"{self.items} items, got {self.interactions}"
            )
        if self.strength < 0 or self.seed < 0:
            raise UserError("--strength and --seed must be at least 0")


def draw_women(recipe: Recipe) -> np.ndarray:
    """(users,) bool; exactly `recipe.women` are True."""
    women = np.arange(recipe.users) < recipe.women
    return numpy_generator(recipe.seed, PREFIX, "gender").permutation(women)


def draw_pairs(recipe: Recipe, women: np.ndarray) -> np.ndarray:
    """(interactions, 2) int64 different (user, item) pairs in random order."""
    rng = numpy_generator(recipe.seed, PREFIX, "pairs")
    popularity = rng.permutation((TAIL_START + np.arange(recipe.items)) ** -TAIL_POWER)
    lean = np.exp(recipe.strength * rng.standard_normal(recipe.items))
    activity = np.exp(ACTIVITY_SPREAD * rng.standard_normal(recipe.users))

    def items_for(users: np.ndarray) -> np.ndarray:
        items = np.empty(len(users), np.int64)
        for mine, odds in ((women[users], lean), (~women[users], 1 / lean)):
            items[mine] = _pick(popularity * odds, mine.sum(), rng)
        return items

    users = np.repeat(np.arange(recipe.users), FLOOR)
    pair = users * recipe.items + items_for(users)
    # an item's own draws: first the gender, by the item's lean, then who of it
    items = np.repeat(np.arange(recipe.items), FLOOR)
    her, his = activity[women].sum() * lean[items], activity[~women].sum() / lean[items]
    by_woman = rng.random(len(items)) < her / (her + his)
    users = np.empty(len(items), np.int64)
    for mine, group in ((by_woman, women), (~by_woman, ~women)):
        users[mine] = _pick(activity * group, mine.sum(), rng)
    pair = np.unique(np.concatenate([pair, users * recipe.items + items]))
    with tqdm(total=recipe.interactions, initial=len(pair), desc="drawing", leave=False) as bar:
        while (missing := recipe.interactions - len(pair)) > 0:
            users = _pick(activity, 2 * missing, rng)  # twice, as many are there already
            drawn = np.unique(users * recipe.items + items_for(users))
            at = np.searchsorted(pair, drawn).clip(max=len(pair) - 1)
            more = rng.permutation(drawn[pair[at] != drawn])[:missing]
            pair = np.sort(np.concatenate([pair, more]))
            bar.update(len(more))
    return np.stack(np.divmod(rng.permutation(pair), recipe.items), axis=1)


def _pick(weights: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` indices, each with a probability proportional to its weight."""
    edges = np.cumsum(weights)
    return np.searchsorted(edges, rng.random(count) * edges[-1], side="right")


def write(recipe: Recipe, folder: Path) -> None:
    """users.tsv, listening-counts.tsv (the lines in random order; a count of 1 each) and
    origin.json, which says that all of it is synthetic.
    """
    women = draw_women(recipe)
    pairs = draw_pairs(recipe, women)
    rng = numpy_generator(recipe.seed, PREFIX, "people")
    ages, countries = rng.integers(14, 70, recipe.users), rng.choice(COUNTRIES, recipe.users)
    folder.mkdir(parents=True)
    with (folder / "users.tsv").open("w") as file:
        file.write("user_id\tcountry\tage\tgender\tcreation_time\n")
        for user, (country, age, woman) in enumerate(zip(countries, ages, women, strict=True)):
            file.write(f"{user}\t{country}\t{age}\t{'f' if woman else 'm'}\t{PREFIX}\n")
    write_json(folder / "origin.json", {"from": "python -m data.synthetic", **asdict(recipe)})
    # last, and renamed when whole: without it there is no dataset
    scratch = folder / ".listening-counts.tsv.tmp"
    bar = tqdm(total=len(pairs), desc="writing", unit=" lines", unit_scale=True, leave=False)
    with bar, scratch.open("w") as file:
        file.write("user_id\ttrack_id\tcount\n")
        for start in range(0, len(pairs), LINES_AT_ONCE):
            rows = pairs[start : start + LINES_AT_ONCE].tolist()
            file.write("".join([f"{user}\t{item}\t1\n" for user, item in rows]))
            bar.update(len(rows))
    scratch.replace(folder / "listening-counts.tsv")


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(
        formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__
    )
    for name, default in asdict(Recipe()).items():
        parser.add_argument(f"--{name}", type=type(default), default=default, help=f"{default}")
    parser.add_argument("--dataset-path", type=Path, default=Path("data/datasets"))
    parser.add_argument("--name", default=f"{PREFIX}-lfm-2b", help=f"must begin with {PREFIX}")
    arguments = vars(parser.parse_args(argv))
    dataset_path, name = arguments.pop("dataset_path"), arguments.pop("name")
    recipe = Recipe(**arguments)
    folder = dataset_path / name / "raw"
    try:
        if not (name.startswith(PREFIX) and re.fullmatch(NAME, name)):
            raise UserError(
                f'--name must be a plain name that begins with "{PREFIX}", got "{name}"'
            )
        if folder.exists():
            raise UserError(f"{folder} exists; delete {folder.parent} or choose another --name")
        recipe.check()
        with console():
            log.info("Making the synthetic dataset %s: %s", name, recipe)
            write(recipe, folder)
            log.info("Written to %s; next: python main.py dataset=%s", folder, name)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

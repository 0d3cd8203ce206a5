"""Other libraries' user embeddings, before and after unlearning: `python -m benchmarks.strangers`.

A stranger's table has its own scale, tails, zeros and columns. Each is made from the prepared
dataset's training interactions with its library's own settings, but for d, and scores items by
inner products; it is edited by every method as a file's table is (relative to its spread), and
audited: ten attackers, one half of the users trains, the other tests. Utility is how many of each
user's top 10 unknown items stay in it. Means over the seeds (least to most), which make the table,
draw for the edit, and share their users; seconds: one thread beside other work, AMD EPYC with
AVX-512, and where Calibrated looks at all views, by default or with slices, and for all of its rows
on ML-100K's TF-IDF, whose first column goes by rank, Intel Xeon with AVX-512. Its way with shared
values was made for the NMF and LDA of ML-1M, both kinds of views and slices on the SVD, TF-IDF, ALS
and BPR there, with seed 0 (slices on other halves of the users); what it does to ML-100K was looked
at once each time, but for the edges (methods/edges.py): normal scores of the SVD's first column
were looked at on both, and dropped by what other halves of ML-1M's users say.

implicit is no requirement; its two tables are left out where it isn't installed
(`pip install implicit==0.7.3`). A finished row of the CSV is not made again.

Writes exp_results/tables/strangers.csv and .md; half an hour for ML-1M and a seed on one core, most
of it D2D.
"""

import argparse
import csv
import importlib.util
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.sparse import csr_array, csr_matrix
from scipy.sparse.linalg import svds
from sklearn.decomposition import NMF, LatentDirichletAllocation
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfTransformer
from threadpoolctl import threadpool_limits

from data.dataset import load_attribute, load_dataset
from main import of_file
from methods import METHODS, ExperimentConfig
from utils.audit.attackers import STRONG, battery
from utils.audit.audit import Settings, Subject, audit
from utils.pages.parts import Grid, Section
from utils.pages.render import markdown
from utils.runtime import available_cores
from utils.seeds import numpy_generator
from utils.threads import UNCHANGED
from utils.top_items import top_kept

COLUMNS = (
    "dataset", "library", "d", "method", "attribute", "seed", "attacker", "auc", "leakage",
    "null_95", "p", "kept", "seconds",
)  # fmt: skip


class Factors(NamedTuple):
    """What scores are inner products of: users (n, d) and items (m, d)."""

    users: np.ndarray
    items: np.ndarray


def svd(seen: csr_array, seed: int) -> Factors:
    """scipy: truncated SVD of the interactions, d = 64."""
    start = numpy_generator(seed, "svd").normal(size=min(seen.shape))
    left, sizes, right = svds(seen.astype(np.float64), 64, v0=start)
    return Factors(left * sizes, right.T)


def tfidf_svd(seen: csr_array, seed: int) -> Factors:
    """The same of TF-IDF weights: heavy tails."""
    return svd(csr_array(TfidfTransformer(norm=None).fit_transform(seen)), seed)


def nmf(seen: csr_array, seed: int) -> Factors:
    """scikit-learn: non-negative factors, d = 32, with exact zeros."""
    model = NMF(32, init="nndsvd", random_state=seed, max_iter=200)
    return Factors(model.fit_transform(csr_matrix(seen)), model.components_.T)


def lda(seen: csr_array, seed: int) -> Factors:
    """scikit-learn: shares of 32 topics, each user's summing to one."""
    model = LatentDirichletAllocation(32, random_state=seed)
    users = model.fit_transform(csr_matrix(seen))
    return Factors(users, (model.components_ / model.components_.sum(1, keepdims=True)).T)


def als(seen: csr_array, seed: int) -> Factors:
    """implicit: alternating least squares, d = 64."""
    from implicit.als import AlternatingLeastSquares

    return _implicit(AlternatingLeastSquares(factors=64, random_state=seed), seen)


def bpr(seen: csr_array, seed: int) -> Factors:
    """implicit: Bayesian personalised ranking, d = 64 and a column of ones beside the biases."""
    from implicit.bpr import BayesianPersonalizedRanking

    return _implicit(BayesianPersonalizedRanking(factors=63, random_state=seed), seen)


def _implicit(model, seen: csr_array) -> Factors:
    model.fit(csr_matrix(seen), show_progress=False)
    return Factors(np.array(model.user_factors), np.array(model.item_factors))


LIBRARIES: dict[str, Callable[[csr_array, int], Factors]] = {
    "scipy SVD": svd,
    "TF-IDF SVD": tfidf_svd,
    "scikit-learn NMF": nmf,
    "scikit-learn LDA": lda,
    "implicit ALS": als,
    "implicit BPR": bpr,
}
EDITS: dict[str, tuple[str, dict[str, Any]]] = {
    "original": ("original", {}),
    "d2d": ("d2d", {}),
    "leace": ("leace", {}),
    "barycentre": ("barycentre", {}),
    "calibrated": ("calibrated", {}),
    "calibrated-sliced": ("calibrated", {"calibrated_slices": 160}),
    "calibrated-both": ("calibrated", {"calibrated_views": "both"}),
    "calibrated-whole": ("calibrated", {"calibrated_band": 0, "calibrated_views": "both"}),
    "calibrated-first": ("calibrated", {"calibrated_band": 0, "calibrated_views": "scaled"}),
}
"""A row's method, and which keys it has other than a file's defaults."""


def available() -> list[str]:
    """Names in LIBRARIES that can be made here."""
    there = importlib.util.find_spec("implicit") is not None
    return [name for name in LIBRARIES if there or not name.startswith("implicit")]


@contextmanager
def quietly() -> Iterator[None]:
    """Sums that don't depend on the cores, and no warnings of libraries' own default iterations."""
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # their iterations are their defaults
        warnings.simplefilter("ignore", RuntimeWarning)
        yield


def edited(edit: str, users: np.ndarray, labels: np.ndarray, seed: int) -> tuple[np.ndarray, float]:
    """The table after one of EDITS, and its seconds."""
    method, keys = EDITS[edit]
    chosen = METHODS[method]
    if not chosen.fit:
        return users, 0.0
    config = of_file(ExperimentConfig(method=method, seed=seed, **keys))
    tables = {"table": torch.from_numpy(users)}
    rng = numpy_generator(seed, method)
    options, known = chosen.options_of(config), {"attribute": torch.from_numpy(labels)}
    eraser = chosen.fit(tables, known, options, rng, None, UNCHANGED)
    return eraser.apply(tables)["table"].numpy(), eraser.record["seconds"]


def rows_of(options: argparse.Namespace, done: list[dict[str, str]]) -> Iterator[dict[str, str]]:
    """A row a library and method that has none yet."""
    folder = options.datasets / options.dataset / "preprocess"
    dataset = load_dataset(folder, options.dataset, hold_out_validation=True)
    attribute = load_attribute(folder, options.attribute)
    pairs = dataset.train.numpy()
    shape = (dataset.n_users, dataset.n_items)
    seen = csr_array((np.ones(len(pairs), np.float32), (pairs[:, 0], pairs[:, 1])), shape=shape)
    settings = Settings(battery([STRONG]), 20_000, 1999, 0)
    for library in options.libraries:
        which = {"dataset": options.dataset, "library": library, "seed": str(options.seed)}
        which["attribute"] = options.attribute
        missing = [
            method
            for method in options.methods
            if not any({**which, "method": method}.items() <= row.items() for row in done)
        ]
        if not missing:
            continue
        with quietly():
            factors = Factors(
                *(x.astype(np.float32) for x in LIBRARIES[library](seen, options.seed))
            )
        for method in missing:
            users, seconds = edited(method, factors.users, attribute.labels, options.seed)
            counts = attribute.counts()
            places = {"table": users}
            subject = Subject(places, attribute.name, attribute.classes, attribute.labels, counts)
            found = audit(subject, settings, options.jobs)["verdict"]
            yield which | {
                "d": str(users.shape[1]),
                "method": method,
                **{key: f"{found[key]:.4g}" for key in ("auc", "leakage", "null_95", "p")},
                "attacker": found["attacker"],
                "kept": f"{top_kept(factors.users, users, factors.items, seen):.2f}",
                "seconds": f"{seconds:.2f}",
            }


def page(rows: list[dict[str, str]]) -> list[Section]:
    """The tables, one a dataset and attribute."""
    sections = [
        Section("Other libraries' embeddings", [__doc__.split("\n\n")[1].replace("\n", " ")])
    ]
    frame = pd.DataFrame(rows, columns=COLUMNS)
    numbers = ["leakage", "null_95", "p", "kept", "seconds"]
    frame[numbers] = frame[numbers].astype(float)
    order = {name: number for number, name in enumerate([*LIBRARIES, *EDITS])}
    for (dataset, attribute), own in frame.groupby(["dataset", "attribute"], sort=False):
        own = own.sort_values(["library", "method"], key=lambda names: names.map(order))
        command = f"`python -m benchmarks.strangers --dataset {dataset} --attribute {attribute}`"
        header = ["Table", "d", "Method", "Worst attacker", "|AUC - 0.5|", "By chance, 95 %"]
        header += ["Leaks", "Of the top 10 kept", "Seconds"]
        grid = Grid(
            header, [_row(*group) for group in own.groupby(["library", "method"], sort=False)]
        )
        seeds = ", ".join(sorted(set(own["seed"]), key=int))
        said = f"{command}, with `--seed` {seeds}; of how many of these a row is, Leaks says."
        sections.append(Section(f"{dataset}, {attribute}", [said, grid]))
    return sections


def _row(which: tuple[str, str], own: pd.DataFrame) -> list[str]:
    library, edit = which
    found = own["leakage"]
    spread = f" ({found.min():.3f} to {found.max():.3f})" if len(own) > 1 else ""
    edits = METHODS[EDITS[edit][0]].fit is not None
    return [
        library,
        own["d"].iloc[0],
        _title(edit),
        own["attacker"].mode()[0],
        f"{found.mean():.3f}{spread}",
        f"{own['null_95'].mean():.3f}",
        f"{(own['p'] <= 0.05).sum()} of {len(own)}",
        f"{own['kept'].mean():.2f}" if edits else "–",
        f"{own['seconds'].mean():.2f}" if edits else "–",
    ]


def _title(edit: str) -> str:
    method, keys = EDITS[edit]
    return ", ".join([METHODS[method].title, *(f"`{key}={value}`" for key, value in keys.items())])


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="ml-1m", help="prepared, under --datasets")
    parser.add_argument("--datasets", type=Path, default=Path("data/datasets"))
    parser.add_argument("--attribute", default="gender")
    parser.add_argument("--libraries", nargs="+", choices=list(LIBRARIES), default=available())
    parser.add_argument("--methods", nargs="+", choices=[*EDITS], default=[*EDITS])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=available_cores())
    parser.add_argument("--tables", type=Path, default=Path("exp_results/tables"))
    options = parser.parse_args()
    if not (options.datasets / options.dataset / "preprocess").is_dir():
        parser.error(
            f"no {options.dataset} there; python main.py dataset={options.dataset} makes it"
        )
    options.tables.mkdir(parents=True, exist_ok=True)
    path = options.tables / "strangers.csv"
    rows = []
    if path.exists():
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
    for row in rows_of(options, list(rows)):
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            if new:
                writer.writeheader()
            writer.writerow(row)
        rows.append(row)
        print(", ".join(row[key] for key in ("library", "method", "leakage", "null_95", "kept")))
    (options.tables / "strangers.md").write_text(markdown(page(rows)))


if __name__ == "__main__":
    main()

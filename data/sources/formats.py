"""The raw formats that datasets come in: which files tell one, and what reads them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from data.sources.lfm2b import read_lfm2b
from data.sources.movielens import read_ml1m, read_ml100k
from data.sources.own import read_csv, read_recbole
from data.sources.readers import PrepareSettings, RawData

MIN_INTERACTIONS = 5


@dataclass(frozen=True)
class RawFormat:
    """A raw format.

    Attributes:
        files: the files that it consists of, each as the names it may have, in the order of
            preference; "{name}" stands for the dataset's name.
        read: reads these files, given in the same order.
        min_interactions: the published filter of the dataset that the format is named after.
        title: the papers' name of that dataset, for tables; empty where it is named after none.
    """

    files: tuple[tuple[str, ...], ...]
    read: Callable[[list[Path], PrepareSettings], RawData]
    min_interactions: int = MIN_INTERACTIONS
    title: str = ""

    def find(self, folder: Path, name: str) -> list[Path] | None:
        """The format's files of dataset `name` in `folder`, if all are there."""
        found = []
        for names in self.files:
            paths = [folder / one.format(name=name) for one in names]
            found += [path for path in paths if path.is_file()][:1]
        return found if len(found) == len(self.files) else None

    def describe(self, name: str) -> str:
        """The files in words, e.g. "u.data + u.user"."""
        return " + ".join(" or ".join(names) for names in self.files).format(name=name)


FORMATS: dict[str, RawFormat] = {
    "ml-100k": RawFormat((("u.data",), ("u.user",)), read_ml100k, title="ML-100K"),
    "ml-1m": RawFormat((("ratings.dat",), ("users.dat",)), read_ml1m, title="ML-1M"),
    # events come first: they have times
    "lfm-2b": RawFormat(
        (
            (
                "listening-events.tsv",
                "listening-events.tsv.bz2",
                "listening-counts.tsv",
                "listening-counts.tsv.bz2",
            ),
            ("users.tsv", "users.tsv.bz2"),
        ),
        read_lfm2b,
        min_interactions=120,
        title="LFM-2B",
    ),
    "recbole": RawFormat((("{name}.inter",), ("{name}.user",)), read_recbole),
    "csv": RawFormat((("interactions.csv",), ("users.csv",)), read_csv),
}


def default_min_interactions(name: str) -> int:
    """The published filter of a known dataset; the usual one of any other, whatever its format."""
    return FORMATS[name].min_interactions if name in FORMATS else MIN_INTERACTIONS

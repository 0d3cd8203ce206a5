"""A fitted eraser as a file, for users who come later: safetensors, numbers and text alone.

Only a map that asks for nobody's label can be given to others; of our methods that is `leace`'s.
"""

import json
import logging
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save

from data.tables.files import load_table, save_table, with_people
from data.tables.formats import reading
from data.tables.manifest import forget
from methods import METHODS
from methods.eraser import share_moved
from methods.leace import AffineEraser, Erasing
from utils.config import RunConfig
from utils.errors import UserError
from utils.runs.files import replace_file

log = logging.getLogger(__name__)

KEY, KIND = "eraser", "affine"
VERSION = "2"
"""Of the file's content; a reader refuses others."""

FEWEST = 50
"""Users of whom can be said whether they are like those of the fit."""

FAR = 1.25
"""`Distances.median`, corrected for the size of the fit, above which they are not: halves of NCF's
and LightGCN's tables of ML-100K have 0.6 to 1.0 from one another, another seed's 1.5 to 8."""

NEAR = 0.05
"""`Distances.mean` below which they are not, as vectors of another scale; heavy tails alone make it
vary, and the median small."""

OUTSIDE = 1e-6
"""`Distances.outside` that is no rounding of float32."""


@dataclass(frozen=True)
class About:
    """Where an eraser comes from.

    Attributes:
        method: its key in METHODS.
        attribute: what was erased.
        users: how many with a label it was fitted on.
        fitted_on: SHA-256 of the data or embedding, or of a stream's moments.
    """

    method: str
    attribute: str
    users: int
    fitted_on: str


def save_eraser(path: Path, eraser: AffineEraser, about: About) -> None:
    """Write it, with where it comes from."""
    said = {"version": VERSION, "kind": KIND, "widths": eraser.widths, "about": asdict(about)}
    arrays = asdict(eraser.erasing).items()
    tensors = {name: np.ascontiguousarray(array) for name, array in arrays}
    with replace_file(path) as file:
        file.write(save(tensors, {KEY: json.dumps(said)}))  # of several the order would vary


def load_eraser(path: Path) -> tuple[AffineEraser, About]:
    """Read it back.

    Raises:
        UserError: no such file, or not such a file, or of another version.
    """
    with reading(path, "fitted eraser"):
        path.open("rb").close()  # its own error names no file
        with safe_open(path, "np") as file:
            said: dict[str, Any] = json.loads((file.metadata() or {}).get(KEY, "{}"))
            if said.get("kind") != KIND or said.get("version") != VERSION:
                raise UserError(
                    f"{path} is no eraser of version {VERSION}; main.py writes "
                    "weights/eraser.safetensors for method leace"
                )
            tensors = {
                one.name: file.get_tensor(one.name).astype(np.float64) for one in fields(Erasing)
            }
        widths, about = said["widths"], About(**said["about"])
        if about.method not in METHODS:
            raise UserError(
                f'{path} is of the method "{about.method}", which this version does not have; take '
                "the version that made it"
            )
        d = sum(widths.values())
        shapes = {"centre": (d,), "projection": (d, d), "covariance": (d, d)}
        if (
            any(tensors[name].shape != shape for name, shape in shapes.items())
            or not all(np.isfinite(array).all() for array in tensors.values())
            or not is_covariance(tensors["covariance"])
            or any(type(width) is not int for width in widths.values())
            or type(about.users) is not int
            or about.users < 1
            or not isinstance(about.attribute, str)
            or not about.attribute.isprintable()
        ):
            raise UserError(f"{path}: its numbers are damaged; make it again")
        return AffineEraser(widths, Erasing(**tensors), {}, []), about


def is_covariance(matrix: np.ndarray) -> bool:
    """Whether it is symmetric, and of no negative variance beyond rounding."""
    scale = np.abs(matrix).max(initial=0)
    if not np.allclose(matrix, matrix.T, rtol=0, atol=1e-9 * scale):
        return False
    return bool((np.linalg.eigvalsh(matrix) >= -1e-9 * scale).all())


def warn_of_others(source: Path, erasing: Erasing, about: About, x: np.ndarray) -> None:
    """Warn where users (n, d) are others than those of the fit: of another model, most often."""
    if len(x) < FEWEST:
        return
    found = erasing.distances(x)
    # the inverse of a covariance of n users is n / (n - r - 1) times too large on average
    shrink = (about.users - found.dimensions - 1) / about.users
    beyond = found.median * shrink > FAR or found.outside > OUTSIDE
    well_known = about.users > 2 * x.shape[1]  # what few users span says little of others
    if (beyond and well_known) or (found.dimensions and found.mean < NEAR):
        log.warning(
            "%s: these users are not as those of the fit are (squared distance from their mean, a "
            "dimension: median %.3g, mean %.3g, theirs 1; outside of their dimensions %.3g); an "
            "eraser is for vectors of the very model that it was fitted on",
            source,
            found.median,
            found.mean,
            found.outside,
        )


def apply_fitted(config: RunConfig) -> dict[str, Any]:
    """Edit the table of a file by an eraser that was fitted before, and write it; [PAD] stays.

    Raises:
        UserError: the eraser is of tables of other dimensions.
    """
    assert config.eraser and config.user_embedding and config.output
    start = time.perf_counter()
    source, target = Path(config.user_embedding), Path(config.output)
    eraser, about = load_eraser(Path(config.eraser))
    table = load_table(source, config.table)
    given, people = table.vectors, table.people
    widths = list(eraser.widths.values())
    if widths != [given.shape[1]]:
        raise UserError(
            f"{config.eraser} was fitted on {' and '.join(map(str, widths))} dimensions, {source} "
            f"has {given.shape[1]}"
        )
    (name,) = eraser.widths
    vectors = torch.from_numpy(given[people])
    warn_of_others(source, eraser.erasing, about, given[people].astype(np.float64))
    edited = with_people(source, table, eraser.apply({name: vectors})[name])
    if target.exists():
        log.info("  %s was there, and is replaced", target)
    save_table(target, table.edited(edited), source)
    forget(target)
    log.info(
        "%s: %s of %d users, by %s fitted on %d users; moved by %.3f of its norm",
        target,
        METHODS[about.method].title,
        int(people.sum()),
        config.eraser,
        about.users,
        share_moved(given.astype(np.float64), edited.astype(np.float64)),
    )
    log.info(
        "  what it hides of users whom it has not seen is for an audit to say: python attack.py "
        "attack=audit user_embedding=%s labels=FILE attribute=%s",
        target,
        about.attribute,
    )
    return {"config": asdict(config), "seconds": time.perf_counter() - start}

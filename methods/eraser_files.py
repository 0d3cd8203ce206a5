"""A fitted eraser as a file, for users who come later: safetensors, numbers and text alone.

Only a map that asks for nobody's label can be given to others; of our methods that is `leace`'s.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save

from data.tables.formats import reading
from methods.leace import AffineEraser
from utils.errors import UserError
from utils.runs.files import replace_file

VERSION = "1"
"""Of the file's content; a reader refuses others."""


@dataclass(frozen=True)
class About:
    """Where an eraser comes from.

    Attributes:
        method: its key in METHODS.
        attribute: what was erased.
        users: how many with a label it was fitted on.
        fitted_on: SHA-256 of the data or embedding.
    """

    method: str
    attribute: str
    users: int
    fitted_on: str


def save_eraser(path: Path, eraser: AffineEraser, about: About) -> None:
    """Write it, with where it comes from."""
    said = {"version": VERSION, "kind": "affine", "widths": json.dumps(eraser.widths)}
    said |= {"about": json.dumps(about.__dict__)}
    tensors = {"centre": eraser.centre, "projection": np.ascontiguousarray(eraser.projection)}
    with replace_file(path) as file:
        file.write(save(tensors, said))


def load_eraser(path: Path) -> tuple[AffineEraser, About]:
    """Read it back.

    Raises:
        UserError: no such file, or not such a file, or of another version.
    """
    with reading(path, "fitted eraser"):
        path.open("rb").close()  # its own error names no file
        with safe_open(path, "np") as file:
            said: dict[str, Any] = file.metadata() or {}
            if said.get("kind") != "affine" or said.get("version") != VERSION:
                raise UserError(
                    f"{path} is no eraser of version {VERSION}; main.py writes "
                    "weights/eraser.safetensors for method leace"
                )
            centre, projection = file.get_tensor("centre"), file.get_tensor("projection")
        widths, about = json.loads(said["widths"]), About(**json.loads(said["about"]))
        d = sum(widths.values())
        if (
            centre.shape != (d,)
            or projection.shape != (d, d)
            or not (np.isfinite(centre).all() and np.isfinite(projection).all())
        ):
            raise UserError(f"{path}: its numbers are damaged; make it again")
        return AffineEraser(widths, centre, projection, {}, []), about

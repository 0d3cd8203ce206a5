"""Read a dict that somebody else stored with `np.save`, without running what is in the file.

Such a file is a .npy header and a pickle of a 0-d object array. A pickle names the functions
that rebuild its objects, and an ordinary unpickler calls whatever is named. This one knows the
four names that NumPy writes for arrays and scalars, NumPy 1's and 2's, and refuses every other.
Even these four are stand-ins written here: NumPy's own believe a pickle about memory layouts.
"""

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from utils.errors import UserError, first_line


class _Array:
    """Stands for the 0-d object array; its content is all that is wanted of it."""

    content: Any = None

    def __init__(self, *_: Any):
        pass

    def __setstate__(self, state: tuple) -> None:
        *_, (self.content,) = state


class _Dtype:
    """Stands for a scalar's type: a code such as i8 or U1, and a byte order."""

    def __init__(self, code: str, *_: Any):
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple) -> None:
        self.order = state[1]

    def plain(self) -> np.dtype:
        if not (re.fullmatch(r"[biufU]\d+", self.code) and self.order in ("<", ">", "=", "|")):
            raise pickle.UnpicklingError(f"it has a scalar of type {self.code!r}")
        return np.dtype(self.order + self.code)


class _Scalar:
    """Gives the NumPy scalar that is stored as a type and its bytes."""

    def __new__(cls, dtype: _Dtype, raw: bytes) -> Any:
        return np.frombuffer(raw, dtype.plain())[0]

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("a scalar has no state")


# Classes of ours throughout, each with a __setstate__: what a pickle does to an object beyond
# calling it (its BUILD instruction) then ends in these methods, never in an attribute being set.
ADMITTED: dict[tuple[str, str], type] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    **{
        (module, name): stand_in
        for module in ("numpy.core.multiarray", "numpy._core.multiarray")
        for name, stand_in in (("_reconstruct", _Array), ("scalar", _Scalar))
    },
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type:
        if (module, name) not in ADMITTED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not admitted")
        return ADMITTED[module, name]


def load_dict(path: Path) -> dict[Any, Any]:
    """The dict in a .npy file: plain Python values and NumPy scalars.

    Raises:
        UserError: no .npy file, no dict, or a pickle that asks for anything else than these.
    """
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    try:
        with path.open("rb") as file:
            shape, _, dtype = readers[npy.read_magic(file)](file)
            if shape != () or not dtype.hasobject:
                raise ValueError(f"it holds an array of {dtype} with shape {shape}")
            content = _Unpickler(file).load()
        if isinstance(content, _Array):
            content = content.content
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}")
    except PermissionError:
        raise
    except Exception as error:  # a damaged pickle can raise anything at all
        raise UserError(
            f"{path} is not a dict of plain values stored by np.save ({first_line(error)}); "
            "nothing in it was run"
        ) from None
    return content

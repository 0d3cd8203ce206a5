"""Tables in many .npy files, or in one too large for the memory: in and out in blocks of rows.

Read, not mapped: pages of a mapped file count as the process's memory, and one that is cut while it
is read kills the process without a word.
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from data.tables.formats import reading
from utils.errors import UserError
from utils.runs.files import replace_large

BLOCK = 2**20
"""Numbers a block, as 16,384 rows of 64 dimensions: larger ones are no faster."""


@dataclass(frozen=True)
class ArrayFile:
    """A .npy file by its header.

    Attributes:
        path: the file.
        shape: of the array.
        dtype: as in the file.
        start: bytes before the first number.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype
    start: int

    @classmethod
    def open(cls, path: Path) -> "ArrayFile":
        """Read the header.

        Raises:
            UserError: no such file, no .npy file, in Fortran's order, or cut short.
        """
        with reading(path, "NumPy array"), path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }.get(version)
            if read is None:
                raise ValueError(f"version {version[0]}.{version[1]} of the format")
            shape, transposed, dtype = read(file)
            if dtype.hasobject:
                raise ValueError("objects")
            if transposed and len(shape) > 1 and min(shape) > 1:
                raise UserError(
                    f"{path} is stored column by column, and rows are read: save it again with "
                    "np.save(file, np.ascontiguousarray(array))"
                )
            found = cls(path, shape, dtype, file.tell())
            size = os.fstat(file.fileno()).st_size
        if size < found.size:
            raise UserError(
                f"{path} is cut short: its header promises {found.size} bytes, it has {size}; "
                "write it again"
            )
        return found

    @property
    def size(self) -> int:
        """Bytes that the file must have."""
        return self.start + int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Rows from `start` up to `stop`, in this machine's byte order.

        Raises:
            UserError: the file has been cut since it was opened.
        """
        width = int(np.prod(self.shape[1:], dtype=np.int64))
        values = np.empty((stop - start) * width, self.dtype)
        with self.path.open("rb") as file:
            file.seek(self.start + start * width * self.dtype.itemsize)
            if file.readinto(values.data) < values.nbytes:
                raise UserError(f"{self.path} was cut while it was read; write it again")
        return values.reshape(stop - start, *self.shape[1:]).astype(
            self.dtype.newbyteorder("="), copy=False
        )


def shard_paths(path: Path) -> list[Path]:
    """The .npy files of a folder by name, or the one that is named.

    Raises:
        UserError: no such folder or file, or none in it.
    """
    if not path.is_dir():
        if not path.exists():
            raise UserError(f"{path} does not exist; name a folder of .npy files, or one of them")
        return [path]
    found = sorted(one for one in path.glob("*.npy") if not one.name.startswith("."))
    if not found:
        raise UserError(f"{path} has no .npy file; shards are .npy files with a row a user")
    return found


def block_bounds(rows: int, width: int) -> Iterator[tuple[int, int]]:
    """First row, and the one behind the last, of each block of a table."""
    step = max(1, BLOCK // max(1, width))
    for start in range(0, rows, step):
        yield start, min(rows, start + step)


@contextlib.contextmanager
def array_writer(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> Iterator[BinaryIO]:
    """A .npy file whose rows are written to it one block after the other, as bytes; under its name
    it appears whole, or not at all.
    """
    with replace_large(path) as file:
        described = np.lib.format.dtype_to_descr(dtype)
        header = {"descr": described, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        yield file


def is_whole(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> bool:
    """Whether an array of this shape and dtype is there, and not cut short."""
    try:
        found = ArrayFile.open(path)
    except UserError:
        return False
    return (found.shape, found.dtype) == (shape, dtype)

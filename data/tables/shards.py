"""Tables in many files, or in one too large for the memory: in and out in blocks of rows.

Read, not mapped: pages of a mapped file count as the process's memory, and one that is cut while it
is read kills the process without a word.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from data.tables.formats import reading
from data.tables.user_table import check_ids
from utils.errors import UserError

BLOCK = 2**20
"""Numbers a block, as 16,384 rows of 64 dimensions: larger ones are no faster."""
MOST_ROWS = 2**14
"""Of a block: a row may take long, and between blocks ranks say that they are there."""


def block_rows(width: int) -> int:
    """Rows of a block of a table."""
    return max(1, min(MOST_ROWS, BLOCK // max(1, width)))


def block_bounds(rows: int, width: int) -> Iterator[tuple[int, int]]:
    """First row, and the one behind the last, of each block of a table."""
    step = block_rows(width)
    for start in range(0, rows, step):
        yield start, min(rows, start + step)


EditBlock = Callable[[np.ndarray, int], np.ndarray]
"""Vectors (n, d) of a block and the number of its first row -> vectors (n, d), edited."""


@dataclass(frozen=True)
class Shard(ABC):
    """A file of users' vectors, of a format that `data.tables.shard_formats` lists.

    Attributes:
        path: the file.
        name: of the table in it.
        shape: its users and dimensions; (0, 0) where a file of nobody doesn't say how many.
        dtype: that vectors are read in, and edited ones rounded to.
        columns: what the dimensions are columns of, in their order; () in files without columns.
        has_ids: whether it says who its users are.
    """

    path: Path
    name: str
    shape: tuple[int, int]
    dtype: np.dtype
    columns: tuple[str, ...]
    has_ids: bool

    @classmethod
    @abstractmethod
    def open(cls, path: Path, table: str | None) -> Self:
        """Look at what a file says of itself.

        Args:
            path: the file.
            table: which of several tables; None = as for a file in memory (`load_table`).

        Raises:
            UserError: no such file, not of the format, cut short, or none or several tables in it.
        """

    @abstractmethod
    def blocks(self) -> Iterator[np.ndarray]:
        """All vectors, a block (n, d) after the other, n at least 1.

        Raises:
            UserError: the file is damaged, or has been cut since it was opened.
        """

    @abstractmethod
    def take(self, rows: np.ndarray) -> np.ndarray:
        """The vectors of rows, whose numbers ascend; raises as `blocks`."""

    @abstractmethod
    def rewritten(self, path: Path, edit: EditBlock) -> Iterator[int]:
        """Write a file with all that this one holds and the vectors edited; yields the rows of each
        block. The file appears whole under its name, or not at all.

        Raises:
            UserError: as `blocks`, or an edited value that the dtype can't hold.
        """

    @abstractmethod
    def spelt_ids(self) -> np.ndarray:
        """(n_users,) text, of a file that has them."""

    def ids(self) -> np.ndarray:
        """(n_users,) text, of a file that has them.

        Raises:
            UserError: one is missing or there twice, or as `blocks`.
        """
        ids = self.spelt_ids()
        check_ids(self.path, ids)
        return ids

    def is_written(self, path: Path) -> bool:
        """Whether a table of this shape and dtype is there, and not cut short."""
        try:
            found = type(self).open(path, self.name)
        except UserError:
            return False
        return (found.shape, found.dtype) == (self.shape, self.dtype)


def rounded(path: Path, edited: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Edited vectors of a file as it keeps them.

    Raises:
        UserError: a value that the dtype can't hold.
    """
    with np.errstate(over="ignore"):  # said below
        numbers = edited.astype(dtype)
    if not np.isfinite(numbers).all():
        raise beyond(path, str(dtype))
    return numbers


def beyond(path: Path, dtype: str) -> UserError:
    """What is said of an edited value that the file's dtype can't hold."""
    return UserError(
        f"{path}: an edited value is beyond {dtype}; divide all shards by a constant, or save them "
        "as float32"
    )


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

"""The formats of shards: .npy, .safetensors and .parquet; of folders of them, and of one file."""

import json
import re
import shutil
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
import torch

from data.tables.files import OWN_NAME, table_meant
from data.tables.formats import (
    from_columns,
    from_lists,
    parquet_parts,
    reading,
    tables_and_ids,
    with_vectors,
)
from data.tables.shards import (
    ArrayFile,
    EditBlock,
    Shard,
    beyond,
    block_bounds,
    block_rows,
    rounded,
)
from data.tables.user_table import FLOATS, PAD, as_ids, id_column, numbers_rows
from utils.errors import UserError
from utils.runs.files import replace_large

ERASER, MANIFEST = "eraser.safetensors", "manifest.json"
"""What an output folder holds beside shards: a map, and that it is an output folder."""

# Numbers one behind the other: .npy and safetensors


@dataclass(frozen=True)
class _RawShard(Shard):
    """A file in which the numbers of the vectors stand one behind the other.

    Attributes:
        array: where.
    """

    array: ArrayFile

    def read(self, start: int, stop: int) -> np.ndarray:
        """Vectors from a row up to another."""
        return self.array.rows(start, stop)

    def as_kept(self, edited: np.ndarray) -> np.ndarray:
        """Edited vectors as the file keeps them."""
        return rounded(self.path, edited, self.dtype)

    @abstractmethod
    def write_before(self, file: BinaryIO) -> None:
        """What the file holds before the vectors."""

    def write_behind(self, file: BinaryIO) -> None:
        """What it holds behind them."""

    def blocks(self) -> Iterator[np.ndarray]:
        """As for every shard."""
        for start, stop in block_bounds(*self.shape):
            yield self.read(start, stop)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """As for every shard."""
        return np.concatenate([self.read(int(row), int(row) + 1) for row in rows])

    def rewritten(self, path: Path, edit: EditBlock) -> Iterator[int]:
        """As for every shard."""
        with replace_large(path) as file:
            self.write_before(file)
            for start, stop in block_bounds(*self.shape):
                file.write(self.as_kept(edit(self.read(start, stop), start)).data)
                yield stop - start
            self.write_behind(file)


@dataclass(frozen=True)
class NpyShard(_RawShard):
    """A .npy file."""

    @classmethod
    def open(cls, path: Path, table: str | None) -> Self:
        """As for every shard; also raises for an array that is no table."""
        array = ArrayFile.open(path)
        dtype = array.dtype.newbyteorder("=")
        if not (dtype in FLOATS and len(array.shape) == 2 and array.shape[1]):
            raise UserError(
                f"{path} must hold a float array (n_users, d), got {array.dtype} {array.shape}"
            )
        n, d = array.shape
        name = table_meant(path, {OWN_NAME: (n, d)}, table)
        return cls(path, name, (n, d), dtype, (), False, array)

    def spelt_ids(self) -> np.ndarray:
        """There are none."""
        raise NotImplementedError

    def write_before(self, file: BinaryIO) -> None:
        """The header, of this machine's byte order."""
        described = np.lib.format.dtype_to_descr(self.dtype)
        header = {"descr": described, "fortran_order": False, "shape": self.shape}
        np.lib.format.write_array_header_1_0(file, header)


BRAIN = "BF16"
"""Safetensors' name of bfloat16, which NumPy has not: it is read as float32."""

TENSORS = {"F16": "<f2", BRAIN: "<u2", "F32": "<f4", "F64": "<f8", "I32": "<i4", "I64": "<i8"}
"""Tensors of vectors and ids, as `formats.READABLE`, by safetensors' names."""


@dataclass(frozen=True)
class TensorShard(_RawShard):
    """A tensor of a safetensors file, and one of ids if there is one.

    Attributes:
        brain: whether the vectors are bfloat16.
        numbers: (n_users,) where the ids are.
    """

    brain: bool
    numbers: ArrayFile | None

    @classmethod
    def open(cls, path: Path, table: str | None) -> Self:
        """As for every shard; tables and ids are those of a file in memory."""
        with reading(path, "safetensors"):
            tensors = _tensors(path)
            # views of a single number; a shard may be of nobody
            like = {
                name: np.broadcast_to(
                    np.zeros((), np.float32 if kind == BRAIN else array.dtype.newbyteorder("=")),
                    [max(1, size) for size in array.shape[:1]] + [*array.shape[1:]],
                )
                for name, (kind, array) in tensors.items()
            }
            names, found = tables_and_ids(path, like)
        name = table_meant(path, {one: like[one].shape for one in names}, table)
        (kind, array), dtype = tensors[name], like[name].dtype
        n, d = array.shape
        ids = tensors[found][1] if found and tensors[found][1].shape[0] == n else None
        return cls(path, name, (n, d), dtype, (), ids is not None, array, kind == BRAIN, ids)

    def spelt_ids(self) -> np.ndarray:
        """As for every shard."""
        assert self.numbers
        return as_ids(self.numbers.rows(0, self.shape[0]).reshape(-1))

    def read(self, start: int, stop: int) -> np.ndarray:
        """Vectors from a row up to another."""
        numbers = super().read(start, stop)
        return (numbers.astype(np.uint32) << 16).view(np.float32) if self.brain else numbers

    def as_kept(self, edited: np.ndarray) -> np.ndarray:
        """Edited vectors as the file keeps them."""
        numbers = super().as_kept(edited)
        if self.brain:
            tensor = torch.from_numpy(numbers).to(torch.bfloat16)
            if not tensor.isfinite().all():
                raise beyond(self.path, "bfloat16")
            numbers = tensor.view(torch.int16).numpy()
        return numbers.astype(numbers.dtype.newbyteorder("<"), copy=False)

    def write_before(self, file: BinaryIO) -> None:
        """The header and other tensors, as they are."""
        with self.path.open("rb") as source:
            left = self.array.start
            while left and (piece := source.read(min(left, 2**20))):
                left -= file.write(piece)

    def write_behind(self, file: BinaryIO) -> None:
        """Other tensors, as they are."""
        with self.path.open("rb") as source:
            source.seek(self.array.size)
            shutil.copyfileobj(source, file)


def _tensors(path: Path) -> dict[str, tuple[str, ArrayFile]]:
    """Safetensors' name of the type, and the place, of all tensors of vectors or ids in a file."""
    from safetensors import safe_open

    with path.open("rb") as file:
        with safe_open(path, "np"):  # refuses all that doesn't fit together
            pass
        start = 8 + int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(start - 8))
    return {
        name: (
            one["dtype"],
            ArrayFile(
                path,
                tuple(one["shape"]),
                np.dtype(TENSORS[one["dtype"]]),
                start + one["data_offsets"][0],
            ),
        )
        for name, one in header.items()
        if name != "__metadata__" and one["dtype"] in TENSORS
    }


# Columns: parquet

BUFFER = 2**16
"""Bytes that are read of a column at once; without it a row group's whole column would be."""


@dataclass(frozen=True)
class ParquetShard(Shard):
    """A parquet file with a column of lists, or a column a dimension.

    Attributes:
        of_ids: the column of ids, a pandas index too.
        lists: whether the vectors are a column of lists.
    """

    of_ids: str | None
    lists: bool

    @classmethod
    def open(cls, path: Path, table: str | None) -> Self:
        """As for every shard; columns are told apart as in memory. Also raises for a column that is
        neither ids nor numbers.
        """
        with reading(path, "parquet"):
            from pyarrow import parquet

            with parquet.ParquetFile(path, buffer_size=BUFFER) as file:
                n, nobody = file.metadata.num_rows, file.schema_arrow.empty_table()
                found, lists = parquet_parts(path, nobody)
                if lists:
                    first = next(_tables(file, 1, lists), nobody) if n else nobody
                    arrays = {name: _lists(path, name, first[name]) for name in lists}
                else:
                    frame = nobody.to_pandas(ignore_metadata=True)
                    arrays = {OWN_NAME: from_columns(path, frame, found)}
        shapes = {
            name: (n, array.shape[1])
            for name, array in arrays.items()
            if array.dtype in FLOATS and (array.shape[1] or not n)
        }
        name = table_meant(path, shapes, table)
        named = [name] if lists else [one for one in nobody.column_names if one != found]
        shape, dtype = shapes[name], arrays[name].dtype
        shard = cls(path, name, shape, dtype, tuple(named), True, found, bool(lists))
        # pandas' own count of the rows is none
        counts = found and not id_column([found]) and numbers_rows(shard.spelt_ids())
        return replace(shard, has_ids=found is not None and not counts)

    def spelt_ids(self) -> np.ndarray:
        """As for every shard."""
        assert self.of_ids is not None
        found = [np.empty(0, object)]
        for frame in self._read([self.of_ids], 1):
            found.append(as_ids(frame[self.of_ids].to_pylist()))
        return np.concatenate(found)

    def blocks(self) -> Iterator[np.ndarray]:
        """As for every shard."""
        row = 0
        for frame in self._read(self.columns, self.shape[1]):
            yield self._vectors(frame, row)
            row += len(frame)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """As for every shard; goes through the row groups that they are in."""
        from pyarrow import parquet

        with reading(self.path, "parquet"):
            about = parquet.read_metadata(self.path)
        sizes = [about.row_group(group).num_rows for group in range(about.num_row_groups)]
        found = []
        for group, stop in enumerate(np.cumsum(sizes)):
            row = int(stop) - sizes[group]
            if not ((rows >= row) & (rows < stop)).any():
                continue
            for frame in self._read(self.columns, self.shape[1], [group]):
                own = rows[(rows >= row) & (rows < row + len(frame))]
                found.append(self._vectors(frame, row)[own - row])
                row += len(frame)
        return np.concatenate(found)

    def rewritten(self, path: Path, edit: EditBlock) -> Iterator[int]:
        """As for every shard; a block is a row group. RecBole's [PAD] stays as it is."""
        from pyarrow import parquet, types

        with reading(self.path, "parquet"):
            schema = parquet.read_schema(self.path)
        nobody = np.empty((0, self.shape[1]), self.dtype)
        made = with_vectors(self.path, schema.empty_table(), self.name, nobody).schema
        named = self.has_ids and not types.is_integer(schema.field(self.of_ids).type)
        row = 0
        with replace_large(path) as file, parquet.ParquetWriter(file, made) as writer:
            for frame in self._read(None, self.shape[1]):
                x = self._vectors(frame, row)
                edited = rounded(self.path, edit(x, row), self.dtype)
                if named:
                    pad = as_ids(frame[self.of_ids].to_pylist()) == PAD
                    edited[pad] = x[pad]
                writer.write_table(with_vectors(self.path, frame, self.name, edited))
                row += len(frame)
                yield len(frame)

    def _read(
        self, names: Sequence[str] | None, width: int, groups: Sequence[int] | None = None
    ) -> Iterator[Any]:
        """Tables of pyarrow of a block's rows each."""
        from pyarrow import parquet

        with (
            reading(self.path, "parquet"),
            parquet.ParquetFile(self.path, buffer_size=BUFFER) as file,
        ):
            yield from _tables(file, block_rows(width), names, groups)

    def _vectors(self, frame: Any, row: int) -> np.ndarray:
        """(n, d) of a block whose first row has this number."""
        if self.lists:
            return from_lists(self.path, self.name, frame[self.name], row, self.shape[1])
        numbers = frame.select(self.columns).to_pandas(ignore_metadata=True)
        return from_columns(self.path, numbers, None).astype(self.dtype, copy=False)


def _tables(
    file: Any, rows: int, names: Sequence[str] | None, groups: Sequence[int] | None = None
) -> Iterator[Any]:
    """Some columns of a pyarrow ParquetFile, so many rows after the other."""
    import pyarrow as pa

    # by one thread: of several each would hold a block
    for batch in file.iter_batches(rows, row_groups=groups, columns=names, use_threads=False):
        if len(batch):
            yield pa.Table.from_batches([batch])


def _lists(path: Path, name: str, column: Any) -> np.ndarray:
    """(n, d) of the first row; of none (0, 0), or (0, d) where the type says it."""
    from pyarrow import types

    if len(column):
        return from_lists(path, name, column)
    kind = column.type
    width = kind.list_size if types.is_fixed_size_list(kind) else 0
    return np.empty((0, width), kind.value_type.to_pandas_dtype())


# Folders

SHARDS: dict[str, type[Shard]] = {
    ".npy": NpyShard,
    ".safetensors": TensorShard,
    ".parquet": ParquetShard,
}
"""By the ending of the file's name."""

LABELS = (".npy", ".parquet")
"""Endings of the files in a folder of labels."""

WRITE = re.compile("-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""What Spark calls a write."""


def open_shard(path: Path, table: str | None = None) -> Shard:
    """A shard of the format that its name says; raises as `Shard.open`."""
    if path.suffix.lower() not in SHARDS:
        raise UserError(f"{path}: the name of a shard must end in {', '.join(SHARDS)}")
    return SHARDS[path.suffix.lower()].open(path, table)


def shard_paths(path: Path) -> list[Path]:
    """The shards of a folder by name, or the one file that is named.

    Raises:
        UserError: no such folder or file, none in it, or of several formats.
    """
    if not path.is_dir():
        if not path.exists():
            raise UserError(f"{path} does not exist; name a folder of shards, or one of them")
        if path.name == ERASER:
            raise UserError(f"{path} has the name of leace's map; call a shard otherwise")
        return [path]
    return _of_one_format(path, SHARDS)


def label_paths(source: Path, shards: Sequence[Path]) -> list[Path]:
    """The labels' file of each shard, of the same name but for the ending and what Spark puts in.

    Args:
        source: a folder of .npy or .parquet files.
        shards: the vectors' files.

    Raises:
        UserError: there are none, of several formats, or two that could be a shard's. Whether a
            shard's is there its opening says.
    """
    found = _of_one_format(source, LABELS)
    named, parts = {one.stem: one for one in found}, defaultdict(list)
    for one in found:
        parts[part_of(one)].append(one)
    own = []
    for shard in shards:
        alike = [named[shard.stem]] if shard.stem in named else parts[part_of(shard)]
        if len(alike) > 1:
            raise UserError(
                f"{alike[0]} and {alike[1]} are the same part of two writes; keep one of them"
            )
        own.append(alike[0] if alike else source / f"{shard.stem}{found[0].suffix}")
    return own


def check_none_left(source: Path, own: Sequence[Path], shards: Path) -> None:
    """Refuse files of labels in a folder that are of no shard.

    Args:
        source: the folder.
        own: its files that are a shard's.
        shards: the folder of the vectors; of one of its files nothing is asked.
    """
    if shards.is_dir() and (left := set(_of_one_format(source, LABELS)) - set(own)):
        raise UserError(
            f"{min(left)} has labels of no shard in {shards}: put that shard there, in the format "
            "of the others, or take the labels away"
        )


def part_of(path: Path) -> str:
    """The name of a file without its ending, and of Spark's without what is another at every write:
    part-00007-c000 of part-00007-<UUID>-c000.snappy.parquet.
    """
    name, found = WRITE.subn("", path.name)
    return name.partition(".")[0] if found else path.stem


def _of_one_format(folder: Path, endings: Collection[str]) -> list[Path]:
    """The files of a folder that have such endings, by name, but for hidden ones (Spark's begin
    with _ too) and those of an output folder that are no shards.
    """
    found = sorted(
        one
        for one in folder.iterdir()
        if one.suffix.lower() in endings and one.name[0] not in "._" and not one.is_dir()
    )
    ours = folder / ERASER
    if ours in found:
        if not (folder / MANIFEST).exists():
            raise UserError(
                f"{ours} has the name of leace's map, and no {MANIFEST} beside it says that it is "
                "one; call a shard otherwise, and move a map away"
            )
        found.remove(ours)
    if not found:
        *some, last = endings
        raise UserError(f"{folder} has no {', '.join(some)} or {last} file with a row a user")
    if other := [one for one in found if one.suffix.lower() != found[0].suffix.lower()]:
        raise UserError(
            f"{folder} has files of several formats, as {found[0].name} and {other[0].name}; put "
            "those of one into a folder of their own"
        )
    return found

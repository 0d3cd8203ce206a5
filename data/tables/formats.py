"""File formats of embeddings, each read without running anything that a file holds.

A format lists the user tables of a file and writes one. Where a file holds more than a table (other
tensors, columns), `save` with `like` keeps all of it and changes the table alone.
"""

import contextlib
import csv as csv_module
import errno
import io
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from data.tables.user_table import UserTable, as_ids, id_column, is_table, numbers_rows
from utils.errors import UserError, first_line
from utils.runs.files import replace_file

TEXT_DIGITS = {np.dtype(np.float16): 5, np.dtype(np.float32): 9, np.dtype(np.float64): 17}
"""Significant digits that bring a number back to the bit."""


@dataclass(frozen=True)
class Format:
    """A format.

    Attributes:
        title: for messages.
        read: the user tables of a file.
        save: writes a table to a file (first argument); like a file of the format, if one is given.
    """

    title: str
    read: Callable[[Path], list[UserTable]]
    save: Callable[[Path, UserTable, Path | None], None]


@contextlib.contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Whatever a damaged file raises, in one line.

    Raises:
        UserError: instead of anything else but a PermissionError.
    """
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (UserError, MemoryError, ImportError, PermissionError, IsADirectoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.EIO:  # the disk's fault
            raise
        raise UserError(f"{path} is not a {what} file ({first_line(error)})") from None


def tables_and_ids(path: Path, arrays: Mapping[str, Any]) -> tuple[list[str], str | None]:
    """The names of the tables among a file's arrays, and of the ids if they have some.

    Args:
        path: the file.
        arrays: by name; of each the shape and dtype alone are looked at.

    Raises:
        UserError: none is a table, or there are ids and they are of no table; says what they are.
    """
    tables = [name for name, array in arrays.items() if is_table(array)]
    if not tables:
        found = [f"{array.dtype} {array.shape}" for array in arrays.values()]
        raise UserError(
            f"{path} must hold a float array (n_users, d), got {', '.join(found[:5]) or 'nothing'}"
        )
    flat = {
        name: len(array)
        for name, array in arrays.items()
        if array.ndim == 1 or (array.ndim == 2 and array.shape[1] == 1 and array.dtype.kind != "f")
    }
    if not (named := id_column(flat)):
        return tables, None
    sizes = {len(arrays[name]) for name in tables}
    if not (fitting := id_column(name for name, size in flat.items() if size in sizes)):
        raise UserError(f"{path}: {named} has {flat[named]} ids, and no table has as many rows")
    return tables, fitting


def _named(path: Path, arrays: Mapping[str, Any]) -> list[UserTable]:
    """The tables among a file's arrays, with the ids if an array of as many ids is there; raises as
    `tables_and_ids`.
    """
    names, found = tables_and_ids(path, arrays)
    ids = {len(arrays[found]): as_ids(arrays[found].reshape(-1))} if found else {}
    return [UserTable(name, arrays[name], ids.get(len(arrays[name]))) for name in names]


# NumPy


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a .npz file by name, or a .npy file's under the name "user_embedding".

    Raises:
        UserError: no such file, or not such a file.
    """
    # opened here, since np.load leaves a file that is no array open
    with reading(path, "NumPy array"), path.open("rb") as file:
        loaded = np.load(file, allow_pickle=False)
        whole = isinstance(loaded, np.lib.npyio.NpzFile)
        arrays = dict(loaded) if whole else {"user_embedding": loaded}
    # torch and pandas know this machine's byte order alone
    return {
        name: array.astype(array.dtype.newbyteorder("="), copy=False)
        for name, array in arrays.items()
    }


def _read_npy(path: Path) -> list[UserTable]:
    return _named(path, read_arrays(path))


def save_array(path: Path, array: np.ndarray) -> None:
    """Write an array as .npy."""
    with replace_file(path) as file:
        np.save(file, np.ascontiguousarray(array), allow_pickle=False)


def _save_npy(path: Path, table: UserTable, like: Path | None) -> None:
    save_array(path, table.vectors)


def _save_npz(path: Path, table: UserTable, like: Path | None) -> None:
    if like:
        arrays = read_arrays(like)
    else:
        arrays = {} if table.ids is None else {"ids": table.ids.astype(str)}
    with replace_file(path) as file:
        np.savez(file, allow_pickle=False, **(arrays | {table.name: table.vectors}))


# torch and safetensors


READABLE = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int32, torch.int64)
"""Of vectors and ids; tensors of other kinds are left as they are."""


def _array(tensor: torch.Tensor) -> np.ndarray:
    """A tensor as an array; bfloat16, which NumPy has not, as float32."""
    tensor = tensor.detach()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _load_torch(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (FileNotFoundError, PermissionError, UserError):
        raise
    except Exception as error:  # a damaged pickle can raise anything at all
        raise UserError(
            f"{path} is not a file of tensors alone ({first_line(error)}); nothing in it was run. "
            "Save model.state_dict(), or the table by itself, with torch.save"
        ) from None


def _leaves(content: Any, name: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """Tensors and lists of ids in nested dicts, by dotted names."""
    if isinstance(content, Mapping):
        for key, value in content.items():
            yield from _leaves(value, f"{name}.{key}" if name else str(key))
    elif isinstance(content, torch.Tensor):
        if content.dtype in READABLE and content.layout == torch.strided and not content.is_meta:
            yield name or "user_embedding", _array(content)
    elif isinstance(content, (list, tuple)) and all(isinstance(x, (str, int)) for x in content):
        yield name, np.asarray(content, dtype=object)


def _read_torch(path: Path) -> list[UserTable]:
    with reading(path, "PyTorch"):
        return _named(path, dict(_leaves(_load_torch(path))))


def _exchanged(content: Any, table: UserTable, name: str = "") -> Any:
    """Nested dicts with the table's tensor exchanged, in its own dtype."""
    if isinstance(content, Mapping):
        made = {
            key: _exchanged(value, table, f"{name}.{key}" if name else str(key))
            for key, value in content.items()
        }
        if not isinstance(content, OrderedDict):
            return made
        again = OrderedDict(made)
        if hasattr(content, "_metadata"):  # versions of the modules of a state_dict
            again._metadata = content._metadata  # type: ignore[attr-defined]
        return again
    if not isinstance(content, torch.Tensor):
        return content
    if (name or "user_embedding") == table.name:
        return torch.from_numpy(np.ascontiguousarray(table.vectors)).to(content.dtype)
    return content.clone()  # a view would bring all that it is a view of, the old vectors too


def _save_torch(path: Path, table: UserTable, like: Path | None) -> None:
    if like:
        content = _exchanged(_load_torch(like), table)
    else:
        content = {table.name: torch.from_numpy(np.ascontiguousarray(table.vectors))}
        if table.ids is not None:
            content["ids"] = table.ids.tolist()
    with replace_file(path) as file:
        torch.save(content, file)


def _load_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118


def _read_safetensors(path: Path) -> list[UserTable]:
    with reading(path, "safetensors"):
        path.open("rb").close()  # its own error names no file
        tensors, _ = _load_safetensors(path)
        readable = {name: one for name, one in tensors.items() if one.dtype in READABLE}
        return _named(path, {name: _array(tensor) for name, tensor in readable.items()})


def _save_safetensors(path: Path, table: UserTable, like: Path | None) -> None:
    from safetensors.torch import save

    tensor = torch.from_numpy(np.ascontiguousarray(table.vectors))
    if like:
        tensors, metadata = _load_safetensors(like)
        tensors[table.name] = tensor.to(tensors[table.name].dtype)
    else:
        tensors, metadata = {table.name: tensor}, {}
        if table.ids is not None:
            tensors["ids"] = torch.tensor(_whole(path, table.ids))
    with replace_file(path) as file:
        file.write(save(tensors, metadata or None))


def _whole(path: Path, ids: np.ndarray) -> list[int]:
    """Ids as numbers, for a format that has no text."""
    try:
        numbers = [int(one) for one in ids]
    except ValueError:
        raise UserError(
            f"{path}: safetensors hold numbers alone, and a user id is no whole number; take "
            "output=FILE.parquet or .csv"
        ) from None
    if any(
        str(number) != one or abs(number) >= 2**63 for number, one in zip(numbers, ids, strict=True)
    ):
        raise UserError(
            f"{path}: safetensors hold numbers alone, and an id such as 007 would become another; "
            "take output=FILE.parquet or .csv"
        )
    return numbers


# parquet

VECTOR = "embedding"
"""The column of vectors in a parquet file of ours."""


def _read_parquet(path: Path) -> list[UserTable]:
    with reading(path, "parquet"):
        from pyarrow import parquet

        frame = parquet.read_table(path)
        found, vectors = parquet_parts(path, frame)
        ids = as_ids(frame[found].to_pylist()) if found else None
        if ids is not None and not id_column([str(found)]) and numbers_rows(ids):
            ids = None  # pandas' own count of the rows
        if vectors:
            arrays = {name: from_lists(path, name, frame[name]) for name in vectors}
        else:
            arrays = {
                "user_embedding": from_columns(path, frame.to_pandas(ignore_metadata=True), found)
            }
        return [UserTable(name, array, ids) for name, array in arrays.items() if is_table(array)]


def parquet_parts(path: Path, frame: Any) -> tuple[str | None, list[str]]:
    """The names of the column of ids, a pandas index too, and of the columns of vectors.

    Raises:
        UserError: two columns have one name.
    """
    from pyarrow import types

    names = frame.column_names
    if len(set(names)) < len(names):
        raise UserError(f"{path} has two columns of one name")
    index = (frame.schema.pandas_metadata or {}).get("index_columns", [])
    found = id_column(names) or next((name for name in index if name in names), None)
    lists = (types.is_list, types.is_large_list, types.is_fixed_size_list)
    kinds = {name: frame.schema.field(name).type for name in names}
    return found, [
        name
        for name, kind in kinds.items()
        if any(of(kind) for of in lists) and types.is_floating(kind.value_type)
    ]


def from_lists(
    path: Path, name: str, column: Any, first: int = 0, width: int | None = None
) -> np.ndarray:
    """(n, d) of a column of lists of numbers, or of some rows of it.

    Args:
        path, name: of the file and the column.
        column: the pyarrow column.
        first: the number of its first row in the file.
        width: the numbers of the file's row 0, where that is another row.

    Raises:
        UserError: a row has no vector, or one of another length.
    """
    lists = column.combine_chunks()
    if lists.null_count:
        row = first + next(n for n, value in enumerate(lists) if not value.is_valid)
        raise UserError(f'{path}: column "{name}" has no vector in row {row}')
    lengths = np.asarray(lists.value_lengths())
    expected = lengths[:1] if width is None else np.array([width])
    if (other := np.flatnonzero(lengths != expected)).size:
        raise UserError(
            f'{path}: column "{name}" has {expected[0]} numbers in row 0 and {lengths[other[0]]} '
            f"in row {first + other[0]}"
        )
    flat = lists.flatten().to_numpy(zero_copy_only=False)
    return np.array(flat).reshape(len(lists), -1)  # a copy: torch takes no read-only memory


def from_columns(path: Path, frame: pd.DataFrame, ids: str | None) -> np.ndarray:
    """(n, d) of a column a dimension, all but the ids'.

    Raises:
        UserError: a column of text, or of whole numbers among others: an age is no dimension.
    """
    numbers = frame.drop(columns=[ids] if ids in frame else [])
    kinds = {dtype.kind for dtype in numbers.dtypes}
    for name in numbers:
        kind = numbers[name].dtype.kind
        if kind not in "fiu" or (kind in "iu" and "f" in kinds):
            what = "whole numbers among floats" if kind in "iu" else "no numbers"
            raise UserError(
                f'{path}: column "{name}" has {what}; call the ids\' column "id", and leave '
                "columns that are no dimensions out"
            )
    return numbers.to_numpy(np.result_type(np.float16, *numbers.dtypes), copy=True)


def _save_parquet(path: Path, table: UserTable, like: Path | None) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    if like:
        frame = with_vectors(like, parquet.read_table(like), table.name, table.vectors)
    else:
        ids = {} if table.ids is None else {"user_id": _shortest(table.ids)}
        frame = pa.table(ids | {VECTOR: _lists(table.vectors)})
    with replace_file(path) as file:
        parquet.write_table(frame, file)


def with_vectors(path: Path, frame: Any, name: str, vectors: np.ndarray) -> Any:
    """A pyarrow table with other vectors, in the column of lists of this name or in a column a
    dimension; all other columns as they are.

    Args:
        path: the file that it is of.
        frame: n of its rows.
        name: of the user table.
        vectors: (n, d).
    """
    import pyarrow as pa
    from pyarrow import types

    if name in frame.column_names:
        return _with_column(frame, name, vectors)
    found, _ = parquet_parts(path, frame)
    names = [one for one in frame.column_names if one != found]
    for one, values in zip(names, vectors.T, strict=True):
        place, kind = frame.column_names.index(one), frame.schema.field(one).type
        numbers = pa.array(values)
        if types.is_floating(kind):  # whole numbers would be cut
            numbers = numbers.cast(kind)
        frame = frame.set_column(place, one, numbers)
    return frame


def _shortest(ids: np.ndarray) -> list[int] | list[str]:
    """Ids as whole numbers, if that says the same."""
    try:
        numbers = [int(one) for one in ids]
    except ValueError:
        return list(ids)
    same = all(str(number) == one for number, one in zip(numbers, ids, strict=True))
    return numbers if same and all(abs(number) < 2**63 for number in numbers) else list(ids)


def _lists(vectors: np.ndarray) -> Any:
    import pyarrow as pa

    flat = pa.array(np.ascontiguousarray(vectors).reshape(-1))
    kind, size = (pa.ListArray, np.int32) if vectors.size < 2**31 else (pa.LargeListArray, np.int64)
    offsets = np.arange(len(vectors) + 1, dtype=size) * vectors.shape[1]
    return kind.from_arrays(pa.array(offsets), flat)


def _with_column(frame: Any, name: str, vectors: np.ndarray) -> Any:
    field = frame.schema.field(name)
    return frame.set_column(frame.column_names.index(name), field, _lists(vectors).cast(field.type))


# text


def delimiter(path: Path) -> tuple[str, bool, int]:
    """What parts the columns of a text file, a comma, semicolon, tab or bar, by its first line that
    isn't blank; whether there is one column alone; and how many blank lines come before.
    """
    blank, line = 0, ""
    with path.open(encoding="utf-8-sig") as file:
        for line in file:
            if line.strip():
                break
            blank += 1
    mark = max(",;\t|", key=line.count)
    return mark, mark not in line, blank


@dataclass(frozen=True)
class _Csv:
    """A CSV file.

    Attributes:
        frame: its columns.
        ids: the name of the ids' column.
        counted: whether that is pandas' own count of the rows.
        header: whether the first line has names.
        mark: what parts the columns.
    """

    frame: pd.DataFrame
    ids: str | None
    counted: bool
    header: bool
    mark: str


def _csv(path: Path) -> _Csv:
    mark, _, blank = delimiter(path)
    options: dict[str, Any] = {"sep": mark, "skiprows": blank, "encoding": "utf-8-sig"}
    first = pd.read_csv(path, header=None, nrows=1, dtype=str, keep_default_na=False, **options)
    names = [str(name) for name in first.iloc[0]]
    columns = names[names[:1] == [""] :]  # without pandas' unnamed index
    starts = (0, 1) if len(columns) > 2 else (0,)  # 1 or 1, 2 may as well be a user's
    counts = any(columns == [str(start + n) for n in range(len(columns))] for start in starts)
    header = counts or not all(_is_number(name) for name in names)
    typed = {name.split(":")[0]: name for name in reversed(names)}  # RecBole's names say types
    found = id_column(typed)
    ids = typed[found] if found else "" if names[:1] == [""] else None  # pandas' unnamed index
    if header and len(set(names)) < len(names):
        raise UserError(f"{path} has two columns of one name")
    frame = pd.read_csv(
        path,
        header=0 if header else None,
        names=names if header else None,
        dtype={ids: str} if ids is not None and header else None,
        keep_default_na=False,  # "NA" is an id
        na_values=[""],
        index_col=False,
        **options,
    )
    ids = ids if header else None
    counted = ids == "" and numbers_rows(as_ids(frame[ids]))
    return _Csv(frame, ids, counted, header, mark)


def _is_number(text: str) -> bool:
    """Whether a cell is a number, "nan" among them; to Python 0_1 is one too."""
    if "_" in text:
        return False
    try:
        float(text)
    except ValueError:
        return False
    return True


def _read_csv(path: Path) -> list[UserTable]:
    with reading(path, "CSV"):
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # a line longer than the header
            csv = _csv(path)
        array = from_columns(path, csv.frame, csv.ids)
        ids = None if csv.ids is None or csv.counted else as_ids(csv.frame[csv.ids])
        return [UserTable("user_embedding", array, ids)] if is_table(array) else []


def _save_csv(path: Path, table: UserTable, like: Path | None) -> None:
    header = True
    if like:
        csv = _csv(like)
        names = [name for name in csv.frame if name != csv.ids]
        frame = csv.frame.astype(dict.fromkeys(names, table.vectors.dtype))
        frame[names] = table.vectors
        mark, header = csv.mark, csv.header
    else:
        # names that are no numbers make the first line a header
        frame = pd.DataFrame(table.vectors).add_prefix("d")
        mark = "\t" if path.suffix == ".tsv" else ","
        if table.ids is not None:
            frame.insert(0, "user_id", table.ids)
    digits = TEXT_DIGITS[table.vectors.dtype]
    with replace_file(path) as file:
        frame.to_csv(file, sep=mark, index=False, header=header, float_format=f"%.{digits}g")


def _read_word2vec(path: Path) -> list[UserTable]:
    """A line of the numbers of users and dimensions, then a line a user: id, numbers."""
    with reading(path, "word2vec text"):
        lines = path.read_text(encoding="utf-8").splitlines()
        try:
            n, d = map(int, lines[0].split())
        except (ValueError, IndexError):
            raise UserError(
                f'{path}: line 1 must say "users dimensions", as word2vec\'s text format does; a '
                "table with columns is a .csv"
            ) from None
        parts = [line.rsplit(None, d) for line in lines[1:] if line.strip()]
        if wrong := next((k for k, part in enumerate(parts) if len(part) != d + 1), None):
            raise UserError(f"{path}, line {wrong + 2}: must be an id and {d} numbers")
        if len(parts) != n:
            raise UserError(f"{path} says {n} users and holds {len(parts)}")
        vectors = np.array([part[1:] for part in parts], dtype=np.float32).reshape(n, d)
        return [UserTable("user_embedding", vectors, as_ids([part[0] for part in parts]))]


def _save_word2vec(path: Path, table: UserTable, like: Path | None) -> None:
    n, d = table.vectors.shape
    ids = np.arange(n).astype(str) if table.ids is None else table.ids
    if odd := next((one for one in ids if not one or one.split() != [one]), None):
        raise UserError(f'{path}: word2vec text has no ids with blanks, such as "{odd}"')
    text = io.StringIO()
    text.write(f"{n} {d}\n")
    digits = TEXT_DIGITS[table.vectors.dtype]
    for one, row in zip(ids, table.vectors, strict=True):
        text.write(f"{one} {' '.join(f'{x:.{digits}g}' for x in row)}\n")
    with replace_file(path) as file:
        file.write(text.getvalue().encode())


USEREMB = ("uid:token", "user_emb:float_seq")
"""Columns of a RecBole file of users' vectors."""


def _useremb(path: Path) -> tuple[pd.DataFrame, str, str]:
    """Such a file as text, and its columns of ids and of vectors."""
    frame = pd.read_csv(
        path, sep="\t", dtype=str, keep_default_na=False, quoting=csv_module.QUOTE_NONE
    )
    tokens = [name for name in frame if name.endswith(":token")]
    vectors = [name for name in frame if name.endswith(":float_seq")]
    if len(tokens) != 1 or len(vectors) != 1:
        raise UserError(
            f"{path} must have a column of type token and one of type float_seq, tabs between; "
            f"it has: {', '.join(frame)}"
        )
    return frame, tokens[0], vectors[0]


def _read_useremb(path: Path) -> list[UserTable]:
    with reading(path, "RecBole .useremb"):
        frame, tokens, vectors = _useremb(path)
        rows = [row.split() for row in frame[vectors]]
        lengths = {len(row) for row in rows}
        if len(lengths) != 1:
            raise UserError(f"{path}: not every vector has as many numbers")
        array = np.array(rows, dtype=np.float32)
        return [UserTable(vectors.removesuffix(":float_seq"), array, as_ids(frame[tokens]))]


def _save_useremb(path: Path, table: UserTable, like: Path | None) -> None:
    if like:
        frame, _, vectors = _useremb(like)
    else:
        ids = np.arange(len(table.vectors)).astype(str) if table.ids is None else table.ids
        frame, vectors = pd.DataFrame({USEREMB[0]: ids}), USEREMB[1]
    digits = TEXT_DIGITS[table.vectors.dtype]
    frame[vectors] = [" ".join(f"{x:.{digits}g}" for x in row) for row in table.vectors]
    with replace_file(path) as file:
        frame.to_csv(file, sep="\t", index=False, quoting=csv_module.QUOTE_NONE)


NPY = Format("NumPy array", _read_npy, _save_npy)
NPZ = Format("NumPy arrays", _read_npy, _save_npz)
TORCH = Format("PyTorch tensors", _read_torch, _save_torch)
SAFETENSORS = Format("safetensors", _read_safetensors, _save_safetensors)
PARQUET = Format("parquet", _read_parquet, _save_parquet)
CSV = Format("CSV", _read_csv, _save_csv)
WORD2VEC = Format("word2vec text", _read_word2vec, _save_word2vec)
USER_EMB = Format("RecBole .useremb", _read_useremb, _save_useremb)

FORMATS = {
    ".npy": NPY,
    ".npz": NPZ,
    ".pt": TORCH,
    ".pth": TORCH,
    ".bin": TORCH,
    ".ckpt": TORCH,
    ".safetensors": SAFETENSORS,
    ".parquet": PARQUET,
    ".csv": CSV,
    ".tsv": CSV,
    ".txt": WORD2VEC,
    ".vec": WORD2VEC,
    ".useremb": USER_EMB,
}
"""By the ending of the file's name."""


def format_of(path: Path) -> Format:
    """The format that a file's name says.

    Raises:
        UserError: an ending that isn't in FORMATS.
    """
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"{path}: its name must end in one of {', '.join(FORMATS)}")
    return FORMATS[path.suffix.lower()]

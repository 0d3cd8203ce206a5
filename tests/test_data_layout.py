"""Prepared folders that others made: the authors' files, and pickles that mean harm."""

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data.dataset import load_attribute, load_dataset
from data.prepare import prepared_folder
from data.sources.pickles import ADMITTED, load_dict
from data.sources.readers import PrepareSettings
from tests.conftest import write_ml100k
from utils.errors import UserError

SETTINGS = PrepareSettings(5, 20, 0)
OURS_ALONE = ("meta.json", "users.csv", "items.csv", "validation_neg_interactions")


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    write_ml100k(tmp_path / "ours" / "ml-100k")
    return prepared_folder(tmp_path / "ours", "ml-100k", SETTINGS)


@pytest.fixture
def authors(ours: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "theirs" / "ml-100k" / "preprocess"
    shutil.copytree(ours, folder)
    for name in OURS_ALONE:
        (folder / name).unlink()
    return folder


def save_dict(folder: Path, content: Any) -> None:
    np.save(folder / "user_gender.npy", np.array(content, dtype=object), allow_pickle=True)


def test_what_we_write_loads_as_theirs(ours, authors):
    before = {path.name: path.read_bytes() for path in authors.iterdir()}
    assert prepared_folder(authors.parents[1], "ml-100k", SETTINGS) == authors
    mine, theirs = (load_dataset(folder, "ml-100k", False) for folder in (ours, authors))
    assert mine.checksum == theirs.checksum
    assert torch.equal(mine.train, theirs.train)
    assert torch.equal(mine.test.items, theirs.test.items)
    mine_gender, their_gender = (load_attribute(folder, "gender") for folder in (ours, authors))
    assert mine_gender.classes == their_gender.classes == ("F", "M")
    assert np.array_equal(mine_gender.labels, their_gender.labels)
    load_dataset(authors, "ml-100k", True)
    assert before == {path.name: path.read_bytes() for path in authors.iterdir()}


def test_the_split_of_theirs_is_theirs_whatever_the_keys_say(authors):
    before = {path.name: path.read_bytes() for path in authors.iterdir()}
    other = PrepareSettings(1, 9, 7, held_out="random", time_ties="first")
    assert prepared_folder(authors.parents[1], "ml-100k", other) == authors
    assert before == {path.name: path.read_bytes() for path in authors.iterdir()}


def test_their_validation_is_each_users_last_line(authors, caplog):
    with caplog.at_level("INFO"):
        held_out = load_dataset(authors, "ml-100k", True, split_seed=3)
    assert "last training line" in caplog.text
    whole = load_dataset(authors, "ml-100k", False)
    assert held_out.validation is not None
    last = dict(whole.train.tolist())
    users, items = held_out.validation.users.tolist(), held_out.validation.items.tolist()
    assert {user: row[0] for user, row in zip(users, items, strict=True)} == last
    touched = {*map(tuple, whole.train.tolist())}
    touched |= {*zip(users, whole.test.items[:, 0].tolist(), strict=True)}
    for user, row in zip(users, items, strict=True):
        assert len(set(row)) == 21
        assert not touched & {(user, item) for item in row[1:]}
        assert (user, row[0]) not in {*map(tuple, held_out.train.tolist())}
    again, other = (load_dataset(authors, "ml-100k", True, split_seed=seed) for seed in (3, 4))
    assert again.validation is not None
    assert torch.equal(again.validation.items, held_out.validation.items)
    assert len({again.checksum, held_out.checksum, other.checksum, whole.checksum}) == 3


@pytest.mark.parametrize("separator", [",", "\t"])
@pytest.mark.parametrize("ending", ["", ".csv"])
def test_the_2025_papers_spelling(authors, separator, ending):
    expected = load_dataset(authors, "ml-100k", True)
    lines = (authors / "train_interactions.csv").read_text().splitlines()
    rated = "\n".join(line.replace(",", separator) + f"{separator}4.0" for line in lines)
    (authors / "train_interactions.csv").unlink()
    (authors / f"train_ratings{ending}").write_text(rated + "\n")
    (authors / "test_neg_interactions").rename(authors / f"test_negative_ratings{ending}")
    found = load_dataset(authors, "ml-100k", True)
    assert torch.equal(found.train, expected.train)
    assert torch.equal(found.test.items, expected.test.items)


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        (["M", "F"], ("F", "M")),
        ([0, 1], ("0", "1")),
        ([np.int64(1), np.int64(0)], ("0", "1")),
        ([np.str_("m"), np.str_("f")], ("f", "m")),
        ([True, False], ("False", "True")),
    ],
)
def test_genders_of_any_plain_type(authors, values, classes):
    genders = {np.int64(user): values[user % 2] for user in range(2, 80)}
    save_dict(authors, {0: None, 1: float("nan")} | genders)
    attribute = load_attribute(authors, "gender")
    assert attribute.classes == classes
    assert attribute.labels[:2].tolist() == [-1, -1]
    assert attribute.labels[2] == classes.index(str(values[0]))


def test_only_gender_is_known_of_their_users(authors):
    with pytest.raises(UserError, match=r'attribute "age" is not in .*; it has: gender'):
        load_attribute(authors, "age")


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_arrays_of_numpy_1_and_2_are_read(tmp_path, module):
    array = np.array({0: "F", 1: np.float32(2)}, dtype=object)
    # protocol 3, NumPy 1's, spells names out with a newline behind, so that one can replace them
    body = pickle.dumps(array, protocol=3).replace(b"numpy._core.multiarray", module)
    assert module in body
    np.save(tmp_path / "x.npy", array, allow_pickle=True)
    whole = (tmp_path / "x.npy").read_bytes()
    header = whole[: whole.index(b"\n") + 1]
    (tmp_path / "x.npy").write_bytes(header + body)
    assert load_dict(tmp_path / "x.npy") == {0: "F", 1: 2}


class Evil:
    def __init__(self, function: Any, *arguments: Any):
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


def touch(path: str) -> None:
    Path(path).touch()


@pytest.mark.parametrize("function", [touch, Path.touch, exec, eval, getattr, open])
def test_a_malicious_pickle_is_refused_and_nothing_runs(authors, tmp_path, function):
    victim = tmp_path / "victim"
    code = f"__import__('pathlib').Path({str(victim)!r}).touch()"
    arguments: dict[Any, tuple] = {
        touch: (str(victim),),
        Path.touch: (victim,),
        exec: (code,),
        eval: (code,),
        getattr: ("", "upper"),
        open: (str(victim), "w"),
    }
    save_dict(authors, {0: "F", 1: Evil(function, *arguments[function])})
    with pytest.raises(UserError, match=r"user_gender.npy .* not admitted.*nothing in it was run"):
        load_attribute(authors, "gender")
    assert not victim.exists()
    if function is not getattr:  # the file does harm to whoever loads it as usual
        harmed = np.load(authors / "user_gender.npy", allow_pickle=True).item()
        if function is open:
            harmed[1].close()
        assert victim.exists()


def test_a_scalar_of_objects_is_no_way_round(authors):
    for dtype in (np.dtype(object), np.dtype([("a", object)])):
        scalar = np.int64(0).__reduce__()[0]
        save_dict(authors, {0: Evil(scalar, dtype, b"12345678")})
        with pytest.raises(UserError, match=r"user_gender.npy is not a dict of plain values"):
            load_attribute(authors, "gender")


def test_nothing_but_arrays_and_scalars_is_admitted():
    assert {name for _, name in ADMITTED} == {"ndarray", "dtype", "_reconstruct", "scalar"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a dict"),
        (b"<html>", "is not a dict"),
        (np.arange(3), r"array of int64 with shape \(3,\)"),
        (["F", "M"], r"array of object with shape \(2,\)"),
        ("F", "it holds a str"),
        ({0: "F", 1: ["M"]}, "user 1 has a list for a gender"),
        ({"a": "F"}, "users are numbered 0 to 79, got 'a'"),
        ({500: "F"}, "users are numbered 0 to 79, got 500"),
        ({user: "FM"[user % 2] for user in range(1, 81)}, "numbered from 1, the interactions"),
        ({0: "F", 1: "F"}, "has the classes F:"),
    ],
)
def test_labels_that_are_none_are_refused(authors, content, message):
    path = authors / "user_gender.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, np.ndarray):
        np.save(path, content)
    else:
        save_dict(authors, content)
    with pytest.raises(UserError, match=message):
        load_attribute(authors, "gender")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("train_interactions.csv", "0,1\n0;2\n", r"line 2: expected two numbers, user,item"),
        ("train_interactions.csv", "user,item\n0,1\n", r"line 1: expected two numbers"),
        ("train_interactions.csv", "0,1\n0,-1\n", r"line 2: expected two numbers"),
        ("train_interactions.csv", "", r"train_interactions.csv: No columns"),
        ("test_neg_interactions", "", r"test_neg_interactions is empty"),
        ("test_neg_interactions", "(0,1)\t2\n(1,x)\t3\n", r"line 2: expected \(user,item\)"),
        ("test_neg_interactions", "(0,1)\t2\t3\n(1,1)\t3\n", r"line 2: 1 negatives where line 1"),
        ("test_neg_interactions", "(0,1)\n", r"line 1: no negatives"),
    ],
)
def test_a_wrong_line_is_named(authors, file, text, message):
    (authors / file).write_text(text)
    with pytest.raises(UserError, match=message) as error:
        load_dataset(authors, "ml-100k", True)
    assert file in str(error.value)


DAMAGE = {
    "empty": lambda lines: [],
    "no header": lambda lines: lines[1:],
    "no raw ids": lambda lines: ["index,gender", *(f"{user},F" for user in range(80))],
    "cut off": lambda lines: [*lines[:40], lines[40][:3]],
    "a line lost": lambda lines: lines[:40] + lines[41:],
    "the last line lost": lambda lines: lines[:-1],
    "lines exchanged": lambda lines: [lines[0], lines[2], lines[1], *lines[3:]],
    "too many cells": lambda lines: [*lines[:40], lines[40] + ",x", *lines[41:]],
    "another encoding": lambda lines: [*lines[:40], lines[40] + "\udcff", *lines[41:]],
    "a quote": lambda lines: [*lines[:40], '"' + lines[40], *lines[41:]],
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_users_file_is_one_line(ours, what):
    meta = json.loads((ours / "meta.json").read_text())
    del meta["files"]  # as of an earlier version, which has no checksums of them
    (ours / "meta.json").write_text(json.dumps(meta))
    path = ours / "users.csv"
    lines = DAMAGE[what](path.read_text().splitlines())
    path.write_bytes("".join(f"{line}\n" for line in lines).encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=rf"users.csv.*delete or rename the folder {ours} to") as e:
        load_attribute(ours, "gender")
    assert "\n" not in str(e.value)


def test_a_missing_file_names_every_spelling(authors, ours):
    (authors / "train_interactions.csv").unlink()
    with pytest.raises(
        UserError, match=r"train_interactions.csv \(or train_ratings.csv, .*missing"
    ):
        load_dataset(authors, "ml-100k", True)
    (ours / "validation_neg_interactions").unlink()
    with pytest.raises(UserError, match=r"validation_neg_interactions is missing"):
        load_dataset(ours, "ml-100k", True)

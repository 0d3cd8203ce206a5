"""The raw formats, on files written by hand."""

from pathlib import Path

import pytest

from data.formats import FORMATS
from data.readers import PrepareSettings, RawData, age_bracket
from utils.errors import UserError

SETTINGS = PrepareSettings(5, 99, 0)


def read(folder: Path, name: str, files: dict[str, str], **settings: object) -> RawData:
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in files.items():
        (folder / file).write_text(text, encoding="utf-8")
    paths = FORMATS[name].find(folder, "mine")
    assert paths
    return FORMATS[name].read(paths, PrepareSettings(**({**vars(SETTINGS), **settings})))


ML1M = {
    "ratings.dat": "1::32::4::978300019\n2::23::5::978300055\n1::7::3::978300055\n",
    "users.dat": "1::F::1::10::48067\n2::M::56::16::70072\n3::M::25::0::98107-1450\n",
}


def test_ml1m_codes_become_names(tmp_path):
    raw = read(tmp_path, "ml-1m", ML1M)
    assert raw.interactions.to_numpy().tolist() == [
        [1, 32, 978300019],
        [2, 23, 978300055],
        [1, 7, 978300055],
    ]
    assert raw.users.to_dict("index") == {
        "1": {"gender": "F", "age": "under 18", "occupation": "K-12 student"},
        "2": {"gender": "M", "age": "56+", "occupation": "self-employed"},
        "3": {"gender": "M", "age": "25-34", "occupation": "other"},
    }


@pytest.mark.parametrize(
    ("years", "bracket"),
    [
        ("1", "under 18"),
        ("17", "under 18"),
        ("18", "18-24"),
        ("24.5", "18-24"),
        ("25", "25-34"),
        ("35", "35-44"),
        ("45", "45-49"),
        ("50", "50-55"),
        ("56", "56+"),
        ("-1", ""),
        ("nan", ""),
        ("", ""),
        ("teens", "teens"),
    ],
)
def test_age_brackets(years, bracket):
    assert age_bracket(years) == bracket


@pytest.mark.parametrize(
    ("name", "file", "text", "message"),
    [
        ("ml-1m", "ratings.dat", "", "ratings.dat is empty"),
        ("ml-1m", "ratings.dat", "1::2::3::4\n1::2::3\n", "ratings.dat, line 2: expected 4 fields"),
        ("ml-1m", "ratings.dat", "1::2::3\n1::2::3\n", "ratings.dat, line 1: expected 4 fields"),
        ("ml-1m", "ratings.dat", "1::2::3::4::5\n", "ratings.dat, line 1: expected 4 fields"),
        ("ml-1m", "ratings.dat", "1::2::3::4\n\n1::x::3::4\n", "line 3: item must be a whole"),
        ("ml-1m", "ratings.dat", "1::2::good::4\n", "line 1: rating must be a number, got 'good'"),
        ("ml-1m", "ratings.dat", "1::2::3::-4\n", "line 1: timestamp must be .* got '-4'"),
        ("ml-1m", "ratings.dat", "1::2::3::4.5\n", "line 1: timestamp must be .* got '4.5'"),
        ("ml-1m", "ratings.dat", f"1::{10**30}::3::4\n", "line 1: item must be a whole number"),
        ("ml-1m", "ratings.dat", "<!DOCTYPE html>\n<p>x</p>\n", "line 1: expected 4 fields"),
        ("ml-1m", "users.dat", "1::F::1::21::4\n", "user 1 has occupation 21; the codes end at 20"),
        ("ml-1m", "users.dat", "1::F::1::2::4\n1::M::1::2::4\n", "user 1 is described more than"),
        ("ml-100k", "u.data", "1\t2\t3\t4\n1\t2\n", "u.data, line 2: expected 4 fields"),
        ("ml-100k", "u.user", "x|24|M|writer|1\n", "u.user, line 1: user must be a whole number"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, name, file, text, message):
    files = ML1M if name == "ml-1m" else {"u.data": "1\t2\t3\t4\n", "u.user": "1|24|M|writer|1\n"}
    with pytest.raises(UserError, match=message) as error:
        read(tmp_path, name, {**files, file: text})
    assert "\n" not in str(error.value)

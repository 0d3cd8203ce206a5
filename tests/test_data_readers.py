"""The raw formats, on files written by hand."""

from pathlib import Path

import pytest

from data.sources.formats import FORMATS
from data.sources.readers import PrepareSettings, RawData, age_bracket
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


RECBOLE = {
    "mine.inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    'u1\ti 1\t5\t8.5\nu2\t"i2\t1\t7\nu1\ti2\t1\t7.25\n',
    "mine.user": "user_id:token\tgender:token\tage:float\nu1\tF\t24.0\nu2\t\t\n",
}
CSV = {
    "interactions.csv": 'user,item,timestamp\na,"x, y",2020-01-01 00:00:10\nb,é,2020-01-01\n',
    "users.csv": "user,gender,age,colour\na,F,61,red\nb,M,young,\n",
}


def test_recboles_atomic_files(tmp_path):
    raw = read(tmp_path, "recbole", RECBOLE)
    assert raw.interactions.to_numpy().tolist() == [
        ["u1", "i 1", 8.5],
        ["u2", '"i2', 7.0],
        ["u1", "i2", 7.25],
    ]
    assert raw.users.to_dict("index") == {
        "u1": {"gender": "F", "age": "18-24"},
        "u2": {"gender": "", "age": ""},
    }
    untimed = {"mine.inter": "item_id:token\tuser_id:token\nx\ty\n"}
    raw = read(tmp_path, "recbole", RECBOLE | untimed)
    assert raw.interactions.to_numpy().tolist() == [["y", "x", 0]]


def test_csv_with_named_columns(tmp_path):
    raw = read(tmp_path, "csv", CSV)
    assert raw.interactions.to_numpy().tolist() == [
        ["a", "x, y", 1577836810],
        ["b", "é", 1577836800],
    ]
    assert raw.users.to_dict("index") == {
        "a": {"gender": "F", "age": "56+", "colour": "red"},
        "b": {"gender": "M", "age": "young", "colour": ""},
    }
    files = {"interactions.csv": "when,who,what\n3,a,x\n", "users.csv": "\ufeffwho,sex\na,f\n"}
    columns = {"user_column": "who", "item_column": "what", "time_column": "when"}
    for time_column, time in (("when", 3), (None, 0)):
        raw = read(tmp_path, "csv", files, **{**columns, "time_column": time_column})
        assert raw.interactions.to_numpy().tolist() == [["a", "x", time]]
        assert raw.users.to_dict("index") == {"a": {"sex": "f"}}


@pytest.mark.parametrize(
    ("name", "file", "text", "message"),
    [
        ("csv", "interactions.csv", "", r"interactions.csv is empty"),
        ("csv", "interactions.csv", "user,thing\n", r'no column "item"; it has: user, thing; set'),
        ("csv", "interactions.csv", "user,item\n", r'no column "timestamp".*null = no times'),
        ("csv", "users.csv", "id,gender\n", r'users.csv has no column "user"; it has: id, gender'),
        ("csv", "users.csv", "user,a,a\n", r'line 1: the column "a" stands there twice'),
        ("csv", "users.csv", "user,a\nx,1\nx,2\n", r"user x is described more than once"),
        ("csv", "users.csv", "user,a\nx,1\n,2\n", r"users.csv, line 3: user is empty"),
        ("csv", "users.csv", "user,index\na,1\n", r"can't be called \"index\"; rename it"),
        ("csv", "interactions.csv", "user,item,timestamp\na,x,1\nb,y,-1\n", r"line 3: .*'-1'"),
        ("csv", "interactions.csv", "user,item,timestamp\na,x,\n", r"line 2: .*got ''"),
        ("csv", "interactions.csv", "user,item,timestamp\n\na,,1\n", r"line 3: item is empty"),
        (
            "csv",
            "interactions.csv",
            "user,item,timestamp\na,b,1,2\n",
            r"Expected 3 fields in line 2",
        ),
        ("recbole", "mine.inter", "user_id:token\titem:token\n", r'no column "item_id"; it has'),
        ("recbole", "mine.inter", "user_id\titem_id\ttimestamp\na\tb\tnan\n", r"line 2: .*'nan'"),
        *(
            ("recbole", file, f"user_id:token\t{twice}:token\t{twice}:float\n", "line 1: the colu")
            for file, twice in (("mine.inter", "timestamp"), ("mine.user", "age"))
        ),
        *(
            ("csv", "interactions.csv", "user,item,timestamp\n" + text, message)
            for text, message in (
                ("a,x,1\nb,y,2\nc,z,soon\nd,x,4\n", r"line 4: .*must be a number, .*'soon'"),
                ("a,x,1\nb,y,2\nc,z,2020-01-01\n", r"line 4: .* a number, .*'2020-01-01'"),
                ("a,x,1\nb,y,2\nc,z,inf\n", r"line 4: .*'inf'"),
                ("a,x,2020-01-01\nb,y,2020-01-01\nc,z,17\n", r"line 4: .* date .*'17'"),
                ("a,x,2020-01-01\nb,y,soon\nc,z,2020-01-02\n", r"line 3: .* date .*'soon'"),
            )
        ),
    ],
)
def test_a_wrong_line_of_your_own_is_named(tmp_path, name, file, text, message):
    with pytest.raises(UserError, match=message) as error:
        read(tmp_path, name, {**(CSV if name == "csv" else RECBOLE), file: text})
    assert "\n" not in str(error.value)


def test_text_that_is_not_utf8_is_refused(tmp_path):
    read(tmp_path, "csv", CSV)
    (tmp_path / "users.csv").write_bytes("user,gender\né,F\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"users.csv is not UTF-8 text"):
        read(tmp_path, "csv", {"interactions.csv": CSV["interactions.csv"]})

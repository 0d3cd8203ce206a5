"""Labels of other people's users: joined by id or by row, strictly, from any file."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from data.tables.labels import load_labels, warn_of_label
from utils.errors import UserError

IDS = np.array(["7", "101", "55", "3"], dtype=object)


def classes_of(attribute):
    return [attribute.classes[one] if one >= 0 else "" for one in attribute.labels]


def write(path, frame):
    if path.suffix == ".parquet":
        frame.to_parquet(path, index=False)
    elif path.suffix == ".npz":
        np.savez(path, **{name: frame[name].to_numpy().astype(str) for name in frame})
    else:
        frame.to_csv(path, index=False, sep="\t" if path.suffix == ".user" else ",")
    return path


@pytest.mark.parametrize("numbers", [True, False])
@pytest.mark.parametrize("ending", [".csv", ".parquet", ".npz", ".user"])
def test_labels_find_their_users_by_id_in_any_order(tmp_path, ending, numbers, caplog):
    caplog.set_level("INFO")
    ids = [55, 7, 3, 900, 101] if numbers else [f"u{one}" for one in (55, 7, 3, 900, 101)]
    column = "user_id:token" if ending == ".user" else "user_id"
    gender = "gender:token" if ending == ".user" else "gender"
    frame = pd.DataFrame({column: ids, gender: ["F", "M", "", "F", "M"]})
    path = write(tmp_path / f"labels{ending}", frame)
    table = IDS if numbers else np.array([f"u{one}" for one in IDS], dtype=object)
    attribute = load_labels(path, "gender", 4, table)
    assert classes_of(attribute) == ["M", "M", "F", ""]
    assert f"{path}: joined by id; 4 of 4 users have a line, 1 lines are of nobody" in caplog.text


def test_whole_numbers_are_one_id_however_they_are_stored(tmp_path):
    path = tmp_path / "labels.parquet"
    pd.DataFrame({"id": [3.0, 7.0, 55.0, 101.0], "gender": list("FMFM")}).to_parquet(path)
    assert classes_of(load_labels(path, "gender", 4, IDS)) == ["M", "M", "F", "F"]


def test_text_ids_stay_as_spelt(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("id,gender\n7,F\n007,M\n")
    table = np.array(["007", "7"], dtype=object)
    assert classes_of(load_labels(path, "gender", 2, table)) == ["M", "F"]


def test_ids_that_number_the_rows_are_followed(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("user,gender\n2,F\n0,M\n3,F\n1,M\n")
    assert classes_of(load_labels(path, "gender", 4)) == ["M", "M", "F", "F"]


def test_other_ids_than_the_embeddings_rows_are_warned_of(tmp_path, caplog):
    path = tmp_path / "labels.csv"
    path.write_text("user_id,gender\n55,F\n7,M\n")
    assert classes_of(load_labels(path, "gender", 2)) == ["F", "M"]
    assert 'taken row by row, so that the first row is user "55"' in caplog.text


SAME = {
    "comma": "gender,x\nF,1\nM,2\nF,3\n",
    "semicolon": "x;gender\n1,5;F\n2,5;M\n3,5;F\n",
    "tab": "x\tgender\n1\tF\n2\tM\n3\tF\n",
    "bar": "gender|x\nF|1\nM|2\nF|3\n",
    "byte order mark": "\ufeffgender\nF\nM\nF\n",
    "carriage returns": "gender\r\nF\r\nM\r\nF\r\n",
    "blank lines between columns": "\ngender,x\nF,1\n\nM,2\n\n\nF,3\n\n",
    "blank lines at the end": "gender\nF\nM\nF\n\n\n",
    "padded name": "x, gender\n1,F\n2,M\n3,F\n",
    "quoted": 'gender,x\n"F","a, b"\n"M","c\nd"\nF,3\n',
}


@pytest.mark.parametrize("what", SAME)
def test_text_files_of_every_habit(tmp_path, what):
    path = tmp_path / "labels.csv"
    path.write_bytes(SAME[what].encode())
    assert classes_of(load_labels(path, "gender", 3)) == ["F", "M", "F"]


def test_a_blank_line_of_a_lone_column_is_an_unknown_label(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("gender\nF\n\nM\n\n")
    assert classes_of(load_labels(path, "gender", 3)) == ["F", "", "M"]


WRONG = {
    "lone column of another name": ("sex\nF\nM\n", 'no column "gender"; it has: sex'),
    "two of the name": ("gender,gender\nF,M\nM,F\n", 'more than one column "gender"'),
    "nobody in common": (
        "id,gender\nu7,F\nu8,M\n",
        'any of the embedding\'s users: ids there are like "u7", in the embedding like "3"',
    ),
    "an id twice": ("id,gender\n7,F\n7,M\n", "the user id 7 is there twice"),
    "one class": ("id,gender\n7,F\n3,F\n", "at least two are needed"),
    "more columns": ("id,gender\n7,F,1\n3,M,2\n", "is not a CSV file"),
    "nothing": ("", "is empty; it needs a column"),
    "a header alone": ("id,gender\n", "has no labels"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_one_line(tmp_path, what):
    content, says = WRONG[what]
    path = tmp_path / "labels.csv"
    path.write_text(content)
    with pytest.raises(UserError) as error:
        load_labels(path, "gender", 4, IDS)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_row_too_few_may_be_recboles_padding(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("gender\nF\nM\n")
    with pytest.raises(UserError, match=r"holds 2 labels, .* 3 rows.*RecBole's row 0 is nobody"):
        load_labels(path, "gender", 3)


def test_a_column_of_thousands_of_classes_is_no_attribute(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("\n".join(["zip", *(f"z{one}" for one in range(1500))]) + "\n")
    with pytest.raises(UserError, match='"zip" has 1500 classes, more than 1000'):
        load_labels(path, "zip", 1500)


def test_small_classes_and_doubtful_names_are_pointed_out(tmp_path, caplog):
    path = tmp_path / "labels.csv"
    path.write_text("\n".join(["gender", *["F"] * 30, *["M"] * 30, *["f "] * 3]) + "\n")
    attribute = load_labels(path, "gender", 63)
    assert attribute.classes == ("F", "M", "f ")
    assert 'classes of fewer than 20 users: "f " 3' in caplog.text
    assert 'the classes "F" and "f " differ by case or blanks alone' in caplog.text


def test_ids_from_1_in_another_order_can_not_be_rows(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("user,gender\n2,F\n1,M\n3,F\n")
    with pytest.raises(UserError, match="its ids are 1 to 3 in another order"):
        load_labels(path, "gender", 3)


def test_pandas_index_is_an_id_of_labels_too(tmp_path):
    frame = pd.DataFrame({"gender": list("FMMF")}, index=[3, 55, 101, 7])
    frame.to_csv(tmp_path / "labels.csv")
    frame.to_parquet(tmp_path / "labels.parquet")
    for name in ("labels.csv", "labels.parquet"):
        assert classes_of(load_labels(tmp_path / name, "gender", 4, IDS)) == ["F", "M", "M", "F"]


def test_a_join_of_few_is_a_warning(tmp_path, caplog):
    path = tmp_path / "labels.csv"
    path.write_text("user,gender\n7,F\n101,M\n8,F\n9,M\n")
    load_labels(path, "gender", 4, IDS)
    assert any(
        one.levelname == "WARNING" and "joined by id; 2 of 4" in one.message
        for one in caplog.records
    )


def test_an_ending_of_no_labels_is_said(tmp_path):
    (tmp_path / "l.pt").write_text("")
    with pytest.raises(UserError, match="labels come in files whose names end in"):
        load_labels(tmp_path / "l.pt", "gender", 4)


def test_a_column_of_lists_holds_no_label_a_row(tmp_path):
    table = pa.table({"user_id": [3, 7], "gender": [["F"], ["M", "F"]]})
    parquet.write_table(table, tmp_path / "labels.parquet")
    with pytest.raises(UserError, match=r'"gender" holds list<.*>, not a label a row'):
        load_labels(tmp_path / "labels.parquet", "gender", 2)


def test_a_class_that_may_mean_none_is_pointed_out_and_counted_apart(tmp_path, caplog):
    path = tmp_path / "labels.csv"
    path.write_text("id,gender\n" + "\n".join(f"{n},{'FM'[n % 2]}" for n in range(40)) + "\n")
    with path.open("a") as file:
        file.write("\n".join(f"{n},unknown" for n in range(40, 65)) + "\n65,\n66,\n")
    caplog.set_level("INFO")
    attribute = load_labels(path, "gender", 67)
    assert attribute.counts() == {"F": 20, "M": 20, "unknown": 25, "": 2}
    assert "gender is unknown of 2 of 67 users" in caplog.text
    assert '"unknown" is taken for a class of gender' in caplog.text


def test_users_of_whom_one_of_two_attributes_is_known_are_counted(tmp_path, caplog):
    path = tmp_path / "labels.csv"
    path.write_text("gender,age\nF,1\nM,2\nM,\n,1\n,\n")
    assert (load_labels(path, "gender+age", 5).labels >= 0).sum() == 2
    assert "2 users have labels of some of gender and age alone" in caplog.text


def test_the_labels_own_column_among_the_vectors_is_pointed_out(tmp_path, caplog):
    path = tmp_path / "labels.csv"
    path.write_text("gender\nF\nM\n\nM\nF\n")
    attribute = load_labels(path, "gender", 5)
    x = np.random.default_rng(0).normal(size=(5, 4))
    x[:, 1] = 3  # constant: tells nothing
    warn_of_label(tmp_path / "x.npy", x, attribute)
    assert "one number a class" not in caplog.text
    x[:, 2] = [0, 1, 7, 1, 0]
    warn_of_label(tmp_path / "x.npy", x, attribute)
    assert "dimension 2 (from 0) is one number a class of gender" in caplog.text


def test_underscores_make_no_number(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("code\n1_000\n1000\n")
    assert load_labels(path, "code", 2).classes == ("1000", "1_000")

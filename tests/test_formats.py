"""Embeddings in the formats of other systems: read, edited, written back."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from pyarrow import parquet
from safetensors.torch import load_file, save_file

import attack
import main
from data.tables.files import load_table, load_tables, save_table, with_people
from data.tables.formats import FORMATS
from data.tables.manifest import edited_by
from data.tables.user_table import UserTable
from utils.config import AttackConfig
from utils.errors import UserError
from utils.runs.logs import console

# written by the libraries that formats/write.py names
FILES = Path(__file__).parent / "formats"
X = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
IDS = [str(one) for one in (101, 7, 55, 3, 250, 18, 42, 9, 77, 64, 31, 12)]
WRITTEN = {
    "state_dict.pt": ("user_embedding.weight", None),
    "checkpoint.ckpt": ("state_dict.user.weight", None),
    "factors.safetensors": ("user_factors", IDS),
    "pandas.parquet": ("embedding", IDS),
    "wide.parquet": ("user_embedding", IDS),
    "polars.parquet": ("embedding", IDS),
    "pandas.csv": ("user_embedding", IDS),
    "polars.tsv": ("user_embedding", IDS),
    "gensim.txt": ("user_embedding", [f"user_{one}" for one in IDS]),
    "implicit.npz": ("user_factors", None),
    "numpy.npz": ("user_embedding", IDS),
}


def ids_of(table):
    return None if table.ids is None else list(table.ids)


@pytest.mark.parametrize("name", WRITTEN)
def test_what_other_libraries_write_is_read(name):
    table = load_table(FILES / name)
    assert (table.name, ids_of(table)) == WRITTEN[name]
    if name != "implicit.npz":  # its numbers are its own
        wanted = torch.from_numpy(X).bfloat16().float().numpy() if "checkpoint" in name else X
        np.testing.assert_array_equal(table.vectors.astype(np.float32), wanted)


@pytest.mark.parametrize("name", WRITTEN)
def test_the_same_format_keeps_all_that_the_file_holds(name, tmp_path):
    """What these libraries say of the result: formats/write.py read."""
    table, target = load_table(FILES / name), tmp_path / name
    edited = table.edited(2 * table.vectors)
    save_table(target, edited, FILES / name)
    again = load_table(target)
    assert (again.name, ids_of(again)) == WRITTEN[name]
    np.testing.assert_array_equal(again.vectors, edited.vectors)
    # the same content again is the same file but for what stands beside the numbers
    save_table(tmp_path / f"again-{name}", table, target)
    np.testing.assert_array_equal(load_table(tmp_path / f"again-{name}").vectors, table.vectors)


def test_other_tensors_columns_and_metadata_stay(tmp_path):
    for name in ("state_dict.pt", "factors.safetensors", "pandas.parquet", "checkpoint.ckpt"):
        table = load_table(FILES / name)
        save_table(tmp_path / name, table.edited(2 * table.vectors), FILES / name)
    state, first = (torch.load(one / "state_dict.pt") for one in (tmp_path, FILES))
    assert list(state) == list(first)
    assert torch.equal(state["item_embedding.weight"], first["item_embedding.weight"])
    checkpoint = torch.load(tmp_path / "checkpoint.ckpt")
    assert checkpoint["epoch"] == 3
    assert checkpoint["state_dict"]["user.weight"].dtype == torch.bfloat16
    tensors = load_file(tmp_path / "factors.safetensors")
    assert torch.equal(tensors["item_factors"], torch.ones(5, 3))
    assert tensors["user_id"].tolist() == [int(one) for one in IDS]
    frame, before = (parquet.read_table(one / "pandas.parquet") for one in (tmp_path, FILES))
    assert frame.schema == before.schema
    assert frame["country"] == before["country"]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("ids", [None, ["7", "101", "55", "3"], ["a", "7", "007", "Ü"]])
@pytest.mark.parametrize("ending", FORMATS)
def test_every_format_brings_back_what_it_was_given(ending, ids, dtype, tmp_path, caplog):
    vectors = (np.random.default_rng(1).normal(size=(4, 3)) * 10.0 ** np.arange(-3, 0)).astype(
        dtype
    )
    table = UserTable("user_embedding", vectors, None if ids is None else np.array(ids, object))
    source, target = tmp_path / "mine.npy", tmp_path / f"theirs{ending}"
    if ending == ".safetensors" and ids and "a" in ids:
        with pytest.raises(UserError, match="safetensors hold numbers alone"):
            save_table(target, table, source)
        assert not target.exists()
        return
    if ending == ".npy":
        source = tmp_path / "mine.csv"
    save_table(target, table, source)
    again = load_table(target)
    # word2vec and RecBole have float32
    least = np.float32 if ending in (".txt", ".vec", ".useremb") else np.float64
    kept = np.result_type(np.float16, min(dtype, least, key=lambda one: np.dtype(one).itemsize))
    np.testing.assert_array_equal(again.vectors.astype(kept), vectors.astype(kept))
    if ending == ".npy":
        assert again.ids is None
        assert bool(ids) == any("holds no ids" in line for line in caplog.messages)
    elif ids or ending not in (".txt", ".vec", ".useremb"):  # which must have some
        assert ids_of(again) == ids
    else:
        assert ids_of(again) == ["0", "1", "2", "3"]


def test_of_several_tables_one_is_named(tmp_path):
    path = tmp_path / "ncf.pt"
    tables = {"user_gmf": torch.zeros(4, 2), "user_mlp": torch.ones(4, 3), "item": torch.ones(9, 2)}
    torch.save(tables, path)
    with pytest.raises(UserError, match=r"table=NAME: user_gmf \(4, 2\), user_mlp \(4, 3\)"):
        load_table(path)
    assert load_table(path, "user_mlp").vectors.shape == (4, 3)
    assert load_table(path, "item").vectors.shape == (9, 2)
    with pytest.raises(UserError, match='no table "users"; it has: user_gmf'):
        load_table(path, "users")
    assert [table.name for table in load_tables(path)] == ["user_gmf", "user_mlp"]


class Bomb:
    def __reduce__(self):
        return (Path("exploded").touch, ())


def test_nothing_in_a_file_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"user_embedding": torch.ones(3, 2), "config": Bomb()}, "bomb.pt")
    Path("bomb.bin").write_bytes(pickle.dumps(Bomb()))
    np.save("bomb.npy", np.array([Bomb()], dtype=object))
    for name in ("bomb.pt", "bomb.bin", "bomb.npy"):
        with pytest.raises(UserError) as error:
            load_table(Path(name))
        assert "allow_pickle=True" not in str(error.value)
        assert not Path("exploded").exists()
    with pytest.raises(UserError, match=r"nothing in it was run. Save model.state_dict\(\)"):
        load_table(Path("bomb.pt"))


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize(
    "content", [b"", b"\x93NUMPY", b"PAR1", b"PK\x03\x04", b"3 2\n", b"\xff\xfe" * 9]
)
def test_a_damaged_file_is_one_line(tmp_path, ending, content):
    path = tmp_path / f"x{ending}"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        load_table(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


WRONG = {
    "ragged.csv": ("user_id,a,b\n1,2.5,3.5\n4,5.5\n", "row 1 has a value that is not finite"),
    "text.csv": ("user_id,a,b\n1,2,x\n", 'column "b" has no numbers'),
    "twice.csv": ("user_id,a\n1,2\n1,3\n", "the user id 1 of row 1 is there twice"),
    "columns.csv": ("a,a\n1,2\n", "two columns of one name"),
    "short.txt": ("2 2\na 1 2\nb 1\n", "line 3: must be an id and 2 numbers"),
    "count.txt": ("3 1\na 1\nb 1\n", "says 3 users and holds 2"),
    "head.vec": ("a 1 2\nb 1 2\n", 'line 1 must say "users dimensions"'),
    "x.useremb": ("uid:token\tv:float\na\t1\n", "one of type float_seq"),
    "x.pkl": ("", "its name must end in one of .npy"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said(tmp_path, name):
    content, says = WRONG[name]
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError) as error:
        load_table(tmp_path / name)
    assert says in str(error.value)


def test_recboles_vectors(tmp_path):
    path = tmp_path / "ml.useremb"
    path.write_text("uid:token\tuser_emb:float_seq\n[PAD]\t0 0\n196\t0.5 -1\n7\t1e-3 2\n")
    table = load_table(path)
    assert list(table.ids) == ["[PAD]", "196", "7"]
    save_table(tmp_path / "out.useremb", table, path)
    assert (
        (tmp_path / "out.useremb").read_text().startswith("uid:token\tuser_emb:float_seq\n[PAD]\t")
    )


def planted(path, n=120, seed=0):
    """People of ids that are no row numbers, and labels of them in another order."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    vectors = rng.normal(size=(n, 6)).astype(np.float32)
    vectors[:, 0] += 2 * labels
    ids = [f"u{one}" for one in rng.permutation(1000)[:n]]
    order = rng.permutation(n)
    pd.DataFrame({"user_id": ids, "embedding": list(vectors)}).to_parquet(path / "mine.parquet")
    people = pd.DataFrame({"user_id": ids, "gender": np.where(labels, "M", "F")})
    people.iloc[order].to_csv(path / "labels.csv", index=False)
    return vectors, ids


TABLE = ["user_embedding=mine.parquet", "labels=labels.csv"]


def test_the_commands_join_by_id_and_hand_over_with_a_manifest(workspace, capsys):
    vectors, ids = planted(workspace)
    run = [*TABLE, "method=leace", "threads=1"]
    assert main.main(run) == 0
    shown = capsys.readouterr().out
    assert "joined by id; 120 of 120 users have a line, 0 lines are of nobody" in shown
    edited = workspace / "exp_results/external/mine/leace/seed-0/edited/mine.parquet"
    assert f"Next: python attack.py user_embedding={edited.relative_to(workspace)}" in shown
    assert list(load_table(edited).ids) == ids
    assert main.main([*run, "output=out.csv"]) == 0  # the run is found, and handed over
    assert "Next: python attack.py user_embedding=out.csv labels=l" in capsys.readouterr().out
    assert edited_by(edited) == edited_by(Path("out.csv")) == ("leace", "gender")
    assert edited_by(Path("mine.parquet")) is None
    out = load_table(Path("out.csv"))
    assert list(out.ids) == ids
    np.testing.assert_array_equal(out.vectors.astype(np.float32), load_table(edited).vectors)
    said = json.loads(Path("out.csv.manifest.json").read_text())
    assert said["edited"]["users"] == 120
    assert said["edited"]["method"] == "leace"
    assert said["edited"]["left_alone"] == []
    assert said["output"]["format"] == "CSV"
    # who is read before is not after
    found = []
    for path in ("mine.parquet", str(edited), "out.csv"):
        chosen = [f"user_embedding={path}", "attackers=logistic", "shadow_ratio=0.5", "threads=1"]
        assert attack.main([*chosen, "labels=labels.csv"]) == 0
        result = json.loads(Path(path).with_name(f"{Path(path).name}.attack.json").read_text())
        found.append(result["gender/shadow"]["attackers"]["logistic"]["auc"]["mean"])
    assert found[0] > 0.85
    assert found[1] == found[2] < 0.7
    assert vectors.shape == load_table(edited).vectors.shape
    Path("out.csv").write_text(Path("out.csv").read_text() + "\n")  # no longer what was made
    assert edited_by(Path("out.csv")) is None


def test_after_an_audit_nobody_is_told_to_do_again_what_was_done(workspace, capsys):
    planted(workspace)
    keys = ["user_embedding=mine.parquet", "labels=labels.csv"]
    assert main.main([*keys, "method=calibrated", "calibrated_rounds=0", "output=out.csv"]) == 0
    shown = capsys.readouterr().out
    assert "attack=audit" in shown.splitlines()[-1]
    edited = AttackConfig(user_embedding="out.csv", labels="labels.csv")
    with console():
        attack.say_next(edited, ["user_embedding"])
        assert "gender was hidden by calibrated already" in capsys.readouterr().out
        attack.say_next(replace(edited, user_embedding="mine.parquet"), ["user_embedding"])
        assert "Next: python main.py method=calibrated" in capsys.readouterr().out


def test_users_without_a_label_and_the_pad_are_left_alone(workspace, capsys):
    vectors, ids = planted(workspace)
    path = Path("mine.useremb")
    rows = [" ".join(map(str, row)) for row in [np.zeros(6), *vectors]]
    frame = pd.DataFrame({"uid:token": ["[PAD]", *ids], "user_emb:float_seq": rows})
    frame.to_csv(path, sep="\t", index=False)
    labels = pd.read_csv("labels.csv")
    few = labels[labels["user_id"] != ids[3]]
    extra = pd.DataFrame({"user_id": ["stranger", "[PAD]"], "gender": ["M", "M"]})
    pd.concat([few, extra]).to_csv("labels.csv", index=False)
    arguments = [f"user_embedding={path}", "labels=labels.csv", "threads=1", "unlearn_steps=3"]
    assert main.main([*arguments, "method=d2d", "output=out.useremb"]) == 0
    shown = capsys.readouterr().out
    assert "119 of 120 users have a line, 2 lines are of nobody; [PAD] is left alone" in shown
    before, after = load_table(path), load_table(Path("out.useremb"))
    same = (before.vectors == after.vectors).all(1)
    assert np.flatnonzero(same).tolist() == [0, 4]
    said = json.loads(Path("out.useremb.manifest.json").read_text())
    assert said["edited"]["left_alone"] == ["[PAD]", ids[3]]
    # a map that is of use to all moves who has no label, too; [PAD] is nobody
    assert main.main([*arguments[:2], "method=leace", "output=leace.useremb"]) == 0
    same = (before.vectors == load_table(Path("leace.useremb")).vectors).all(1)
    assert np.flatnonzero(same).tolist() == [0]


@pytest.mark.thorough
def test_an_audit_takes_every_user_table_of_a_file(workspace):
    vectors, _ = planted(workspace)
    tensors = {
        "user_a": torch.from_numpy(vectors),
        "user_b": torch.from_numpy(vectors[:, 1:].copy()),
    }
    save_file(tensors | {"item": torch.zeros(7, 6)}, workspace / "both.safetensors")
    pd.read_csv("labels.csv").iloc[::-1].to_csv("labels.csv", index=False)
    few = ["audit_permutations=19", "attackers=logistic", "threads=1"]
    arguments = ["attack=audit", "user_embedding=both.safetensors", "labels=labels.csv", *few]
    assert attack.main(arguments) == 0
    result = json.loads(next(workspace.glob("both.safetensors.audit*.json")).read_text())
    assert list(result["places"]) == ["user_a", "user_b"]
    assert attack.main([*arguments, "table=user_b"]) == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["output=mine.parquet"], "would write over user_embedding mine.parquet"),
        (["output=x.xls"], "x.xls: its name must end in one of"),
        (["table=nothing"], 'no table "nothing"; it has: embedding (120, 6)'),
    ],
)
def test_what_a_user_can_get_wrong(workspace, capsys, arguments, says):
    planted(workspace)
    assert main.main([*TABLE, "method=leace", *arguments]) == 2
    assert says in capsys.readouterr().err
    assert not Path("exp_results").exists()


def test_table_and_output_belong_to_a_file(workspace, capsys):
    for argument in ("table=x", "output=x.csv"):
        assert main.main([argument]) == 2
        assert "belongs to user_embedding=FILE, which is missing" in capsys.readouterr().err
    assert attack.main(["table=x"]) == 2
    assert "belongs to user_embedding=FILE" in capsys.readouterr().err


def test_the_recipe_for_faiss(workspace):
    faiss = pytest.importorskip("faiss")
    vectors = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    ids = np.array([17, 4, 90, 33, 8, 51])
    index = faiss.IndexIDMap2(faiss.IndexFlatIP(4))
    index.add_with_ids(vectors, ids)
    faiss.write_index(index, "users.faiss")
    edited = UserTable("user_embedding", 2 * vectors[:5], np.array([str(one) for one in ids[:5]]))
    save_table(Path("edited.parquet"), edited, Path("mine.npy"))
    text = (Path(__file__).parents[1] / "data/README.md").read_text()
    recipe = text.split("<!-- faiss -->\n```python\n")[1].split("```")[0]
    exec(recipe, {})
    index = faiss.read_index("users.faiss")
    assert index.ntotal == 6
    np.testing.assert_array_equal(index.reconstruct_batch(ids[:5]), 2 * vectors[:5])
    np.testing.assert_array_equal(index.reconstruct(51), vectors[5])


def test_no_trace_of_the_old_vectors_is_left_by_views(tmp_path):
    """LightGCN's split of all nodes' table: the items are a view of a storage with the users."""
    together = torch.from_numpy(np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32))
    users, items = torch.split(together, [40, 10])
    torch.save({"user_emb": users, "item_emb": items}, tmp_path / "split.pt")
    table = load_table(tmp_path / "split.pt")
    save_table(tmp_path / "out.pt", table.edited(table.vectors * 0), tmp_path / "split.pt")
    content = (tmp_path / "out.pt").read_bytes()
    assert users[3].numpy().tobytes() in (tmp_path / "split.pt").read_bytes()
    assert not any(row.numpy().tobytes() in content for row in users)
    assert torch.equal(torch.load(tmp_path / "out.pt")["item_emb"], items)


def test_other_copies_of_the_vectors_are_warned_of(tmp_path, caplog):
    whole = torch.from_numpy(np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32))
    tensors = {
        "user": whole[:40].clone(),
        "average": whole[:40].clone(),
        "all": whole,
        "item": whole[40:],
    }
    torch.save(tensors, tmp_path / "tied.pt")
    table = load_table(tmp_path / "tied.pt", "user")
    save_table(tmp_path / "out.pt", table.edited(table.vectors * 2), tmp_path / "tied.pt")
    assert "out.pt: average, all hold the vectors as they were" in caplog.text


def csv(path, text):
    path.write_text(text)
    return load_table(path)


def test_pandas_counts_of_rows_and_columns_are_neither_ids_nor_users(tmp_path):
    x = np.random.default_rng(0).normal(size=(5, 3))
    frame = pd.DataFrame(x)
    frame.to_csv(tmp_path / "columns.csv", index=False)
    frame.to_csv(tmp_path / "both.csv")
    frame.iloc[::-1].to_csv(tmp_path / "reversed.csv")
    pd.DataFrame(x, index=pd.Index(list("abcde"), name="who")).to_parquet(tmp_path / "who.parquet")
    for name, ids in [
        ("columns.csv", None),
        ("both.csv", None),
        ("reversed.csv", list("43210")),
        ("who.parquet", list("abcde")),
    ]:
        table = load_table(tmp_path / name)
        assert (table.vectors.shape, ids_of(table)) == ((5, 3), ids), name
        save_table(tmp_path / f"again-{name}", table, tmp_path / name)
        again = load_table(tmp_path / f"again-{name}")
        assert ids_of(again) == ids
        np.testing.assert_array_equal(again.vectors, table.vectors)


def test_what_is_no_dimension_is_refused_not_edited(tmp_path):
    for header in ("customer no", "birth_year"):
        with pytest.raises(UserError, match=f'column "{header}" has whole numbers among floats'):
            csv(tmp_path / "x.csv", f"{header},a,b\n1990,1.5,2.5\n1991,3.5,4.5\n")
    assert ids_of(csv(tmp_path / "x.csv", "Customer-ID, a,b\n9,1.5,2.5\nNA,3.5,4.5\n")) == [
        "9",
        "NA",
    ]
    with pytest.raises(UserError, match="row 1 has no user id"):
        csv(tmp_path / "x.csv", "user_id,a\n9,1.5\n,3.5\n")
    with pytest.raises(UserError, match="is not a CSV file"):  # R's: a name less than columns
        csv(tmp_path / "x.csv", "a,b\n1,1.5,2.5\n2,3.5,4.5\n")


def test_a_header_may_count_from_1_and_nan_is_none(tmp_path):
    assert csv(tmp_path / "x.csv", "1,2,3\n1.5,2.5,3.5\n").vectors.tolist() == [[1.5, 2.5, 3.5]]
    assert csv(tmp_path / "x.csv", "1,2\n1.5,2.5\n").vectors.shape == (2, 2)  # a user's
    assert csv(tmp_path / "x.csv", "0_0,0_1\n1.5,2.5\n").vectors.tolist() == [[1.5, 2.5]]
    with pytest.raises(UserError, match='column "0" has no numbers'):  # not a header
        csv(tmp_path / "x.csv", "nan,1.5\n2.5,3.5\n")


def test_ids_of_other_bytes_stay_others(tmp_path):
    ids = [b"\xff\xfe", b"\xff\xfd"]
    pd.DataFrame({"user_id": ids, "a": [1.5, 2.5]}).to_parquet(tmp_path / "x.parquet")
    assert len(set(ids_of(load_table(tmp_path / "x.parquet")))) == 2


def test_a_feature_stores_file_has_other_lists_too(tmp_path):
    path = tmp_path / "store.parquet"
    frame = {"user_id": ["a", "b"], "embedding": [[1.0, 2.0], [3.0, 4.5]], "history": [[1], [2, 3]]}
    pd.DataFrame(frame | {"tags": [["x"], []]}).to_parquet(path)
    table = load_table(path)
    assert (table.name, ids_of(table)) == ("embedding", ["a", "b"])
    save_table(tmp_path / "out.parquet", table.edited(2 * table.vectors), path)
    out = pd.read_parquet(tmp_path / "out.parquet")
    assert [list(one) for one in out["history"]] == [[1], [2, 3]]
    assert np.stack(out["embedding"]).tolist() == [[2, 4], [6, 9]]


def test_ids_that_fit_no_table_are_an_error_not_left_out(tmp_path):
    np.savez(tmp_path / "x.npz", user_embedding=np.ones((6, 2)), user_id=np.arange(7))
    with pytest.raises(UserError, match="user_id has 7 ids, and no table has as many rows"):
        load_table(tmp_path / "x.npz")
    np.savez(tmp_path / "x.npz", user_embedding=np.ones((3, 2)), user_id=np.array([[5], [7], [9]]))
    assert ids_of(load_table(tmp_path / "x.npz")) == ["5", "7", "9"]
    with pytest.raises(UserError, match="is a float, which can't tell it from"):
        frame = pd.DataFrame({"user_id": [2.0**53, 1.0], "embedding": [[1.0], [2.0]]})
        frame.to_parquet(tmp_path / "x.parquet")
        load_table(tmp_path / "x.parquet")


def test_quotes_in_recboles_tokens_are_letters(tmp_path):
    path = tmp_path / "q.useremb"
    path.write_text('uid:token\tage:float\tv:float_seq\n"u3\t5\t1 2\nb\t6\t3 4\n"u9\t7\t5 6\n')
    table = load_table(path)
    assert ids_of(table) == ['"u3', "b", '"u9']
    save_table(tmp_path / "out.useremb", table, path)
    assert (tmp_path / "out.useremb").read_text() == path.read_text()


def test_half_precision_that_overflows_is_said_and_nothing_saved():
    table = UserTable("user_embedding", np.ones((3, 2), np.float16))
    edited = torch.tensor([[1.0, 2.0], [3.0, 70000.0], [5.0, 6.0]])
    with pytest.raises(
        UserError, match=r"x.npy: an edited value is beyond float16; nothing is saved"
    ):
        with_people(Path("x.npy"), table, edited)
    assert with_people(Path("x.npy"), table, edited / 2).dtype == np.float16


def test_nothing_that_is_read_is_written_over(workspace, capsys):
    planted(workspace)
    for arguments, name in [
        (["output=labels.csv"], "labels"),
        (["labels=x.csv.manifest.json", "output=x.csv"], "labels"),
    ]:
        assert main.main([*TABLE, "method=leace", *arguments]) == 2
        assert f"would write over {name}" in capsys.readouterr().err
    assert main.main([*TABLE, 'method=["leace", "barycentre"]', "output=x.csv"]) == 2
    assert "would write over each other's output" in capsys.readouterr().err


def test_another_runs_vectors_are_not_handed_over(workspace, capsys):
    planted(workspace)
    run = [*TABLE, "method=leace", "threads=1"]
    assert main.main(run) == 0
    path = Path("exp_results/external/mine/leace/seed-0/weights/user_embedding.npy")
    np.save(path, np.ones((120, 6), np.float32))
    assert main.main([*run, "output=x.csv"]) == 2
    assert "is not what the run left there" in capsys.readouterr().err
    assert not Path("x.csv").exists()

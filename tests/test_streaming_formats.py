"""stream=on and audits on shards of safetensors and parquet: what .npy shards give, and by id."""

import json
import os
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save_file as save_tensors
from tqdm import tqdm

import attack
import main
from data.tables.shard_formats import open_shard
from methods.shard_sample import sample_of_shards
from methods.targets import subject_of_file
from tests.test_streaming import (
    AUDIT,
    CALIBRATED,
    SIZES,
    STREAM,
    in_memory,
    planted,
    refused,
    shards,
    shop,
    vectors,
    whole,
    write_shards,
)
from tests.test_streaming_calibrated import by_threads
from utils.config import AttackConfig
from utils.errors import UserError

__all__ = ["shop"]

METHODS = {"leace": ["method=leace"], "barycentre": ["method=barycentre"], "calibrated": CALIBRATED}
CLASSES = np.array(["", "men", "women", "x"])  # of -1 to 2
SPARK = "part-0000{}-{}1111111-2222-3333-4444-555555555555-c000.snappy.parquet"


def ids_of(start, stop):
    """No numbers of rows, and in no order."""
    return [f"u{7919 * row % 100_003}" for row in range(start, stop)]


def as_safetensors(path, x, start):
    save_file({"vectors": x, "count": np.arange(3)}, path, {"by": "us"})


def as_lists(path, x, start):
    """Spark's: a list a user, and other columns."""
    ids = ids_of(start, start + len(x))
    ages = np.arange(start, start + len(x), dtype=np.int32)
    parquet.write_table(
        pa.table({"age": ages, "user_id": ids, "vec": list(x)}), path, row_group_size=64
    )


def as_fixed_lists(path, x, start):
    lists = pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), x.shape[1])
    parquet.write_table(pa.table({"vec": lists}), path)


def as_columns(path, x, start):
    """pandas', by whole numbers that are an index."""
    index = pd.Index([10**12 + 3 * row for row in range(start, start + len(x))][::-1], name="shop")
    pd.DataFrame(x, index).add_prefix("d").to_parquet(path)


FORMATS = {
    "safetensors": as_safetensors,
    "lists": as_lists,
    "fixed lists": as_fixed_lists,
    "columns": as_columns,
}


def rewrite(form, folder="vectors"):
    """The shards of .npy in another format."""
    start = 0
    ending = ".safetensors" if form == "safetensors" else ".parquet"
    for path in sorted(Path(folder).glob("*.npy")):
        x = np.load(path)
        FORMATS[form](path.with_suffix(ending), x, start)
        start += len(x)
        path.unlink()


@pytest.mark.thorough
@pytest.mark.parametrize("form", FORMATS)
def test_every_format_gives_what_npy_shards_do(shop, form):
    expected = {}
    for method, keys in METHODS.items():
        assert main.main([*STREAM, *keys, f"output={method}/"]) == 0
        expected[method] = whole(method)
    rewrite(form)
    for method, keys in METHODS.items():
        assert main.main([*STREAM, *keys, "output=out/"]) == 0
        np.testing.assert_allclose(whole("out"), expected[method], rtol=1e-6, atol=1e-6)
        assert {one.dtype for one in shards("out")} == {np.dtype(np.float32)}
        shutil.rmtree("out")


def test_what_else_a_shard_holds_stays(shop):
    rewrite("safetensors")
    assert main.main([*STREAM, "method=leace", "output=out/"]) == 0
    for path in Path("vectors").iterdir():
        before, after = load_file(path), load_file(f"out/{path.name}")
        np.testing.assert_array_equal(before.pop("count"), after.pop("count"))
        assert before.keys() == after.keys()
        assert np.abs(before["vectors"] - after["vectors"]).max() > 0.1
        with safe_open(f"out/{path.name}", "np") as file:
            assert file.metadata() == {"by": "us"}


@pytest.mark.parametrize("form", ["lists", "columns"])
def test_other_columns_and_the_schema_stay(shop, form):
    rewrite(form)
    assert main.main([*STREAM, "method=leace", "output=out/"]) == 0
    for path in Path("vectors").iterdir():
        before, after = parquet.read_table(path), parquet.read_table(f"out/{path.name}")
        assert before.schema.equals(after.schema, check_metadata=True)
        others = [name for name in before.column_names if name in ("age", "user_id", "shop")]
        assert others and before.select(others).equals(after.select(others))
        assert not before.equals(after)


def spread_labels():
    """labels/ as parquet parts by id, in another order, some users without a line."""
    rng = np.random.default_rng(5)
    start = 0
    for path in sorted(Path("labels").glob("*.npy")):
        labels = np.load(path)
        path.unlink()
        order = rng.permutation(len(labels))
        order = order[(labels[order] >= 0) | (rng.random(len(order)) < 0.5)]
        ids = np.array(ids_of(start, start + len(labels)))[order]
        frame = pa.table({"gender": CLASSES[labels[order] + 1], "user_id": ids})
        start += len(labels)
        parquet.write_table(frame, path.with_suffix(".parquet"))


@pytest.mark.parametrize("labels", ["labels/", "labels.csv", "labels.parquet"])
def test_labels_are_joined_by_id(shop, capsys, labels):
    assert main.main([*STREAM, "method=barycentre", "output=npy/"]) == 0
    rewrite("lists")
    spread_labels()
    frame = pd.concat(map(pd.read_parquet, sorted(Path("labels").iterdir())))
    frame = frame.sort_values("user_id")
    frame.to_csv("labels.csv", index=False)
    frame.to_parquet("labels.parquet", index=False)
    capsys.readouterr()
    keys = [STREAM[0], f"labels={labels}", "stream=on", "method=barycentre", "output=out/"]
    assert main.main(keys) == 0
    np.testing.assert_allclose(whole("out"), whole("npy"), rtol=1e-6, atol=1e-6)
    users, lines = sum(SIZES), len(frame)
    said = "".join(capsys.readouterr())
    assert f"joined by id; {lines} of {users} users have a line, 0 lines are of nobody" in said
    counts = json.loads(Path("out/manifest.json").read_text())["users_of_class"]
    known = np.bincount(np.load("labels.npy") + 1)
    assert counts == {name or "unknown": n for name, n in zip(CLASSES, known, strict=True)}
    # the users in one file, in memory
    parquet.write_table(
        pa.concat_tables(map(parquet.read_table, sorted(Path("vectors").iterdir()))), "all.parquet"
    )
    keys = ["user_embedding=all.parquet", "labels=labels.csv", "method=barycentre", "threads=1"]
    assert main.main(keys) == 0
    run = Path("exp_results/external/all/barycentre/seed-0")
    expected = np.load(run / "weights/user_embedding.npy")
    np.testing.assert_allclose(whole("out"), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("labels", ["labels/", "labels.csv"])
def test_several_attributes_are_hidden_by_their_combinations(workspace, capsys, labels):
    """As in memory; a part may have one combination alone, or nobody's label."""
    rng, sizes = np.random.default_rng(3), (150, 120, 10, 90)
    x = rng.normal(size=(sum(sizes), 6)).astype(np.float32)
    gender, age = rng.choice(["F", "M", ""], len(x), p=[0.45, 0.5, 0.05]), rng.choice(2, len(x))
    gender[270:280] = ["F", ""] * 5
    age[270:280] = 1
    age = np.where(rng.random(len(x)) < 0.05, "", np.array(["young", "old"])[age])
    ids = ids_of(0, len(x))
    x[:, 0] += 2 * ((gender == "F") & (age == "old"))
    for folder in ("vectors", "labels"):
        Path(folder).mkdir()
    people = pa.table({"user_id": ids, "vec": list(x)})
    truth = pa.table({"user_id": ids, "gender": gender, "age": age})
    start = 0
    for number, size in enumerate(sizes):
        parquet.write_table(people.slice(start, size), f"vectors/{number}.parquet")
        parquet.write_table(truth.slice(start, size), f"labels/{number}.parquet")
        start += size
    parquet.write_table(people, "all.parquet")
    truth.to_pandas().to_csv("labels.csv", index=False)
    keys = ["method=barycentre", "attribute=gender+age"]
    stream = ["user_embedding=vectors/", f"labels={labels}", "stream=on", "output=out/"]
    assert main.main([*stream, *keys]) == 0
    counts = json.loads(Path("out/manifest.json").read_text())["users_of_class"]
    assert [*counts] == ["F+old", "F+young", "M+old", "M+young", "unknown"]
    one_file = ["user_embedding=all.parquet", "labels=labels.csv", "threads=1"]
    assert main.main([*one_file, *keys]) == 0
    run = Path("exp_results/external/all/barycentre/gender+age/seed-0")
    assert '"attributes": "their combinations"' in (run / "summary.json").read_text()
    expected = np.load(run / "weights/user_embedding.npy")
    np.testing.assert_allclose(whole("out"), expected, rtol=1e-6, atol=1e-6)
    assert np.abs(expected - x).max() > 0.1
    # of too few users none is a class of its own
    few = truth.to_pandas()
    few.loc[few.gender.eq("M") & few.age.eq("old"), "age"] = "young"
    few.loc[:20, "age"] = "old"
    few.loc[:20, "gender"] = "M"
    few.to_csv("few.csv", index=False)
    capsys.readouterr()
    stream = ["user_embedding=vectors/", "labels=few.csv", "stream=on", "output=few/"]
    said = refused(capsys, *stream, *keys)
    assert 'of "gender+age" the combination M+old has 21 users; stream=on needs 50' in said
    assert "names one twice" in refused(capsys, *stream, keys[0], "attribute=age+age")
    truth.to_pandas().assign(age="old").to_csv("few.csv", index=False)
    one_class = 'few.csv: "age" has the classes old: at least two are needed'
    assert refused(capsys, *stream, *keys) == f"error: {one_class}"
    memory = ["user_embedding=all.parquet", "labels=few.csv", "output=o.npy", *keys]
    assert refused(capsys, *memory) == f"error: {one_class}"
    np.save("labels.npy", np.arange(len(x)) % 2)
    array = ["user_embedding=vectors/", "labels=labels.npy", "stream=on", "output=few/", *keys]
    assert "labels.npy holds one attribute, not gender and age" in refused(capsys, *array)
    memory = ["user_embedding=all.parquet", "labels=labels.npy", "output=o.npy", *keys]
    assert "labels.npy holds one attribute, not gender and age" in refused(capsys, *memory)


def test_leace_in_passes_says_that_nothing_is_left(shop, capsys):
    x, labels = planted(sum(SIZES), d=2)
    shutil.rmtree("vectors")
    shutil.rmtree("labels")
    write_shards(x.astype(np.float32), labels)
    assert main.main([*STREAM, "method=leace", "output=out/"]) == 0
    assert "nothing is left: there are as many directions" in "".join(capsys.readouterr())


@pytest.mark.parametrize("attribute", ["gender", "gender+age"])
def test_a_part_of_labels_without_a_line_leaves_its_users_unknown(shop, attribute):
    rewrite("lists")
    spread_labels()
    for path in Path("labels").iterdir():
        frame = pd.read_parquet(path)
        frame["age"] = np.where(np.arange(len(frame)) % 2, "old", "young")
        frame = frame[:0] if path.stem == "part-1" else frame
        frame.to_parquet(path, index=False)
    keys = ["method=leace", f"attribute={attribute}", "output=out/"]
    assert main.main([*STREAM, *keys]) == 0
    counts = json.loads(Path("out/manifest.json").read_text())["users_of_class"]
    assert sum(counts.values()) == sum(SIZES)
    assert counts["unknown"] >= SIZES[1]


def test_parts_of_spark_are_matched_by_number_and_some_are_empty(shop):
    assert main.main([*STREAM, "method=leace", "output=npy/"]) == 0
    rewrite("lists")
    spread_labels()
    for folder, write in (("vectors", "a"), ("labels", "b")):
        for number, path in enumerate(sorted(Path(folder).iterdir()), 1):
            path.rename(path.with_name(SPARK.format(number, write)))
        nobody = parquet.read_table(f"{folder}/{SPARK.format(1, write)}").slice(0, 0)
        for number in (0, 4):
            parquet.write_table(nobody, f"{folder}/{SPARK.format(number, write)}")
        for name in ("_SUCCESS", ".part-00000.parquet.crc", "_metadata.parquet"):
            Path(folder, name).write_bytes(b"crc")
    assert main.main([*STREAM, "method=leace", "output=out/"]) == 0
    np.testing.assert_allclose(whole("out"), whole("npy"), rtol=1e-6, atol=1e-6)
    sizes = [parquet.read_metadata(path).num_rows for path in sorted(Path("out").glob("part-*"))]
    assert sizes == [0, *SIZES, 0]


def test_two_ranks_know_the_same_classes(shop):
    """Each has classes in its shards that the other has not."""
    rewrite("lists")
    spread_labels()
    second = pd.read_parquet("labels/part-1.parquet")
    second.loc[:59, "gender"] = "another"
    second.to_parquet("labels/part-1.parquet", index=False)
    expected = by_threads(1, "one")
    np.testing.assert_allclose(by_threads(2, "two"), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.thorough
@pytest.mark.parametrize("form", ["npy", "safetensors", "lists"])
def test_an_output_folder_is_audited_and_its_map_applied(shop, form):
    """Beside its shards it has the map, which is a safetensors file too."""
    if form != "npy":
        rewrite(form)
    assert main.main([*STREAM, "method=leace", "output=out/"]) == 0
    assert Path("out/eraser.safetensors").exists()
    config = AttackConfig(attack="audit", user_embedding="out/", labels="labels/")
    sample = sample_of_shards(config)
    known = np.load("labels.npy") >= 0
    np.testing.assert_array_equal(sample.vectors, whole("out")[known])
    assert sample.said.endswith(f"{sum(SIZES)} in 3 shards.")
    if form == "safetensors":
        keys = [AUDIT[0], "user_embedding=out/", *AUDIT[2:], "audit_permutations=19", "threads=1"]
        assert attack.main(keys) == 0
        result = json.loads(next(Path().glob("out.audit*.json")).read_text())
        assert result["treatment"] == sample.said
    part = next(Path("vectors").glob("part-1.*"))
    keys = ["eraser=out/eraser.safetensors", f"user_embedding={part}"]
    assert main.main([*keys, f"output=later{part.suffix}"]) == 0
    np.testing.assert_array_equal(vectors(Path(f"later{part.suffix}")), shards("out")[1])
    # without the manifest it could be anybody's shard
    Path("out/manifest.json").unlink()
    with pytest.raises(UserError, match="safetensors has the name of leace's map"):
        sample_of_shards(config)


@pytest.mark.parametrize("form", FORMATS)
def test_the_same_users_are_drawn_for_an_audit(shop, form):
    config = AttackConfig(
        attack="audit", user_embedding="vectors/", labels="labels/", audit_users=200
    )
    expected = sample_of_shards(config)
    rewrite(form)
    found = sample_of_shards(config)
    np.testing.assert_array_equal(found.vectors, expected.vectors)
    np.testing.assert_array_equal(found.attribute.labels, expected.attribute.labels)


@pytest.mark.parametrize("form", FORMATS)
def test_what_is_missing_is_written_and_no_more(shop, monkeypatch, form):
    rewrite(form)
    keys = [*STREAM, "method=barycentre", "output=out/"]
    assert main.main(keys) == 0
    parts = sorted(Path("out").glob("part-*"))
    before = [path.read_bytes() for path in parts]
    parts[0].unlink()
    os.truncate(parts[2], len(before[2]) - 9)
    kept = parts[1].stat().st_mtime_ns
    monkeypatch.setattr("methods.passes.Users.go", None)  # no pass but the last is repeated
    assert main.main(keys) == 0
    assert [path.read_bytes() for path in parts] == before
    assert parts[1].stat().st_mtime_ns == kept


def test_one_table_of_several_is_named(shop):
    """By the key that names one of a file in memory."""
    for path in sorted(Path("vectors").iterdir()):
        x = np.load(path)
        save_file({"gmf": x, "mlp": 2 * x}, path.with_suffix(".safetensors"))
        path.unlink()
    keys, known = [*STREAM, "method=leace", "output=out/"], np.load("labels.npy") >= 0
    assert main.main(keys) == 2
    assert main.main([*keys, "table=gmf"]) == 0
    before, after = (load_file(f"{folder}/part-0.safetensors") for folder in ("vectors", "out"))
    np.testing.assert_array_equal(after["mlp"], before["mlp"])
    assert np.abs(after["gmf"] - before["gmf"]).max() > 0.1
    assert main.main([*keys, "table=mlp"]) == 2  # the folder is of another table
    keys = {"user_embedding": "vectors/", "labels": "labels/", "table": "mlp"}
    target, _ = subject_of_file(AttackConfig(attack="audit", **keys), Path("vectors"))
    np.testing.assert_array_equal(target.embedding[0], 2 * np.load("vectors.npy")[known][0])
    assert target.result.name == "vectors.mlp.attack.json"


def test_bfloat16_is_read_and_written(shop):
    x = torch.from_numpy(np.load("vectors.npy")).to(torch.bfloat16)
    for path in Path("vectors").iterdir():
        path.unlink()
    for number, part in enumerate(x.split(SIZES)):
        save_tensors({"vectors": part.clone()}, f"vectors/part-{number}.safetensors")
    np.save("vectors.npy", x.float().numpy())
    assert main.main([*STREAM, "method=leace", "output=out/"]) == 0
    expected = torch.from_numpy(in_memory("leace")).to(torch.bfloat16)
    found = torch.cat([load_tensors(f"out/part-{n}.safetensors")["vectors"] for n in range(3)])
    assert found.dtype == torch.bfloat16
    np.testing.assert_allclose(found.float(), expected.float(), rtol=2**-7, atol=1e-6)


def test_safetensors_have_ids_too(shop):
    assert main.main([*STREAM, "method=leace", "output=npy/"]) == 0
    labels, start = np.load("labels.npy"), 10**9
    ids = np.arange(start, start + len(labels))[::-1]
    parts = np.split(ids, np.cumsum(SIZES)[:-1])
    for path, own in zip(sorted(Path("vectors").iterdir()), parts, strict=True):
        tensors = {"vectors": np.load(path), "user_id": own[:, None].copy()}
        save_file(tensors, path.with_suffix(".safetensors"))
        path.unlink()
    frame = pd.DataFrame({"id": ids, "gender": CLASSES[labels + 1]}).sort_values("id")
    frame.to_csv("labels.csv", index=False)
    keys = [STREAM[0], "labels=labels.csv", "stream=on", "method=leace", "output=out/"]
    assert main.main(keys) == 0
    np.testing.assert_allclose(whole("out"), whole("npy"), rtol=1e-6, atol=1e-6)


def test_nobody_of_recbole_is_left_alone(shop):
    """[PAD] has no label, and leace moves users without one."""
    rewrite("lists")
    frame = parquet.read_table("vectors/part-0.parquet")
    ids = pa.array(["[PAD]", *frame["user_id"].to_pylist()[1:]])
    parquet.write_table(frame.set_column(1, "user_id", ids), "vectors/part-0.parquet")
    assert main.main([*STREAM, "method=leace", "output=out/"]) == 0
    before, after = (vectors(Path(folder, "part-0.parquet")) for folder in ("vectors", "out"))
    assert [*np.flatnonzero((before == after).all(1))] == [0]


def spoil(what):
    """Make something of the second shard, or of its labels, wrong."""
    path, labels = Path("vectors/part-1.parquet"), Path("labels/part-1.parquet")
    if what.startswith("tensor"):
        path = path.with_suffix(".safetensors")
        x = load_file(path)["vectors"]
    else:
        frame = parquet.read_table(path)
        x = vectors(path)
    if what in ("cut", "tensor cut"):
        os.truncate(path, path.stat().st_size - 8)
    elif what == "tensor text":
        path.write_text("user,gender")
    elif what == "tensor wide":
        save_file({"vectors": np.hstack([x, x])}, path)
    elif what == "tensor whole":
        save_file({"vectors": x.astype(np.int64)}, path)
    elif what == "tensor several":
        save_file({"a": x, "b": x}, path)
    elif what == "mixed":
        np.save("vectors/part-3.npy", x)
    elif what == "wide":
        parquet.write_table(frame.set_column(2, "vec", [list(np.hstack([x, x]))]), path)
    elif what == "ragged":
        rows = [*x]
        rows[50] = rows[50][:4]
        parquet.write_table(frame.set_column(2, "vec", [rows]), path)
    elif what == "no vector":
        parquet.write_table(frame.set_column(2, "vec", [[*x[:50], None, *x[51:]]]), path)
    elif what == "NaN":
        x[50, 2] = np.nan
        parquet.write_table(frame.set_column(2, "vec", [list(x)]), path)
    elif what == "text":
        parquet.write_table(frame.set_column(2, "vec", [["a"] * 90]), path)
    elif what == "no ids":
        parquet.write_table(frame.drop_columns("user_id"), path)
    elif what == "other name":
        parquet.write_table(frame.rename_columns(["age", "user_id", "other"]), path)
    elif what in ("id twice", "no id"):
        ids = frame["user_id"].to_pylist()
        ids[40] = ids[7] if what == "id twice" else None
        parquet.write_table(frame.set_column(1, "user_id", [ids]), path)
    elif what == "label twice":
        own = parquet.read_table(labels)
        parquet.write_table(pa.concat_tables([own, own.slice(3, 1)]), labels)
    elif what == "others":
        shutil.copy("labels/part-2.parquet", labels)
    elif what == "no labels":
        labels.unlink()
    elif what == "no shard":
        path.unlink()
    elif what == "no column":
        parquet.write_table(parquet.read_table(labels).rename_columns(["sex", "id"]), labels)


WRONG = {
    "cut": "vectors/part-1.parquet is not a parquet file",
    "tensor cut": "vectors/part-1.safetensors is not a safetensors file",
    "tensor text": "vectors/part-1.safetensors is not a safetensors file",
    "tensor wide": "vectors/part-1.safetensors has 12 dimensions, vectors/part-0.safetensors has 6",
    "tensor whole": "vectors/part-1.safetensors must hold a float array (n_users, d), got int64",
    "tensor several": "vectors/part-1.safetensors has several tables; name one with table=NAME",
    "mixed": "vectors has files of several formats, as part-0.parquet and part-3.npy",
    "wide": "vectors/part-1.parquet has 12 dimensions, vectors/part-0.parquet has 6",
    "ragged": 'vectors/part-1.parquet: column "vec" has 6 numbers in row 0 and 4 in row 50',
    "no vector": 'vectors/part-1.parquet: column "vec" has no vector in row 50',
    "NaN": "vectors/part-1.parquet: row 50 has a value that is not finite",
    "text": 'vectors/part-1.parquet: column "vec" has no numbers',
    "no ids": "vectors/part-0.parquet has ids, and vectors/part-1.parquet has none",
    "other name": 'vectors/part-1.parquet has the column "other" where vectors/part-0.parquet has',
    "id twice": "vectors/part-1.parquet: the user id",
    "no id": "vectors/part-1.parquet: row 40 has no user id",
    "label twice": "labels/part-1.parquet: the user id",
    "others": "labels/part-1.parquet has no label of any of the embedding's users",
    "no labels": "labels/part-1.parquet does not exist",
    "no shard": "labels/part-1.parquet has labels of no shard in vectors",
    "no column": 'labels/part-1.parquet has no column "gender"',
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_with_a_shard_is_said_in_a_line(shop, capsys, what):
    if what.startswith("tensor"):
        rewrite("safetensors")
    else:
        rewrite("lists")
        spread_labels()
    spoil(what)
    error = refused(capsys, *STREAM, "method=leace", "output=out/")
    assert error.startswith(f"error: {WRONG[what]}")
    assert not list(Path().glob("out/part*"))


def test_labels_by_id_of_nobody_are_none(shop, capsys):
    rewrite("lists")
    Path("empty.csv").write_text("user_id,gender\n")
    arguments = [STREAM[0], "labels=empty.csv", "stream=on", "method=leace", "output=out/"]
    assert "empty.csv has no labels; it needs a row a user" in refused(capsys, *arguments)


def test_an_audit_reads_shards_of_several_dtypes_whole(shop, monkeypatch):
    """Values that float16 has none for, behind a shard of float16; and without progress bars."""
    config = AttackConfig(
        attack="audit", user_embedding="vectors/", labels="labels/", audit_users=200
    )
    first, *others = sorted(Path("vectors").iterdir())
    np.save(first, vectors(first).astype(np.float16))
    for path in others:
        np.save(path, vectors(path).astype(np.float32) * 1e-9)
    found = sample_of_shards(config).vectors
    assert found.dtype == np.float32
    late = np.abs(found).max(1) < 1e-7
    assert late.sum() > 50 and np.abs(found[late]).min() > 0
    monkeypatch.setattr("methods.shard_sample.tqdm", partial(tqdm, disable=True))
    np.testing.assert_array_equal(sample_of_shards(config).vectors, found)


def test_an_id_in_two_shards_is_seen_with_labels_in_one_file(shop, capsys):
    rewrite("lists")
    spread_labels()
    pd.concat(map(pd.read_parquet, Path("labels").iterdir())).to_csv("labels.csv", index=False)
    shutil.copy("vectors/part-1.parquet", "vectors/part-3.parquet")
    keys = [STREAM[0], "labels=labels.csv", "stream=on", "method=leace", "output=out/"]
    assert "vectors: the user id u" in refused(capsys, *keys)


def test_what_bfloat16_and_float16_can_not_hold_is_said(shop, capsys):
    for number, n in enumerate(SIZES):
        x, labels = planted(n, seed=number)
        x[:, 0] = np.random.default_rng(0).uniform(-6e4, 6e4, n) / (1 + (labels == 1))
        x[0, 0], labels[0] = 60_000, 1
        np.save(f"vectors/part-{number}.npy", x.astype(np.float16))
        np.save(f"labels/part-{number}.npy", labels)
    rewrite("lists")
    error = refused(capsys, *STREAM, "method=barycentre", "output=out/")
    assert "an edited value is beyond float16" in error
    assert not list(Path("out").glob(".*.tmp"))


def test_a_shard_is_read_in_blocks(shop):
    """Of 40 rows, as BLOCK says in this shop, also where row groups are larger."""
    for form in ("safetensors", "lists"):
        Path(form).mkdir()
        x = np.load("vectors/part-0.npy")
        path = Path(form, "a.safetensors" if form == "safetensors" else "a.parquet")
        FORMATS[form](path, x, 0)
        sizes = [len(block) for block in open_shard(path).blocks()]
        assert sum(sizes) == 700
        assert max(sizes) == 40

"""stream=on: the in-memory results from blocks, by one process or several; faults in one line."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

import attack
import main
from data.tables.shards import ArrayFile
from methods.barycentre import to_barycentre
from methods.gaussian import Moments
from methods.leace import least_squares, of_moments
from methods.shard_sample import drawn, sample_of_shards
from methods.streaming import look
from tests.conftest import last_line
from utils.config import AttackConfig
from utils.ranks import joined

PROJECT = Path(__file__).resolve().parents[1]
SIZES = (700, 90, 333)
METHODS = ("leace", "barycentre")
CALIBRATED = ["method=calibrated", "calibrated_rounds=0"]
POLISHED = ["method=calibrated", "calibrated_rounds=2"]
STREAM = ["user_embedding=vectors/", "labels=labels/", "stream=on"]


def planted(n, d=6, seed=0, scale=1.0, offset=0.0):
    """Three classes that differ in mean and spread, and users without a label."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(-1, 3, n)
    x = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) * (1 + 0.3 * labels[:, None])
    return scale * (x + 0.5 * labels[:, None]) + offset, labels


def write_shards(x, labels, sizes=SIZES):
    """vectors/ and labels/, and all of it in one file each."""
    bounds = np.cumsum(sizes)[:-1]
    for name, whole in (("vectors", x), ("labels", labels)):
        Path(name).mkdir()
        np.save(f"{name}.npy", whole)
        for number, part in enumerate(np.split(whole, bounds)):
            np.save(f"{name}/part-{number}.npy", part)


def vectors(path):
    """What a shard holds, read by other means than ours."""
    if path.suffix == ".npy":
        return np.load(path)
    if path.suffix == ".safetensors":
        return load_file(path)["vectors"]
    frame = pd.read_parquet(path)
    if "vec" not in frame:
        return frame.to_numpy()
    return np.stack(frame["vec"]) if len(frame) else np.empty((0, 6), np.float32)


def shards(folder):
    endings = (".npy", ".safetensors", ".parquet")
    paths = [path for path in sorted(Path(folder).iterdir()) if path.suffix in endings]
    return [vectors(path) for path in paths if path.name != "eraser.safetensors"]


def whole(folder):
    return np.concatenate(shards(folder))


def in_memory(method):
    keys = ["user_embedding=vectors.npy", "labels=labels.npy", f"method={method}", "threads=1"]
    assert main.main(keys) == 0
    return np.load(f"exp_results/external/vectors/{method}/seed-0/weights/user_embedding.npy")


@pytest.fixture
def shop(workspace, monkeypatch):
    """Shards of float32, in blocks of 40 rows."""
    monkeypatch.setattr("data.tables.shards.BLOCK", 240)
    x, labels = planted(sum(SIZES))
    write_shards(x.astype(np.float32), labels)
    return workspace


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("labels", ["labels/", "labels.npy", "labels.csv"])
def test_blocks_of_shards_give_what_all_users_in_memory_do(shop, method, labels):
    names = ["", "a", "b", "c"]  # of -1 to 2
    lines = [names[label + 1] for label in np.load("labels.npy")]
    Path("labels.csv").write_text("\n".join(["gender", *lines]) + "\n")
    keys = ["user_embedding=vectors/", f"labels={labels}", "stream=on", f"method={method}"]
    assert main.main([*keys, "output=out/"]) == 0
    edited = shards("out")
    assert tuple(map(len, edited)) == SIZES
    assert {one.dtype for one in edited} == {np.dtype(np.float32)}
    expected, before = in_memory(method), np.load("vectors.npy")
    np.testing.assert_allclose(whole("out"), expected, rtol=1e-6, atol=1e-6 * before.std())
    assert np.abs(expected - before).max() > 0.1
    manifest = json.loads(Path("out/manifest.json").read_text())
    classes = np.unique(np.load("labels.npy"), return_counts=True)[1].tolist()
    assert [*manifest["users_of_class"].values()] == [*classes[1:], classes[0]]


def test_one_large_file_is_a_shard_and_class_numbers_may_have_gaps(shop):
    np.save("labels.npy", 7 * np.load("labels.npy").astype(np.int8))
    keys = ["user_embedding=vectors.npy", "labels=labels.npy", "method=barycentre"]
    assert main.main([*keys, "stream=on", "output=out"]) == 0
    np.testing.assert_allclose(np.load("out/vectors.npy"), in_memory("barycentre"), atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("dtype", "apart"), [(np.float64, 1e-6), (np.float32, 0.07)])
def test_far_from_the_origin_nothing_is_lost(shop, method, dtype, apart):
    """float32 itself tells a million from its neighbours by 0.06."""
    shutil.rmtree("vectors")
    shutil.rmtree("labels")
    x, labels = planted(sum(SIZES), scale=100.0, offset=1e6)
    x = x.astype(dtype)
    write_shards(x, labels)
    assert main.main([*STREAM, f"method={method}", "output=out/"]) == 0
    near, known = x.astype(np.float64) - 1e6, labels >= 0
    if method == "leace":
        expected = least_squares(near[known], labels[known])(near)
    else:
        expected = to_barycentre(Moments.of(near, labels, 3))(near, labels)
    np.testing.assert_allclose(whole("out") - 1e6, expected, rtol=0, atol=apart)
    np.testing.assert_allclose(whole("out"), in_memory(method), rtol=1e-7, atol=apart)


def test_the_map_of_leace_edits_users_who_come_later(shop):
    assert main.main([*STREAM, "method=leace", "output=out/"]) == 0
    keys = ["eraser=out/eraser.safetensors", "user_embedding=vectors/part-1.npy"]
    assert main.main([*keys, "output=later.npy"]) == 0
    np.testing.assert_array_equal(np.load("later.npy"), np.load("out/part-1.npy"))


def test_moments_of_parts_merge_to_those_of_all():
    x, labels = planted(500, scale=3.0, offset=1e6)
    labels[:200] = np.minimum(labels[:200], 1)  # nobody of the last class in the first parts
    parts = [Moments.of(x[a : a + 50], labels[a : a + 50], 3) for a in range(0, 500, 50)]
    merged = Moments.none(3, 6)
    for part in parts:
        merged = merged.merged(part)
    expected = Moments.of(x - 1e6, labels, 3)
    np.testing.assert_array_equal(merged.counts, expected.counts)
    np.testing.assert_allclose(merged.means - 1e6, expected.means, atol=1e-8)
    np.testing.assert_allclose(merged.scatters, expected.scatters, rtol=1e-8, atol=1e-6)
    moved = Moments.of(x - 7, labels, 3).moved(np.full(6, 7.0))
    np.testing.assert_allclose(moved.means, merged.means)
    np.testing.assert_allclose(
        of_moments(expected).projection,
        least_squares((x - 1e6)[labels >= 0], labels[labels >= 0]).projection,
        atol=1e-10,
    )


@pytest.mark.thorough
def test_two_processes_of_torchrun_give_what_one_does(shop):
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    keys = [*STREAM, *POLISHED]
    command = [*start, str(PROJECT / "main.py"), *keys, "output=two/"]
    one = subprocess.run(
        command,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert one.returncode == 0, one.stderr
    assert one.stdout.count("by 2 processes") == one.stdout.count("were there") == 1
    assert main.main([*keys, "output=one/"]) == 0
    np.testing.assert_allclose(whole("two"), whole("one"), rtol=1e-5, atol=1e-6)
    # what two have begun one goes on with: the same but for rounding, its blocks being others
    last = np.load("two/part-2.npy")
    Path("two/part-2.npy").unlink()
    assert main.main([*keys, "output=two/"]) == 0
    np.testing.assert_allclose(np.load("two/part-2.npy"), last, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", [["method=barycentre"], POLISHED])
@pytest.mark.parametrize("size", [2, 4])
def test_ranks_give_what_one_does(shop, ranks, method, size):
    assert [one.end()[0] for one in ranks(size, *STREAM, *method, "output=all/")] == [0] * size
    assert main.main([*STREAM, *method, "output=one/"]) == 0
    np.testing.assert_allclose(whole("all"), whole("one"), rtol=1e-5, atol=1e-6)
    assert np.abs(whole("all") - np.load("vectors.npy")).max() > 0.1


def test_more_ranks_than_shards_and_each_counts(shop, ranks):
    keys = ["user_embedding=vectors/", "labels=labels.csv", "stream=on", "method=leace"]
    lines = [f"{user},{label}" for user, label in enumerate(np.load("labels.npy"), 7)]
    Path("labels.csv").write_text("\n".join(["user,gender", *lines]) + "\n")
    ended = [one.end() for one in ranks(4, *keys, "output=four/")]
    assert [code for code, *_ in ended] == [0] * 4
    assert "taken row by row" in ended[0][1]
    assert [said for _, said, _ in ended[1:]] == [""] * 3
    assert main.main([*keys, "output=one/"]) == 0
    np.testing.assert_allclose(whole("four"), whole("one"), rtol=1e-5, atol=1e-6)
    assert "1 of 4 processes have no shard" in Path("four/stream.log").read_text()
    # the same again, where two shards are missing
    before = Path("four/part-1.npy").read_bytes()
    for number in (0, 1):
        Path(f"four/part-{number}.npy").unlink()
    assert [one.end()[0] for one in ranks(2, *keys, "output=four/")] == [0] * 2
    assert Path("four/part-1.npy").read_bytes() == before
    np.testing.assert_allclose(whole("four"), whole("one"), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", [["method=barycentre"], POLISHED])
def test_what_is_there_is_not_written_again(shop, capsys, monkeypatch, method):
    keys = [*STREAM, *method, "output=out/"]
    assert main.main(keys) == 0
    before = {path.name: path.read_bytes() for path in Path("out").glob("*.npy")}
    Path("out/part-0.npy").unlink()
    os.truncate("out/part-2.npy", 500)
    kept = Path("out/part-1.npy").stat().st_mtime_ns
    monkeypatch.setattr("methods.passes.Users.go", None)  # no pass but the last is repeated
    assert main.main(keys) == 0
    assert f"{SIZES[0] + SIZES[2]} users written" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in Path("out").glob("*.npy")} == before
    assert Path("out/part-1.npy").stat().st_mtime_ns == kept
    assert main.main(keys) == 0
    assert "all shards were there already" in capsys.readouterr().out


def refused(capsys, *arguments):
    assert main.main([*arguments]) == 2
    error = last_line(capsys.readouterr().err)
    assert error.startswith("error: ")
    return error


def test_a_folder_of_something_else_is_left_alone(shop, capsys):
    keys = [*STREAM, "output=out/"]
    assert main.main([*keys, "method=leace"]) == 0
    before = {path: path.read_bytes() for path in Path("out").glob("*.npy")}
    assert "made with other method" in refused(capsys, *keys, "method=barycentre")
    os.utime("vectors/part-1.npy")
    assert "made with other shards" in refused(capsys, *keys, "method=leace")
    os.utime("labels/part-1.npy")
    assert "other shards and labels" in refused(capsys, *keys, "method=leace")
    assert {path: path.read_bytes() for path in Path("out").glob("*.npy")} == before
    Path("mine").mkdir()
    shutil.copy("vectors/part-0.npy", "mine/other.npy")
    said = refused(capsys, *STREAM, "method=leace", "output=mine")
    assert "mine/other.npy is there, and no manifest.json" in said
    assert main.main([*STREAM, "method=leace", "output=third/"]) == 0
    np.savez("third/moments.npz", counts=np.zeros(3))
    assert "moments.npz is damaged" in refused(capsys, *STREAM, "method=leace", "output=third/")


def spoil(what):
    """Make something of the second shard wrong."""
    vectors, labels = Path("vectors/part-1.npy"), Path("labels/part-1.npy")
    x = np.load(vectors)
    if what == "cut":
        os.truncate(vectors, 1000)
    elif what == "no array":
        vectors.write_text("user,gender\n")
    elif what == "empty":
        vectors.write_bytes(b"")
    elif what == "objects":
        np.save(vectors, np.array([{}]), allow_pickle=True)
    elif what == "integers":
        np.save(vectors, x.astype(int))
    elif what == "columns":
        np.save(vectors, np.asfortranarray(x))
    elif what == "wide":
        np.save(vectors, np.hstack([x, x]))
    elif what == "NaN":
        x[50, 2] = np.nan
        np.save(vectors, x)
    elif what == "huge":
        np.save(vectors, x.astype(np.float64) + 1e39)
    elif what == "few labels":
        np.save(labels, np.zeros(89, np.int64))
    elif what == "no labels":
        labels.unlink()
    elif what == "fractions":
        np.save(labels, np.zeros(90))
    elif what == "numbers":
        np.save(labels, np.arange(90) + 999)
    elif what == "one class":
        for path in Path("labels").iterdir():
            np.save(path, np.zeros(len(np.load(path)), np.int64))


WRONG = {
    "cut": "vectors/part-1.npy is cut short: its header promises 2288 bytes, it has 1000",
    "no array": "vectors/part-1.npy is not a NumPy array file",
    "empty": "vectors/part-1.npy is not a NumPy array file",
    "objects": "vectors/part-1.npy is not a NumPy array file",
    "integers": "vectors/part-1.npy must hold a float array (n_users, d), got int64 (90, 6)",
    "columns": "vectors/part-1.npy is stored column by column",
    "wide": "vectors/part-1.npy has 12 dimensions, vectors/part-0.npy has 6",
    "NaN": "vectors/part-1.npy: row 50 has a value that is not finite",
    "huge": "vectors/part-1.npy: row 0 has the value 1e+39, beyond float32",
    "few labels": "labels/part-1.npy has the shape (89,), vectors/part-1.npy has 90 users",
    "no labels": "labels/part-1.npy does not exist",
    "fractions": "labels/part-1.npy must hold whole numbers, got float64",
    "numbers": "the labels of vectors/part-1.npy have the class 1088",
    "one class": 'labels: "gender" has the classes 0: at least two are needed',
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_with_a_shard_is_said_in_a_line(shop, capsys, what):
    spoil(what)
    error = refused(capsys, *STREAM, "method=leace", "output=out/")
    assert error.startswith(f"error: {WRONG[what]}")
    assert not list(Path().glob("out/*.npy"))
    assert not Path("out/manifest.json").exists()


@pytest.mark.thorough
@pytest.mark.parametrize(
    "what", ["cut", "NaN", "few labels", "no labels", "fractions", "one class"]
)
def test_one_rank_says_what_is_wrong_and_all_end(shop, ranks, what):
    spoil(what)
    start = time.monotonic()
    ended = [one.end() for one in ranks(2, *STREAM, "method=leace", "output=out/")]
    assert time.monotonic() - start < 30
    assert [code for code, *_ in ended] == [2, 2]
    said = [line for *_, error in ended for line in error.splitlines() if "error" in line]
    number = 0 if what == "one class" else 1  # what all find the first one says
    assert [line.rpartition("\r")[2] for line in said] == [said[0].rpartition("\r")[2]]
    assert f"error: rank {number}: {WRONG[what]}" in said[0]
    assert not list(Path().glob("out/*.npy"))


def test_what_can_not_be_written_leaves_nothing_half_written(shop, capsys):
    """float16 ends at 65,504: a user of the class that is widened moves beyond."""
    rng = np.random.default_rng(0)
    for number, n in enumerate(SIZES):
        x, labels = planted(n, seed=number)
        x[:, 0] = rng.uniform(-60_000, 60_000, n) / (1 + (labels == 1))
        x[0, 0], labels[0] = 60_000, 1
        np.save(f"vectors/part-{number}.npy", x.astype([np.float64, np.float16][number % 2]))
        np.save(f"labels/part-{number}.npy", labels)
    error = refused(capsys, *STREAM, "method=barycentre", "output=out/")
    assert "vectors/part-1.npy: an edited value is beyond float16" in error
    assert {path.name for path in Path("out").iterdir()} == {
        "part-0.npy", "moments.npz", "manifest.json", "stream.log"
    }  # fmt: skip


def test_keys_that_make_no_sense_together(shop, capsys, monkeypatch):
    for keys, says in [
        (["stream=on", "method=leace"], "needs user_embedding=FOLDER"),
        ([*STREAM, "method=leace"], "output=FOLDER"),
        ([*STREAM, "method=d2d", "output=out"], "leace, barycentre or calibrated; d2d has"),
        ([*STREAM, "method=leace", "output=out", "table=x"], 'has no table "x"'),
        ([*STREAM, "method=leace", "output=out", "record=r"], "record r does not go with"),
        ([*STREAM, "method=calibrated", "output=out", "calibrated_slices=9"],
         "calibrated_slices 9 does not go with"),
        ([*STREAM, "method=leace", "output=vectors"], "would be written over"),
        ([*STREAM, "method=leace", "output=labels/"], "would be written over"),
        ([*STREAM, "method=leace", "output=labels.npy"], "labels.npy"),
        (["user_embedding=no/", "labels=labels/", "stream=on", "method=leace", "output=out"],
         "no does not exist"),
        (["user_embedding=configs/", "labels=labels/", "stream=on", "method=leace", "output=out"],
         "configs has no .npy, .safetensors or .parquet file"),
        (["user_embedding=vectors/", "labels=labels.npy", "method=leace"], "add stream=on"),
    ]:  # fmt: skip
        assert says in refused(capsys, *keys)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    said = refused(capsys, "method=u2u")
    assert "torchrun is for method original, d2d, retrain or adv, and for stream=on" in said
    assert attack.main([]) == 2
    assert "torchrun is for main.py" in capsys.readouterr().err
    assert "eraser=FILE is one process's" in refused(capsys, "eraser=a", "user_embedding=b")
    assert "one run at a time, and these are 4; give model and seed" in refused(
        capsys, "seed=[0,1]", 'model=["ncf","lgn"]', "method=retrain"
    )


def test_shards_without_users_and_of_other_byte_orders(shop):
    x, labels = np.load("vectors.npy"), np.load("labels.npy")
    np.save("vectors/part-1.npy", x[700:790].astype(">f4"))
    np.save("vectors/part-3.npy", x[:0])
    np.save("labels/part-3.npy", labels[:0])
    assert main.main([*STREAM, "method=leace", "output=out/"]) == 0
    np.testing.assert_allclose(whole("out"), in_memory("leace"), rtol=1e-6, atol=1e-6)
    assert ArrayFile.open(Path("out/part-3.npy")).shape == (0, 6)


AUDIT = ["attack=audit", "user_embedding=vectors/", "labels=labels/", 'attackers=["logistic"]']


def audited():
    """The audit's result, moved out of the next one's way."""
    (path,) = Path().glob("vectors.audit*.json")
    return json.loads(path.rename("last.json").read_text())


@pytest.mark.thorough
def test_an_audit_of_shards_is_that_of_the_users_in_one_file(shop, capsys):
    """Where it takes all of them."""
    assert attack.main([*AUDIT, "audit_permutations=99"]) == 0
    of_shards = audited()
    offered = "user_embedding=vectors/ labels=labels/ output=edited/ stream=on\n"
    assert f"Next: python main.py method=calibrated {offered}" in capsys.readouterr().out
    whole = [AUDIT[0], "user_embedding=vectors.npy", "labels=labels.npy", AUDIT[3]]
    assert attack.main([*whole, "audit_permutations=99", "audit_users=100000"]) == 0
    assert of_shards["verdict"] == audited()["verdict"]
    labels = np.load("labels.npy")
    known, users = (labels >= 0).sum(), sum(SIZES)
    said = f"Audited are {known} users, drawn at random from the {known} of known label of {users}"
    assert of_shards["treatment"] == f"{said} in 3 shards."


def test_users_of_shards_are_drawn_alike_whatever_the_blocks(shop, monkeypatch):
    config = AttackConfig(
        attack="audit", user_embedding="vectors/", labels="labels/", audit_users=200
    )
    first = sample_of_shards(config)
    monkeypatch.setattr("data.tables.shards.BLOCK", 1000)
    again = sample_of_shards(config)
    np.testing.assert_array_equal(first.vectors, again.vectors)
    np.testing.assert_array_equal(first.attribute.labels, again.attribute.labels)
    other = sample_of_shards(dataclasses.replace(config, attack_seed=1))
    assert not np.array_equal(first.vectors, other.vectors)

    labels, table = np.load("labels.npy"), np.load("vectors.npy")
    rows = [int(np.flatnonzero((table == one).all(1))[0]) for one in first.vectors]
    assert len(rows) == len(set(rows)) == 200 and rows == sorted(rows)
    assert (labels[rows] == first.attribute.labels).all()


def test_an_audit_that_draws_too_few_of_a_class_names_what_to_raise(shop, capsys):
    assert attack.main([*AUDIT, "audit_users=8"]) == 2
    said = capsys.readouterr().err
    assert "users were drawn, and an audit needs 4; raise audit_users (now 8)" in said


def test_every_user_of_shards_is_as_likely_to_be_drawn(shop):
    """Of 50 draws of 200 of n users each is there in 50 · 200 / n, give or take."""
    config = AttackConfig(
        attack="audit", user_embedding="vectors/", labels="labels/", audit_users=200
    )
    with joined() as ranks:
        users = look(config, ranks)
    counts = np.zeros((3, max(SIZES)))
    for seed in range(50):
        for shard, row in drawn(users, 200, seed)[0]:
            counts[shard, row] += 1
    labels = np.split(np.load("labels.npy"), np.cumsum(SIZES)[:-1])
    known = np.concatenate([counts[i, : len(one)][one >= 0] for i, one in enumerate(labels)])
    assert counts.sum() == known.sum() == 50 * 200
    share = 200 / len(known)
    statistic = ((known - 50 * share) ** 2).sum() / (50 * share * (1 - share))
    assert abs(statistic - len(known)) < 5 * np.sqrt(2 * len(known))
    assert statistic > 0  # not the same number for all


def test_an_attack_reads_one_file_and_an_audit_names_a_damaged_shard(shop, capsys):
    assert attack.main([AUDIT[1], AUDIT[2]]) == 2
    assert "vectors/ is a folder of shards; add attack=audit" in capsys.readouterr().err
    assert attack.main([*AUDIT, "table=gmf"]) == 2
    assert 'has no table "gmf"; it has: user_embedding' in capsys.readouterr().err
    content = Path("vectors/part-1.npy").read_bytes()
    Path("vectors/part-1.npy").write_bytes(content[:-8])
    assert attack.main(AUDIT) == 2
    assert "vectors/part-1.npy is cut short" in capsys.readouterr().err
    table = np.load("vectors/part-0.npy")
    np.save("vectors/part-1.npy", np.full((SIZES[1], table.shape[1]), np.nan, np.float32))
    assert attack.main(AUDIT) == 2
    assert "vectors/part-1.npy: row" in capsys.readouterr().err

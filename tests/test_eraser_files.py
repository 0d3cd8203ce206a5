"""A fitted eraser is a file, and edits users who come later."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from scipy.stats import chi2, ortho_group

import attack
import main
from data.tables.files import load_table
from methods.eraser_files import About, warn_of_others
from methods.leace import least_squares

ERASER = "exp_results/external/mine/leace/seed-0/weights/eraser.safetensors"


def people(path, n, seed, d=6):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    vectors = rng.normal(size=(n, d)).astype(np.float32)
    vectors[:, 0] += 2 * labels
    ids = [f"{seed}-{one}" for one in range(n)]
    pd.DataFrame({"user_id": ids, "embedding": list(vectors)}).to_parquet(path)
    pd.DataFrame({"user_id": ids, "gender": np.where(labels, "M", "F")}).to_csv(
        path.with_suffix(".csv"), index=False
    )


@pytest.fixture
def fitted(workspace):
    people(workspace / "mine.parquet", 400, 0)
    arguments = ["user_embedding=mine.parquet", "labels=mine.csv", "method=leace", "threads=1"]
    assert main.main(arguments) == 0
    return workspace


def auc(table, labels, capsys):
    few = ["attackers=logistic", "shadow_ratio=0.5", "threads=1", f"labels={labels}"]
    assert attack.main([f"user_embedding={table}", *few]) == 0
    line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("  logistic"))
    return float(line.split()[-4])


def test_users_who_come_later_are_edited_by_the_same_map(fitted, capsys):
    people(fitted / "new.parquet", 300, 1)
    arguments = [f"eraser={ERASER}", "user_embedding=new.parquet"]
    assert main.main([*arguments, "output=out.parquet"]) == 0
    said = capsys.readouterr().out
    assert "LEACE of 300 users" in said
    assert "fitted on 400 users" in said
    assert list(load_table(Path("out.parquet")).ids) == list(load_table(Path("new.parquet")).ids)
    assert auc("new.parquet", "new.csv", capsys) > 0.85
    assert abs(auc("out.parquet", "new.csv", capsys) - 0.5) < 0.15
    # on the users of the fit it is the run's own result
    arguments = [f"eraser={ERASER}", "user_embedding=mine.parquet"]
    assert main.main([*arguments, "output=again.parquet"]) == 0
    edited = Path(ERASER).parents[1] / "edited/mine.parquet"
    np.testing.assert_array_equal(
        load_table(Path("again.parquet")).vectors, load_table(edited).vectors
    )
    assert {path.name for path in Path("exp_results/external").iterdir()} == {"mine"}


def test_the_same_users_give_the_same_bytes(fitted):
    before = Path(ERASER).read_bytes()
    shutil.rmtree("exp_results")
    keys = ["user_embedding=mine.parquet", "labels=mine.csv", "method=leace", "threads=1"]
    assert main.main(keys) == 0
    assert Path(ERASER).read_bytes() == before


def vectors_as(path, change):
    """The users of new.parquet with other vectors."""
    table = pd.read_parquet("new.parquet")
    table["embedding"] = list(change(np.stack(table["embedding"])).astype(np.float32))
    table.to_parquet(path)


def test_vectors_of_another_model_are_edited_with_a_warning(fitted, capsys):
    people(fitted / "new.parquet", 300, 1)
    stretched = np.diag([3, 2, 1, 1, 0.5, 0.3])
    for name, change, strange in [
        ("same", lambda x: x, False),
        ("few", lambda x: np.concatenate([x[:20], x[:20]]).repeat(8, 0)[:300], False),
        ("turned", lambda x: x @ stretched, True),
        ("moved", lambda x: x + 2, True),
        ("shrunk", lambda x: x.mean(0) + (x - x.mean(0)) / 10, True),
        ("constant", lambda x: 0 * x, False),  # too near the mean to be told
    ]:
        vectors_as(f"{name}.parquet", change)
        capsys.readouterr()
        keys = [f"eraser={ERASER}", f"user_embedding={name}.parquet", "output=out.parquet"]
        assert main.main(keys) == 0
        said = capsys.readouterr()
        assert ("not as those of the fit are" in said.out + said.err) == strange, name


@pytest.mark.parametrize("d", [1, 4, 40])
def test_distances_are_one_for_normal_users_in_any_coordinates(d):
    rng = np.random.default_rng(d)
    mix, labels = rng.normal(size=(d, d + 2)), rng.integers(0, 2, 4000)
    x = rng.normal(size=(4000, d)) @ mix + 5  # of d of d + 2 dimensions
    found = least_squares(x, labels).distances(x)
    assert found.dimensions == d
    assert found.median == pytest.approx(chi2(d).median() / d, rel=0.15)
    assert found.mean == pytest.approx(1)
    assert found.outside < 1e-20
    turn = ortho_group.rvs(d + 2, random_state=1)
    again = least_squares(x @ turn, labels).distances(x @ turn)
    assert (again.median, again.mean) == pytest.approx((found.median, found.mean), rel=1e-6)
    off = np.linalg.svd(mix)[2][-1]  # no user of the fit has anything there
    moved = least_squares(x, labels).distances(x + 3 * off)
    assert moved.median == pytest.approx(found.median)
    assert moved.outside == pytest.approx(9 / np.trace(np.cov(x.T, bias=True)))


def lognormal(rng, n, d):
    return rng.normal(size=(n, d)) * np.exp(2 * rng.normal(size=(n, 1)))


@pytest.mark.parametrize(
    ("n", "d", "draw"),
    [
        *((n, 64, lambda rng, n, d: rng.normal(size=(n, d))) for n in (60, 100, 128, 300, 943)),
        (800, 16, lognormal),
        (800, 16, lambda rng, n, d: rng.gamma(0.05, size=(n, d))),
        (800, 3, lambda rng, n, d: np.ones((n, d))),
        (8, 1, lambda rng, n, d: rng.normal(size=(n, d))),
    ],
)
def test_users_of_the_same_model_are_edited_without_a_warning(caplog, n, d, draw):
    x = draw(np.random.default_rng(n), 2 * n, d)
    labels = np.arange(n) % 2
    about = About("leace", "gender", n, "")
    for users in (x[:n], x[n:], x[:1]):
        warn_of_others(Path("x.npy"), least_squares(x[:n], labels), about, users)
    assert not caplog.records


@pytest.mark.parametrize("fit", [0, 7])
def test_what_was_constant_in_the_fit_is_not_to_move(caplog, fit):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 4)).astype(np.float32).astype(np.float64)
    x[:, 3] = fit
    about, erasing = About("leace", "gender", 300, ""), least_squares(x, np.arange(300) % 2)
    warn_of_others(Path("x.npy"), erasing, about, x)
    assert not caplog.records
    x[:, 3] = 8
    warn_of_others(Path("x.npy"), erasing, about, x)
    assert "outside of their dimensions" in caplog.text


def test_what_a_user_can_get_wrong(fitted, capsys):
    people(fitted / "other.parquet", 30, 2, d=5)
    Path("text.safetensors").write_text("no")
    save_file({"centre": np.zeros(6)}, "strange.safetensors")
    damaged = load_file(ERASER) | {"centre": np.full(6, np.nan)}
    negative = load_file(ERASER)
    negative["covariance"][0, 0] = -1
    skewed = load_file(ERASER)
    skewed["covariance"][0, 1] += 1
    half = {name: array.astype(np.float16) for name, array in load_file(ERASER).items()}
    with safe_open(ERASER, "np") as file:
        save_file(negative, "negative.safetensors", file.metadata())
        save_file(skewed, "skewed.safetensors", file.metadata())
        save_file(half, "half.safetensors", file.metadata())
        unnamed = file.metadata()["eraser"].replace('"gender"', "7")
        save_file(load_file(ERASER), "unnamed.safetensors", {"eraser": unnamed})
        many = file.metadata()["eraser"].replace(": 400", ': "many"')
        save_file(load_file(ERASER), "many.safetensors", {"eraser": many})
        nobody = file.metadata()["eraser"].replace(": 400", ": 0")
        save_file(load_file(ERASER), "nobody.safetensors", {"eraser": nobody})
        save_file(damaged, "nan.safetensors", file.metadata())
        of_another = file.metadata()["eraser"].replace("leace", "oblivion")
        save_file(load_file(ERASER), "later.safetensors", {"eraser": of_another})
        no_map = file.metadata()["eraser"].replace("widths", "heights")
        save_file(load_file(ERASER), "heights.safetensors", {"eraser": no_map})
        save_file({"centre": np.zeros(6)}, "part.safetensors", file.metadata())
    save_file(load_file(ERASER), "json.safetensors", {"eraser": "{"})
    new = "user_embedding=mine.parquet"
    for arguments, says in [
        ([f"eraser={ERASER}"], "needs user_embedding=FILE to edit and output=FILE"),
        ([f"eraser={ERASER}", new], "and output=FILE"),
        (
            [f"eraser={ERASER}", new, "output=o.csv", "method=d2d"],
            "leave method, labels and item_embedding",
        ),
        ([f"eraser={ERASER}", "user_embedding=other.parquet", "output=o.csv"], "fitted on 6 dim"),
        (["eraser=no.safetensors", new, "output=o.csv"], "no.safetensors does not exist"),
        (["eraser=text.safetensors", new, "output=o.csv"], "is not a fitted eraser file"),
        (["eraser=strange.safetensors", new, "output=o.csv"], "is no eraser of version 2"),
        (["eraser=heights.safetensors", new, "output=o.csv"], "is not a fitted eraser file"),
        (["eraser=part.safetensors", new, "output=o.csv"], "is not a fitted eraser file"),
        (["eraser=json.safetensors", new, "output=o.csv"], "is not a fitted eraser file"),
        (["eraser=negative.safetensors", new, "output=o.csv"], "its numbers are damaged"),
        (["eraser=skewed.safetensors", new, "output=o.csv"], "its numbers are damaged"),
        (["eraser=many.safetensors", new, "output=o.csv"], "its numbers are damaged"),
        (["eraser=nobody.safetensors", new, "output=o.csv"], "its numbers are damaged"),
        (["eraser=unnamed.safetensors", new, "output=o.csv"], "its numbers are damaged"),
        (["eraser=nan.safetensors", new, "output=o.csv"], "its numbers are damaged"),
        (["eraser=later.safetensors", new, "output=o.csv"], 'of the method "oblivion"'),
    ]:
        assert main.main(arguments) == 2
        error = capsys.readouterr().err
        assert says in error
        assert error.count("\n") == 1
        assert not Path("o.csv").exists()
    assert main.main(["eraser=half.safetensors", new, "output=o.csv"]) == 0


def test_what_was_there_is_replaced_with_a_word_and_a_strangers_manifest_stays(fitted, capsys):
    Path("o.csv").write_text("precious")
    beside = Path("o.csv.manifest.json")
    arguments = [f"eraser={ERASER}", "user_embedding=mine.parquet"]
    beside.write_text('{"mine": 1}')
    assert main.main([*arguments, "output=o.csv"]) == 0
    assert "o.csv was there, and is replaced" in capsys.readouterr().out
    assert beside.read_text() == '{"mine": 1}'
    beside.write_text('{"version": 1}')  # of ours, and no longer true
    assert main.main([*arguments, "output=o.csv"]) == 0
    assert not beside.exists()


def test_a_method_that_knows_its_own_users_alone_keeps_no_eraser(fitted):
    arguments = ["user_embedding=mine.parquet", "labels=mine.csv", "threads=1"]
    assert main.main([*arguments, "method=barycentre"]) == 0
    folder = Path("exp_results/external/mine/barycentre/seed-0/weights")
    assert folder.is_dir()
    assert not (folder / "eraser.safetensors").exists()

"""Your own embeddings and labels: u2u and d2d edit them, attack.py audits them."""

import json

import numpy as np
import pytest

import attack
import main
from data.tables.labels import load_labels


def planted(n=90, d=6, dtype=np.float32):
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 2
    embedding = rng.normal(size=(n, d)) * 0.1
    embedding[:, 0] += 0.2 * labels
    return embedding.astype(dtype), labels


def unlearn(*arguments):
    inputs = ["user_embedding=mine.npy", "labels=labels.csv", "threads=1"]
    return main.main([*inputs, *arguments])


def audit(path):
    arguments = [f"user_embedding={path}", "labels=labels.csv", "attackers=svm", "threads=1"]
    assert attack.main([*arguments, "shadow_ratio=0.5"]) == 0
    result = json.loads(path.with_name(f"{path.stem}.attack.json").read_text())
    return result["gender/shadow"]["attackers"]["svm"]


def write_labels(workspace, labels, column="gender"):
    names = ["MF"[label] for label in labels]
    (workspace / "labels.csv").write_text("\n".join([column, *names]) + "\n")


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_an_embedding_is_unlearned_in_its_shape_dtype_and_order(workspace, dtype):
    embedding, labels = planted(dtype=dtype)
    np.save(workspace / "mine.npy", embedding)
    write_labels(workspace, labels)
    assert unlearn("method=d2d", "unlearn_lr=0.003") == 0
    path = workspace / "exp_results/external/mine/d2d/seed-0/weights/user_embedding.npy"
    edited = np.load(path)
    assert (edited.shape, edited.dtype) == (embedding.shape, dtype)
    moved = np.linalg.norm(edited - embedding, axis=1)
    other = np.linalg.norm(edited - embedding[::-1], axis=1)
    assert moved.mean() < other.mean()  # rows are still the same users


def test_d2d_drives_an_attacker_of_few_users_below_chance_and_it_leaks_on(workspace):
    embedding, labels = planted()
    np.save(workspace / "mine.npy", embedding)
    write_labels(workspace, labels)
    assert unlearn("method=d2d", "unlearn_lr=0.003") == 0
    path = workspace / "exp_results/external/mine/d2d/seed-0/weights/user_embedding.npy"
    before, after = audit(workspace / "mine.npy"), audit(path)
    assert before["auc"]["mean"] > 0.75
    # flipped, the attacker is as good as before; with more users less is left: test_attack.py
    assert after["auc"]["mean"] < 0.3
    assert after["leakage"] > 0.2


@pytest.mark.parametrize(("dtype", "remarks"), [(np.float16, 1), (np.float32, 0)])
def test_rounding_is_that_of_the_saved_numbers(workspace, dtype, remarks):
    embedding, labels = planted(dtype=dtype)
    np.save(workspace / "mine.npy", embedding)
    write_labels(workspace, labels)
    # users of a class end some 1e-4 of their size apart, as nothing to float16
    exact = ["method=u2u", "unlearn_optimizer=exact", "au_trade_off=0.1"]
    assert unlearn(*exact) == 0
    folder = workspace / "exp_results/external/mine/u2u/alpha-0.1/seed-0"
    summary = json.loads((folder / "summary.json").read_text())
    assert len(summary["remarks"]) == remarks
    assert summary["rounding"] == np.finfo(dtype).eps


@pytest.mark.parametrize("method", ["u2u", "d2d"])
def test_zeros_stay_where_they_are_and_the_summary_is_json(workspace, method):
    embedding, labels = planted()
    np.save(workspace / "mine.npy", embedding * 0)
    write_labels(workspace, labels)
    assert unlearn(f"method={method}", "unlearn_steps=3") == 0
    folder = workspace / f"exp_results/external/mine/{method}/seed-0"
    summary = json.loads((folder / "summary.json").read_text(), parse_constant=pytest.fail)
    assert summary["moved"] == 0
    assert not np.load(folder / "weights/user_embedding.npy").any()


def test_npz_and_npy_labels_and_unknown_ones(workspace):
    embedding, labels = planted()
    labels = labels.copy()
    labels[:9] = -1
    np.savez(workspace / "mine.npz", user_embedding=embedding, items=np.zeros(3))
    np.save(workspace / "labels.npy", labels)
    arguments = ["user_embedding=mine.npz", "labels=labels.npy", "method=u2u", "unlearn_steps=3"]
    assert main.main(arguments) == 0
    folder = workspace / "exp_results/external/mine/u2u/seed-0"
    edited = np.load(folder / "weights/user_embedding.npy")
    np.testing.assert_array_equal(edited[:9], embedding[:9])
    assert (edited[9:] != embedding[9:]).any(axis=1).all()
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["users_of_class"] == {"0": 40, "1": 41, "unknown": 9}


SPELT = {
    "whole numbers": (["0", "0.0", "1", " 1", "01", "-1", "-1.0"], ["0", "0", "1", "1", "1"]),
    "text": (["NA", "None", "null", "", "nan", "NaN"], ["NA", "None", "null"]),
    "fractions": (["0.5", "0.50", "-0.5", "inf", "-inf"], ["0.5", "0.50", "inf"]),
    "large": (["9007199254740993", "9007199254740992"],) * 2,
}


@pytest.mark.parametrize("form", ["csv", "npy"])
@pytest.mark.parametrize("what", SPELT)
def test_labels_are_read_by_one_rule_from_every_file(tmp_path, caplog, what, form):
    spelt, classes = SPELT[what]
    path = tmp_path / f"labels.{form}"
    if form == "npy":
        np.save(path, np.array(spelt))
    else:
        path.write_text("\n".join(["row,gender", *(f"7,{label}" for label in spelt)]) + "\n")
    with caplog.at_level("INFO"):
        attribute = load_labels(path, "gender", len(spelt))
    assert [attribute.classes[label] for label in attribute.labels if label >= 0] == classes
    unknown = len(spelt) - len(classes)
    said = f"{path}: gender is unknown of {unknown} of {len(spelt)} users"
    assert caplog.messages.count(said) == bool(unknown)
    assert sum("is unknown of" in line for line in caplog.messages) == bool(unknown)


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.float16, np.float64])
def test_numbers_are_the_same_labels_as_their_text(tmp_path, dtype):
    labels = np.array([0, 1, 2, -1, 1], dtype=dtype)
    np.save(tmp_path / "labels.npy", labels)
    (tmp_path / "labels.csv").write_text("\n".join(["gender", *map(str, labels)]) + "\n")
    array, text = (load_labels(tmp_path / f"labels.{form}", "gender", 5) for form in ("npy", "csv"))
    assert array.classes == text.classes == ("0", "1", "2")
    assert array.labels.tolist() == text.labels.tolist() == [0, 1, 2, -1, 1]


def test_nan_among_numbers_is_unknown(tmp_path):
    np.save(tmp_path / "labels.npy", np.array([0, np.nan, 1]))
    assert load_labels(tmp_path / "labels.npy", "gender", 3).labels.tolist() == [0, -1, 1]


def with_items(workspace, items, user_vectors):
    np.save(workspace / "mine.npy", user_vectors)
    np.save(workspace / "items.npy", items)
    write_labels(workspace, planted()[1])
    return ["method=leace", "item_embedding=items.npy"]


def test_a_run_counts_how_many_of_a_users_best_items_stay(workspace, capsys):
    embedding, _ = planted()
    items = np.random.default_rng(1).normal(size=(40, 6))
    assert unlearn(*with_items(workspace, items, embedding)) == 0
    folder = workspace / "exp_results/external/mine/leace/seed-0"
    edited = np.load(folder / "weights/user_embedding.npy")
    kept = [
        len(set(np.argsort(-one @ items.T)[:10]) & set(np.argsort(-other @ items.T)[:10]))
        for one, other in zip(embedding, edited, strict=True)
    ]
    assert 5 < np.mean(kept) < 10
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["top_items"]["of"] == 40
    assert summary["top_items"]["kept"] == pytest.approx(np.mean(kept), abs=0.05)  # of ties
    said = f"top 10 of 40 items {summary['top_items']['kept']:.2f} stay"
    assert said in capsys.readouterr().out
    np.save(workspace / "items.npy", items[:7])  # another file: done anew
    assert unlearn("method=leace", "item_embedding=items.npy") == 0
    assert "top 7 of 7 items 7.00 stay" in capsys.readouterr().out


def test_items_may_stand_beside_the_users_in_one_file(workspace, capsys):
    embedding, labels = planted()
    items = np.random.default_rng(1).normal(size=(40, 6))
    both = {"user_factors": embedding, "item_factors": items.astype(np.float32)}
    np.savez(workspace / "mine.npz", **both, biases=np.zeros((3, 3)))
    write_labels(workspace, labels)
    keys = ["user_embedding=mine.npz", "item_embedding=mine.npz", "labels=labels.csv"]
    assert main.main([*keys, "method=leace"]) == 0
    assert "top 10 of 40 items" in capsys.readouterr().out
    np.savez(workspace / "mine.npz", **both, item_biases=np.zeros((3, 3)))
    assert main.main([*keys, "method=leace"]) == 2
    said = "by its name of items if there are others, and has item_factors (40, 6), item_biases"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("items", "says"),
    [
        (np.ones((40, 5)), "items.npy has vectors of 5 dimensions, and the users' have 6"),
        (np.full((40, 6), np.nan), "items.npy: row 0 has a value that is not finite"),
        (np.ones(40), "items.npy must hold a float array"),
        (np.ones((40, 6), int), "items.npy must hold a float array"),
    ],
)
def test_items_that_no_user_can_be_multiplied_with(workspace, capsys, items, says):
    assert unlearn(*with_items(workspace, items, planted()[0])) == 2
    assert says in capsys.readouterr().err


def test_a_finished_one_is_shown_and_a_changed_file_is_done_anew(workspace, capsys):
    embedding, labels = planted()
    np.save(workspace / "mine.npy", embedding)
    write_labels(workspace, labels)
    assert unlearn("method=u2u", "unlearn_steps=3") == 0
    assert unlearn("method=u2u", "unlearn_steps=3") == 0
    assert "is done already" in capsys.readouterr().out
    np.save(workspace / "mine.npy", embedding * 2)
    assert unlearn("method=u2u", "unlearn_steps=3") == 0
    assert "kept as seed-0.1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["method=original"], "a method that edits a finished embedding (u2u, d2d, leace,"),
        (["method=d2d", "regularizer=ranking"], "there is no model to rank with"),
        (["method=d2d", "labels=null"], "needs labels=FILE"),
        (["method=d2d", "labels=no.csv"], "no.csv does not exist"),
        (["method=d2d", "user_embedding=no.npy"], "no.npy does not exist"),
        (["method=d2d", "attribute=age"], 'no column "age"; it has: gender, id'),
    ],
)
def test_what_can_be_wrong(workspace, capsys, arguments, says):
    embedding, _ = planted()
    np.save(workspace / "mine.npy", embedding)
    (workspace / "labels.csv").write_text("gender,id\n" + "M,1\nF,2\n" * 45)
    assert unlearn(*arguments) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_labels_must_be_one_a_row(workspace, capsys):
    embedding, labels = planted()
    np.save(workspace / "mine.npy", embedding)
    write_labels(workspace, labels[:-1])
    assert unlearn("method=d2d") == 2
    assert "89 labels, the embedding has 90 rows" in capsys.readouterr().err
    write_labels(workspace, labels * 0)
    write_labels(workspace, np.zeros(90, dtype=int))
    assert unlearn("method=d2d") == 2
    assert "at least two are needed" in capsys.readouterr().err

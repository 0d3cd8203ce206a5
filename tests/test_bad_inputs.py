"""What is wrong with a config, through the real commands; test_config has the JSON files' share.

Each row: one line that starts with "error: ", exit code 2, and nothing left behind.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import attack
import main

PROJECT = Path(__file__).resolve().parents[1]
LONG = "x" * 101

MAIN = {
    # type and range of every key that has one
    "target_model=3": '"target_model" must be a plain name, got 3',
    "target_model=": '"target_model" must be a plain name',
    "target_model=../x": '"target_model" must be a plain name, got "../x"',
    "target_model=user_embedding.npy": "the embedding's own name",
    f"target_model={LONG}": '"target_model" must be a plain name',
    "method=": 'one of "original", "u2u", "d2d", "retrain", "adv"',
    "method=U2U": 'got "U2U"',
    'method=["u2u", "x"]': 'got "x"',
    "audit_users=5": '"audit_users" is a key of attack.py',
    "model=mf": 'one of "ncf", "lgn"',
    "model=null": "got null",
    "lr=0": '"lr" must be a number above 0 and at most 10, got 0',
    "lr=11": "got 11",
    "lr=1e999": "got Infinity",
    "lr=-Infinity": "got -Infinity",
    "lr=0,001": 'got "0,001"',
    "lr=[0.1, 0.01]": "got [0.1, 0.01]",
    "batch_size=0": '"batch_size" must be a whole number at least 1, got 0',
    "batch_size=1e30": "at most 2147483647",
    "batch_size=256.5": "got 256.5",
    "epochs=-1": "got -1",
    "epochs=false": "got false",
    'epochs={"a": 1}': 'got {"a": 1}',
    "num_ng=0": '"num_ng" must be',
    "test_num_ng=-99": '"test_num_ng" must be',
    "dataset=../x": '"dataset" must be a plain name, got "../x"',
    "dataset=/etc/passwd": "plain name",
    "dataset=.": "plain name",
    "dataset=..": "plain name",
    "dataset=a/b": "plain name",
    "dataset=a\\b": "plain name",
    "dataset=~root": "plain name",
    'dataset=["ml-100k", "../x"]': 'got "../x"',
    "dataset=nowhere": 'there are no files of a dataset "nowhere"',
    f"dataset={LONG}": '"dataset" must be a plain name',
    "dataset_path=3": '"dataset_path" must be text, got 3',
    "dataset_path=": '"dataset_path" must be text',
    'dataset_path="a\\u0000b"': "without control characters",
    'dataset_path="\\ud800"': "without control characters",
    'dataset_path="a\\nb"': "without control characters",
    'results_path="\\u0000"': "without control characters",
    "results_path=null": '"results_path" must be text, got null',
    "device=gpu": '"cpu" or "cuda:0"',
    "device=cuda:-1": '"cpu" or "cuda:0"',
    "device=cuda:999999": '"cpu" or "cuda:0"',
    "device=cuda:99": '"cuda:99" does not exist',
    "device=0": '"cpu" or "cuda:0"',
    "au_trade_off=-1": '"au_trade_off" must be a number at least 0',
    "au_trade_off=[1, NaN]": "got NaN",
    "retrain_trade_off=1e13": "at most 1e+12",
    "seed=1.5": '"seed" must be a whole number',
    "seed=[0, -1]": "got -1",
    "seed=[]": "empty list",
    "seed=99999999999": "at most 2147483647",
    "attribute=../gender": '"attribute" must be a plain name',
    "selection=train": '"validation", "test", "last"',
    "embedding_size=-8": "or null",
    "embedding_size=70000": "at most 65536 or null",
    "loss=mse": '"bce", "bpr"',
    "retrain_interval=0": "at least 1",
    "adv_scale=-0.5": "at least 0",
    "adv_width=0": "at least 1",
    "min_interactions=0": "at least 1 or null",
    "held_out=oldest": '"held_out" must be one of "latest", "random", got "oldest"',
    "held_out=null": "got null",
    "time_ties=middle": '"time_ties" must be one of "last", "first", got "middle"',
    'time_ties=["last", "first"]': 'got ["last", "first"]',
    "user_column=": '"user_column" must be text',
    "split_seed=-1": "at least 0",
    "regularizer=l2": '"frobenius", "ranking"',
    "unlearn_steps=0": "at least 1",
    "unlearn_lr=0": "above 0",
    "ranking_top=1": "at least 2",
    "ranking_margin=-1": "at least 0",
    "threads=0": "at least 1",
    "threads=5000": "at most 4096 or null",
    "busy=queue": '"wait", "end"',
    # keys that don't go together, or aren't keys
    "user_embedding=x.npy": "needs a method that edits a finished embedding (u2u,",
    "user_embedding=x.npy method=leace": "needs labels=FILE, its users' classes",
    "user_embedding=x.npy labels=l.csv": "edits a finished embedding (u2u, d2d, leace,",
    "user_embedding=x.npy labels=l.csv method=d2d regularizer=ranking": "no model to rank with",
    "user_embedding=x.npy labels=l.csv method=d2d": "x.npy does not exist",
    "user_embedding=. labels=l.csv method=d2d": "method d2d has to have all users in memory; name",
    "user_embedding=. method=calibrated": "on labels=FOLDER output=FOLDER",
    "user_embedding=. labels=. method=leace output=o": "a folder; add stream=on, or name a file",
    "stream=yes": 'must be one of "off", "on"',
    "labels=l.csv": "belongs to user_embedding=FILE, which is missing",
    "Epochs=3": 'did you mean "epochs"?',
    "=3": 'unknown key ""',
    "lr": "not of the form key=value",
    "--epochs 3": "did you mean epochs=3 for --epochs?",
    "--config": "expected one argument",
    "--config nowhere.json": "does not exist; name another file with --config",
}
ATTACK = {
    "attack=defence": '"attack" must be one of "attack", "audit", got "defence"',
    "method=forget": 'one of "original"',
    "attackers=tree": 'one or a list of "mlp", "xgb"',
    "attackers=[]": "got []",
    'attackers=[["mlp"]]': "one or a list of",
    "attackers=3": "got 3",
    "protocol=loo": '"shadow", "cv"',
    "shadow_ratio=0": "above 0 and at most 0.9",
    "shadow_ratio=0.95": "got 0.95",
    "shadow_ratio=NaN": "got NaN",
    "draws=0": "at least 1",
    "folds=1": "at least 2",
    "repeats=0": "at least 1",
    "attack_seed=-1": "at least 0",
    "lr=0.1": '"lr" is a key of main.py',
    "epochs=3": '"epochs" is a key of main.py',
    "dataset=../x": '"dataset" must be a plain name',
    "method=d2d": "holds no finished run; first: python main.py method=d2d",
    "user_embedding=x.npy": "needs labels=FILE",
    "labels=l.csv": "belongs to user_embedding=FILE",
    "user_embedding=x.npy labels=l.csv": "x.npy does not exist",
    "busy=no": '"wait", "end"',
}
ROWS = [(main.main, row, MAIN[row]) for row in MAIN]
ROWS += [(attack.main, row, ATTACK[row]) for row in ATTACK]


def split(row: str) -> list[str]:
    """Arguments of a row; spaces within a JSON value stay."""
    return [row] if row.split("=")[-1][:1] in ("[", "{", '"') else row.split(" ")


def contents(folder: Path) -> list[Path]:
    """All paths, but for the empty lock of a data set whose name is right."""
    return sorted(path for path in folder.rglob("*") if not path.name.endswith(".lock"))


def one_line(error: str, says: str) -> None:
    assert error.startswith("error: "), error
    assert error.count("\n") == 1, error
    assert says in error
    assert len(error) < 800


@pytest.mark.parametrize(("command", "row", "says"), ROWS)
def test_one_line_exit_code_2_and_nothing_left(workspace, capsys, command, row, says):
    before = contents(workspace)
    assert command(split(row)) == 2
    one_line(capsys.readouterr().err, says)
    assert contents(workspace) == before


def test_there_are_at_least_sixty():
    assert len(ROWS) >= 60


@pytest.mark.thorough
def test_an_attack_in_a_process_of_its_own(workspace):
    """Isolated, where Python does not look for modules beside the program."""
    done = subprocess.run(
        [sys.executable, "-I", "-W", "error", PROJECT / "attack.py", "folds=1"],
        cwd=workspace,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    one_line(done.stderr, ATTACK["folds=1"])


@pytest.mark.parametrize("minimum", [1, 2])
def test_users_with_too_little_to_split_are_counted(workspace, capsys, minimum):
    home = workspace / "data/datasets/mine"
    home.mkdir()
    of_user = {1: 3, 2: 2, 3: 2, 4: 9}
    rows = [f"{user},{item}" for user, count in of_user.items() for item in range(count)]
    rows += [f"{user},{item}" for user in (5, 6) for item in range(3, 9)]  # no item is rare
    (home / "interactions.csv").write_text("\n".join(["user,item", *rows]) + "\n")
    people = [f"{user},{'FM'[user % 2]}" for user in range(1, 7)]
    (home / "users.csv").write_text("\n".join(["user,gender", *people]) + "\n")
    before = contents(workspace)
    arguments = ["dataset=mine", "time_column=null", "test_num_ng=1"]
    assert main.main([*arguments, f"min_interactions={minimum}"]) == 2
    one_line(
        capsys.readouterr().err,
        "mine: 2 of 6 users have fewer than 3 interactions after the filter, and test, validation "
        "and training need one each; raise min_interactions to 3 or more",
    )
    assert contents(workspace) == before
    (home / "interactions.csv").write_text("user,item\n")
    assert main.main([*arguments, "min_interactions=1"]) == 2
    one_line(capsys.readouterr().err, "mine: there are no interactions")


DEEP = '{"epochs": ' + "[" * 100_000
FILES = {
    b"\xff\xfe{\x00": "not UTF-8",
    b"null": "a JSON object",
    b'"epochs"': "a JSON object",
    b'{"epochs": 1' + b"0" * 5000 + b"}": "not a config",
    DEEP.encode(): "not a config",
    b"{'epochs': 3}": "line 1, column 2",
    b'{"epochs": 3} {"lr": 1}': "Extra data",
    b'{"epochs": 03}': "line 1",
    b'{\n"epochs": 3 // three\n}': "line 2",
    b'{"a\\nb": 1}': "unknown key",
    b'{"": 1}': 'unknown key ""',
    b'{"seed": 1e400}': "got Infinity",
    b'{"dataset": "x", "dataset": "x"}': '"dataset" is given more than once',
    b'{"dataset": {"a": 1, "a": 2}}': '"a" is given more than once',
}


@pytest.mark.parametrize("command", [main.main, attack.main])
@pytest.mark.parametrize("content", FILES, ids=range(len(FILES)))
def test_files_that_are_no_config(workspace, capsys, command, content):
    Path("c.json").write_bytes(content)
    before = contents(workspace)
    assert command(["--config", "c.json"]) == 2
    one_line(capsys.readouterr().err, FILES[content])
    assert contents(workspace) == before


EMBEDDINGS = {
    "infinite": (np.array([[1, np.inf], [0, 1]], np.float32), "row 0 has a value that is not"),
    "not a number": (np.array([[1, 1], [np.nan, 1]], np.float32), "row 1 has a value that is not"),
    "whole numbers": (np.ones((2, 2), np.int64), "must hold a float array (n_users, d)"),
    "longdouble": (np.ones((2, 2), np.longdouble), "must hold a float array"),
    "complex": (np.ones((2, 2), np.complex64), "must hold a float array"),
    "one dimension": (np.ones(4, np.float32), "got float32 (4,)"),
    "no users": (np.ones((0, 4), np.float32), "got float32 (0, 4)"),
    "no dimensions": (np.ones((4, 0), np.float32), "got float32 (4, 0)"),
    "records": (np.zeros((2, 2), [("a", "f4")]), "must hold a float array"),
    "beyond float32": (
        np.array([[1, 2], [3, -1e39]]),
        "x.npy: row 1 has the value -1e+39, beyond float32, in which the attackers compute; divide",
    ),
}


@pytest.mark.parametrize("command", [main.main, attack.main])
@pytest.mark.parametrize("what", EMBEDDINGS)
def test_embeddings_that_are_none(workspace, capsys, command, what):
    array, says = EMBEDDINGS[what]
    np.save("x.npy", array)
    Path("l.csv").write_text("gender\nF\nM\n")
    arguments = ["user_embedding=x.npy", "labels=l.csv"]
    assert command(arguments + (["method=d2d"] if command is main.main else [])) == 2
    one_line(capsys.readouterr().err, says)
    assert not Path("exp_results").exists()


SQUARES = {
    "1e38": (np.array([[1, 2], [-1e38, 3]], np.float32), "-1e+38 in row 1, is", "divide"),
    "1e18": (np.array([[1, 1e18], [-1, 3]], np.float32), "1e+18 in row 0, is", "divide"),
    "1e-30": (np.array([[0, 0], [1e-30, 0]], np.float32), "1e-30 in row 1, is", "multiply"),
}


@pytest.mark.parametrize("method", ["u2u", "d2d"])
@pytest.mark.parametrize("what", SQUARES)
def test_embeddings_that_have_no_distances(workspace, capsys, what, method):
    array, says, mend = SQUARES[what]
    np.save("x.npy", array)
    Path("l.csv").write_text("gender\nF\nM\n")
    assert main.main(["user_embedding=x.npy", "labels=l.csv", f"method={method}"]) == 2
    error = capsys.readouterr().err
    one_line(error, f"x.npy: the largest value, {says}")
    assert f"{mend} all by a constant" in error
    assert not Path("exp_results").exists()


LABELS = {
    "bool": np.array([True, False]),
    "fractions": np.array([0.0, 0.5]),
    "infinite": np.array([0.0, np.inf], np.float16),
    "dates": np.array(["2020", "2021"], "datetime64[Y]"),
    "bytes": np.array([b"F", b"M"]),
    "records": np.zeros(2, [("a", "f4"), ("b", "i4")]),
    "matrix": np.ones((2, 2), np.int64),
    "scalar": np.array(3),
    "no characters": np.array([0x110000, 0x46], np.uint32).view("U1"),
    "surrogates": np.array([0xD800, 0x46], np.uint32).view("U1"),
}


@pytest.mark.parametrize("what", LABELS)
def test_labels_that_are_none(workspace, capsys, what):
    np.save("x.npy", np.eye(2, dtype=np.float32))
    np.save("l.npy", LABELS[what])
    assert attack.main(["user_embedding=x.npy", "labels=l.npy"]) == 2
    wrong_number = what in ("fractions", "infinite")
    says = "l.npy: row 1 must be a whole" if wrong_number else "l.npy must hold"
    one_line(capsys.readouterr().err, says)


def test_another_machines_byte_order_is_the_same_numbers(workspace):
    rng = np.random.default_rng(0)
    embedding, labels = rng.normal(size=(40, 3)).astype(np.float32), np.arange(40) % 2
    results = []
    for order in "<>":
        np.save("x.npy", embedding.astype(embedding.dtype.newbyteorder(order)))
        np.save("l.npy", labels.astype(f"{order}i8"))
        arguments = ["user_embedding=x.npy", "labels=l.npy", f"results_path=r{ord(order)}"]
        assert main.main([*arguments, "method=d2d", "unlearn_steps=3", "threads=1"]) == 0
        (path,) = Path(f"r{ord(order)}").rglob("user_embedding.npy")
        results.append(np.load(path))
    np.testing.assert_array_equal(*results)


def test_a_config_from_a_run_folder_is_checked_like_any_other(workspace, capsys):
    config = json.loads((workspace / "configs/exp_config.json").read_text())
    Path("saved.json").write_text(json.dumps(config | {"results_path": 7}))
    assert main.main(["--config", "saved.json"]) == 2
    one_line(capsys.readouterr().err, 'saved.json: "results_path" must be text, got 7')

"""State that is stale, damaged or somebody else's: said in a line, and mended by what is said."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import attack
import main
from data.dataset import load_attribute, load_dataset
from data.prepare import prepared_folder
from data.sources.readers import PrepareSettings
from tests.conftest import write_ml100k
from utils.errors import UserError

TINY = ["epochs=1", "batch_size=512", "embedding_size=4", "num_ng=1", "unlearn_steps=2"]
TINY += ["threads=1"]
ATTACK = ["attackers=svm", "shadow_ratio=0.5", "draws=2", "threads=1"]
RUNS = Path("exp_results/ncf/ml-100k")
SETTINGS = PrepareSettings(5, 20, 0)


def said(capsys, command, *arguments, code: int = 0) -> str:
    """What a command prints; of one that fails, the line of its error."""
    capsys.readouterr()
    assert command(list(arguments)) == code
    shown = capsys.readouterr()
    return shown.err.splitlines()[-1] if code else shown.out


@pytest.fixture
def prepared(tmp_path) -> Path:
    write_ml100k(tmp_path / "ml-100k/raw")
    return prepared_folder(tmp_path, "ml-100k", SETTINGS)


def lose_lines(path: Path) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-30]))


def exchange_users(path: Path) -> None:
    path.write_text(path.read_text().replace(",F,", ",X,").replace(",M,", ",F,"))


DAMAGE = {
    "train_interactions.csv": lose_lines,
    "test_neg_interactions": lose_lines,
    "validation_neg_interactions": lose_lines,
    "users.csv": exchange_users,
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_prepared_file_that_was_changed_is_refused(prepared, name):
    def read() -> None:
        load_dataset(prepared, "ml-100k", True)
        load_attribute(prepared, "gender")

    read()
    DAMAGE[name](prepared / name)
    with pytest.raises(UserError, match=rf"{name} is damaged: .*delete or rename the folder"):
        read()
    meta = json.loads((prepared / "meta.json").read_text())
    del meta["files"]
    (prepared / "meta.json").write_text(json.dumps(meta))  # as of an earlier version
    read()


def test_what_is_said_of_a_damaged_prepared_folder_mends_it(workspace, capsys):
    assert main.main(TINY) == 0
    folder = Path("data/datasets/ml-100k/preprocess")
    lose_lines(folder / "train_interactions.csv")
    for command, arguments in ((main.main, [*TINY, "seed=1"]), (attack.main, ATTACK)):
        line = said(capsys, command, *arguments, code=2)
        assert f"{folder}/train_interactions.csv is damaged" in line
    folder.rename(folder.with_name("preprocess.1"))
    assert "is done already" in said(capsys, main.main, *TINY)
    assert attack.main(ATTACK) == 0


def test_raw_files_are_known_by_their_content(tmp_path, prepared, caplog):
    caplog.set_level("INFO")
    raw = tmp_path / "ml-100k/raw/u.user"
    text, times = raw.read_text(), raw.stat()
    for content in (text, text.replace("|F|", "|X|")):
        raw.write_text(content)
        os.utime(raw, ns=(times.st_atime_ns, times.st_mtime_ns))  # as cp -p and tar do
        caplog.clear()
        prepared_folder(tmp_path, "ml-100k", SETTINGS)
        assert ("u.user has changed" in caplog.text) == (content != text)
    shutil.copytree(tmp_path / "ml-100k", tmp_path / "copy/ml-100k")
    caplog.clear()
    prepared_folder(tmp_path / "copy", "ml-100k", SETTINGS)
    assert not caplog.records


def test_raw_files_are_read_again_only_where_something_was_done_to_them(
    tmp_path, prepared, monkeypatch
):
    read = []

    def checksum(path: Path, real=main.file_checksum) -> str:
        read.append(path.name)
        return real(path)

    monkeypatch.setattr("data.prepare.file_checksum", checksum)
    for _ in range(3):
        prepared_folder(tmp_path, "ml-100k", SETTINGS)
    assert sorted(read) == ["u.data", "u.user"]
    os.utime(tmp_path / "ml-100k/raw/u.user")
    prepared_folder(tmp_path, "ml-100k", SETTINGS)
    assert len(read) == 3
    for content in ("", "[]", '{"u.user": 3, "u.data": {"state": 1}}'):
        (tmp_path / "ml-100k/.raw_checksums.json").write_text(content)
        prepared_folder(tmp_path, "ml-100k", SETTINGS)


def test_going_back_to_former_settings_takes_the_former_folder_back(tmp_path, prepared, caplog):
    other = PrepareSettings(5, 10, 0)
    caplog.set_level("INFO")
    mark = prepared / "s_pre_adj_mat.npz"
    mark.touch()
    assert prepared_folder(tmp_path, "ml-100k", other) == prepared
    assert not mark.exists()
    for number in range(3):
        caplog.clear()
        settings, there = [(SETTINGS, True), (other, False)][number % 2]
        assert prepared_folder(tmp_path, "ml-100k", settings) == prepared
        assert mark.exists() == there
        assert "prepared with these settings, is taken back" in caplog.text
        assert "Preparing" not in caplog.text
    folders = {path.name for path in prepared.parent.glob("preprocess*")}
    assert folders in ({"preprocess", "preprocess.1"}, {"preprocess", "preprocess.2"})
    (kept,) = prepared.parent.glob("preprocess.*")
    lose_lines(kept / "users.csv")  # of a damaged one nothing is taken
    prepared_folder(tmp_path, "ml-100k", other)
    assert "Preparing" in caplog.text
    load_attribute(prepared, "gender")


def embedding(method: str = "original", folder: str = "seed-0") -> bytes:
    return (RUNS / method / folder / "weights/user_embedding.npy").read_bytes()


@pytest.mark.parametrize("between", ["finished", "interrupted"])
def test_a_run_is_found_again_after_another_one(workspace, capsys, monkeypatch, between):
    assert main.main([*TINY, "method=d2d"]) == 0
    assert attack.main([*ATTACK, "method=d2d"]) == 0
    first = embedding(), embedding("d2d")
    if between == "interrupted":
        with monkeypatch.context() as patch:
            patch.setattr(main, "save", lambda *_: {}["broken"])
            with pytest.raises(KeyError):
                main.main([*TINY, "method=d2d", "lr=0.1"])
        assert list((RUNS / "original/seed-0").glob("checkpoint-*"))
    else:
        assert main.main([*TINY, "method=d2d", "lr=0.1"]) == 0
        second = embedding(), embedding("d2d")
        assert second != first
    shown = said(capsys, main.main, *TINY, "method=d2d")
    assert "original/seed-0 with these settings is back from seed-0.1" in shown
    assert "d2d/seed-0 is done already" in shown
    assert (embedding(), embedding("d2d")) == first
    assert (RUNS / "d2d/seed-0/attack.json").exists()
    shown = said(capsys, main.main, *TINY, "method=original", "lr=0.1")
    if between == "interrupted":
        assert "Resuming after epoch 1 of 1" in shown
        return
    assert "is done already" in shown
    assert (embedding(), embedding("d2d")) == (second[0], first[1])
    assert "d2d/seed-0 is done already" in said(capsys, main.main, *TINY, "method=d2d", "lr=0.1")
    assert (embedding(), embedding("d2d")) == second
    assert len([*RUNS.glob("*/seed-0*")]) == 4  # and no more with every change


def test_a_run_that_was_moved_away_by_hand_or_damaged_does_not_come_back(workspace, capsys):
    assert main.main(TINY) == 0
    (RUNS / "original/seed-0").rename(RUNS / "original/seed-0.7")
    assert "is back" not in said(capsys, main.main, *TINY)
    shutil.rmtree(RUNS / "original/seed-0.7")
    assert main.main([*TINY, "lr=0.1"]) == 0
    np.save(RUNS / "original/seed-0.1/weights/user_embedding.npy", np.ones((80, 4), np.float32))
    assert "is back" not in said(capsys, main.main, *TINY)


def test_an_original_that_has_lost_its_weights_is_trained_again(workspace, capsys):
    assert main.main([*TINY, "method=u2u"]) == 0
    first = embedding()
    (RUNS / "original/seed-0/weights/final_model.pth").unlink()
    assert "is done already" in said(capsys, main.main, *TINY)
    shown = said(capsys, main.main, *TINY, "method=d2d")
    assert "original/seed-0 is not whole, or started from another original; it was kept" in shown
    assert (embedding(), embedding("original", "seed-0.1")) == (first, first)
    assert (RUNS / "original/seed-0/weights/final_model.pth").exists()
    assert "u2u/seed-0 is done already" in said(capsys, main.main, *TINY, "method=u2u")


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("user_embedding.npy", []),
        ("user_vectors.npz", ["place=gmf"]),
        ("user_vectors.npz", ["attack=audit"]),
        ("user_lists.npy", ["attack=audit"]),
    ],
)
def test_what_was_exchanged_after_the_run_is_not_attacked(workspace, capsys, name, arguments):
    for seed in (0, 1):
        assert main.main([*TINY, f"seed={seed}"]) == 0
    path = RUNS / "original/seed-0/weights" / name
    before = path.read_bytes()
    shutil.copy(RUNS / "original/seed-1/weights" / name, path)
    command = [] if "attack=audit" in arguments else ATTACK
    line = said(capsys, attack.main, *command, *arguments, code=2)
    assert line.startswith(f"error: {path} is not what the run left there")
    assert "move exp_results/ncf/ml-100k/original/seed-0 away" in line
    path.write_bytes(before)
    if command:
        assert attack.main([*command, *arguments]) == 0

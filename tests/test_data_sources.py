"""Where raw files come from: the user's folder, an archive, a wheel; and what can go wrong."""

import hashlib
import os
import shutil
import socket
import subprocess
import threading
import urllib.error
import urllib.request
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from data.prepare import prepared_folder
from data.sources import fetch
from data.sources.readers import PrepareSettings
from tests.conftest import write_ml100k
from utils.errors import UserError

SETTINGS = PrepareSettings(5, 20, 0)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return write_ml100k(tmp_path / "original")


def zip_of(raw: Path, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
        for file in ("u.data", "u.user", "README"):
            zipped.writestr(
                f"ml-100k/{file}", (raw / file).read_bytes() if file != "README" else ""
            )
    return path


def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(url: str) -> bytes:
        raise urllib.error.URLError("no network in tests")

    monkeypatch.setattr(fetch, "_download", refuse)


def official(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    archive = replace(fetch.ARCHIVES["ml-100k"], sha256=sha256)
    monkeypatch.setitem(fetch.ARCHIVES, "ml-100k", archive)


def fake_pip(monkeypatch: pytest.MonkeyPatch, wheel: Path | None) -> None:
    def pip(command: list[str], **_: object) -> subprocess.CompletedProcess:
        if wheel is None:
            return subprocess.CompletedProcess(command, 1, "", "ERROR: no index in tests\n")
        shutil.copy(wheel, command[command.index("--dest") + 1])
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(fetch.subprocess, "run", pip)


def wheel_of(raw: Path, path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    inside = "recbole/dataset_example/ml-100k/ml-100k"
    with zipfile.ZipFile(path, "w") as zipped:
        ratings = (raw / "u.data").read_bytes()
        header = b"user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
        zipped.writestr(f"{inside}.inter", header + ratings)
        users = (raw / "u.user").read_bytes().replace(b"|", b"\t")
        zipped.writestr(f"{inside}.user", b"user_id:token\t...\n" + users)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setitem(fetch.WHEELS, "ml-100k", replace(fetch.WHEELS["ml-100k"], sha256=sha256))
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_folder_zip_download_and_wheel_prepare_the_same_bytes(tmp_path, raw, monkeypatch):
    zipped = zip_of(raw, tmp_path / "official.zip")
    official(monkeypatch, zipped)
    wheel = wheel_of(raw, tmp_path / "recbole-0-py3-none-any.whl", monkeypatch)
    no_network(monkeypatch)
    prepared = {}

    def prepare(source: str) -> None:
        folder = prepared_folder(tmp_path / source, "ml-100k", SETTINGS)
        prepared[source] = contents(folder)

    shutil.copytree(raw, tmp_path / "folder" / "ml-100k" / "raw")
    shutil.copytree(raw, tmp_path / "loose" / "ml-100k")
    zip_of(raw, tmp_path / "zip" / "ml-100k" / "ml-100k.zip")
    for source in ("folder", "loose", "zip"):
        prepare(source)
    fake_pip(monkeypatch, wheel)
    prepare("wheel")
    monkeypatch.setattr(fetch, "_download", lambda url: zipped.read_bytes())
    fake_pip(monkeypatch, None)
    prepare("download")
    assert len(prepared["folder"]) == 8
    assert all(files == prepared["folder"] for files in prepared.values())


@pytest.mark.slow
def test_the_real_wheel_is_the_real_ml100k(tmp_path, monkeypatch):
    no_network(monkeypatch)
    folder = prepared_folder(tmp_path, "ml-100k", PrepareSettings(5, 99, 0))
    assert '"interactions": 99287' in (folder / "meta.json").read_text()


def test_without_any_source_every_reason_and_the_way_out_are_named(tmp_path, monkeypatch):
    no_network(monkeypatch)
    fake_pip(monkeypatch, None)
    with pytest.raises(UserError) as error:
        fetch.raw_source(tmp_path, "ml-100k")
    for part in (
        "no network in tests",
        "no index in tests",
        "put ml-100k.zip into",
        "u.data + u.user",
    ):
        assert part in str(error.value)
    with pytest.raises(UserError, match=r"no PyPI package is known"):
        fetch.raw_source(tmp_path, "ml-1m")


@pytest.mark.parametrize("what", ["archive", "wheel"])
def test_a_download_that_is_not_the_known_file_is_not_unpacked(tmp_path, raw, monkeypatch, what):
    zipped = zip_of(raw, tmp_path / "other.zip")
    no_network(monkeypatch)
    if what == "archive":
        monkeypatch.setattr(fetch, "_download", lambda url: zipped.read_bytes())
        fake_pip(monkeypatch, None)
    else:
        fake_pip(monkeypatch, zipped.rename(tmp_path / "other-0-py3-none-any.whl"))
    with pytest.raises(UserError, match=r"SHA-256 differs"):
        fetch.raw_source(tmp_path / "datasets", "ml-100k")
    assert not (tmp_path / "datasets").exists()


ANSWERS = {
    b"404 Gone\r\n\r\n": "Gone",
    b"200 OK\r\nContent-Length: 100\r\n\r\nfour": "it broke off 96 bytes before the end",
    b"200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nfour": "IncompleteRead",
    b"": "Remote end closed connection without response",
    b"200 OK\r\nContent-Length: 4\r\n\r\nfour": "SHA-256 differs",
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_download_that_fails_says_why_and_leaves_nothing(tmp_path, monkeypatch, answer):
    def give() -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(1 << 16)
            connection.sendall(b"HTTP/1.1 " * bool(answer) + answer)

    archive = replace(fetch.ARCHIVES["ml-100k"], url="http://nowhere.invalid/ml-100k.zip")
    monkeypatch.setitem(fetch.ARCHIVES, "ml-100k", archive)
    fake_pip(monkeypatch, None)
    with socket.create_server(("127.0.0.1", 0)) as server:
        proxies = {"http": f"http://127.0.0.1:{server.getsockname()[1]}"}
        proxied = urllib.request.build_opener(urllib.request.ProxyHandler(proxies))
        monkeypatch.setattr(urllib.request, "_opener", proxied)
        thread = threading.Thread(target=give)
        thread.start()
        with pytest.raises(UserError, match=f"{ANSWERS[answer]}.*put ml-100k.zip into"):
            fetch.raw_source(tmp_path / "datasets", "ml-100k")
        thread.join()
    assert not (tmp_path / "datasets").exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda whole: b"<!DOCTYPE html><title>Log in</title>", "is a web page, not a zip"),
        (lambda whole: whole[: len(whole) // 2], "is not a whole zip archive"),
        (lambda whole: whole[:100] + b"\0" * 100 + whole[200:], "is not a whole zip archive"),
        (lambda whole: b"", "is not a whole zip archive"),
        (lambda whole: whole.replace(b"\x08\x00", b"\xf7\x00"), "is not a whole zip archive"),
    ],
)
def test_a_damaged_archive_is_named_and_nothing_is_installed(tmp_path, raw, damage, message):
    path = zip_of(raw, tmp_path / "ml-100k" / "ml-100k.zip")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=f"{message}.*download it again") as error:
        fetch.raw_source(tmp_path, "ml-100k")
    assert str(path) in str(error.value)
    assert [path.name for path in path.parent.iterdir()] == ["ml-100k.zip"]


def test_an_archive_without_a_member_names_it(tmp_path):
    path = tmp_path / "ml-1m" / "ml-1m.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as zipped:
        zipped.writestr("ml-1m/ratings.dat", "1::1::1::1\n")
    with pytest.raises(UserError, match=r"ml-1m.zip: .*ml-1m/users.dat.*download it again"):
        fetch.raw_source(tmp_path, "ml-1m")


def test_an_unknown_dataset_says_what_was_looked_for_and_where(tmp_path):
    with pytest.raises(UserError) as error:
        fetch.raw_source(tmp_path, "mine")
    message = str(error.value)
    assert "\n" not in message
    for part in (
        '"mine"',
        str(tmp_path / "mine" / "raw"),
        "ratings.dat + users.dat",
        "ml-100k, ml-1m",
    ):
        assert part in message


@pytest.mark.parametrize("name", ["mine", "ml-100k"])
@pytest.mark.parametrize("place", ["", "raw"])
def test_files_tell_the_format_whatever_the_name(tmp_path, name, place):
    folder = tmp_path / name / place
    folder.mkdir(parents=True)
    for file in (f"{name}.inter", f"{name}.user"):
        (folder / file).write_text("user_id:token\titem_id:token\nx\ty\n")
    source = fetch.raw_source(tmp_path, name)
    assert [path.name for path in source.paths] == [f"{name}.inter", f"{name}.user"]
    write_ml100k(folder)
    files = ["u.data", "u.user"]  # of the first format, and of the one with this very name
    assert [path.name for path in fetch.raw_source(tmp_path, name).paths] == files


def test_half_a_format_is_none(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "interactions.csv").write_text("user,item\n")
    with pytest.raises(UserError, match=r"looked in .* for .*interactions.csv \+ users.csv"):
        fetch.raw_source(tmp_path, "mine")


def test_a_changed_raw_file_is_prepared_anew_and_a_touched_one_is_not(tmp_path, caplog):
    caplog.set_level("INFO")
    raw = write_ml100k(tmp_path / "ml-100k")
    folder = prepared_folder(tmp_path, "ml-100k", SETTINGS)
    before = contents(folder)
    later = (folder / "meta.json").stat().st_mtime + 5
    os.utime(raw / "u.user", (later, later))
    caplog.clear()
    assert contents(prepared_folder(tmp_path, "ml-100k", SETTINGS)) == before
    assert not caplog.records
    (raw / "u.user").write_text((raw / "u.user").read_text().replace("|F|", "|X|"))
    os.utime(raw / "u.user", (later, later))
    prepared_folder(tmp_path, "ml-100k", SETTINGS)
    assert "u.user has changed since" in caplog.text
    assert b"X" in contents(folder)["users.csv"]
    assert contents(folder.with_name("preprocess.1")) == before  # the former one is kept


def test_a_prepared_folder_outlives_its_raw_files(tmp_path, monkeypatch):
    raw = write_ml100k(tmp_path / "ml-100k" / "raw")
    folder = prepared_folder(tmp_path, "ml-100k", SETTINGS)
    shutil.rmtree(raw)
    no_network(monkeypatch)
    assert prepared_folder(tmp_path, "ml-100k", SETTINGS) == folder


def test_files_without_interactions_leave_nothing_after_the_filter(tmp_path):
    home = tmp_path / "mine"
    home.mkdir()
    (home / "interactions.csv").write_text("user,item,timestamp\n")
    (home / "users.csv").write_text("user,gender\n")
    with pytest.raises(UserError, match=r"mine: no user and item with 5 interactions each"):
        prepared_folder(tmp_path, "mine", SETTINGS)
    assert not (home / "preprocess").exists()

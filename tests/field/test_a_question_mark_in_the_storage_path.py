"""A storage in a folder of an odd name: it is used, or refused before anything is written; nothing lies beside it."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest

from study.cli.main import main
from study.ledger.database import open_storage
from study.storage.layout import Storage, root_and_url
from trainables.errors import UserError

REFUSED = {
    "a?b": "'?'",
    "a%41b": "'%41'",
    "a%2fb": "'%2f'",
    os.fsdecode(b"a\xffb"): "not UTF-8",
    "x" * 256: "256",
    "/".join(["y" * 200] * 20): "bytes long",
}
TAKEN = [f"a{each}b" for each in "#%&=+ ;:,'\"\\*[]{}~$@!|<>()^`\n\té日"]
TAKEN += ["a%%b", "a{x}b", "a$HOME", unicodedata.normalize("NFD", "é"), "trailing/", "100%"]


@pytest.mark.parametrize("name", REFUSED, ids=range(len(REFUSED)))
@pytest.mark.parametrize(
    "command",
    [["plan", "quickstart"], ["launch", "quickstart"], ["status", "quickstart"], ["doctor"], ["ls"]],
)
def test_refused_before_anything_is_written(
    name: str,
    command: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        main([*command, "--storage", name])
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert REFUSED[name] in error
    assert "choose another folder" in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", TAKEN)
def test_ledger_and_mlflow_lie_in_the_folder_that_was_named(name: str, tmp_path: Path) -> None:
    import sqlalchemy

    root, _ = root_and_url(f"{tmp_path}/{name}")
    storage = Storage(root, "study")
    open_storage(storage.ledger_url)
    with sqlalchemy.create_engine(storage.tracking_uri).begin() as mlflow:
        mlflow.execute(sqlalchemy.text("CREATE TABLE anything (number INTEGER)"))
    assert (storage.folder / "ledger.db").exists()
    assert (root / "mlflow.db").exists()
    assert list(tmp_path.iterdir()) == [tmp_path / name.rstrip("/")]


def test_a_folder_that_is_left_again_is_not_made(tmp_path: Path) -> None:
    assert root_and_url(tmp_path / "away" / ".." / "storage") == (tmp_path / "storage", None)


def test_no_name_is_not_the_working_folder() -> None:
    with pytest.raises(UserError, match="--storage is empty"):
        root_and_url("")


@pytest.mark.parametrize("command", [["plan", "quickstart", "--no-probe"], ["doctor"]])
def test_a_file_is_no_storage(command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as exit_:
        main([*command, "--storage", str(tmp_path / "file")])
    assert exit_.value.code in (1, 2)
    printed = capsys.readouterr()
    assert "is a file" in " ".join((printed.out + printed.err).split())


def test_what_needs_no_storage_works_in_a_folder_of_any_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a?b").mkdir()
    monkeypatch.chdir(tmp_path / "a?b")
    for words in (["ls", "methods"], ["validate", "quickstart"]):
        with pytest.raises(SystemExit) as exit_:
            main(words)
        assert not exit_.value.code, capsys.readouterr().err


@pytest.mark.parametrize("command", ["launch", "report"])
def test_reports_in_a_folder_that_is_not_utf8_are_refused_before_training(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        main([command, "quickstart", "--reports", os.fsdecode(b"a\xffb")])
    assert exit_.value.code == 2
    assert "is not UTF-8; choose another name" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("typed", ["s3:/bucket/prefix", "gs:bucket"])
def test_a_url_with_a_slash_too_few_is_no_folder(
    typed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        main(["launch", "quickstart", "--storage", typed])
    assert exit_.value.code == 2
    assert f"write {typed.partition(':')[0]}:// for a URL" in " ".join(capsys.readouterr().err.split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("sqlite:///rel.db", "write sqlite:////...rel.db"),
        ("sqlite:////{folder}/a?b.db", "'?' ends the path of a file in a URL"),
        ("sqlite:////{folder}/a%3Fb.db", "'%3F' stands for another character"),
        ("sqlite:////{folder}/notes.txt", "is no SQLite database"),
        ("sqlite:////{folder}", "is no file"),
    ],
)
@pytest.mark.parametrize("where", ["ledger", "tracking"])
def test_databases_that_would_be_another_file_are_refused(
    where: str,
    url: str,
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("no database at all, but some text of ours")
    url = url.format(folder=str(tmp_path).lstrip("/"))
    words = ["--tracking-uri", url] if where == "tracking" else [f"storage.ledger_url={url}"]
    with pytest.raises(SystemExit) as exit_:
        main(["launch", "quickstart", *words])
    assert exit_.value.code == 2
    assert told in " ".join(capsys.readouterr().err.split())
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]

"""Output goes to a terminal, a pipe or a log of an older encoding: every command prints, and JSON loses nothing."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from study.storage.layout import Storage
from study.util.json_files import write_json
from tests.helpers.begun_runs import FAILED, begun_study
from trainables.events import RESULT_FILE
from trainables.util.process import print_everything

ROOT = Path(__file__).resolve().parents[2]
WORDS = "naïve 日本 ☃ \udcff…"
ASCII = {"PYTHONIOENCODING": "ascii"}
ENCODINGS = [
    ASCII,
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"PYTHONIOENCODING": "latin-1"},
    {"PYTHONIOENCODING": "cp1252"},
    {"PYTHONIOENCODING": "utf-8"},
]
BY_DAY = (ASCII, ENCODINGS[3])  # the narrowest, and one that has some signs and lacks others
# All in one process, for speed: what `main` does to the output is what is tested.
EVERY = """
import json, sys
from study.cli.main import main
for words in json.loads(sys.argv[1]):
    print(">>", words)
    try:
        main(words)
    except SystemExit as end:
        assert end.code in (None, 0, 1, 2), end.code
"""


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    _, storage = begun_study(tmp_path_factory.mktemp("storage"))
    file = storage.run_folder(FAILED) / RESULT_FILE
    write_json(file, {**json.loads(file.read_text()), "message": WORDS})
    return storage


def run(folder: Path, encoding: dict[str, str], *words: str) -> subprocess.CompletedProcess[bytes]:
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONIOENCODING", "PYTHONUTF8") and not name.startswith(("LC_", "LANG"))
    }
    environment |= {"PYTHONPATH": str(ROOT), **encoding}
    return subprocess.run(
        [sys.executable, *words], env=environment, cwd=folder, capture_output=True, timeout=240
    )


def commands(storage: Storage, folder: Path) -> list[list[str]]:
    """Every command that answers without a cluster, with words in its arguments that ASCII lacks."""
    at = ["--storage", str(storage.root)]
    stored = [["status"], ["status", "-s", "failed"], ["logs"], ["trials"], ["best"]]
    shown = [
        [verb, storage.study, *rest, *at, *form]
        for verb, *rest in stored
        for form in ([], ["-f", "csv"], ["-f", "json"])
    ]
    (folder / "study.yaml").write_text(
        "name: odd\nsubjects:\n- {name: naïve, images: Bilder–日}\narms: {größe: {method: lora}}\n",
        encoding="utf-8",
    )
    (folder / "run.yaml").write_text("method: lora\nsubject: {name: cat, images: 日}\n", encoding="utf-8")
    return [
        *shown,
        ["--help"],
        ["validate", "study.yaml"],
        ["plan", "study.yaml"],
        ["launch", "study.yaml"],
        ["submit", "study.yaml", "--storage", "/mnt/ö"],
        ["validate", "naïve–.yaml"],
        ["plan", "quickstart", "--no-probe", *at],
        ["logs", storage.study, FAILED.name, *at],
        ["logs", storage.study, "naïve…", *at],
        ["status", "naïve…", *at],
        ["status", storage.study, "--storage", "lager–日"],
        ["generate", storage.study, "naïve", "-p", "日", *at],
        ["ls", "méthodes"],
        ["ls", "methods"],
        ["ls", "metrics"],
        ["doctor", *at],
        ["stop", storage.study, "--now", *at],
    ]


@pytest.mark.parametrize(
    "encoding",
    [pytest.param(each, marks=() if each in BY_DAY else pytest.mark.nightly) for each in ENCODINGS],
    ids=lambda each: " ".join(each.values()),
)
def test_every_command_prints(encoding: dict[str, str], storage: Storage, tmp_path: Path) -> None:
    every = commands(storage, tmp_path)
    done = run(tmp_path, encoding, "-c", EVERY, json.dumps(every))
    text = (done.stdout + done.stderr).decode("latin-1")
    assert done.returncode == 0, text
    assert "UnicodeEncodeError" not in text
    assert text.count(">> ") == len(every)


@pytest.mark.parametrize("encoding", ENCODINGS, ids=lambda each: " ".join(each.values()))
def test_json_loses_nothing(encoding: dict[str, str], storage: Storage, tmp_path: Path) -> None:
    words = ("status", storage.study, "-s", "failed", "-f", "json", "--storage", str(storage.root))
    done = run(tmp_path, encoding, "-m", "study.cli", *words)
    assert [row["message"] for row in json.loads(done.stdout)] == [WORDS]


def test_a_run_alone_prints(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("method: naïve…\nsubject: cat-1\n", encoding="utf-8")
    done = run(tmp_path, ASCII, "-m", "trainables", "run.yaml")
    assert done.returncode == 2
    assert rb"na\xefve..." in done.stderr


def test_what_cannot_be_shown_is_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    print_everything()
    print("é · ± … ☃ \udcff", flush=True)
    assert out.buffer.getvalue() == rb"\xe9 . +- ... \u2603 \udcff" + b"\n"  # type: ignore[attr-defined]


def test_another_way_that_was_asked_for_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="ignore")
    monkeypatch.setattr(sys, "stdout", out)
    print_everything()
    assert out.errors == "ignore"

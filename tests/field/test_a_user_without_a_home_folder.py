"""A container runs as a bare number: no entry in the user database, no HOME, no user's name."""

from __future__ import annotations

import getpass
import os
import pwd
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from study.storage.layout import root_and_url
from trainables.errors import UserError
from trainables.util.process import ensure_home, expanded

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("HOME", "LOGNAME", "USER", "LNAME", "USERNAME")
COMMAND = """
import pwd, sys
def nobody(_): raise KeyError("uid not found")
pwd.getpwuid = nobody
from study.cli.main import main
main(sys.argv[1:])
"""
URL = "s3://bucket/prefix?endpoint_override=127.0.0.1:9&scheme=http"


@pytest.fixture
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def unknown(_: int) -> pwd.struct_passwd:
        raise KeyError("uid not found")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in NAMES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["doctor"], 0, "loopback"),
        (["ls", "methods"], 0, "lora"),
        (["plan", "quickstart", "--no-probe"], 0, "disk"),
        (["status", "quickstart", "--storage", URL], 2, "cannot read quickstart/study.json"),
    ],
)
def test_commands_work_and_say_so_in_one_line(
    arguments: list[str], code: int, said: str, tmp_path: Path
) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in NAMES}
    environment |= {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *arguments],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[0].startswith(f"user {os.getuid()} has no home folder")
    assert said in done.stdout + done.stderr
    home = tmp_path / f"diffusion-study-home-{os.getuid()}"
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


def test_all_commands_share_one_home_which_is_the_users_alone(nobody: Path) -> None:
    note = ensure_home()
    first = os.environ["HOME"]
    assert note is not None
    assert first in note
    assert getpass.getuser() == f"uid-{os.getuid()}"
    del os.environ["HOME"]
    ensure_home()
    assert os.environ["HOME"] == first
    del os.environ["HOME"]
    Path(first).chmod(0o755)  # not ours alone: perhaps laid there by somebody else
    ensure_home()
    assert os.environ["HOME"] != first
    assert stat.S_IMODE(Path(os.environ["HOME"]).stat().st_mode) == 0o700


def test_no_folder_at_all_is_said_in_one_line(nobody: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(nobody / "away"))
    with pytest.raises(UserError, match=r"no home folder.*set HOME or TMPDIR"):
        ensure_home()


def test_the_home_of_a_user_that_does_not_exist(nobody: Path) -> None:
    with pytest.raises(UserError, match="there is no home folder ~nobody-here"):
        expanded("~nobody-here/storage")
    with pytest.raises(UserError, match="there is no home folder ~"):
        root_and_url(URL)


def test_working_copies_need_a_folder_that_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("STUDY_WORKING_COPIES", str(tmp_path / "file" / "copies"))
    with pytest.raises(UserError, match=r"file is a file; set STUDY_WORKING_COPIES to another folder"):
        root_and_url(URL)

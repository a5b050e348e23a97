"""Locks on files: who waits, for how long, and what a look from outside sees."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from trainables.util.file_lock import FOREVER, is_locked, lock_file

HOLDER = """
import sys, time
from pathlib import Path
from trainables.util.file_lock import lock_file
file = Path(sys.argv[1]).open("a")
lock_file(file)
print("held", flush=True)
time.sleep(60)
"""


def test_a_lock_that_is_held_is_refused_at_once_and_free_after_the_file_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with path.open("a") as holder, path.open("a") as other:
        lock_file(holder)
        begun = time.monotonic()
        with pytest.raises(BlockingIOError):
            lock_file(other)
        assert time.monotonic() - begun < 0.5
        assert is_locked(path)
    assert not is_locked(path)
    with path.open("a") as other:
        lock_file(other)


@pytest.mark.parametrize("seconds", [20.0, FOREVER])
def test_who_waits_gets_the_lock_when_it_is_given_back(tmp_path: Path, seconds: float) -> None:
    path = tmp_path / "lock"
    holder = path.open("a")
    lock_file(holder)
    threading.Timer(0.3, holder.close).start()
    begun = time.monotonic()
    with path.open("a") as other:
        lock_file(other, wait_seconds=seconds)
        assert 0.2 < time.monotonic() - begun < 15


def test_waiting_ends(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with path.open("a") as holder, path.open("a") as other:
        lock_file(holder)
        begun = time.monotonic()
        with pytest.raises(BlockingIOError):
            lock_file(other, wait_seconds=0.3)
        assert time.monotonic() - begun >= 0.3


def test_a_look_changes_nothing_and_takes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with pytest.raises(FileNotFoundError):
        is_locked(path)
    assert not path.exists()
    path.write_text("who")
    assert not is_locked(path)
    assert path.read_text() == "who"
    with path.open("a") as file:
        lock_file(file)


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert is_locked(path)
        holder.kill()
        holder.wait()
    assert not is_locked(path)

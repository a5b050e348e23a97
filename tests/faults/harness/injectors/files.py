"""Damaged files: the driver is killed, something is damaged, and the same command goes on."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from tests.faults.harness.driving import Driven
from tests.faults.harness.injectors.common import Recovered, kill, one_run
from tests.faults.harness.studies import run_folders
from tests.helpers.waiting import wait_gone


def torn_checkpoint(driven: Driven) -> Recovered:
    """The newest checkpoint's tensors end in the middle."""
    return _damaged(
        driven,
        lambda name, folder: _truncate(driven, name, _newest(folder) / "tensors.safetensors", "checkpoint"),
    )


def corrupt_checkpoint(driven: Driven) -> Recovered:
    """Bytes of the newest checkpoint are wrong."""
    return _damaged(
        driven,
        lambda name, folder: _flip(driven, name, _newest(folder) / "tensors.safetensors", "checkpoint"),
    )


def corrupt_checkpoint_state(driven: Driven) -> Recovered:
    """The JSON of the newest checkpoint is no JSON any more."""
    return _damaged(
        driven, lambda name, folder: _garbage(driven, name, _newest(folder) / "state.json", "checkpoint")
    )


def torn_events(driven: Driven) -> Recovered:
    """The last line of a run's events ends in the middle."""

    def tear(name: str, folder: Path) -> None:
        path = folder / "events.jsonl"
        last = path.read_bytes().rstrip(b"\n").rsplit(b"\n", 1)[-1]
        os.truncate(path, path.stat().st_size - driven.rng.randint(1, len(last)))
        driven.allowed.setdefault(name, set()).add("records")

    return _damaged(driven, tear)


def corrupt_events(driven: Driven) -> Recovered:
    """A line in the middle of a run's events is garbage."""

    def spoil(name: str, folder: Path) -> None:
        path = folder / "events.jsonl"
        lines = path.read_bytes().split(b"\n")
        chosen = driven.rng.randrange(1, max(2, len(lines) - 1))
        lines[chosen] = driven.rng.choice(
            [b"\xff\x00garbage", b"null", b"{}", b"[1, 2]", lines[chosen][: len(lines[chosen]) // 2]]
        )
        path.write_bytes(b"\n".join(lines))
        driven.allowed.setdefault(name, set()).add("records")

    return _damaged(driven, spoil)


def corrupt_attempts(driven: Driven) -> Recovered:
    """The list of a run's attempts is garbage."""
    return _damaged(driven, lambda name, folder: _garbage(driven, name, folder / "attempts.jsonl", "records"))


def corrupt_result(driven: Driven) -> Recovered:
    """The result of a run that has ended is cut short or empty."""

    def spoil(name: str, folder: Path) -> None:
        ended = [place for place in run_folders(driven.storage).values() if (place / "result.json").exists()]
        if ended:
            place = driven.rng.choice(ended)
            (place / "result.json").write_text(driven.rng.choice(["", "{", "null", '{"state": "COMPL']))
            driven.allowed.setdefault("/".join(place.parts[-3:]), set()).add("records")

    return _damaged(driven, spoil)


def corrupt_records(driven: Driven) -> Recovered:
    """The study's own records, study.json and tracking.json, are cut short."""

    def spoil(name: str, folder: Path) -> None:
        for file in ("study.json", "tracking.json"):
            path = driven.storage.folder / file
            if path.exists():
                os.truncate(path, driven.rng.randrange(path.stat().st_size))

    return _damaged(driven, spoil)


def _damaged(driven: Driven, damage: Callable[[str, Path], object]) -> Recovered:
    name = one_run(driven)
    pid = driven.worker(name)
    again = driven.is_tried_again(name)
    driven.kill_driver()
    kill(pid)  # or it would write on for a moment
    wait_gone([process for process in driven.family.values() if process.pid == pid], 30)
    folder = driven.storage.folder / "runs" / name
    if not (folder / "result.json").exists():
        damage(name, folder)
    return again


def _newest(folder: Path) -> Path:
    return sorted(path for path in (folder / "checkpoint").glob("step-*") if path.suffix != ".partial")[-1]


def _truncate(driven: Driven, name: str, path: Path, what: str) -> None:
    os.truncate(path, driven.rng.randrange(path.stat().st_size))
    driven.allowed.setdefault(name, set()).add(what)


def _flip(driven: Driven, name: str, path: Path, what: str) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(8):
        content[driven.rng.randrange(len(content))] ^= 0x55
    path.write_bytes(content)
    driven.allowed.setdefault(name, set()).add(what)


def _garbage(driven: Driven, name: str, path: Path, what: str) -> None:
    path.write_bytes(
        driven.rng.choice([b"", b"null\n", b"{}\n", b"[\n", b'{"pid": 1}\n"x"\n', driven.rng.randbytes(64)])
    )
    driven.allowed.setdefault(name, set()).add(what)

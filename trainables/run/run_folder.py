"""The records of a run's folder: who works in it, what it was begun with, how it ended."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trainables.classifier_run_config import AnyRunConfig, parse_run_config
from trainables.errors import UserError
from trainables.events import LOCK_FILE, RESULT_FILE, RUN_FILE, sum_up
from trainables.util.file_lock import lock_file
from trainables.util.files import replacing


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Holds the run's folder for this process; the system lets go of it if the process dies."""
    with (folder / LOCK_FILE).open("a") as file:
        try:
            lock_file(file)
        except OSError:
            raise RuntimeError(f"another process is working in {folder}") from None
        yield


def read_begun(folder: Path) -> AnyRunConfig | None:
    """Returns the configuration that a folder was begun with, or None."""
    path = folder / RUN_FILE
    return parse_run_config(path.read_text(encoding="utf-8")) if path.exists() else None


def claim(folder: Path, config: AnyRunConfig) -> None:
    """Writes ``run.json``, or makes sure that the folder was begun with the same configuration."""
    begun = read_begun(folder)
    if begun is None:
        write_json(folder / RUN_FILE, config.model_dump(mode="json"))
    require_same(folder, begun, config)


def require_same(folder: Path, begun: AnyRunConfig | None, config: AnyRunConfig) -> None:
    """Refuses a folder that was begun with another configuration."""
    if begun is not None and begun.comes_to() != config.comes_to():
        raise UserError(
            f"{folder} holds a run of another configuration; name another output_dir, or remove it"
        )


def write_result(folder: Path, config: AnyRunConfig) -> None:
    """Sums the event file up as ``result.json``."""
    content = sum_up(folder, config.digest())
    assert content is not None
    write_json(folder / RESULT_FILE, content)


def write_json(path: Path, content: dict[str, Any]) -> int:
    """Writes a file in one step and returns its size in bytes."""
    with replacing(path) as partial, partial.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=2, allow_nan=False)
    return path.stat().st_size

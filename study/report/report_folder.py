"""Where a report lies, and whether it can be written there without harm to anybody's files."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from study.storage.layout import DEFAULT_STORAGE, REPORTS, STORAGE_ENTRIES, Storage, is_url
from study.storage.layout import MANIFEST_FILE as MANIFEST
from study.util.disk import room_problem
from trainables.errors import UserError
from trainables.util.process import expanded

KIND = "study-report"


def reports_folder(storage: Storage, reports: str | Path | None = None) -> Path:
    """Returns the absolute folder under which a study's report is written.

    By default it is ``reports/`` in the storage folder. A URL has no folder on this machine: then it is ``reports/`` in
    the working folder, but in a checkout of this project, whose ``reports/`` are those that it ships,
    ``storage/reports/``.

    Args:
        reports: What ``--reports`` says; None for the default.
    """
    if reports is not None:
        return expanded(reports).absolute()
    if storage.url is None:
        return storage.root / REPORTS
    here = Path.cwd()
    return here / DEFAULT_STORAGE / REPORTS if _is_checkout(here) else here / REPORTS


def _is_checkout(folder: Path) -> bool:
    try:
        content = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
        return content["project"]["name"] == "diffusion-study"
    except (OSError, ValueError, KeyError, TypeError):
        return False


def report_problems(storage: Storage, reports: str | Path | None = None) -> list[str]:
    """Returns why a study's report could not be written; leaves nothing behind.

    Args:
        reports: What ``--reports`` says; None for the default.
    """
    if isinstance(reports, str) and is_url(reports):
        return [f"--reports {reports} is a URL, and reports are written to a folder; name one"]
    folder = reports_folder(storage, reports)
    target = folder / storage.study
    if used := _used_by_storage(target, storage):
        return [
            f"the report would lie in {used}, which the storage itself uses; name another folder with --reports"
        ]
    try:
        refuse_foreign_folder(target)
    except UserError as error:
        return list(error.problems)
    return list(_write_problems(target))


def _used_by_storage(target: Path, storage: Storage) -> Path | None:
    """What of the storage a report would lie in, other than its reports."""
    places = [storage.folder, *(storage.root / name for name in STORAGE_ENTRIES - {REPORTS})]
    return next((place for place in places if target.resolve().is_relative_to(place.resolve())), None)


def _write_problems(target: Path) -> Iterator[str]:
    remedy = "name another place with --reports"
    parent = target.parent
    while not parent.exists() and not parent.is_symlink() and parent != parent.parent:
        parent = parent.parent
    if not parent.is_dir():
        yield f"the report cannot be written to {target}: {parent} is not a folder; {remedy}"
        return
    if target.is_dir() and not os.access(target, os.W_OK | os.X_OK):
        yield f"the report cannot be written to {target}, which is read-only; change its mode or {remedy}"
        return
    try:  # only trying tells: modes say nothing of quotas, of network file systems, and to root
        os.rmdir(tempfile.mkdtemp(prefix=f".{target.name}.new-", dir=parent))
        no_room = room_problem(target, "a report", f"or {remedy}")
    except OSError as error:
        yield f"the report cannot be written to {target} ({error.strerror or error}); {remedy}"
        return
    if no_room:
        yield no_room


def refuse_foreign_folder(target: Path) -> None:
    """Raises UserError where a report would overwrite something that is not a report."""
    if target.is_dir():
        if any(target.iterdir()) and _manifest(target) is None:
            raise UserError(
                f"{target} holds files that are not a report (it has no {MANIFEST} of one); name another "
                "folder with --reports, or empty it"
            )
    elif target.exists() or target.is_symlink():
        raise UserError(f"{target} is not a folder; name another place for the report with --reports")


def keep_foreign_files(target: Path, work: Path) -> None:
    """Copies into the new report what somebody has put into the earlier one's folder: it is not ours to delete.

    Raises:
        UserError: The new report has a file of that name.
    """
    manifest = _manifest(target)
    if manifest is None:
        return
    inputs = manifest.get("inputs")
    listed = (manifest.get("files"), inputs.get("hashes") if isinstance(inputs, dict) else None)
    ours = {MANIFEST, *(name for names in listed if isinstance(names, dict) for name in names)}
    for path in sorted(target.rglob("*")):
        name = path.relative_to(target)
        if name.as_posix() in ours or (path.is_dir() and not path.is_symlink()):
            continue
        if os.path.lexists(work / name):
            raise UserError(
                f"{path} is not of the report that lies there, and the new report has such a file; move it"
            )
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, work / name, follow_symlinks=False)


def _manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of the report in a folder; None if it holds none."""
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and content.get("kind") == KIND else None

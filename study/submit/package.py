"""What a submitted study takes along to its cluster: the study file, the photographs that it names, the code.

Photographs get a lasting place there, named by their content, because a study is known by what its file says: a job's
own folder is another one each time, and is gone with the cluster.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from study.spec.study_spec import StudySpec
from study.storage.layout import INPUTS
from study.util.units import size
from trainables.config.fields import EMBEDDED
from trainables.errors import UserError
from trainables.util.process import expanded
from trainables.util.text import is_utf8, shown

STUDY_FILE, INPUTS_FILE = "study.yaml", "inputs.json"
MAX_BYTES = 200 * 2**20  # of photographs and small models; Ray takes 500 MiB in all
_CODE = ("search_spaces", "study", "trainables")


@dataclass(frozen=True)
class JobPackage:
    """A folder that is ready to be sent.

    Attributes:
        spec: The study as it will be launched, with the paths of the cluster.
        shipped: Folders of this machine that go along, and where they will lie.
    """

    folder: Path
    spec: StudySpec
    shipped: dict[str, str]


def build_package(
    spec: StudySpec, folder: Path, *, inputs: str, shared: Sequence[str] = (), code: bool = True
) -> JobPackage:
    """Puts together in `folder` what a study needs on its cluster.

    Args:
        spec: The study, with paths of this machine.
        folder: Empty.
        inputs: Folder of the cluster for what is shipped: absolute, or beginning with ``~``.
        shared: Folders that the cluster sees under the same path; nothing in them is shipped.
        code: Whether the project's own packages go along.

    Raises:
        UserError: Something is too large to be shipped, or cannot be read.
    """
    found = {path: _content(path) for path in _local_folders(spec, shared)}
    _check_size(found)
    places = {}
    for path, (digest, _bytes) in found.items():
        name = f"{digest[:16]}-{path.name}"
        places[str(path)] = f"{inputs.rstrip('/')}/{name}"
        shutil.copytree(path, folder / INPUTS / name, ignore=shutil.ignore_patterns(".*"))
    moved = StudySpec.model_validate(_moved(spec.model_dump(mode="json"), places))
    (folder / STUDY_FILE).write_text(moved.to_yaml(), encoding="utf-8")
    (folder / INPUTS_FILE).write_text(json.dumps({"inputs": inputs}), encoding="utf-8")
    if code:
        root = Path(__file__).resolve().parents[2]
        for package in _CODE:
            shutil.copytree(
                root / package, folder / package, ignore=shutil.ignore_patterns("__pycache__", ".*")
            )
    return JobPackage(folder, moved, places)


def unpack(folder: Path) -> None:
    """On the cluster: puts what was shipped in `folder` into its lasting folder; what is there already is kept."""
    target = expanded(json.loads((folder / INPUTS_FILE).read_text(encoding="utf-8"))["inputs"])
    for source in sorted((folder / INPUTS).glob("*")):
        shipped = target / source.name
        if shipped.exists():
            continue
        # Beside it first: a copy that was broken off must not be taken for the whole.
        beside = target / f".{source.name}.{os.getpid()}"
        try:
            target.mkdir(parents=True, exist_ok=True)
            shutil.copytree(source, beside, dirs_exist_ok=True)
            beside.rename(shipped)
        except OSError as error:
            shutil.rmtree(beside, ignore_errors=True)
            if not shipped.exists():
                raise UserError(
                    f"{target} cannot be written on the cluster ({error.strerror}); choose another --storage"
                ) from None


def _local_folders(spec: StudySpec, shared: Sequence[str]) -> Iterator[Path]:
    """The folders of this machine that a study names; what does not exist here is taken to exist on the cluster."""
    named = [path for subject in spec.subjects for path in subject.folders.values()]
    if spec.downstream is not None and spec.downstream.prepared is not None:
        named.append(spec.downstream.prepared)
    named += [path for path in (spec.model.path, spec.model.config) if path]
    for name in dict.fromkeys([*named, *_evaluation_models(spec)]):
        path = Path(name)
        if path.is_absolute() and path.is_dir() and not any(_below(path, folder) for folder in shared):
            yield path


def _evaluation_models(spec: StudySpec) -> list[str]:
    values = spec.evaluation.model_dump(mode="json")
    return [str(values[key]) for key in ("image_encoder", "clip") if values.get(key) not in (None, EMBEDDED)]


def _below(path: Path, folder: str) -> bool:
    return path == Path(folder) or Path(folder) in path.parents


def _content(folder: Path) -> tuple[str, int]:
    """The SHA-256 of a folder's files with their names, and their bytes; hidden files are left out."""
    digest, total = hashlib.sha256(), 0
    strange = [shown(path.name) for path in folder.rglob("*") if not is_utf8(path.name)]
    if strange:  # Ray sends an archive, whose names are UTF-8; renamed, other photographs would be held out
        raise UserError(
            f"{folder}: file names that are not UTF-8 cannot be sent to a cluster: {', '.join(sorted(strange)[:5])}; "
            "rename them (convmv does), or put the folder where all nodes see it and say so with --shared FOLDER"
        )
    try:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
                total += path.stat().st_size
                if total > MAX_BYTES:
                    return "", _bytes_of(folder)
                digest.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode())
                digest.update(path.read_bytes())
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read ({error.strerror})") from None
    return digest.hexdigest(), total


def _bytes_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _check_size(found: dict[Path, tuple[str, int]]) -> None:
    total = sum(count for _, count in found.values())
    if total <= MAX_BYTES:
        return
    largest = max(found, key=lambda path: found[path][1])
    raise UserError(
        f"{size(total)} would have to be shipped, most of it {largest} ({size(found[largest][1])}), and "
        f"{size(MAX_BYTES)} are the most: put the folder where all nodes see it and write its path there in the "
        "study file, for example model=/mnt/study/models/NAME; if that is what the path is already, say so with "
        "--shared FOLDER"
    )


def _moved(value: Any, places: dict[str, str]) -> Any:
    if isinstance(value, str):
        return places.get(value, value)
    if isinstance(value, dict):
        return {key: _moved(item, places) for key, item in value.items()}
    if isinstance(value, list):
        return [_moved(item, places) for item in value]
    return value

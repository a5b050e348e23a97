"""What in a study file or run file is a path, and how it becomes an absolute one; what a hub id is."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from trainables.config.fields import ALPHA, DATA_SET_FOLDERS, EMBEDDED, SUBJECT_FOLDERS
from trainables.embedded.class_sets import CLASS_SETS
from trainables.util.process import expanded

#: The keys of a study's, or a run's, sections that name models.
MODELS = {"model": ("path", "config"), "evaluation": ("image_encoder", "clip")}

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_SINGLE_FILE = ".safetensors"


def is_hub_id(name: str) -> bool:
    """Tells whether a name has the form of a hub id, ``owner/name``, which a relative path can have too."""
    return _HUB_ID.fullmatch(name) is not None and not name.lower().endswith(_SINGLE_FILE)


def absolute(path: str, folder: Path) -> str:
    """Returns a path, from the home folder where it begins with ``~``, as an absolute one from `folder`."""
    return str((folder / expanded(path)).resolve())


def absolute_model(name: str, folder: Path) -> str:
    """Returns the absolute path of a model that is a folder or file; any other name as it is.

    What lies there goes before a hub id, and a name that is neither, such as a misspelt ``embedded``, stays for its
    message to quote.
    """
    if name == EMBEDDED:
        return name
    is_path = (
        name.startswith((".", "~"))
        or name.lower().endswith(_SINGLE_FILE)
        or ("/" in name and not is_hub_id(name))
        or (folder / name).exists()
    )
    return absolute(name, folder) if is_path else name


def absolute_models(section: Any, keys: Iterable[str], folder: Path) -> Any:
    """Returns a section with the models under some of its keys made absolute, as `absolute_model` says.

    Args:
        section: As parsed; what is no mapping, and so refused later, comes back as it is.
        keys: Which values name models.
        folder: Where relative paths begin: that of the file.
    """
    return _changed(section, keys, lambda key, name: absolute_model(name, folder))


def absolute_subject(subject: Any, folder: Path) -> Any:
    """Returns a subject, or data set, with absolute folders; what is malformed, and so refused later, as it is."""

    def change(key: str, path: str) -> str:
        return path if (key, path) == ("masks", ALPHA) else _absolute_unless_blank(path, folder)

    subject = _changed(subject, SUBJECT_FOLDERS, change)
    if isinstance(subject, dict) and isinstance(subject.get("dataset"), dict):
        subject = {**subject, "dataset": _changed(subject["dataset"], DATA_SET_FOLDERS, change)}
    return subject


def absolute_class_data(dataset: Any, folder: Path) -> Any:
    """Returns a data set of classes with an absolute folder; the name of one that comes with the project as it is."""
    if isinstance(dataset, str):
        shipped = dataset in CLASS_SETS and not (folder / dataset).is_dir()
        return dataset if shipped else _absolute_unless_blank(dataset, folder)
    if isinstance(dataset, Mapping) and isinstance(dataset.get("path"), str):
        return {**dataset, "path": absolute_class_data(dataset["path"], folder)}
    return dataset


def _absolute_unless_blank(path: str, folder: Path) -> str:
    """A blank path stays, for its message to say so."""
    return absolute(path, folder) if path.strip() else path


def _changed(section: Any, keys: Iterable[str], change: Callable[[str, str], str]) -> Any:
    if not isinstance(section, Mapping):
        return section
    names = {key: value for key in keys if isinstance(value := section.get(key), str)}
    return {**section, **{key: change(key, value) for key, value in names.items()}}

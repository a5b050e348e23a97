"""What was recorded of a study at its first launch: ``study.json``, read here alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from study.storage.layout import STUDY_FILE, Storage
from study.util.json_files import copy_of, read_json_or_copy
from study.util.redaction import without_credentials
from trainables.errors import UserError


def read_study_record(storage: Storage) -> dict[str, Any]:
    """Returns the record: the study file under ``spec``, with its ``digest`` and ``identity``.

    Raises:
        FileNotFoundError: The study was not launched yet.
        ValueError: The record and its copy are damaged.
    """
    return read_json_or_copy(storage.folder / STUDY_FILE)


def sound_study_record(storage: Storage) -> dict[str, Any]:
    """As `read_study_record`, for who cannot go on without it.

    Raises:
        FileNotFoundError: The study was not launched yet.
        UserError: The record and its copy are damaged.
    """
    try:
        return read_study_record(storage)
    except ValueError as error:
        raise UserError(f"{error}; restore it, or start again under another name or --storage") from None


def is_recorded(storage: Storage) -> bool:
    """Whether the study was launched: there is a record, sound or not."""
    path = storage.folder / STUDY_FILE
    return path.exists() or copy_of(path).exists()


def recorded_spec(record: dict[str, Any]) -> dict[str, Any]:
    """Returns the study file in a record."""
    spec: dict[str, Any] = record.get("spec", record)
    return spec


def recorded_studies(root: Path) -> list[str]:
    """Returns the names of the studies that a storage folder has records of."""
    return sorted(path.parent.name for path in root.glob(f"*/{STUDY_FILE}"))


def frozen_spec(storage: Storage) -> dict[str, Any] | None:
    """Returns the study file as it was frozen at the first launch; None before that."""
    if not is_recorded(storage):
        return None
    return recorded_spec(sound_study_record(storage))


def published_spec(storage: Storage) -> dict[str, Any]:
    """Returns the frozen study file as others may see it; empty before the launch.

    Without credentials, and of folders that this program has prepared without where it keeps them on this machine:
    their names say what they hold.
    """
    spec = dict(frozen_spec(storage) or {})
    for section, name in (("tracking", "uri"), ("storage", "ledger_url")):
        if (spec.get(section) or {}).get(name):
            spec[section] = {**spec[section], name: without_credentials(spec[section][name])}
    prepared = (spec.get("downstream") or {}).get("prepared")
    return _without(spec, f"{Path(prepared).parent.parent}/") if prepared else spec


def _without(value: Any, prefix: str) -> Any:
    """The same with no text beginning with the prefix."""
    if isinstance(value, dict):
        return {key: _without(one, prefix) for key, one in value.items()}
    if isinstance(value, list):
        return [_without(one, prefix) for one in value]
    return value.removeprefix(prefix) if isinstance(value, str) else value


def spec_digest(storage: Storage) -> str:
    """Returns the digest of the frozen study file; empty before the launch."""
    return str(read_study_record(storage).get("digest", "")) if is_recorded(storage) else ""

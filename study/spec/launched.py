"""Finds a launched study: its storage, and the study file as it was launched."""

from __future__ import annotations

from pathlib import Path

from study.spec.study_spec import StudySpec
from study.storage.layout import Storage, root_and_url, storage_at
from study.storage.run_key import is_sound_name
from study.storage.study_record import is_recorded, read_study_record, recorded_studies
from trainables.errors import UserError


def storage_of(spec: StudySpec, location: str | Path) -> Storage:
    """Returns where a study lies (a folder or a URL), with an absolute root; asks no server."""
    return storage_at(location, spec.name)


def readable_storage(location: str | Path, name: str) -> Storage:
    """Returns the storage of a study that was launched; of one at a URL this machine's copy is brought up to date.

    Raises:
        UserError: There is no such study; the message lists those that there are.
    """
    sound = is_sound_name(name)
    storage = storage_at(location, name)
    if sound and storage.url is not None:
        from study.remote.working_copy import refresh

        refresh(storage)
    if not sound or not is_recorded(storage):
        known = recorded_studies(readable_root(location))
        there = (
            f"studies there: {', '.join(known)}" if known else "there are none; launch one, or give --storage"
        )
        raise UserError(f"no study called {name!r} in {location}; {there}")
    return storage


def readable_root(location: str | Path) -> Path:
    """Returns the folder with all studies of a storage; from a URL their ``study.json`` are fetched."""
    root, url = root_and_url(location)
    if url is not None:
        from study.remote.working_copy import fetch_studies

        fetch_studies(root, url)
    return root


def stored_spec(storage: Storage) -> StudySpec:
    """Returns the study as it was launched."""
    return StudySpec.from_record(read_study_record(storage))

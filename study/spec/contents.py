"""What lies in the folders that a study names: read at a launch, kept in ``study.json``, compared before a resume."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainables.config.fields import DATA_SET_FOLDERS, SUBJECT_FOLDERS
from trainables.run.contents import Contents, changes, is_revision

#: Field of a study -> what lies in the folder that it names, e.g. ``subjects.teapot.images`` or ``model``.
StudyContents = dict[str, Contents]

NOT_RECORDED = (
    "what its images and models held was not recorded (it was begun by an earlier version of this program)"
)


def known_contents(record: Mapping[str, Any], found: StudyContents) -> StudyContents:
    """Returns what is known of a study's folders, by its record and by what was found now.

    Where only one of the two knows, nothing has changed: a hub id that had not been fetched when the study was begun,
    or has not been fetched to this machine. Each run holds to what it found when it began.
    """
    recorded: StudyContents | None = record.get("identity", {}).get("contents")
    if recorded is None:
        return found
    return {field: found.get(field, contents) for field, contents in recorded.items()}


def of_run(digests: Mapping[str, str], subject: str, *, captions: bool) -> dict[str, str]:
    """Returns the fields of `RunConfig.contents` of a run.

    Args:
        digests: By field of the study.
        captions: Whether the run reads captions from files.
    """
    prefix, common = f"subjects.{subject}.", ("model", "evaluation.image_encoder", "evaluation.clip")
    own = {
        "subject." + field.removeprefix(prefix): digest
        for field, digest in digests.items()
        if field.startswith(prefix) and (captions or not field.endswith(".captions"))
    }
    return own | {field: digests[field] for field in common if field in digests}


def without_paths(identity: dict[str, Any], contents: Mapping[str, Contents]) -> None:
    """Takes the paths out of a study's identity, in place, of what is known by its content."""
    for subject in identity["subjects"]:
        for key in SUBJECT_FOLDERS:
            if f"subjects.{subject['name']}.{key}" in contents:
                subject[key] = None
        for key in DATA_SET_FOLDERS:
            if f"subjects.{subject['name']}.dataset.{key}" in contents:
                subject["dataset"][key] = None
    for field, key in (("model", "path"), ("evaluation", "image_encoder"), ("evaluation", "clip")):
        held = contents.get(field if field == "model" else f"{field}.{key}")
        if held is not None and not is_revision(held):  # a hub's id means the same everywhere
            identity[field][key] = None


def differing(before: Mapping[str, Contents], after: Mapping[str, Contents]) -> list[str]:
    """Returns a line for each folder that no longer holds the same, naming the files."""
    return [
        f"{field}: {changes(before.get(field, {}), after.get(field, {}))}"
        for field in dict.fromkeys([*before, *after])
        if before.get(field, {}) != after.get(field, {})
    ]

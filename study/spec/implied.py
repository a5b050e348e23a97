"""What the subjects of a study imply for its training, where the file says nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from trainables.config.fields import SubjectConfig


def with_implied(
    subjects: Iterable[SubjectConfig] | None, training: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """Returns the training section with what data sets imply where it says nothing: captions are those of files."""
    if training is None or not subjects or not all(subject.is_data_set for subject in subjects):
        return None if training is None else dict(training)
    return {"captions": "files", **training}

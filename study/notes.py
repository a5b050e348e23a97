"""What a study file allows, but probably does not mean: said before a study runs, which goes on all the same."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from study.checks import check_prompts, evaluation_notes
from study.detectable import detectable_notes
from study.spec import StudySpec


def study_notes(spec: StudySpec) -> list[str]:
    """Returns what is allowed, but probably not meant, one message each; the study has no problems (`check_study`)."""
    prompts = [note for found in check_prompts(spec) for note in found.notes]
    return list(
        dict.fromkeys([*_same_prompts(spec), *prompts, *evaluation_notes(spec), *detectable_notes(spec)])
    )


def _same_prompts(spec: StudySpec) -> list[str]:
    """A class prompt that names the subject itself keeps the class from nothing, and measures nothing of it."""
    return [
        f"subject {subject.name!r}: class_prompt is the instance prompt, {subject.class_prompt!r}; it should name the "
        "class without the rare token, for example 'a dog' for 'a sks dog'"
        for subject in spec.subjects
        if subject.class_prompt is not None
        and subject.instance_prompt is not None
        and subject.class_prompt.split() == subject.instance_prompt.split()
    ]


def print_notes(notes: Iterable[str]) -> None:
    """Prints notes on the standard error, one a line."""
    for note in notes:
        print(f"note: {note}", file=sys.stderr, flush=True)

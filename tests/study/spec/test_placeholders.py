"""Placeholders in prompts of an evaluation: a misspelt one is told, other braces are the prompt's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from study.spec.study_spec import StudySpec
from tests.helpers.study_files import only, study_dict


@pytest.mark.parametrize(
    ("evaluation", "words"),
    [
        (
            {"prompts": ["a {subjct} on a beach"]},
            "placeholder {subjct}; did you mean {subject}? {subject}, the",
        ),
        (
            {"search": {"prompts": ["{subject} here", "{subject} in {place}"]}},
            "placeholder {place}; {subject}, ",
        ),
        (
            {"restore_best": "quality", "at": [0.5], "restore_best_prompts": ["{subject} and { Subject }"]},
            "has the unknown placeholder { Subject }; did you mean {subject}?",
        ),
    ],
)
def test_placeholders_that_nothing_is_put_for_are_refused(
    evaluation: dict[str, Any], words: str, tmp_path: Path
) -> None:
    assert words in only(tmp_path, study_dict(evaluation=evaluation))


def test_other_braces_are_the_prompts_own() -> None:
    own = ["{subject} {}", "{subject}: {red|green}", "{subject} {1} {a b}", "{{x: 1}} {subject}"]
    assert StudySpec.model_validate(study_dict(evaluation={"prompts": own})).evaluation.prompts == tuple(own)

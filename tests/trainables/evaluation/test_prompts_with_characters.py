"""Prompts that name a data set's characters by placeholders: one of them, or two, each in turn."""

from __future__ import annotations

from typing import Any

import pytest

from trainables.config.fields import EvaluationConfig
from trainables.evaluation.held_out_captions import Asked, characters_of_subjects, check_asked, choose

NAMES = ("momo", "zog", "", "pip", "momo")
CAPTIONS = tuple(f"{name or 'nobody'} {number}" for number, name in enumerate(NAMES))
ONE, TWO = "{subject}{character} at night", "{subject}{character} and {other_character} in a city"


def asked(*prompts: str, **more: Any) -> tuple[Asked, ...]:
    return choose(CAPTIONS, NAMES, EvaluationConfig(prompts=prompts, **more))


def test_each_prompt_names_the_next_character() -> None:
    assert asked(*[ONE] * 4) == tuple(
        Asked(f"{name} at night", name) for name in ("momo", "pip", "zog", "momo")
    )


def test_a_prompt_with_two_is_about_neither_alone() -> None:
    found = asked(*[TWO] * 6)
    pairs = [tuple(one.caption.removesuffix(" in a city").split(" and ")) for one in found]
    assert pairs == [
        ("momo", "pip"),
        ("pip", "zog"),
        ("zog", "momo"),
        ("momo", "zog"),
        ("pip", "momo"),
        ("zog", "pip"),
    ]
    assert {one.character for one in found} == {""}


def test_prompts_without_them_are_as_they_are_written_and_count_in_their_turn() -> None:
    assert asked("{subject}a red cat", ONE, num_prompts=2) == (
        Asked("a red cat"),
        Asked("pip at night", "pip"),
    )


@pytest.mark.parametrize(
    ("names", "prompts", "told"),
    [
        (("", ""), [ONE], "asks for a character, and its held-out images name nobody"),
        (("momo", "momo"), [TWO], "asks for another character, and its held-out images name momo alone"),
        (("momo", "momo"), [ONE], None),
        (("momo", "zog"), [TWO, ONE], None),
    ],
)
def test_too_few_characters_are_told(names: tuple[str, ...], prompts: list[str], told: str | None) -> None:
    problems = check_asked(("a", "b"), names, EvaluationConfig(prompts=prompts))
    assert problems == [] if told is None else told in problems[0]
    assert len(problems) <= 1


def test_a_subject_has_no_characters() -> None:
    config = EvaluationConfig(prompts=["{subject} in a city", "{subject} with {other_character}"])
    (problem,) = characters_of_subjects(config)
    assert "'{subject} with {other_character}' asks for a character of a data set" in problem


def test_a_misspelt_placeholder_is_told_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"unknown placeholder \{charcter\}; did you mean \{character\}\?"):
        EvaluationConfig(prompts=["{subject}{charcter}", ONE])

"""Prompts of classes: templates, tokens, names, and what is said of those that cannot be."""

from __future__ import annotations

import pytest

from trainables.data.class_prompts import ClassPrompts, class_prompts


def only_problem(*args: object, **kwargs: object) -> str:
    prompts, problems = class_prompts(*args, **kwargs)  # type: ignore[arg-type]
    assert prompts == {}
    assert len(problems) == 1, problems
    return problems[0]


def test_prompts_with_and_without_the_token() -> None:
    prompts, problems = class_prompts(["golden_retriever", "cat"])
    assert problems == []
    assert prompts == {
        "golden_retriever": ClassPrompts("photo of sks golden retriever", "photo of golden retriever"),
        "cat": ClassPrompts("photo of sks cat", "photo of cat"),
    }


def test_tokens_words_and_templates_of_ones_own() -> None:
    prompts, problems = class_prompts(
        ["1", "4"],
        "{class}, {token}",
        {"1": "aaa", "4": "ddd"},
        "a photo of {class}",
        {"1": "a healthy udder", "4": "a sore udder"},
    )
    assert problems == []
    assert prompts["4"] == ClassPrompts("a sore udder, ddd", "a photo of a sore udder")


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (
            "photo of {class}",
            "must have {token} and {class}, each once, and no other placeholder; it has {class}",
        ),
        ("photo", "it has none"),
        ("{token} {class} {class}", "it has {token}, {class}, {class}"),
        ("{token} {class} {grade}", "it has {token}, {class}, {grade}"),
        ("{token} {class!r}", "each once"),
        ("{token} {class", "cannot be read"),
    ],
)
def test_templates_that_are_wrong(template: str, said: str) -> None:
    assert said in only_problem(["a", "b"], template)


def test_a_class_template_has_no_token() -> None:
    assert "the template of class prompts" in only_problem(["a", "b"], class_template="{token} {class}")


def test_classes_that_are_the_same_in_prompts() -> None:
    said = only_problem(["score_1", "Score 1", "score 2"])
    assert said.startswith("prompts: 'score_1' and 'Score 1' are both 'score 1' in prompts")
    assert class_prompts(["score_1", "Score 1"], words={"Score 1": "other"})[1] == []


def test_names_without_words_and_tokens_that_are_missing_or_unknown() -> None:
    _, problems = class_prompts(["_", "a"], token={"a": "x", "b": "y"})
    assert [one.split(";")[0] for one in problems] == [
        "prompts: tokens of classes that are not there: 'b'",
        "prompts: classes without a token: '_'",
        "prompts: classes whose names have no words: '_'",
    ]

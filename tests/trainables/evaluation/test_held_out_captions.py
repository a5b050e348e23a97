"""Which captions a data set is asked for, and what is drawn of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from tests.helpers.made_data_sets import CAST, TRIGGER, data_set
from trainables.config.fields import EvaluationConfig
from trainables.errors import UserError
from trainables.evaluation.held_out_captions import asked_of, choose, phases_of
from trainables.evaluation.prompts import evaluation_templates
from trainables.evaluation.protocol import make_protocol

CONFIRM, SEARCH = EvaluationConfig(num_class_images=64), EvaluationConfig(prompt_set="search")


def test_search_and_confirm_share_no_caption_and_every_character_is_in_both() -> None:
    subject = data_set()
    confirm = asked_of(subject, CONFIRM.model_copy(update={"num_prompts": 999}))
    search = asked_of(subject, SEARCH.model_copy(update={"num_prompts": 999}))
    assert len(confirm) == len(search) == 36  # every held-out caption is in one half
    assert not {one.caption for one in confirm} & {one.caption for one in search}
    assert Counter(one.character for one in confirm) == Counter(one.character for one in search)
    # Whatever the order of the images, and however a caption is written.
    turned = replace(
        subject,
        reference_captions=tuple(reversed(subject.reference_captions)),
        reference_characters=tuple(reversed(subject.reference_characters)),
    )
    assert asked_of(turned, CONFIRM) == asked_of(subject, CONFIRM)


@pytest.mark.parametrize(("number", "counts"), [(None, [5, 5, 6]), (3, [1, 1, 1]), (7, [2, 2, 3])])
def test_prompts_are_balanced_over_characters(number: int | None, counts: list[int]) -> None:
    asked = asked_of(data_set(), CONFIRM.model_copy(update={"num_prompts": number}))
    assert sorted(Counter(one.character for one in asked).values()) == counts
    assert [one.character for one in asked] == sorted(one.character for one in asked)
    whole = {one.caption for one in asked_of(data_set(), CONFIRM)}
    assert {one.caption for one in asked} <= whole
    assert len(asked_of(data_set(), SEARCH)) == 8


def test_captions_that_several_images_share_are_asked_once() -> None:
    captions = ("a cat", "A  Cat", "a dog", "a bird")
    assert sorted(one.caption for one in choose(captions, (), CONFIRM)) != []
    halves = [choose(captions, (), config) for config in (CONFIRM, SEARCH)]
    assert sorted(one.caption for half in halves for one in half) == ["a bird", "a cat", "a dog"]
    # One caption of two characters tells nobody whose picture it asks for.
    both = choose(("a cat", "a cat"), ("momo", "bibi"), CONFIRM)
    assert [(one.caption, one.character) for one in both] == [("a cat", "")]


def test_characters_with_one_caption_are_dealt_to_both_phases() -> None:
    names = [f"c{number}" for number in range(10)]
    captions = [f"{name} in the snow" for name in names]
    phases = phases_of(captions, names)
    assert phases.count("search") == phases.count("confirm") == 5
    order = sorted(range(10), key=lambda number: captions[-number])
    assert phases_of([captions[n] for n in order], [names[n] for n in order]) == tuple(
        phases[n] for n in order
    )
    # What is over of odd numbers too; where no number is odd each character begins with confirm, as without names.
    three = [f"{name} at {place}" for name in names for place in range(3)]
    assert phases_of(three, [name for name in names for _ in range(3)]).count("search") == 15
    alone = phases_of([f"at {n}" for n in range(4)], ["momo"] * 4)
    assert alone == phases_of([f"at {n}" for n in range(4)], ())


def test_too_few_held_out_captions_are_refused_with_the_remedy() -> None:
    few = data_set(characters=False, each=1)  # three captions: two to confirm, one to search
    assert len(asked_of(few, CONFIRM)) == 2
    with pytest.raises(
        UserError, match=r"data set 'cast': the search phase needs at least 2 .* its half has 1: hold"
    ):
        make_protocol(few, SEARCH, 64, 0)
    own = EvaluationConfig(prompts=("{subject}a cat", "a cat of {subject}"))
    with pytest.raises(UserError, match=r"begins with \{subject\}.*got 'a cat of \{subject\}'") as error:
        evaluation_templates(few, own)
    assert len(error.value.problems) == 1


def test_a_study_may_ask_for_captions_of_its_own() -> None:
    config = EvaluationConfig(
        prompts=("{subject}a cat in the snow", "{subject}a dog", "{subject}a frog"), num_prompts=2
    )
    protocol = make_protocol(data_set(), config, 64, 0)
    assert protocol.texts == ("a cat in the snow", "a dog")
    assert protocol.instance.prompts[0] == "ink style, a cat in the snow"
    assert protocol.characters == ("", "")


def test_protocol_with_a_trigger() -> None:
    subject = data_set()
    protocol = make_protocol(subject, CONFIRM, 64, 3)
    assert protocol == make_protocol(subject, CONFIRM, 64, 3)
    assert set(protocol.instance.prompts) == {TRIGGER + text for text in protocol.texts}
    assert {TRIGGER + text for text in protocol.texts} <= set(subject.reference_captions)
    # Class prompts and anchors are the same captions without it; nothing is drawn of the empty prompt.
    assert set(protocol.classes.prompts) == set(protocol.anchors.prompts) == set(protocol.texts)
    assert set(protocol.classes.groups) == set(protocol.anchors.groups) == set(range(1, 17))
    assert [protocol.class_templates[g] for g in (1, 16)] == [protocol.templates[0], protocol.templates[15]]
    assert len(protocol.anchors) == 64
    seeds = [set(draw.seeds) for draw in (protocol.instance, protocol.classes, protocol.anchors)]
    assert sum(map(len, seeds)) == len(set().union(*seeds)) == 64 * 3
    other = make_protocol(subject, CONFIRM, 64, 4)
    assert other.anchors == protocol.anchors
    assert not set(other.instance.seeds) & set(protocol.instance.seeds)
    few = make_protocol(subject, EvaluationConfig(num_class_images=6), 64, 3)
    # Not the first character's alone.
    assert {caption.split()[0] for caption in few.classes.prompts} == set(CAST)


def test_protocol_without_a_trigger_has_general_class_prompts() -> None:
    protocol = make_protocol(data_set(trigger=""), CONFIRM, 64, 0)
    assert set(protocol.instance.prompts) == set(protocol.texts)
    assert len(protocol.general) == 16
    assert set(protocol.classes.prompts) == set(protocol.general)
    assert not set(protocol.general) & set(protocol.texts)
    assert protocol.general[0] == "a cat in the snow"
    assert set(protocol.anchors.prompts) == {*protocol.texts, *protocol.general}
    assert protocol.class_groups == tuple(range(17, 33))
    assert {protocol.class_templates[group] for group in protocol.classes.groups} == set(protocol.general)
    photographs = make_protocol(data_set(trigger=""), EvaluationConfig(clip="openai/clip"), 64, 0)
    assert photographs.general[0] == "a dog on a sandy beach beside the sea"

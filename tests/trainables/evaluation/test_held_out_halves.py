"""Which held-out images of a data set choose a step, and which judge the result: nothing of one has part in both."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from PIL import Image

from tests.helpers.made_data_sets import TRIGGER
from trainables.config.fields import EvaluationConfig
from trainables.data.subjects import Subject
from trainables.errors import UserError
from trainables.evaluation.choice import choosing, evaluations_of, halves_of, judging, shared_prompts
from trainables.evaluation.held_out_captions import asked_of, bare_captions, phases_of
from trainables.evaluation.held_out_halves import deal_out, unit_numbers
from trainables.evaluation.prompts import evaluation_templates

ALL = {"num_prompts": 999}
CONFIRM, SEARCH = EvaluationConfig(**ALL), EvaluationConfig(prompt_set="search", **ALL)


def held_out(captions: Sequence[str], characters: Sequence[str] = (), groups: Sequence[str] = ()) -> Subject:
    """A data set of whose pictures only what is said of them is of interest."""
    picture = Image.new("RGB", (8, 8))
    return Subject(
        name="made",
        instance_prompt=TRIGGER,
        class_prompt="",
        images=(picture,),
        captions=(TRIGGER + "a picture",),
        references=(picture,) * len(captions),
        is_data_set=True,
        reference_names=tuple(f"{row:03}.png" for row in range(len(captions))),
        reference_captions=tuple(TRIGGER + caption for caption in captions),
        reference_characters=tuple(characters),
        reference_groups=tuple(groups),
    )


def made(seed: int, named: bool = True) -> tuple[list[str], list[str], list[str]]:
    """Captions that several images share, groups of several captions, and characters in turn."""
    draw = random.Random(seed)
    captions = [f"scene {draw.randrange(70)}" for _ in range(40)]
    characters = [("momo", "bibi")[row % 2] if named else "" for row in range(40)]
    return captions, characters if named else [], [f"take {draw.randrange(70)}" for _ in range(40)]


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_no_group_and_no_caption_is_in_both_halves(seed: int, named: bool) -> None:
    captions, characters, groups = made(seed, named)
    captions[0] = captions[1].upper() + " "  # one caption, but for case and spaces
    subject = held_out(captions, characters, groups)
    halves = halves_of(subject)
    assert sorted(halves.judging + halves.choosing) == list(range(40))
    for said in (groups, [" ".join(caption.lower().split()) for caption in captions]):
        assert not {said[row] for row in halves.judging} & {said[row] for row in halves.choosing}
    for half, rows in ((judging(subject), halves.judging), (choosing(subject), halves.choosing)):
        assert half.reference_names == tuple(f"{row:03}.png" for row in rows)
        assert bare_captions(half) == tuple(captions[row] for row in rows)
        assert half.reference_groups == tuple(groups[row] for row in rows)
        assert len(half.references) == len(rows)


def test_a_caption_belongs_to_one_phase_in_the_halves_as_in_the_whole() -> None:
    captions, characters, groups = made(7)
    subject = held_out(captions, characters, groups)
    phases = dict(zip(captions, phases_of(captions, characters), strict=True))
    asked = {
        (name, config.prompt_set): {one.caption for one in asked_of(half, config)}
        for name, half in (("judges", judging(subject)), ("chooses", choosing(subject)))
        for config in (CONFIRM, SEARCH)
    }
    for (_, phase), found in asked.items():
        assert {phases[caption] for caption in found} == {phase}
    assert sum(map(len, asked.values())) == len(set(captions)), "each caption has one place"
    assert set().union(*asked.values()) == set(captions)


def test_a_caption_that_two_images_share_cannot_choose_and_judge() -> None:
    captions = ("a cat", "a dog", "a bird", "a frog") * 2  # every second image: each caption on both sides
    subject = held_out(captions)
    assert not set(bare_captions(judging(subject))) & set(bare_captions(choosing(subject)))


@pytest.mark.parametrize("groups", [(), tuple(f"{row}.png" for row in range(48))])
def test_every_character_is_in_both_halves_of_both_phases(groups: tuple[str, ...]) -> None:
    who = ("momo", "bibi") * 24  # names that alternate: every second image is of one character
    captions = [f"{name} in scene {row}" for row, name in enumerate(who)]
    subject = held_out(captions, who, groups)
    for half in (judging(subject), choosing(subject)):
        for config in (CONFIRM, SEARCH):
            asked = asked_of(half, config)
            assert [sum(one.character == name for one in asked) for name in ("bibi", "momo")] == [6, 6]


def test_halves_of_few_captions_have_as_many_of_each_phase() -> None:
    for count in range(8, 40):
        halves = deal_out([f"scene {row}" for row in range(count)], (), ())
        phases = phases_of([f"scene {row}" for row in range(count)], ())
        for rows in (halves.judging, halves.choosing):
            for phase in ("confirm", "search"):
                assert abs(sum(phases[row] == phase for row in rows) - count / 4) <= 1


def test_a_large_group_leaves_the_halves_as_even_as_they_can_be() -> None:
    for name in "abcdefgh":
        captions = [f"scene {name} {row}" for row in range(40)]
        halves = deal_out(captions, (), ["large"] * 18 + [f"{row}" for row in range(22)])
        assert abs(len(halves.judging) - 20) <= 2


def test_halves_do_not_hang_on_the_order_and_on_names_of_groups() -> None:
    captions, characters, groups = made(3)
    first = deal_out(captions, characters, groups)
    order = list(range(40))
    random.Random(1).shuffle(order)
    again = deal_out(
        [captions[row] for row in order],
        [characters[row] for row in order],
        [f"renamed {groups[row][::-1]}" for row in order],
    )
    assert sorted(order[row] for row in again.judging) == list(first.judging)


def test_each_of_few_characters_with_one_picture_has_one_half() -> None:
    halves = deal_out(["a cat", "a dog", "a frog"], ["momo", "tutu", "bibi"], ())
    assert sorted(map(len, (halves.judging, halves.choosing))) == [1, 2]


def test_images_of_one_group_are_not_dealt_out() -> None:
    for subject in (
        held_out(["a cat", "a dog", "a bird"], groups=["one"] * 3),
        held_out(["a cat", "A cat", "a  cat"]),
    ):
        assert halves_of(subject).judging == (0, 1, 2)
        with pytest.raises(
            UserError, match=r"'made' has 3 held-out images of one group or caption.*at least 2"
        ):
            choosing(subject)


def test_subjects_are_dealt_out_as_ever() -> None:
    plain = replace(held_out(["a cat"] * 5), is_data_set=False, reference_captions=())
    assert judging(plain).reference_names == ("000.png", "002.png", "004.png")
    assert choosing(plain).reference_names == ("001.png", "003.png")
    assert judging(plain).reference_phases == ()


def test_the_digest_knows_what_belongs_together() -> None:
    alone = held_out(["a cat", "a dog", "a bird"])
    names = replace(alone, reference_groups=("0.png", "1.png", "2.png"))
    grouped, renamed = (replace(alone, reference_groups=groups) for groups in (tuple("aab"), tuple("xxy")))
    assert alone.digest == names.digest
    assert grouped.digest == renamed.digest != alone.digest


def test_prompts_of_a_study_are_compared_with_the_captions_that_choose() -> None:
    captions = [f"scene {row}" for row in range(16)]
    subject = held_out(captions)
    by = {"restore_best": "clip_i", "at": [0.5]}
    plain = EvaluationConfig(**by)
    judged, chosen = (evaluation_templates(*part) for part in evaluations_of(subject, plain))
    assert len(judged) == len(chosen) == 4
    assert shared_prompts(plain, [judged, chosen]) == []
    for template in chosen:
        again = template.replace("{subject}scene", "{subject} Scene ")
        own = plain.model_copy(update={"prompts": ("{subject}a cat", again)})
        found = [evaluation_templates(*part) for part in evaluations_of(subject, own)]
        assert shared_prompts(own, found) == [again]
        search = own.model_copy(update={"prompt_set": "search"})
        assert shared_prompts(search, found) == [], "what judges in a search is no result"
    by_loss = EvaluationConfig(**{**by, "restore_best": "held_out_loss"}, prompts=chosen)
    assert [half for half, _ in evaluations_of(subject, by_loss)] == [judging(subject)]


def test_images_of_a_group_or_a_caption_are_one_sample() -> None:
    captions = ["a cat", "A  cat", "a dog", "a cup", "a car"]
    assert unit_numbers(captions, ["g", "h", "i", "i", "j"]) == (0, 0, 1, 1, 2)
    assert len(set(unit_numbers(captions, ()))) == 4
    assert len(set(unit_numbers(captions, ["a", "b", "b", "c", "c"]))) == 2  # through one another

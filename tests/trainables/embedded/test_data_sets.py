"""The data sets that come with the project: what they hold, and that nothing held out is seen in training."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict

import numpy as np
import pytest
from PIL import Image

from benchmarks.emoji_set import ALIKE, LONGEST, groups_of
from trainables.config.fields import SubjectConfig
from trainables.data.subjects import resolve_subject
from trainables.embedded import GENERATOR, load_data_set
from trainables.embedded.canvas import SIZE
from trainables.embedded.captions import VOCABULARY
from trainables.embedded.data_sets import ShippedSet
from trainables.embedded.emoji_set import FOLDER
from trainables.embedded.ink import INK, PAPER, render_in_ink
from trainables.embedded.render import render
from trainables.embedded.sprite_cast import CHARACTERS, FURTHER_CASTS, cast_pictures
from trainables.evaluation.copies import copies
from trainables.models.prompt_lengths import pipeline_reader


def tokens_of(shipped: ShippedSet) -> list[int]:
    reader = pipeline_reader(GENERATOR)
    assert reader is not None
    return [len(reader.pieces(f"{shipped.trigger}, {one.caption}")) + 2 for one in shipped.pictures]


@pytest.mark.parametrize("name", ["sprite-cast", "emoji", "sprite-cast-5"])  # further casts are made alike
def test_pictures_are_as_many_as_captions_and_read_to_the_end(name: str) -> None:
    shipped = load_data_set(name)
    images = shipped.images()
    assert len(images) == len(shipped.pictures)
    assert {(image.mode, image.size) for image in images} == {("RGB", (SIZE, SIZE))}
    assert len({one.name for one in shipped.pictures}) == len(images)
    assert all(one.caption and one.group for one in shipped.pictures)
    assert max(tokens_of(shipped)) <= LONGEST
    assert len({image.tobytes() for image in images}) == len(images)


def test_an_unknown_name_is_told() -> None:
    with pytest.raises(ValueError, match="there are: sprite-cast, emoji"):
        load_data_set("sprite-cats")


# The cast


def test_the_cast_has_enough_of_each_character() -> None:
    pictures = cast_pictures()
    held_out = Counter(one.character for one in pictures if one.is_held_out)
    trained = Counter(one.character for one in pictures if not one.is_held_out)
    assert set(held_out) == set(trained) == set(CHARACTERS)
    assert set(held_out.values()) == {8}
    assert set(trained.values()) == {16}
    assert len({class_name for class_name, _ in CHARACTERS.values()}) == len(CHARACTERS)
    assert not set(CHARACTERS) & set(VOCABULARY)


@pytest.mark.parametrize("name", FURTHER_CASTS)
def test_further_casts_are_made_alike_with_characters_of_their_own(name: str) -> None:
    pictures, first = cast_pictures(name), cast_pictures()
    assert [(one.setting.scene, one.setting.accessory, one.is_held_out) for one in pictures] == [
        (one.setting.scene, one.setting.accessory, one.is_held_out) for one in first
    ]
    assert {one.identity for one in pictures} & {one.identity for one in first} == set()
    assert max(tokens_of(load_data_set(name))) <= LONGEST
    assert {one.setting.seed for one in pictures} & {one.setting.seed for one in first} == set()


def test_no_two_casts_share_a_name_an_identity_or_a_word_that_the_model_knows() -> None:
    casts = [cast_pictures("sprite-cast"), *map(cast_pictures, FURTHER_CASTS)]
    names = [name for cast in casts for name in {one.character for one in cast}]
    assert len({*names}) == len(names) == 8 * 9
    assert not {*names} & {*VOCABULARY}
    assert len({one.identity for cast in casts for one in cast}) == 8 * 9
    seeds = [one.setting.seed for cast in casts for one in cast]
    assert len({*seeds}) == len(seeds)


def test_no_character_is_trained_on_in_a_setting_that_is_asked_for() -> None:
    settings: dict[bool, set[tuple[str, str]]] = defaultdict(set)
    for one in cast_pictures():
        settings[one.is_held_out].add((one.setting.scene, one.setting.accessory))
    assert len(settings[True]) == 8
    assert not settings[True] & settings[False]
    each = Counter((one.character, one.setting.scene, one.setting.accessory) for one in cast_pictures())
    assert set(each.values()) == {1}


def test_captions_say_what_is_drawn() -> None:
    for one in cast_pictures():
        class_name = CHARACTERS[one.character][0]
        assert one.caption.startswith(f"{one.character} the {class_name} {one.setting.scene}")
        assert (one.setting.accessory in one.caption) == (one.setting.accessory != "none")


def test_the_style_is_not_that_of_the_world() -> None:
    """Much of each picture is ink or paper, which the world's pictures hardly have."""

    def share(image: Image.Image) -> float:
        pixels = np.asarray(image, dtype=np.int32).reshape(-1, 1, 3)
        return float((np.abs(pixels - np.array([INK, PAPER])).max(axis=2).min(axis=1) < 12).mean())

    shares = []
    for one in cast_pictures()[::9]:
        identity = one.identity
        shares.append((share(render_in_ink(identity, one.setting)), share(render(identity, one.setting))))
    ink, world = np.array(shares).T
    assert ink.mean() > 0.3
    assert (ink > world + 0.1).all()
    assert world.mean() < 0.05


def test_the_cast_is_the_same_everywhere() -> None:
    """Guards against a change of the drawing, which would change the results of every study on it."""
    images = load_data_set("sprite-cast").images()
    means = np.array([np.asarray(image, dtype=np.float64).mean() for image in images])
    again = np.array([np.asarray(one.draw(), dtype=np.float64).mean() for one in cast_pictures()[:8]])
    assert (means[:8] == again).all()
    digest = hashlib.sha256(b"".join(image.tobytes() for image in images)).hexdigest()
    assert digest[:16] == "f9f16b1fb60d6c8b"


def test_nothing_held_out_of_the_cast_is_a_copy() -> None:
    shipped = load_data_set("sprite-cast")
    pairs = list(zip(shipped.pictures, shipped.images(), strict=True))
    held_out = [image for one, image in pairs if one.is_held_out]
    trained = [image for one, image in pairs if not one.is_held_out]
    assert not copies(held_out[::2], trained).any()


# Emoji


def test_emoji_that_look_alike_are_of_one_group() -> None:
    shipped = load_data_set("emoji")
    assert 300 <= len(shipped.pictures) <= 600
    captions = [one.caption for one in shipped.pictures]
    assert groups_of(shipped.images(), captions) == [one.group for one in shipped.pictures]
    group = {one.caption: one.group for one in shipped.pictures}
    assert group["green book"] == group["blue book"] == group["orange book"]
    assert group["file folder"] == group["open file folder"]
    assert group["dog face"] != group["cat face"]
    assert set(ALIKE) == {"RGB", "L"}


def test_emoji_are_small_and_their_licence_lies_beside_them() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 3_000_000
    assert "Twitter, Inc and other contributors" in (FOLDER / "README.md").read_text(encoding="utf-8")
    text = (FOLDER / "LICENSE-CC-BY-4.0.txt").read_text(encoding="utf-8")
    assert text.startswith("Creative Commons Attribution 4.0 International")
    assert "Section 8" in text


def test_emoji_lie_on_white() -> None:
    corners = [
        image.getpixel((x, y)) for image in load_data_set("emoji").images() for x in (0, 63) for y in (0, 63)
    ]
    assert np.mean([corner == (255, 255, 255) for corner in corners]) > 0.9


def test_nothing_held_out_of_the_emoji_is_a_copy() -> None:
    subject = resolve_subject(SubjectConfig(name="emoji"), SIZE)
    assert len(subject.references) > 50
    assert not copies(subject.references, subject.images).any()

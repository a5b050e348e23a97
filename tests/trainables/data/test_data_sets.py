"""Data sets in a subject's place: the split, what a `Subject` then holds, and what is refused."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from tests.helpers.image_folders import captioned, picture, write_lines, write_pictures
from trainables.config.fields import DataSetConfig, EvaluationConfig, SubjectConfig
from trainables.data import data_sets
from trainables.data.buckets import buckets_of, cut, nearest_bucket
from trainables.data.group_split import hold_out_groups
from trainables.data.images import read_image, square
from trainables.data.subjects import check_subject, resolve_held_out, resolve_subject, training_captions
from trainables.errors import UserError
from trainables.evaluation.choice import evaluations_of
from trainables.evaluation.held_out_captions import asked_of, bare_captions
from trainables.run.held_out_checks import held_out_notes, held_out_of


def config_of(path: Path, **options: object) -> SubjectConfig:
    return SubjectConfig.model_validate({"name": "my-cast", "dataset": {"path": str(path), **options}})


def only_problem(config: SubjectConfig, resolution: int | None = 64) -> str:
    problems = check_subject(config, resolution)
    assert len(problems) == 1, problems
    with pytest.raises(UserError) as raised:
        resolve_subject(config, resolution or 64)
    assert raised.value.problems == tuple(problems)
    return problems[0]


# The split


def test_single_images_are_held_out_by_the_smallest_hashes() -> None:
    names = [f"{number}.png" for number in range(50)]
    ranked = sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    for share in (0.01, 0.1, 0.2, 0.5, 0.9, 0.999):
        count = min(49, max(1, round(share * 50)))
        assert hold_out_groups(names, share) == set(ranked[:count])


def test_an_added_image_hardly_changes_the_choice() -> None:
    names = [f"{number}.png" for number in range(100)]
    before, after = hold_out_groups(names, 0.2), hold_out_groups([*names, "new.png"], 0.2)
    assert len(before ^ after) <= 2


def test_groups_are_held_out_whole_and_about_as_many_images_as_asked_for() -> None:
    draw = random.Random(3)
    for _ in range(200):
        sizes = [draw.choice((1, 1, 2, 5, 30)) for _ in range(draw.randint(2, 40))]
        groups = [f"g{number}" for number, size in enumerate(sizes) for _ in range(size)]
        share = draw.uniform(0.05, 0.95)
        chosen = hold_out_groups(groups, share)
        held = sum(group in chosen for group in groups)
        assert 0 < held < len(groups)
        # A group is left out if with it more would be held out beyond the share than is missing without it.
        for number, size in enumerate(sizes):
            if f"g{number}" not in chosen and len(chosen) > 1 and held + size < len(groups):
                assert held + size / 2 >= share * len(groups) - 1e-9
        shuffled = list(groups)
        draw.shuffle(shuffled)
        assert hold_out_groups(shuffled, share) == chosen


def test_a_group_that_is_too_large_is_trained_on() -> None:
    assert hold_out_groups(["large"] * 90 + ["small"] * 10, 0.2) == {"small"}
    assert hold_out_groups(["a"] * 50 + ["b"] * 40, 0.01) == {"b"}
    assert hold_out_groups(["a"] * 9, 0.2) == set()


def dealt(groups: list[str], share: float, characters: list[str]) -> tuple[Counter[str], Counter[str]]:
    """Images of each character that are held out, and that are trained on."""
    held = hold_out_groups(groups, share, characters)
    sides: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
    for group, who in zip(groups, characters, strict=True):
        sides[group not in held][who] += 1
    return sides


def test_every_character_gives_its_part() -> None:
    draw = random.Random(5)
    for _ in range(100):
        sizes = [draw.choice((1, 2, 3, 8, 20, 60)) for _ in range(draw.randint(1, 12))]
        characters = [f"c{number}" for number, size in enumerate(sizes) for _ in range(size)]
        if len(characters) < 2:
            continue
        draw.shuffle(characters)
        names, share = [f"{number}.png" for number in range(len(characters))], draw.uniform(0.05, 0.6)
        held, trained = dealt(names, share, characters)
        for number, size in enumerate(sizes):
            # Whoever has a group for both sides is on both, where the share makes out an image; see the docstring.
            least = min(int(share * size), size - 1)
            assert held[f"c{number}"] >= least
            assert trained[f"c{number}"] >= (size > 1)
        room = sum(size - 1 for size in sizes)
        if room > share * len(names):
            assert abs(sum(held.values()) - max(1, share * len(names))) <= 0.5 + 1e-9
            assert all(trained[f"c{number}"] for number in range(len(sizes)))
        pairs = list(zip(names, characters, strict=True))
        draw.shuffle(pairs)
        again = hold_out_groups([name for name, _ in pairs], share, [who for _, who in pairs])
        assert again == hold_out_groups(names, share, characters)


def test_characters_on_one_image_make_up_the_share_where_there_are_no_others() -> None:
    names = [f"{number}.png" for number in range(20)]
    assert hold_out_groups(names, 0.2, names) == hold_out_groups(names, 0.2)
    held, trained = dealt(names, 0.2, ["momo"] * 2 + names[2:])
    assert (held["momo"], trained["momo"], sum(held.values())) == (1, 1, 4)


def test_a_group_of_several_characters_is_held_out_once() -> None:
    groups = [f"scene {number // 2}" for number in range(40)]
    characters = ["momo", "zog"] * 20
    held, trained = dealt(groups, 0.2, characters)
    assert held == {"momo": 4, "zog": 4}
    assert trained == {"momo": 16, "zog": 16}
    # A guest is in one scene alone: that one is trained on.
    guest = [*characters[:-1], "rex"]
    for share in (0.1, 0.5, 0.9):
        assert dealt(groups, share, guest)[1]["rex"] == 1


def test_without_characters_nothing_of_the_choice_changes() -> None:
    groups = [f"g{number % 30}" for number in range(100)]
    for nobody in ([""] * 100, ["momo"] * 100):
        assert hold_out_groups(groups, 0.2, nobody) == hold_out_groups(groups, 0.2)


def test_a_folder_with_characters_is_split_by_them(tmp_path: Path) -> None:
    captioned(tmp_path, 24, who=["momo"] * 18 + ["zog"] * 5 + ["rex"])
    subject = resolve_subject(config_of(tmp_path, character_column="who", holdout=0.2), 32)
    assert Counter(subject.reference_characters) == {"momo": 4, "zog": 1}
    assert Counter(subject.characters) == {"momo": 14, "zog": 4, "rex": 1}


def test_an_image_without_a_name_leaves_the_others_theirs(tmp_path: Path) -> None:
    who = {"train": ["momo", "zog", "", "momo", "zog", "momo"], "held": ["zog", "momo", "", "momo"] * 5}
    for first, (side, names) in enumerate(who.items()):
        write_pictures(tmp_path / side, [f"{n:02}.png" for n in range(len(names))], first=50 * first)
        lines = [
            {"file_name": f"{n:02}.png", "text": f"at {side} {n}", "who": name}
            for n, name in enumerate(names)
        ]
        write_lines(tmp_path / side, lines)
    config = config_of(tmp_path / "train", references=str(tmp_path / "held"), character_column="who")
    subject = resolve_subject(config, 32)
    assert subject.characters == tuple(who["train"])
    assert subject.reference_characters == resolve_held_out(config, 32).reference_characters
    assert subject.reference_characters == tuple(who["held"])
    # Runs ask for what was planned, in both phases and halves.
    for phase in ("confirm", "search"):
        for choice in ({}, {"restore_best": "clip_i", "at": (0.5,)}):
            settings = EvaluationConfig.model_validate({"prompt_set": phase, **choice})
            drawn = [asked_of(*part) for part in evaluations_of(subject, settings)]
            assert [part.asked for part in held_out_of(config, settings)] == drawn
            assert all({one.character for one in asked} == {"momo", "zog", ""} for asked in drawn)


# What is loaded


def test_a_folder_is_loaded_with_its_trigger(tmp_path: Path) -> None:
    names = [f"{n:02}.png" for n in range(10)]
    captioned(tmp_path, 10, who=["momo"] * 5 + ["zog"] * 5)
    config = config_of(tmp_path, trigger=" ink  style ", character_column="who")
    subject = resolve_subject(config, 32, "instance_prompt")
    assert subject.is_data_set
    assert not subject.embedded
    assert (subject.instance_prompt, subject.class_prompt) == ("ink style, ", "")
    assert (subject.resolution, subject.side) == (32, 32)
    assert set(subject.reference_names) == hold_out_groups(names, 0.2)
    assert sorted(subject.image_names + subject.reference_names) == names
    for sides in (
        (subject.image_names, subject.images, subject.captions, subject.characters),
        (
            subject.reference_names,
            subject.references,
            subject.reference_captions,
            subject.reference_characters,
        ),
    ):
        for name, image, caption, character in zip(*sides, strict=True):
            number = int(name[:2])
            assert image.tobytes() == square(picture(number), 32).tobytes()
            assert caption == f"ink style, picture {number}, soft"
            assert character == ("momo" if number < 5 else "zog")
    assert training_captions(config) == dict(zip(subject.image_names, subject.captions, strict=True))


@pytest.mark.parametrize("characters", [{}, {"character_column": "who"}])
def test_held_out_images_are_loaded_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, characters: dict[str, str]
) -> None:
    captioned(tmp_path, 20, who=["momo", "zog"] * 10, take=[number // 2 for number in range(20)])
    config = config_of(tmp_path, trigger="ink style", group_column="take", **characters)
    whole, opened = resolve_subject(config, 32), []

    def read(path: Path, resolution: int | None = None) -> Image.Image:
        opened.append(path.name)
        return read_image(path, resolution)

    monkeypatch.setattr(data_sets, "read_image", read)
    alone = resolve_held_out(config, 32)
    assert tuple(opened) == alone.reference_names == whole.reference_names
    trained = {"images": (), "captions": (), "image_names": (), "sizes": (), "characters": (), "squares": ()}
    assert alone == replace(whole, **trained)  # type: ignore[arg-type]
    assert len(set(alone.reference_groups)) == len(alone.references) / 2
    (tmp_path / whole.reference_names[0]).write_bytes(b"no image")
    with pytest.raises(UserError, match=whole.reference_names[0]):
        resolve_held_out(config, 32)
    # Whether CLIP finds its captions in a data set is asked of these alone.
    captioned(tmp_path, 20, who=["momo", "zog"] * 10, take=[number // 2 for number in range(20)])
    opened.clear()
    held_out_notes(config, EvaluationConfig())
    assert tuple(opened) == whole.reference_names


def test_without_a_trigger_captions_are_as_they_are(tmp_path: Path) -> None:
    subject = resolve_subject(config_of(captioned(tmp_path)), 64)
    assert subject.instance_prompt == ""
    assert subject.captions[0].startswith("picture ")
    assert subject.characters == subject.reference_characters == ()


def test_a_caption_that_begins_with_the_trigger_does_not_get_it_twice(tmp_path: Path) -> None:
    texts = {
        "Ink  style, a cat": "a cat",
        "ink style a dog": "a dog",
        "ink style: ink style": "ink style",  # once
        "inkstyle frog": "inkstyle frog",
        "ink styles, a bird": "ink styles, a bird",
        "ink style-like fox": "ink style-like fox",
        "a cow, ink style": "a cow, ink style",
        "caf\u00e9": "caf\u00e9",
    }
    names = write_pictures(tmp_path, [f"{n}.png" for n in range(len(texts))])
    write_lines(tmp_path, [{"file_name": n, "text": text} for n, text in zip(names, texts, strict=True)])
    config = config_of(tmp_path, trigger="ink style", holdout=0.5)
    subject = resolve_subject(config, 64)
    captions = dict(zip(subject.image_names, subject.captions, strict=True))
    assert training_captions(config) == captions
    captions |= dict(zip(subject.reference_names, subject.reference_captions, strict=True))
    assert [captions[name] for name in names] == [f"ink style, {bare}" for bare in texts.values()]
    # What is asked for is told before as it is loaded.
    asked = {entry.caption for entry in data_sets.split_of(config)[0].references}
    assert asked == set(bare_captions(subject))
    assert bare_captions(resolve_subject(config_of(tmp_path, holdout=0.5), 64)) != bare_captions(subject)
    decomposed = config_of(tmp_path, trigger="cafe\u0301")
    assert "captions that are the trigger 'cafe\u0301' and nothing else: 7.png; write what" in only_problem(
        decomposed
    )


def test_groups_stay_on_one_side(tmp_path: Path) -> None:
    takes = [number // 3 for number in range(30)]
    captioned(tmp_path, 30, take=takes)
    subject = resolve_subject(config_of(tmp_path, group_column="take", holdout=0.3), 64)
    held, trained = (
        {takes[int(name[:2])] for name in names} for names in (subject.reference_names, subject.image_names)
    )
    assert not held & trained
    assert len(subject.references) == 9


def test_references_of_their_own_are_all_held_out(tmp_path: Path) -> None:
    captioned(tmp_path / "train", 4)
    names = write_pictures(tmp_path / "held", ["a.png", "b.png"], first=50)
    write_lines(tmp_path / "held", [{"file_name": name, "text": name} for name in names])
    subject = resolve_subject(config_of(tmp_path / "train", references=str(tmp_path / "held")), 64)
    assert len(subject.images) == 4
    assert subject.reference_captions == ("a.png", "b.png")


def test_training_images_are_cut_to_buckets_and_references_to_squares(tmp_path: Path) -> None:
    sizes = [(90, 60), (60, 90), (64, 64), (200, 50), (70, 80), (100, 40)]
    for number, size in enumerate(sizes):
        picture(number, size).save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text(f"picture {number}")
    buckets = buckets_of(64, 16)
    subject = resolve_subject(config_of(tmp_path), 64, buckets=buckets)
    for name, image, size in zip(subject.image_names, subject.images, subject.sizes, strict=True):
        number = int(name[0])
        assert size == sizes[number]
        bucket = nearest_bucket(size, buckets)
        assert image.tobytes() == cut(picture(number, size), bucket).tobytes()
    assert len({image.size for image in subject.images}) > 2
    assert {image.size for image in subject.references} == {(64, 64)}
    assert subject.resolution == 64
    squares = resolve_subject(config_of(tmp_path), 64)
    assert {image.size for image in squares.images} == {(64, 64)}
    for found in (subject, squares):  # what the judge compares does not depend on buckets
        assert [i.tobytes() for i in found.squares] == [i.tobytes() for i in squares.images]
    assert [area[4:] for area in subject.geometry] == [(i.height, i.width) for i in subject.images]


def test_the_digest_knows_held_out_captions_and_characters(tmp_path: Path) -> None:
    captioned(tmp_path, 5, who=list("abcde"))
    plain = resolve_subject(config_of(tmp_path), 64)
    named = resolve_subject(config_of(tmp_path, character_column="who"), 64)
    text = (tmp_path / "metadata.jsonl").read_text()
    number = int(plain.reference_names[0][:2])
    (tmp_path / "metadata.jsonl").write_text(text.replace(f"picture {number}, soft", "something else"))
    other = resolve_subject(config_of(tmp_path), 64)
    assert other.captions == plain.captions
    assert len({plain.digest, named.digest, other.digest}) == 3


def test_digests_where_all_or_nobody_is_named_are_those_of_earlier_versions(tmp_path: Path) -> None:
    captioned(tmp_path, 8, who=["momo", "zog"] * 4)
    digests = [
        resolve_subject(config_of(tmp_path, **more), 64).digest for more in ({}, {"character_column": "who"})
    ]
    assert digests == [
        "89cac2fc931e7a5870bafe1acb349b8483f4ace6c26d9282c1f67a7d9f59c0c1",
        "4f816f2308c05c7124d273186f0d4b510f65e25acd708d1c57aaaa9ac02c93a9",
    ]


@pytest.mark.parametrize("name", ["sprite-cast", "emoji", "sprite-cast-5"])  # further casts are made alike
def test_a_data_set_that_comes_with_the_project_needs_its_name_alone(name: str) -> None:
    config = SubjectConfig(name=name)
    assert check_subject(config, 64) == []
    subject = resolve_subject(config, 64)
    assert subject.is_data_set
    assert subject.instance_prompt in ("ink style, ", "emoji style, ")
    assert len(subject.references) >= 50
    assert all(
        text.startswith(subject.instance_prompt) for text in (*subject.captions, *subject.reference_captions)
    )
    assert not set(subject.image_names) & set(subject.reference_names)
    if name.startswith("sprite-cast"):
        assert set(Counter(subject.reference_characters).values()) == {8}
        assert set(Counter(subject.characters).values()) == {16}
    else:
        assert subject.characters == ()


# What is refused


def test_the_same_picture_on_both_sides_under_two_names_and_formats(tmp_path: Path) -> None:
    captioned(tmp_path, 10)
    subject = resolve_subject(config_of(tmp_path), 64)
    Image.open(tmp_path / subject.reference_names[0]).save(tmp_path / "copy.bmp")
    lines = (tmp_path / "metadata.jsonl").read_text()
    (tmp_path / "metadata.jsonl").write_text(lines + '{"file_name": "copy.bmp", "text": "other words"}\n')
    held = resolve_names(tmp_path)
    assert ("copy.bmp" in held) != (subject.reference_names[0] in held)
    message = only_problem(config_of(tmp_path))
    assert "the same picture is trained on and held out" in message
    assert "copy.bmp" in message
    assert "group_column" in message


def resolve_names(folder: Path) -> set[str]:
    return hold_out_groups([path.name for path in folder.iterdir() if path.name != "metadata.jsonl"], 0.2)


def test_one_group_leaves_nothing_to_train_on(tmp_path: Path) -> None:
    captioned(tmp_path, 6, take=["all"] * 6)
    message = only_problem(config_of(tmp_path, group_column="take"))
    assert (
        "all 6 images are of one group, 'all' in column 'take', so that nothing is left to train on"
        in message
    )


def test_one_image_leaves_nothing_to_train_on(tmp_path: Path) -> None:
    captioned(tmp_path, 1)
    assert "has 1 image, so that nothing is left to train on" in only_problem(config_of(tmp_path))


def test_references_that_are_trained_on(tmp_path: Path) -> None:
    captioned(tmp_path / "train", 4)
    captioned(tmp_path / "train" / "held", 2)
    (tmp_path / "train" / "held" / "metadata.jsonl").unlink()
    for references, said in (
        (tmp_path / "train", "is the same folder as dataset.path"),
        (tmp_path / "train" / "held", "lies in dataset.path"),
        (tmp_path, "contains dataset.path"),
    ):
        problems = check_subject(config_of(tmp_path / "train", references=str(references)), 64)
        assert any(said in problem and "leave references out" in problem for problem in problems), problems


def test_a_group_on_both_sides(tmp_path: Path) -> None:
    captioned(tmp_path / "train", 3, take=["a", "b", "c"])
    write_pictures(tmp_path / "held", ["x.png"], first=60)
    write_lines(tmp_path / "held", [{"file_name": "x.png", "text": "x", "take": "b"}])
    config = config_of(tmp_path / "train", references=str(tmp_path / "held"), group_column="take")
    assert "groups (take) that are trained on and held out: b" in only_problem(config)


def test_images_without_a_group_are_of_none_that_is_on_both_sides(tmp_path: Path) -> None:
    captioned(tmp_path / "train", 3, take=["a", "", "caf\u00e9"])
    write_pictures(tmp_path / "held", ["01.png", "x.png"], first=60)
    lines = [
        {"file_name": name, "text": "x", "take": take} for name, take in (("01.png", None), ("x.png", "b"))
    ]
    write_lines(tmp_path / "held", lines)
    config = config_of(tmp_path / "train", references=str(tmp_path / "held"), group_column="take")
    assert check_subject(config, 64) == []
    write_lines(tmp_path / "held", [lines[0], {**lines[1], "take": "cafe\u0301 "}])
    assert "groups (take) that are trained on and held out: caf\u00e9" in only_problem(config)


def test_images_that_cannot_be_decoded_or_are_too_small(tmp_path: Path) -> None:
    captioned(tmp_path, 6)
    (tmp_path / "01.png").write_bytes((tmp_path / "01.png").read_bytes()[:200])
    (tmp_path / "02.png").write_text("none")
    problems = check_subject(config_of(tmp_path), 64)
    assert len(problems) == 2
    assert "01.png: is damaged" in problems[0] + problems[1]
    assert "02.png: is not an image that Pillow can read" in problems[0] + problems[1]
    assert len(check_subject(config_of(tmp_path), 512)) == 6


def test_captions_that_hold_the_placeholder(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["1.png", "2.png"])
    write_lines(tmp_path, [{"file_name": f"{n}.png", "text": "a {subject}"} for n in (1, 2)])
    assert "captions with {subject}, which stands for what is taught" in only_problem(config_of(tmp_path))


def test_problems_name_the_data_set(tmp_path: Path) -> None:
    assert only_problem(config_of(tmp_path / "none")).startswith("data set 'my-cast': ")


@pytest.mark.parametrize(
    ("field", "value"),
    [("images", "x"), ("references", "x"), ("masks", "alpha"), ("instance_prompt", "a"), ("class_prompt", "a"),
     ("holdout", 3)],
)  # fmt: skip
def test_a_data_set_takes_the_place_of_a_subject(field: str, value: object) -> None:
    with pytest.raises(
        ValidationError, match=f"takes a subject's place, and has {field} too; remove it: dataset"
    ):
        SubjectConfig.model_validate({"name": "x", "dataset": {"path": "y"}, field: value})


def test_what_comes_with_the_project_takes_no_options() -> None:
    with pytest.raises(
        ValidationError, match="'emoji' is a data set that comes with the project and takes no options"
    ):
        SubjectConfig(name="emoji", dataset=DataSetConfig(path="x"))
    with pytest.raises(
        ValidationError, match="has instance_prompt too; remove it: it brings its own captions"
    ):
        SubjectConfig(name="sprite-cast", instance_prompt="a sks cat")


def test_a_folder_of_photographs_may_have_such_a_name() -> None:
    config = SubjectConfig(name="emoji", images="x", instance_prompt="a sks dog", class_prompt="a dog")
    assert not config.is_data_set


@pytest.mark.parametrize("field", ["path", "references", "trigger", "caption_column", "group_column"])
def test_blank_values_are_refused(field: str) -> None:
    with pytest.raises(ValidationError, match="is blank"):
        DataSetConfig.model_validate({"path": "x", field: " "})


@pytest.mark.parametrize("trigger", ["ink style,", "ink, style", "a {subject}"])
def test_a_trigger_is_words(trigger: str) -> None:
    with pytest.raises(ValidationError, match="must be words without commas"):
        DataSetConfig(path="x", trigger=trigger)


def test_a_misspelt_name_is_told_the_nearest() -> None:
    problems = check_subject(SubjectConfig(name="sprite-cats"))
    assert "did you mean 'sprite-cast'" in problems[0]
    assert "dataset: {path: FOLDER}" in problems[0]


def test_pictures_of_the_cast_are_what_is_loaded() -> None:
    subject = resolve_subject(SubjectConfig(name="sprite-cast"), 64)
    from trainables.embedded.sprite_cast import cast_pictures

    drawn = {one.name: one for one in cast_pictures()}
    for name, image in list(zip(subject.reference_names, subject.references, strict=True))[:3]:
        assert drawn[name].is_held_out
        # Resized from 64 to 64 pixels it stays what it was.
        assert np.array_equal(np.asarray(image), np.asarray(drawn[name].draw()))

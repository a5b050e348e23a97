"""Graded lesions: shares, thresholds, groups, equal pixels everywhere, and a judge that reads what is drawn."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections import Counter, defaultdict

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.graded_lesions import Settings, measure_learning
from benchmarks.measures import decoded
from trainables.embedded import DATA_SETS, load_subject
from trainables.embedded.class_sets import graded_lesions
from trainables.embedded.graded_lesions import (
    ALIKE,
    GRADED_LESIONS,
    SHARES,
    SKINS,
    counts_of,
    further_pictures,
    lesion_pictures,
)
from trainables.embedded.lesion_judge import read_lesions
from trainables.embedded.lesions import SCORES, THRESHOLDS, score_of
from trainables.embedded.render import render
from trainables.embedded.world import CLASSES

torch.set_num_threads(1)

_DIGEST = (
    "import hashlib; from trainables.embedded.graded_lesions import lesion_pictures, further_pictures\n"
    "shown = (*lesion_pictures('graded-lesions', 40, 8), *lesion_pictures('graded-lesions-8', 40, 8), "
    "*further_pictures('graded-lesions-7', 4, 4))\n"
    "print(hashlib.sha256(b''.join(one.draw().tobytes() for one in shown[::6])).hexdigest()[:16], "
    "hashlib.sha256(repr(shown).encode()).hexdigest()[:16])"
)


def test_pictures_are_the_same_everywhere() -> None:
    """Guards against a change of the drawing, which would change the results of every study on it."""
    extensions = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
    plain = {"NPY_DISABLE_CPU_FEATURES": " ".join(extensions), "OMP_NUM_THREADS": "3"}
    for environment in ({}, plain):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", _DIGEST],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.split() == ["86d1d15903853141", "6126a6e49ba6d86c"]


def test_names_are_of_one_class_each_and_none_of_the_other_data_sets() -> None:
    assert list(GRADED_LESIONS.values()) == list(CLASSES)
    assert list(GRADED_LESIONS)[:2] == ["graded-lesions", "graded-lesions-2"]
    assert not set(GRADED_LESIONS) & set(DATA_SETS)


@pytest.mark.parametrize(
    ("images", "shares", "counts"),
    [
        (600, SHARES, (330, 150, 84, 36)),
        (101, (0.25, 0.25, 0.25, 0.25), (26, 25, 25, 25)),
        (10, (0.55, 0.25, 0.14, 0.06), (6, 2, 1, 1)),
        (50, (0.1, 0.2, 0.3, 0.4), (5, 10, 15, 20)),
    ],
)
def test_scores_have_their_shares_to_the_picture(
    images: int, shares: tuple[float, ...], counts: tuple[int, ...]
) -> None:
    assert counts_of(images, shares) == counts
    found = Counter(one.score for one in lesion_pictures(images=images, animals=10, shares=shares))
    assert tuple(found[score] for score in SCORES) == counts


def test_thresholds_cut_severities_into_scores() -> None:
    assert [score_of(value) for value in (0.0, 0.999, 1.0, 1.999, 2.0, 2.999, 3.0, 4.0)] == [
        1,
        1,
        2,
        2,
        3,
        3,
        4,
        4,
    ]
    for one in lesion_pictures(images=200, animals=20):
        assert 0 <= one.severity < 4
        assert one.score == 1 + sum(one.severity >= threshold for threshold in THRESHOLDS)


def test_severities_are_spread_evenly_within_a_score() -> None:
    severities = sorted(one.severity - 1 for one in lesion_pictures() if one.score == 2)
    assert np.abs(np.array(severities) - (np.arange(150) + 0.5) / 150).max() < 0.5 / 150 + 1e-9


def test_animals_are_groups_in_several_pictures_and_scenes() -> None:
    by_animal = defaultdict(list)
    for one in lesion_pictures():
        by_animal[one.animal].append(one)
    assert len(by_animal) == 60
    assert {len(shown) for shown in by_animal.values()} == {10}
    identities = [{one.identity for one in shown} for shown in by_animal.values()]
    assert {len(found) for found in identities} == {1}
    assert len(set().union(*identities)) == 60
    assert all(who.secondary in SKINS and who.mark == "none" for found in identities for who in found)
    assert all(len({one.setting.scene for one in shown}) >= 3 for shown in by_animal.values())
    assert all(len({one.setting for one in shown}) == 10 for shown in by_animal.values())
    several = [len({one.score for one in shown}) > 1 for shown in by_animal.values()]
    assert np.mean(several) > 0.9
    assert "scarf" not in {one.setting.accessory for shown in by_animal.values() for one in shown}


def test_scores_of_an_animal_are_alike() -> None:
    """With equal shares the ranks' correlation within an animal is a little below that of what is ranked."""
    shown = lesion_pictures(images=2000, animals=1000, shares=(0.25,) * 4)
    first, second = shown[:1000], shown[1000:]
    assert [one.animal for one in first] == [one.animal for one in second]
    correlation = np.corrcoef([one.severity for one in first], [one.severity for one in second])[0, 1]
    expected = 6 / np.pi * np.arcsin(ALIKE / 2)  # of the ranks of two normal variables
    assert abs(correlation - expected) < 3 / np.sqrt(1000)


def test_sets_and_further_pictures_share_no_animal() -> None:
    seen = [{one.identity for one in lesion_pictures(name, 60, 30)} for name in list(GRADED_LESIONS)[:3]]
    further = [further_pictures("graded-lesions", score, 30) for score in SCORES]
    assert len(set().union(*seen)) == 90
    assert not set().union(*seen) & {one.identity for shown in further for one in shown}
    assert [{one.score for one in shown} for shown in further] == [{1}, {2}, {3}, {4}]
    assert further_pictures("graded-lesions", 2, 5) == further[1][:5]
    settings = [one.setting for shown in further for one in shown]
    assert len(set(settings)) == len(settings)


def test_a_larger_set_begins_with_the_same_animals_and_settings() -> None:
    small, large = (lesion_pictures(images=images, animals=20) for images in (40, 80))
    assert [(one.identity, one.setting) for one in small] == [
        (one.identity, one.setting) for one in large[:40]
    ]


def test_captions_never_name_the_lesion() -> None:
    one = lesion_pictures()[0]
    assert one.caption.split()[2] == "cat"
    assert one.setting.scene in one.caption
    assert "lesion" not in one.caption


def test_mistakes_are_told_all_at_once() -> None:
    with pytest.raises(
        ValueError, match=r"no data set 'lesions'[^\n]*\nanimals must be 1[^\n]*\nshares must be 4"
    ):
        lesion_pictures("lesions", 10, 0, (0.5, 0.5))
    with pytest.raises(ValueError, match="images must be 20 to 20000 for 20 animals, not 10"):
        lesion_pictures(images=10, animals=20)
    with pytest.raises(
        ValueError, match=r"no data set 'x'.*\nthe score must be 1 to 4, not 5\nthe count must"
    ):
        further_pictures("x", 5, -1)
    with pytest.raises(ValueError, match="of 8 images none would have the score 3, 4"):
        lesion_pictures(images=8, animals=2, shares=(0.6, 0.4, 0, 0))


# The judge


def test_the_judge_reads_scores_off_fresh_renders_and_off_decoded_ones() -> None:
    shown = [one for score in SCORES for one in further_pictures("graded-lesions-3", score, 10)]
    images = [one.draw() for one in shown]
    for pictures, bar, error in ((images, 0.8, 0.25), (decoded(images), 0.7, 0.35)):
        read = read_lesions(pictures, "rabbit")
        off = [abs((one.score or 9) - true.score) for one, true in zip(read, shown, strict=True)]
        assert np.mean(np.array(off) == 0) >= bar
        assert max(off) <= 1
        assert np.mean([abs(a.severity - b.severity) for a, b in zip(read, shown, strict=True)]) < error


def test_the_judge_sees_no_lesion_where_there_is_none() -> None:
    shown = further_pictures("graded-lesions", 1, 10)
    images = [render(one.identity, one.setting) for one in shown]
    assert [one.score for one in read_lesions(images, "cat")] == [None] * 10
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    flat = np.full((64, 64, 3), 200, np.uint8)
    assert [one.score for one in read_lesions([Image.fromarray(one) for one in (noise, flat)], "cat")] == [
        None
    ] * 2
    with pytest.raises(ValueError, match=r"64x64, not \[\(32, 32\)\]"):
        read_lesions([images[0].resize((32, 32))], "cat")


def test_marks_that_pretraining_saw_are_no_reason_to_fail() -> None:
    images = load_subject("cat-1").training_images()
    assert all(0 <= one.severity <= 4 for one in read_lesions(images, "cat"))


def test_grades_are_learnt_more_by_more_images_and_the_ends_are_easier_than_neighbours() -> None:
    lines = measure_learning(Settings(animals=(10, 40), test_animals=30))
    value = {line.what.split(": ")[1]: line.value for line in lines}
    assert value["balanced accuracy, 40 animals"] > 0.35  # chance is .25
    assert value["balanced accuracy, 40 animals"] > value["balanced accuracy, 10 animals"]
    assert value["score 1 against 4"] > value["score 2 against 3"]


def test_a_set_has_classes_groups_and_severities() -> None:
    shown = graded_lesions(images=40, animals=8)
    assert shown.class_names == ("score-1", "score-2", "score-3", "score-4")
    assert all(f"score-{score_of(one.severity or 0)}" == one.class_name for one in shown.pictures)
    images = shown.images()
    assert {(image.mode, image.size) for image in images} == {("RGB", (64, 64))}
    assert len({image.tobytes() for image in images}) == len({one.name for one in shown.pictures}) == 40
    again = hashlib.sha256(b"".join(one.draw().tobytes() for one in lesion_pictures(images=40, animals=8)))
    assert hashlib.sha256(b"".join(image.tobytes() for image in images)).hexdigest() == again.hexdigest()

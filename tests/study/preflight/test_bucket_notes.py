"""What a plan says of the buckets into which a data set's images fall."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from study.preflight.checks import data_notes
from study.preflight.notes import study_notes
from study.spec.study_spec import StudySpec
from tests.helpers.image_folders import picture, write_lines
from trainables.config.fields import ModelConfig, SubjectConfig
from trainables.run.bucket_notes import bucket_notes

SQUARES, WIDE = [(80, 80)] * 5, [(120, 60)] * 3


def folder(place: Path, sizes: list[tuple[int, int]]) -> Path:
    place.mkdir()
    for number, size in enumerate(sizes):
        picture(number, size).save(place / f"{number:02}.png")
    write_lines(
        place, [{"file_name": f"{number:02}.png", "text": f"a {number}"} for number in range(len(sizes))]
    )
    return place


def subject(tmp_path: Path, sizes: list[tuple[int, int]]) -> SubjectConfig:
    held_out = tmp_path / "held-out"
    held_out.mkdir()
    picture(100, (80, 80)).save(held_out / "r.png")
    write_lines(held_out, [{"file_name": "r.png", "text": "a reference"}])
    paths = {"path": str(folder(tmp_path / "images", sizes)), "references": str(held_out)}
    return SubjectConfig.model_validate({"name": "mine", "dataset": paths})


def test_buckets_are_told_with_their_images_and_those_that_have_less_than_a_batch(tmp_path: Path) -> None:
    mine = subject(tmp_path, [*SQUARES, *WIDE, (60, 120)])
    notes = bucket_notes(mine, ModelConfig(), None, 3)
    assert notes[0] == (
        "data set 'mine': images in each aspect-ratio bucket at 64 pixels (width x height): 64 x 64: 5, 80 x 48: 3, "
        "48 x 80: 1"
    )
    assert len(notes) == 2
    assert "fewer images than a batch of 3 (train_batch_size) in the buckets 48 x 80 (1):" in notes[1]
    assert len(bucket_notes(mine, ModelConfig(), None, 1)) == 1
    (at_another,) = bucket_notes(mine, ModelConfig(), 128, 1)
    assert "at 128 pixels" in at_another


def test_squares_need_no_buckets(tmp_path: Path) -> None:
    (note,) = bucket_notes(subject(tmp_path, SQUARES), ModelConfig(), None, 4)
    assert note.endswith("so that aspect_ratio_buckets: true changes nothing; leave it out")


def test_nothing_is_said_of_a_model_that_is_not_here_nor_of_what_comes_with_the_project(
    tmp_path: Path,
) -> None:
    mine = subject(tmp_path, [*SQUARES, *WIDE])
    assert bucket_notes(mine, ModelConfig(path="someone/else"), 512, 4) == []
    assert bucket_notes(SubjectConfig(name="sprite-cast"), ModelConfig(), None, 4) == []


@pytest.mark.parametrize("buckets", [True, False])
def test_a_study_is_told_where_an_arm_trains_in_buckets(buckets: bool, tmp_path: Path) -> None:
    mine: dict[str, Any] = subject(tmp_path, [*SQUARES, *WIDE]).model_dump(exclude_none=True)
    spec = StudySpec.model_validate(
        {
            "name": "aspect",
            "subjects": [mine],
            "training": {"train_batch_size": 2},
            "arms": {
                "wide": {"method": "text_to_image", "search_space": "fixed", "aspect_ratio_buckets": buckets}
            },
            "confirm": {"seeds": [1], "subjects": ["mine"]},
        }
    )
    assert any("aspect-ratio bucket at 64 pixels" in note for note in study_notes(spec)) == buckets


@pytest.mark.parametrize("squares_too", [False, True])
def test_images_below_what_runs_train_at_are_told_by_their_buckets(squares_too: bool, tmp_path: Path) -> None:
    """One of 90 x 50 covers its bucket of 80 x 48, though its shorter side is below the resolution of 64."""
    mine = subject(tmp_path, [*SQUARES, (90, 50), (70, 40), (60, 60)]).model_dump(exclude_none=True)
    arm = {"method": "text_to_image", "search_space": "fixed"}
    arms = {"wide": {**arm, "aspect_ratio_buckets": True}} | ({"square": arm} if squares_too else {})
    spec = StudySpec.model_validate(
        {"name": "small", "subjects": [mine], "arms": arms, "confirm": {"seeds": [1], "subjects": ["mine"]}}
    )
    (note,) = [note for note in data_notes(spec) if "so that they are enlarged" in note]
    if squares_too:
        assert "than the 64 pixels that runs train at" in note
        assert "05.png (90 x 50), 06.png (70 x 40), 07.png (60 x 60);" in note
    else:
        assert "smaller than the aspect-ratio buckets that runs train at" in note
        assert "learnt: 06.png (70 x 40, to 80 x 48), 07.png (60 x 60, to 64 x 64); take" in note
        picture(101, (60, 70)).save(tmp_path / "held-out" / "r.png")
        held_out, _ = (note for note in data_notes(spec) if "so that they are enlarged" in note)
        assert "smaller than the 64 pixels that held-out images are cut to" in held_out
        assert "the blur of that counts: r.png (60 x 70); take" in held_out

"""Masks of data sets: found by their images' names, cut as these are, and every mistake told at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from study.spec.loading import load_study
from tests.helpers.image_folders import picture, write_lines
from trainables.config.fields import SubjectConfig
from trainables.config.paths import absolute_subject
from trainables.data.buckets import buckets_of, cover_box
from trainables.data.subjects import check_subject, resolve_subject
from trainables.run.contents import contents_of
from trainables.run_config import RunConfig

NAMES = ("cats/0.png", "cats/1.png", "dogs/0.png", "dogs/1.png", "dogs/2.png", "wide.png")
WIDE = (96, 48)


def mask_of(size: tuple[int, int]) -> Image.Image:
    """White on the right half."""
    width, height = size
    pixels = np.zeros((height, width), np.uint8)
    pixels[:, width // 2 :] = 255
    return Image.fromarray(pixels)


@pytest.fixture
def cast(tmp_path: Path) -> Path:
    """Images in sub-folders, with a mask of the same name for each in another folder."""
    for number, name in enumerate(NAMES):
        size = WIDE if name == "wide.png" else (64, 64)
        for folder, image in (("cast", picture(number, size)), ("masks", mask_of(size))):
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
    write_lines(tmp_path / "cast", [{"file_name": name, "text": f"picture of {name}"} for name in NAMES])
    return tmp_path


def config_of(folder: Path, **dataset: Any) -> SubjectConfig:
    found = {"path": str(folder / "cast"), "masks": str(folder / "masks"), "holdout": 0.3, **dataset}
    return SubjectConfig.model_validate({"name": "mine", "dataset": found})


def test_masks_are_cut_as_their_images_are(cast: Path) -> None:
    squares = resolve_subject(config_of(cast), 32, masked=True)
    assert len(squares.masks) == len(squares.images) == 4
    assert [(mask.mode, mask.size) for mask in squares.masks] == [("L", (32, 32))] * 4
    bucketed = resolve_subject(config_of(cast), 32, masked=True, buckets=buckets_of(32, 8))
    assert [mask.size for mask in bucketed.masks] == [image.size for image in bucketed.images]
    for name, mask in zip(bucketed.image_names, bucketed.masks, strict=True):
        size = WIDE if name == "wide.png" else (64, 64)
        part = mask_of(size).crop(cover_box(size, mask.size))
        expected = part.resize(mask.size, Image.Resampling.LANCZOS, reducing_gap=3.0)
        assert np.array_equal(np.asarray(mask), np.asarray(expected))
    assert {image.size for image in bucketed.images} > {(32, 32)}, "a wide one is trained on"


def test_they_are_read_where_they_are_asked_for(cast: Path) -> None:
    with_masks, without = (resolve_subject(config_of(cast), 32, masked=masked) for masked in (True, False))
    assert len(without.masks) == 0
    assert with_masks.digest != without.digest
    bare = resolve_subject(config_of(cast, masks=None), 32)
    assert without.digest == bare.digest


def test_transparency_is_a_mask(cast: Path) -> None:
    for name in NAMES:
        path = cast / "cast" / name
        image = Image.open(path).convert("RGB")
        image.putalpha(mask_of(image.size))
        image.save(path)
    masks = resolve_subject(config_of(cast), 32, masked=True).masks
    transparent = resolve_subject(config_of(cast, masks="alpha"), 32, masked=True).masks
    assert [mask.tobytes() for mask in transparent] == [mask.tobytes() for mask in masks]


def test_all_mistakes_are_told_at_once(cast: Path) -> None:
    first, second, third, _ = resolve_subject(config_of(cast), 32).image_names
    mask_of((20, 20)).save(cast / "masks" / first)
    (cast / "masks" / second).unlink()
    Image.new("L", (96, 64) if third == "wide.png" else (64, 64)).save(cast / "masks" / third)
    mask_of((64, 64)).save(cast / "masks" / "cats" / "renamed.png")
    problems = check_subject(config_of(cast), 32, masked=True)
    assert len(problems) == 4
    told = "\n".join(problems)
    assert told.count("data set 'mine': ") == 4
    assert f"{first}: has 20x20 pixels and its image 64x64" in told
    assert f"there is not one mask of the name of: {second.removesuffix('.png')}" in told
    assert f"{third}: marks nothing of the central square" in told
    assert "cats/renamed.png: a mask without its image" in told
    assert len(check_subject(config_of(cast), 32)) == 1, "the last one alone, where no arm has use for masks"


def test_folders_that_cannot_have_masks(cast: Path) -> None:
    (cast / "empty").mkdir()
    (cast / "cast" / "inside").mkdir()
    for place, told in (
        ("nowhere", "no such folder; dataset.masks must name a folder of masks"),
        ("empty", "has no images; put masks into it"),
        ("cast", "is the same folder as dataset.path"),
        ("cast/inside", "lies in dataset.path"),
    ):
        for masked in (True, False):
            (problem,) = check_subject(config_of(cast, masks=str(cast / place)), 32, masked=masked)
            assert told in problem
    (problem,) = check_subject(config_of(cast, masks=None), 32, masked=True)
    assert "give a folder of masks (dataset.masks: PATH), or dataset.masks: alpha" in problem
    (problem,) = check_subject(SubjectConfig(name="emoji"), 32, masked=True)
    assert "it comes with the project and without masks" in problem


def test_masks_are_part_of_what_a_run_is_and_their_path_is_not(cast: Path) -> None:
    def run(config: SubjectConfig) -> RunConfig:
        contents = {field: str(sorted(found.items())) for field, found in contents_of(config).items()}
        fields = {
            "method": "lora",
            "subject": config,
            "output_dir": "x",
            "cache_dir": "y",
            "contents": contents,
        }
        return RunConfig.model_validate(fields)

    with_masks = run(config_of(cast))
    assert with_masks.digest() != run(config_of(cast, masks=None)).digest()
    (cast / "masks").rename(cast / "elsewhere")
    moved = config_of(cast, masks=str(cast / "elsewhere"))
    assert run(moved).digest() == with_masks.digest()
    mask_of((20, 20)).save(cast / "elsewhere" / "wide.png")
    assert run(moved).digest() != with_masks.digest()


def test_data_sets_without_masks_are_recorded_as_before(cast: Path) -> None:
    assert "masks" not in config_of(cast, masks=None).model_dump(mode="json")["dataset"]
    assert config_of(cast, masks="alpha").model_dump(mode="json")["dataset"]["masks"] == "alpha"
    assert "dataset.masks" not in config_of(cast, masks="alpha").folders


def test_paths_begin_at_the_study_file(tmp_path: Path) -> None:
    for named, absolute in (("m", str(tmp_path / "m")), ("alpha", "alpha")):
        found = absolute_subject({"dataset": {"path": "p", "masks": named}}, tmp_path)
        assert found["dataset"] == {"path": str(tmp_path / "p"), "masks": absolute}


def test_a_study_on_masked_captions_is_sound(cast: Path) -> None:
    (cast / "study.yaml").write_text(
        """
name: masked
subjects: [{name: mine, dataset: {path: cast, masks: masks, holdout: 0.3}}]
training: {masked_loss: true, aspect_ratio_buckets: true}
arms: {one: {method: text_to_image}, low: {method: text_to_image, background_weight: 0.5}}
search: {allow_overlap: true, trials: 1}
"""
    )
    spec = load_study(cast / "study.yaml")
    assert spec.values_of("masked_loss") == {True}
    assert spec.subject("mine").folders["dataset.masks"] == str(cast / "masks")

"""Masks: where training images show the subject, read from a folder or from the images' transparency."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from trainables import embedded
from trainables.config.fields import SubjectConfig
from trainables.data.subjects import check_subject, resolve_subject
from trainables.embedded.render import render
from trainables.embedded.subjects import TRAINING_SETTINGS
from trainables.embedded.world import Setting

SIZE = (60, 48)


def write(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def disc(height: int = SIZE[1], width: int = SIZE[0]) -> np.ndarray:
    """255 within 15 pixels of the middle."""
    y, x = np.ogrid[:height, :width]
    inside = (y - height / 2) ** 2 + (x - width / 2) ** 2 < 15**2
    return np.where(inside, 255, 0).astype(np.uint8)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Four photographs, and a mask for each beside them."""
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
        write(tmp_path / "photos" / f"{number}.png", pixels)
        write(tmp_path / "masks" / f"{number}.png", disc())
    return tmp_path


def subject(folder: Path, masks: str | None = "masks", images: str = "photos") -> SubjectConfig:
    return SubjectConfig(
        name="teapot",
        images=str(folder / images),
        masks=str(folder / masks) if masks and masks != "alpha" else masks,
        instance_prompt="a sks teapot",
        class_prompt="a teapot",
    )


def test_masks_are_cut_and_resized_like_their_images(photos: Path) -> None:
    found = resolve_subject(subject(photos), 48, masked=True)
    assert len(found.masks) == len(found.images) == 2
    for mask in found.masks:
        assert (mask.mode, mask.size) == ("L", (48, 48))
        # The central square of 48 rows by 60 columns begins at column 6.
        assert np.array_equal(np.asarray(mask), disc()[:, 6:54])


def test_masks_are_read_where_they_are_asked_for(photos: Path) -> None:
    assert resolve_subject(subject(photos), 48).masks == ()
    with_masks, without = (resolve_subject(subject(photos), 48, masked=masked) for masked in (True, False))
    assert with_masks.digest != without.digest


def test_transparency_is_a_mask(photos: Path) -> None:
    for number in range(4):
        pixels = np.asarray(Image.open(photos / "photos" / f"{number}.png"))
        write(photos / "cut" / f"{number}.png", np.dstack([pixels, disc()]))
    found = resolve_subject(subject(photos, "alpha", "cut"), 48, masked=True)
    assert all(np.array_equal(np.asarray(mask), disc()[:, 6:54]) for mask in found.masks)
    assert check_subject(subject(photos, "alpha"), 48, masked=True) == [
        f"subject 'teapot': {photos / 'photos' / name}: has no transparency, which masks: alpha takes for the "
        "subject's place; cut the subject out of its background, or give a folder of masks"
        for name in found.image_names
    ]


def test_every_wrong_mask_is_named(photos: Path) -> None:
    names = resolve_subject(subject(photos), 48).image_names
    write(photos / "masks" / names[0], disc(24, 30))
    write(photos / "masks" / names[1], np.zeros_like(disc()))
    problems = "\n".join(check_subject(subject(photos), 48, masked=True))
    assert f"{names[0]}: has 30x24 pixels and its image 60x48; a mask must have its image's size" in problems
    assert f"{names[1]}: marks nothing of the central square; white (255) is the subject" in problems


def test_a_missing_mask_and_none_at_all(photos: Path) -> None:
    names = resolve_subject(subject(photos), 48).image_names
    (photos / "masks" / names[0]).unlink()
    (problem,) = check_subject(subject(photos), 48, masked=True)
    assert f"there is not one mask of the name of: {Path(names[0]).stem}" in problem
    (problem,) = check_subject(subject(photos, None), 48, masked=True)
    assert "give a folder of masks (masks: PATH), or masks: alpha" in problem
    (problem,) = check_subject(subject(photos, "nowhere"), 48, masked=True)
    assert "no such folder" in problem


def test_all_mistakes_are_told_at_once(photos: Path) -> None:
    names = resolve_subject(subject(photos), 48).image_names
    write(photos / "masks" / names[0], disc(24, 30))
    (photos / "masks" / names[1]).unlink()
    write(photos / "masks" / "renamed.png", disc())
    problems = check_subject(subject(photos), 48, masked=True)
    assert len(problems) == 3
    told = "\n".join(problems)
    assert f"{names[0]}: has 30x24 pixels" in told
    assert f"there is not one mask of the name of: {Path(names[1]).stem}" in told
    assert f"in {photos / 'masks'} renamed.png: a mask without its image; add the image" in told


def test_a_folder_of_masks_is_looked_at_where_no_arm_has_use_for_it(photos: Path) -> None:
    assert check_subject(subject(photos), 48) == []
    (photos / "masks" / "0.png").unlink()  # only needed by masked_loss
    assert check_subject(subject(photos), 48) == []
    (problem,) = check_subject(subject(photos, "nowhere"), 48)
    assert "nowhere: no such folder" in problem
    write(photos / "masks" / "renamed.png", disc())
    (problem,) = check_subject(subject(photos), 48)
    assert "renamed.png: a mask without its image" in problem


def test_masks_of_held_out_images_may_lie_among_them(photos: Path) -> None:
    references = photos / "references"
    write(references / "front.png", np.random.default_rng(9).integers(0, 256, (48, 60, 3), dtype=np.uint8))
    write(photos / "masks" / "front.png", disc())
    config = subject(photos).model_copy(update={"references": str(references)})
    assert check_subject(config, 48, masked=True) == []


def test_images_are_not_their_own_masks(photos: Path) -> None:
    for masked in (True, False):
        (problem,) = check_subject(subject(photos, "photos"), 48, masked=masked)
        assert "masks and images are the same folder" in problem
        assert "masks: alpha" in problem


def test_masks_without_images_are_refused() -> None:
    with pytest.raises(ValidationError, match="masks need images"):
        SubjectConfig(name="cat-1", masks="alpha")


def test_masks_of_the_embedded_world_cover_the_creature_and_nothing_else() -> None:
    """Outside the mask a picture is that of another creature in the same setting, but for its accessory."""
    one, other = embedded.load_subject("cat-1"), embedded.load_subject("turtle-2")
    settings = [Setting(*place, 1000 + index) for index, place in enumerate(TRAINING_SETTINGS)]
    pictures = [render(one.identity, setting) for setting in settings]
    assert [picture.tobytes() for picture in pictures] == [image.tobytes() for image in one.training_images()]
    for mine, theirs, setting in zip(one.training_masks(), other.training_masks(), settings, strict=True):
        assert mine.size == (64, 64)
        assert mine.mode == "L"
        covered = np.maximum(np.asarray(mine), np.asarray(theirs))
        assert 0.05 < (np.asarray(mine) > 127).mean() < 0.7
        if setting.accessory == "none":
            pair = [np.asarray(render(who.identity, setting), dtype=int) for who in (one, other)]
            assert np.abs(pair[0] - pair[1])[covered == 0].max() <= 3  # of 255: masks are rounded
            assert np.abs(pair[0] - pair[1])[covered > 127].mean() > 10

"""Subjects: what is trained on, what is held out, and every problem named before training starts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainables.config.fields import SubjectConfig
from trainables.data.subjects import check_subject, hold_out, resolve_subject
from trainables.errors import UserError

PHOTOS = Path(__file__).parents[3].parent / "shared" / "data" / "dreambooth"


def write_photo(path: Path, seed: int, size: tuple[int, int] = (60, 48)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    patches = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    Image.fromarray(patches).resize(size, Image.Resampling.BICUBIC).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(5):
        write_photo(tmp_path / "teapot" / f"{number}.png", number)
    return tmp_path / "teapot"


def config(folder: Path, **fields: object) -> SubjectConfig:
    values = {"images": str(folder), "instance_prompt": "a sks teapot", "class_prompt": "a teapot", **fields}
    return SubjectConfig.model_validate({"name": "teapot", **values})


def test_images_are_held_out_by_name(folder: Path) -> None:
    subject = resolve_subject(config(folder), 32)
    assert len(subject.images) == 3
    assert len(subject.references) == 2
    assert set(subject.image_names) | set(subject.reference_names) == {f"{n}.png" for n in range(5)}
    assert set(subject.reference_names) == hold_out([f"{n}.png" for n in range(5)], 2)
    assert all(
        image.size == (32, 32) and image.mode == "RGB" for image in subject.images + subject.references
    )
    assert subject.captions == ("a sks teapot",) * 3
    assert list(subject.image_names) == sorted(subject.image_names)


def test_an_added_image_exchanges_at_most_one_reference() -> None:
    names = [f"{number}.jpg" for number in range(20)]
    before = hold_out(names, 4)
    for added in ("x.jpg", "y.jpg", "z.jpg"):
        assert len(before - hold_out([*names, added], 4)) <= 1


def test_references_folder(folder: Path, tmp_path: Path) -> None:
    write_photo(tmp_path / "held" / "a.png", 77)
    subject = resolve_subject(config(folder, references=str(tmp_path / "held")), 32)
    assert len(subject.images) == 5
    assert subject.reference_names == ("a.png",)


def test_overlap_by_content_is_refused_with_names(folder: Path, tmp_path: Path) -> None:
    held = tmp_path / "held"
    write_photo(held / "fresh.png", 99)
    (held / "copy.png").write_bytes((folder / "2.png").read_bytes())
    with Image.open(folder / "3.png") as image:
        image.save(held / "resaved.bmp")  # other bytes, the same pixels
    problems = check_subject(config(folder, references=str(held)))
    assert len(problems) == 2
    assert any("copy.png" in problem and "2.png" in problem for problem in problems)
    assert any("resaved.bmp" in problem and "3.png" in problem for problem in problems)


def test_duplicate_across_the_split_is_refused(folder: Path) -> None:
    held = sorted(hold_out([f"{n}.png" for n in range(5)], 2))[0]
    trained = next(
        f"{n}.png" for n in range(5) if f"{n}.png" not in hold_out([f"{n}.png" for n in range(5)], 2)
    )
    (folder / trained).write_bytes((folder / held).read_bytes())
    (problem,) = check_subject(config(folder))
    assert held in problem
    assert trained in problem


def test_same_folder_for_both_is_refused(folder: Path) -> None:
    (problem,) = check_subject(config(folder, references=str(folder / ".." / folder.name)))
    assert "same folder" in problem


def test_all_problems_are_named_at_once(folder: Path, tmp_path: Path) -> None:
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:80])
    (folder / "text.jpg").write_text("no image")
    Image.new("RGB", (9, 9)).save(folder / "tiny.png")
    problems = check_subject(config(folder, references=str(tmp_path / "gone")))
    assert len(problems) == 4
    for name in ("1.png", "text.jpg", "tiny.png", "gone"):
        assert any(name in problem for problem in problems), name
    assert all(problem.startswith("subject 'teapot': ") for problem in problems)
    with pytest.raises(UserError) as caught:
        resolve_subject(config(folder, references=str(tmp_path / "gone")), 32)
    assert list(caught.value.problems) == problems


def test_missing_and_empty_folders(tmp_path: Path) -> None:
    (missing,) = check_subject(config(tmp_path / "gone"))
    assert "no such folder" in missing
    (tmp_path / "empty").mkdir()
    (empty,) = check_subject(config(tmp_path / "empty"))
    assert "no images" in empty


def test_nothing_left_to_train_on(folder: Path) -> None:
    (problem,) = check_subject(config(folder, holdout=5))
    assert "holdout is 5" in problem
    assert len(resolve_subject(config(folder, holdout=4), 32).images) == 1


def test_resolution_rule_needs_the_resolution(folder: Path) -> None:
    assert check_subject(config(folder)) == []
    problems = check_subject(config(folder), resolution=512)
    assert len(problems) == 5
    assert "resolution 512" in problems[0]


def test_captions_from_files(folder: Path) -> None:
    training = resolve_subject(config(folder), 32).image_names
    for name in training[1:]:
        (folder / name).with_suffix(".txt").write_text(f"a sks teapot,\n seen as {name}\n")
    (problem,) = check_subject(config(folder), captions="files")
    assert Path(training[0]).stem + ".txt" in problem
    (folder / training[0]).with_suffix(".txt").write_text("  \n")
    assert "empty" in check_subject(config(folder), captions="files")[0]
    (folder / training[0]).with_suffix(".txt").write_text("first")
    subject = resolve_subject(config(folder), 32, "files")
    assert subject.captions == ("first", *(f"a sks teapot, seen as {name}" for name in training[1:]))


def test_a_caption_without_its_image_is_refused(folder: Path) -> None:
    for number in range(5):  # of held-out images too
        (folder / f"{number}.txt").write_text(f"a sks teapot, seen as {number}")
    for name in ("README.txt", "LICENSE.txt", "._0.txt"):
        (folder / name).write_text("no caption")
    (folder / "notes").mkdir()
    assert check_subject(config(folder), captions="files") == []
    (folder / "extra.txt").write_text("a sks teapot on a chair")
    (folder / "lost.caption").write_text("a sks teapot on a shelf")
    (problem,) = check_subject(config(folder), captions="files")
    assert problem == (
        f"subject 'teapot': in {folder} extra.txt, lost.caption: a caption without its image; add the image, or take "
        "the text out of the folder"
    )
    with pytest.raises(UserError, match="a caption without its image"):
        resolve_subject(config(folder), 32, "files")
    assert check_subject(config(folder)) == [], "without captions: files no text is read"
    (folder / "extra.png").write_bytes(b"no image")
    problems = check_subject(config(folder), captions="files")
    assert not any("extra.txt" in problem for problem in problems), "its image is there, and damaged"


def test_digest_is_of_the_content(folder: Path) -> None:
    subject = resolve_subject(config(folder), 32)
    assert resolve_subject(config(folder), 32).digest == subject.digest
    assert resolve_subject(config(folder), 16).digest != subject.digest
    assert resolve_subject(config(folder, class_prompt="a pot"), 32).digest != subject.digest
    write_photo(folder / subject.image_names[0], 1234)
    assert resolve_subject(config(folder), 32).digest != subject.digest


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="the shared photographs are not here")
def test_real_photographs() -> None:
    subject = resolve_subject(
        SubjectConfig(
            name="dog", images=str(PHOTOS / "dog"), instance_prompt="a sks dog", class_prompt="a dog"
        ),
        64,
    )
    assert len(subject.images) == 3
    assert len(subject.references) == 2
    assert {image.size for image in subject.images + subject.references} == {(64, 64)}


def test_embedded_subjects_need_only_their_name() -> None:
    subject = resolve_subject(SubjectConfig(name="cat-1"), 64)
    assert (subject.instance_prompt, subject.class_prompt) == ("a sks cat", "a cat")
    assert len(subject.images) == 5
    assert len(subject.references) >= 12
    assert {image.size for image in subject.images + subject.references} == {(64, 64)}
    assert set(subject.captions) == {"a sks cat"}
    assert subject.embedded
    assert resolve_subject(SubjectConfig(name="cat-1"), 64).digest == subject.digest
    assert resolve_subject(SubjectConfig(name="cat-2"), 64).digest != subject.digest
    assert not {image.tobytes() for image in subject.images} & {
        image.tobytes() for image in subject.references
    }


def test_embedded_subjects_have_captions_and_any_resolution() -> None:
    subject = resolve_subject(SubjectConfig(name="dog-1"), 32, "files")
    assert subject.images[0].size == (32, 32)
    assert len(set(subject.captions)) > 1
    assert all("sks dog" in caption for caption in subject.captions)


def test_unknown_embedded_name_gets_near_ones() -> None:
    (problem,) = check_subject(SubjectConfig(name="cat1"))
    assert "'cat-1'" in problem
    assert "images: photos/cat1" in problem
    assert check_subject(SubjectConfig(name="cat-1")) == []
    with pytest.raises(UserError, match="none of the embedded"):
        resolve_subject(SubjectConfig(name="unicorn"), 64)
    assert any("references" in p for p in check_subject(SubjectConfig(name="cat-1", references="somewhere")))

"""Folders of images with classes: what is read, and what is said of those that are not sound."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from tests.helpers.class_folders import class_folder, flat_folder, image_of, pictures, write_table
from tests.helpers.image_folders import picture, write_lines, write_pictures
from trainables.data.images import image_digest
from trainables.data.labelled_images import labelled, labelled_set, read_labelled_folder
from trainables.data.labelled_metadata import LabelColumns


def problem_of(
    folder: Path,
    columns: LabelColumns | None = None,
    classes: Sequence[str] | None = None,
    resolution: int | None = None,
) -> str:
    _, problems = read_labelled_folder(folder, columns, classes, resolution)
    assert len(problems) == 1, problems
    return problems[0]


# What is read


def test_sub_folders_are_classes_and_sort_as_people_do(tmp_path: Path) -> None:
    class_folder(tmp_path, {"score 10": 1, "score 2": 2})
    write_pictures(tmp_path, ["score 2/deeper/x.png"], first=9)
    (tmp_path / "README.md").write_text("notes")
    found, problems = read_labelled_folder(tmp_path)
    assert problems == []
    assert found.classes == ("score 2", "score 10")
    assert found.counts == {"score 2": 3, "score 10": 1}
    first = found.images[0]
    assert (first.name, first.label, first.group, first.part) == ("score 10/00.png", "score 10", "", "")
    assert (first.digest, first.size) == (image_digest(picture(0)), (64, 64))


def test_the_order_of_classes_may_be_stated(tmp_path: Path) -> None:
    class_folder(tmp_path, {"high": 1, "low": 1})
    found, problems = read_labelled_folder(tmp_path, classes=["low", "high"])
    assert (found.classes, problems) == (("low", "high"), [])
    assert found.counts == {"low": 1, "high": 1}


def test_a_table_says_classes_groups_and_parts(tmp_path: Path) -> None:
    rows = [["1", "cow a", "Training"], ["2", "", "val"], ["1", "cow b", "test"]]
    flat_folder(tmp_path, ["class", "group", "split"], rows)
    found, problems = read_labelled_folder(tmp_path)
    assert problems == []
    assert [(one.label, one.group, one.part) for one in found.images] == [
        ("1", "cow a", "train"),
        ("2", "", "validation"),
        ("1", "cow b", "test"),
    ]


def test_columns_may_have_other_names_and_lines_of_json_numbers(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["0.png", "1.png"])
    write_lines(
        tmp_path,
        [{"file_name": f"{n}.png", "grade": n, "animal": 7, "group": "not this"} for n in range(2)],
    )
    found, problems = read_labelled_folder(tmp_path, LabelColumns(label="grade", group="animal"))
    assert problems == []
    assert [(one.label, one.group) for one in found.images] == [("0", "7"), ("1", "7")]


def test_a_table_without_classes_adds_groups_to_sub_folders(tmp_path: Path) -> None:
    class_folder(tmp_path, {"a": 1, "b": 1})
    write_table(tmp_path, ["file_name", "group"], [["a/00.png", "g"], ["b/00.png", "h"]])
    found, problems = read_labelled_folder(tmp_path)
    assert problems == []
    assert [(one.label, one.group) for one in found.images] == [("a", "g"), ("b", "h")]


def test_sub_folders_that_are_no_classes_mean_nothing_beside_a_table(tmp_path: Path) -> None:
    names = write_pictures(tmp_path, ["a/0.png", "a/1.png", "b/0.png", "b/1.png"])
    write_table(tmp_path, ["file_name", "class"], [[name, "ab"[n % 2]] for n, name in enumerate(names)])
    found, problems = read_labelled_folder(tmp_path)
    assert problems == []
    assert [one.label for one in found.images] == ["a", "b", "a", "b"]


def test_the_digest_is_of_pixels_whatever_the_file(tmp_path: Path) -> None:
    image_of(1).save(tmp_path / "a.png")
    image_of(1).save(tmp_path / "b.bmp")
    one, other = (labelled(tmp_path / name, name, "x") for name in ("a.png", "b.bmp"))
    assert one.digest == other.digest == labelled(image_of(1), "c", "x").digest
    assert one.digest != labelled(image_of(2), "d", "x").digest


def test_a_file_that_was_changed_is_looked_at_again(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    image_of(1).save(path)
    image = labelled(path, "a.png", "x")
    image_of(2).save(path)
    assert image.look().digest == image_digest(image_of(2)) != image.digest


# What is wrong


def test_no_folder_and_a_folder_without_images(tmp_path: Path) -> None:
    assert "no such folder" in problem_of(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "has no images" in problem_of(tmp_path / "empty")


def test_a_sub_folder_without_images(tmp_path: Path) -> None:
    class_folder(tmp_path, {"a": 2, "b": 2})
    (tmp_path / "c").mkdir()
    (tmp_path / ".hidden").mkdir()
    assert problem_of(tmp_path).endswith("sub-folders without images: c; fill or remove them")
    names = [f"{label}/{number:02}.png" for label in ("a", "b") for number in range(2)]
    write_table(tmp_path, ["file_name", "group"], [[name, name[0]] for name in names])
    assert problem_of(tmp_path).endswith("sub-folders without images: c; fill or remove them")
    write_table(tmp_path, ["file_name", "class"], [[name, name[0]] for name in names])
    assert read_labelled_folder(tmp_path)[1] == []  # the file says the classes, and c is none of them


def test_images_beside_the_sub_folders(tmp_path: Path) -> None:
    class_folder(tmp_path, {"a": 2, "b": 2})
    write_pictures(tmp_path, ["x.png"], first=8)
    assert "images in no sub-folder, so that they have no class: x.png" in problem_of(tmp_path)


def test_unreadable_files_are_all_named(tmp_path: Path) -> None:
    class_folder(tmp_path, {"a": 2, "b": 2})
    (tmp_path / "a" / "x.png").write_bytes(b"no image")
    content = io.BytesIO()
    picture(7).save(content, "jpeg")
    (tmp_path / "b" / "y.jpg").write_bytes(content.getvalue()[:300])
    found, problems = read_labelled_folder(tmp_path)
    assert [("x.png" in one, "y.jpg" in one) for one in problems] == [(True, False), (False, True)]
    assert found.counts == {"a": 2, "b": 2}


def test_images_of_several_sizes_are_refused_where_they_are_too_small(tmp_path: Path) -> None:
    class_folder(tmp_path, {"a": 2, "b": 2})
    picture(9, (90, 30)).save(tmp_path / "a" / "small.png")
    assert read_labelled_folder(tmp_path, resolution=64)[1] == []
    said = problem_of(tmp_path, resolution=128)
    assert "small.png: is 90x30 pixels; the shorter side must have at least 32 pixels" in said


def test_lines_without_image_and_images_without_line(tmp_path: Path) -> None:
    flat_folder(tmp_path, ["class"], [["a"], ["b"], ["b"]])
    write_table(tmp_path, ["file_name", "class"], [["00.png", "a"], ["01.png", "b"], ["07.png", "b"]])
    _, problems = read_labelled_folder(tmp_path)
    assert [one.split(": ", 1)[1] for one in problems] == [
        "no such image: metadata.csv line 4 (07.png); add the images, or remove the lines",
        "images that metadata.csv does not name: 02.png; add a line for each, or take them out",
    ]


def test_labels_that_match_no_folder(tmp_path: Path) -> None:
    class_folder(tmp_path, {"cat": 4, "dog": 4})
    rows = [[f"{label}/{n:02}.png", label] for label in ("cat", "dog") for n in range(4)]
    rows[1][1], rows[5][1] = "dgo", "cat"
    write_table(tmp_path, ["file_name", "class"], rows)
    said = problem_of(tmp_path)
    assert (
        "line 3 ('dgo', cat/01.png), and there is no folder 'dgo', metadata.csv line 7 ('cat', dog/01.png);"
        in said
    )


@pytest.mark.parametrize(
    ("header", "row", "said"),
    [
        (["class"], [""], "class is empty"),
        (["class", "split"], ["a", "holdout"], "split is 'holdout', and must be train, validation or test"),
        (["class", "split"], ["a", ""], "split is '', and must be"),
    ],
)
def test_cells_that_are_wrong(tmp_path: Path, header: list[str], row: list[str], said: str) -> None:
    flat_folder(tmp_path, header, [["a", "train"][: len(header)], ["b", "test"][: len(header)], row])
    assert f"metadata.csv line 4: {said}" in problem_of(tmp_path)


def test_lines_that_are_wrong_are_told_together(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["0.png", "1.png", "2.png"])
    lines = [{"file_name": f"{n}.png", "class": f"{n}"} for n in range(3)]
    write_lines(tmp_path, [*lines, "{", {"file_name": "../x.png", "class": ["a"]}, lines[0], {"class": "a"}])
    _, problems = read_labelled_folder(tmp_path)
    assert [one.split(": ", 1)[1].split(";")[0] for one in problems] == [
        "metadata.jsonl line 4: is damaged (Expecting property name enclosed in double quotes)",
        "metadata.jsonl line 5: file_name '../x.png' leads out of the folder or is no relative path with /",
        "metadata.jsonl line 5: class is ['a'], and must be text or a number",
        "metadata.jsonl line 6: 0.png is named before, in metadata.jsonl line 1",
        "metadata.jsonl: no column 'file_name' (metadata.jsonl line 7)",
    ]


def test_columns_that_are_asked_for_and_not_there(tmp_path: Path) -> None:
    flat_folder(tmp_path / "x", ["class"], [["a"], ["b"]])
    said = problem_of(tmp_path / "x", LabelColumns(group="animal"))
    assert "no column 'animal', which is to say the group; it has 'file_name', 'class'" in said
    class_folder(tmp_path / "y", {"a": 1, "b": 1})
    assert "column 'animal' is asked for, and there is no" in problem_of(
        tmp_path / "y", LabelColumns(group="animal")
    )


def test_a_table_without_classes_needs_sub_folders(tmp_path: Path) -> None:
    flat_folder(tmp_path, ["text"], [["x"], ["y"]])
    assert "they have no class: 00.png, 01.png; move them, or add a column class" in problem_of(tmp_path)


def test_both_metadata_files(tmp_path: Path) -> None:
    flat_folder(tmp_path, ["class"], [["a"], ["b"]])
    write_lines(tmp_path, [])
    assert "only one can say what holds" in problem_of(tmp_path)


def test_listed_classes_must_be_those_of_the_images(tmp_path: Path) -> None:
    class_folder(tmp_path, {"a": 1, "b": 1})
    _, problems = read_labelled_folder(tmp_path, classes=["a", "c", "c"])
    assert [one.split(": ", 1)[1].split(";")[0] for one in problems] == [
        "classes that are listed twice: c",
        "listed classes that no image has: 'c'",
        "classes of images that are not listed: 'b'",
    ]


def test_one_class_cannot_be_told_apart(tmp_path: Path) -> None:
    class_folder(tmp_path, {"a": 3})
    assert "all images are of class 'a'; at least two" in problem_of(tmp_path)


def test_one_picture_has_one_class(tmp_path: Path) -> None:
    class_folder(tmp_path, {"a": 2, "b": 2})
    picture(0).save(tmp_path / "b" / "again.bmp")
    said = problem_of(tmp_path)
    assert "one picture has two classes: a/00.png ('a') and b/again.bmp ('b')" in said


def test_images_in_memory_have_names_of_their_own() -> None:
    images = pictures({"a": 2, "b": 2})
    assert labelled_set(images)[1] == []
    assert labelled_set([*images, labelled(Image.new("RGB", (20, 20)), "001.png", "b")])[1] == [
        "several images have one name: 001.png; rename all but one"
    ]

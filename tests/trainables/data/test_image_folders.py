"""Folders of captioned images: the layouts that are read, and what is said of those that are not sound."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pandas
import pytest

from tests.helpers.image_folders import captioned, write_lines, write_pictures
from trainables.data.image_folders import folder_files, read_image_folder
from trainables.data.metadata_files import Columns

SOUND = Columns()


def captions_of(folder: Path, columns: Columns = SOUND) -> dict[str, str]:
    entries, problems = read_image_folder(folder, columns)
    assert problems == []
    return {entry.name: entry.caption for entry in entries}


def only_problem(folder: Path, columns: Columns = SOUND) -> str:
    _, problems = read_image_folder(folder, columns)
    assert len(problems) == 1, problems
    return problems[0]


# Layouts


def test_metadata_in_json_lines_with_sub_folders(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["b.png", "deep/er/a.png", ".hidden/x.png", ".thumb.png"])
    (tmp_path / "README.md").write_text("notes")
    rows = [
        {"file_name": "deep/er/a.png", "text": " a\n cat "},
        {"file_name": "./b.png", "text": "a dog", "more": [1]},
    ]
    write_lines(tmp_path, [rows[0], "", rows[1]])
    assert captions_of(tmp_path) == {"b.png": "a dog", "deep/er/a.png": "a cat"}


def test_metadata_in_csv_with_quotes_columns_and_a_byte_order_mark(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["1.png", "2.png"])
    text = (
        '\ufefffile_name,label,scene,who\r\n2.png,"a dog, ""red""",s1,rex\r\n1.png,"a cat\nasleep",s2,tom\r\n'
    )
    (tmp_path / "metadata.csv").write_bytes(text.encode())
    entries, problems = read_image_folder(tmp_path, Columns("label", "scene", "who"))
    assert problems == []
    assert [(one.name, one.caption, one.group, one.character) for one in entries] == [
        ("1.png", "a cat asleep", "s2", "tom"),
        ("2.png", 'a dog, "red"', "s1", "rex"),
    ]


def test_text_files_beside_images_and_in_sub_folders(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["1.png", "sub/1.png", "sub/2.png"])
    (tmp_path / "1.txt").write_text("one")
    (tmp_path / "sub" / "1.caption").write_text("another one\n")
    (tmp_path / "sub" / "2.TXT").write_text("two")
    (tmp_path / "sub" / "2.caption").write_text("two\n")
    assert captions_of(tmp_path) == {"1.png": "one", "sub/1.png": "another one", "sub/2.png": "two"}


def test_metadata_and_text_files_may_say_the_same(tmp_path: Path) -> None:
    captioned(tmp_path, 2)
    (tmp_path / "00.txt").write_text("picture 0, soft\n")
    assert len(captions_of(tmp_path)) == 2


def test_a_group_may_be_a_number_and_is_the_image_where_there_is_no_column(tmp_path: Path) -> None:
    captioned(tmp_path, 2, take=[7, 7.5])
    entries, problems = read_image_folder(tmp_path, Columns(group="take"))
    assert problems == []
    assert [entry.group for entry in entries] == ["7", "7.5"]
    assert [entry.group for entry in read_image_folder(tmp_path, SOUND)[0]] == ["00.png", "01.png"]


def test_a_link_that_leads_back_is_followed_once(tmp_path: Path) -> None:
    captioned(tmp_path, 2)
    os.symlink(tmp_path, tmp_path / "again")
    assert set(captions_of(tmp_path)) == {"00.png", "01.png"}


def test_every_file_that_counts_is_listed(tmp_path: Path) -> None:
    captioned(tmp_path, 2)
    (tmp_path / "00.txt").write_text("picture 0, soft")
    (tmp_path / "notes.md").write_text("none of it")
    assert [path.name for path in folder_files(tmp_path)] == ["00.png", "00.txt", "01.png", "metadata.jsonl"]


def test_what_lies_beside_images_of_a_download_is_passed_over(tmp_path: Path) -> None:
    captioned(tmp_path, 2)
    captioned(tmp_path / "__MACOSX", 2)
    (tmp_path / "__MACOSX" / "._00.png").write_bytes(b"no image")
    names = (
        "LICENSE",
        "License.txt",
        "LICENCE.md",
        "README",
        "readme.TXT",
        "LICENSE-CC-BY-4.0",
        "NOTICE",
        ".DS_Store",
    )
    for name in (*names, "Thumbs.db", "README.rst"):
        (tmp_path / name).write_text("words")
    assert set(captions_of(tmp_path)) == {"00.png", "01.png"}
    assert [path.name for path in folder_files(tmp_path)] == ["00.png", "01.png", "metadata.jsonl"]


def test_an_image_may_be_called_readme(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["readme.png", "license.jpg"])
    (tmp_path / "readme.txt").write_text("a sheet of paper")
    (tmp_path / "license.txt").write_text("a driving licence")
    assert captions_of(tmp_path) == {"readme.png": "a sheet of paper", "license.jpg": "a driving licence"}


@pytest.mark.parametrize("name", ["METADATA.CSV", "Metadata.csv", "METADATA.jsonl"])
def test_metadata_in_capital_letters(tmp_path: Path, name: str) -> None:
    write_pictures(tmp_path, ["1.png"])
    is_table = name.lower().endswith("csv")
    text = "file_name,text\n1.png,a cat\n" if is_table else '{"file_name": "1.png", "text": "a cat"}\n'
    (tmp_path / name).write_text(text)
    assert captions_of(tmp_path) == {"1.png": "a cat"}
    captioned(tmp_path, 2)
    assert f"has {name} and metadata.jsonl, and only one can say what holds" in only_problem(tmp_path)


def test_images_may_be_links_to_files_of_other_names(tmp_path: Path) -> None:
    write_pictures(tmp_path / "store", ["blob-a.png", "blob-b.png"])
    folder = tmp_path / "set"
    folder.mkdir()
    for name, target in (("1.png", "blob-a.png"), ("2.png", "blob-b.png")):
        os.symlink(tmp_path / "store" / target, folder / name)
    write_lines(folder, [{"file_name": "1.png", "text": "one"}, {"file_name": "2.png", "text": "two"}])
    assert captions_of(folder) == {"1.png": "one", "2.png": "two"}
    write_lines(folder, [{"file_name": "1.png", "text": "one"}, {"file_name": "blob-b.png", "text": "two"}])
    problems = read_image_folder(folder, SOUND)[1]
    assert problems[0] == (
        f"{folder}: no such image: metadata.jsonl line 2 (blob-b.png); an image that is a link has the name of the "
        "link, not of the file that it leads to: write 2.png in place of blob-b.png"
    )


# Messages


def test_a_folder_that_is_not_there_or_a_file(tmp_path: Path) -> None:
    assert "no such folder; dataset must name a folder" in only_problem(tmp_path / "none")
    captioned(tmp_path, 1)
    assert "is a file; name the folder that has the images" in only_problem(tmp_path / "00.png")


def test_a_folder_without_images(tmp_path: Path) -> None:
    assert "has no images; put captioned images into it" in only_problem(tmp_path)


def test_an_image_without_a_caption(tmp_path: Path) -> None:
    captioned(tmp_path, 3)
    write_pictures(tmp_path, ["new.png"], first=9)
    message = only_problem(tmp_path)
    assert "images without a caption (metadata.jsonl does not name them): new.png; each image" in message
    (tmp_path / "metadata.jsonl").unlink()
    (tmp_path / "00.txt").write_text("x")
    assert "(there is no text file beside them): 01.png, 02.png, new.png" in only_problem(tmp_path)


def test_a_caption_without_its_image(tmp_path: Path) -> None:
    captioned(tmp_path, 2)
    lines = (tmp_path / "metadata.jsonl").read_text() + json.dumps({"file_name": "gone.png", "text": "x"})
    (tmp_path / "metadata.jsonl").write_text(lines)
    message = only_problem(tmp_path)
    assert "no such image: metadata.jsonl line 3 (gone.png); add the images, or remove the lines" in message


def test_a_text_file_without_its_image(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["1.png"])
    (tmp_path / "1.txt").write_text("one")
    (tmp_path / "2.txt").write_text("two")
    assert "2.txt: a caption without its image; add the image" in only_problem(tmp_path)


@pytest.mark.parametrize("blank", ["", " \n", "\u200b", None])
def test_an_empty_caption(tmp_path: Path, blank: str | None) -> None:
    write_pictures(tmp_path, ["1.png", "2.png"])
    write_lines(tmp_path, [{"file_name": "1.png", "text": "x"}, {"file_name": "2.png", "text": blank}])
    assert "empty captions: metadata.jsonl line 2; write what the images show" in only_problem(tmp_path)


def test_an_empty_text_file(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["1.png"])
    (tmp_path / "1.txt").write_text(" \n")
    assert "empty captions: 1.txt; write what the images show" in only_problem(tmp_path)


def test_both_metadata_files(tmp_path: Path) -> None:
    captioned(tmp_path, 1)
    (tmp_path / "metadata.csv").write_text("file_name,text\n00.png,x\n")
    message = only_problem(tmp_path)
    assert "has metadata.csv and metadata.jsonl, and only one can say what holds; remove one" in message


def test_metadata_and_text_files_contradict_each_other(tmp_path: Path) -> None:
    captioned(tmp_path, 2)
    (tmp_path / "01.txt").write_text("something else")
    message = only_problem(tmp_path)
    assert (
        "contradict each other: 01.png (metadata.jsonl line 2: 'picture 1, soft', text file: 'something"
        in message
    )


def test_two_text_files_that_differ(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["1.png"])
    (tmp_path / "1.txt").write_text("one")
    (tmp_path / "1.caption").write_text("two")
    assert "1.caption and 1.txt differ, and an image has one caption; remove one" in only_problem(tmp_path)


def test_a_missing_column_names_those_that_are_there(tmp_path: Path) -> None:
    captioned(tmp_path, 3)
    message = only_problem(tmp_path, Columns("caption"))
    assert (
        "metadata.jsonl: no column 'caption'; it has 'file_name', 'text'; add the column, or name another in"
        in message
    )
    assert "dataset.caption_column, for example text" in message
    assert "dataset.group_column" in only_problem(tmp_path, Columns(group="scene"))
    assert "dataset.character_column" in only_problem(tmp_path, Columns(character="who"))


def test_a_column_that_some_lines_lack(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["1.png", "2.png"])
    write_lines(tmp_path, [{"file_name": "1.png", "text": "x"}, {"file_name": "2.png"}, {"text": "y"}])
    _, problems = read_image_folder(tmp_path, SOUND)
    assert len(problems) == 2
    assert "metadata.jsonl line 2: no column 'text'; it has 'file_name'; add the column" in problems[0]
    assert (
        "metadata.jsonl line 3: no column 'file_name'; it has 'text'; write the image's name" in problems[1]
    )


def test_columns_need_a_metadata_file(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["1.png"])
    (tmp_path / "1.txt").write_text("one")
    message = only_problem(tmp_path, Columns(group="scene"))
    assert "column 'scene' is asked for, and text files have none; write metadata.jsonl" in message


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"file_name": "2.png", "text": ', "line 2: is damaged (Expecting value)"),
        ("[1]", "line 2: is list, and must be a JSON object"),
        ('{"file_name": "2.png", "text": 3}', "line 2: text is 3, and a caption is text"),
        ('{"file_name": 2, "text": "x"}', "line 2: file_name is 2, and must be the name of an image"),
        ('{"file_name": "1.png", "text": "x"}', "line 2: 1.png is named before, in metadata.jsonl line 1"),
        ('{"file_name": "./1.png", "text": "x"}', "line 2: 1.png is named before, in metadata.jsonl line 1"),
        ('{"file_name": "../1.png", "text": "x"}', "line 2: file_name '../1.png' leads out of the folder"),
        (
            '{"file_name": "a/../../1.png", "text": "x"}',
            "line 2: file_name 'a/../../1.png' leads out of the folder",
        ),
        (
            '{"file_name": "/etc/1.png", "text": "x"}',
            "line 2: file_name '/etc/1.png' leads out of the folder",
        ),
        ('{"file_name": "a\\\\2.png", "text": "x"}', "is no relative path with /"),
        ('{"file_name": ".2.png", "text": "x"}', "line 2: file_name '.2.png' is a hidden file"),
    ],
)
def test_a_line_that_is_wrong(tmp_path: Path, line: str, said: str) -> None:
    write_pictures(tmp_path, ["1.png", "2.png"])
    write_lines(tmp_path, ['{"file_name": "1.png", "text": "x"}', line])
    message = only_problem(tmp_path)
    assert message.startswith(f"{tmp_path}: metadata.jsonl line 2")
    assert said in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file_name,text\n1.png,a, b\n", "metadata.csv line 2: is damaged (3 cells, and the header has 2)"),
        ('file_name,text\n1.png,"a\n', "metadata.csv line 2: is damaged (unexpected end of data)"),
        ("file_name,text,text\n1.png,a,b\n", "metadata.csv line 1: has column 'text' twice"),
        (
            "file_name;text\n1.png;a, b\n2.png;c\n",
            "metadata.csv line 1: its columns are separated by semicolons (;); separate them by commas",
        ),
        (
            '"text"\t"file_name"\na\t1.png\n',
            "metadata.csv line 1: its columns are separated by tabs; separate",
        ),
        ("name,text\n1.png,a\n", "metadata.csv: no column 'file_name'; it has 'name', 'text'"),
    ],
)
def test_a_table_that_is_wrong(tmp_path: Path, text: str, said: str) -> None:
    write_pictures(tmp_path, ["1.png"])
    (tmp_path / "metadata.csv").write_text(text)
    assert said in only_problem(tmp_path)


@pytest.mark.parametrize("value", [[1], True, {}])
def test_a_group_that_is_no_name(tmp_path: Path, value: object) -> None:
    captioned(tmp_path, 2, scene=["a", value])
    message = only_problem(tmp_path, Columns(group="scene"))
    assert (
        f"metadata.jsonl line 2: scene is {value!r}, and a name is text or a number; leave it empty"
        in message
    )


@pytest.mark.parametrize("value", [None, "", " \n", "\u200b", float("nan"), "nan", "NaN", "<NA>", "None"])
def test_an_empty_cell_names_nothing(tmp_path: Path, value: object) -> None:
    captioned(tmp_path, 3, scene=["a", value, value], who=[value, "Nan", value])
    entries, problems = read_image_folder(tmp_path, Columns(group="scene", character="who"))
    assert problems == []
    # An image without a group is by itself.
    assert [(one.group, one.character) for one in entries] == [("a", ""), ("01.png", "Nan"), ("02.png", "")]


def test_tables_of_pandas_with_missing_values(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["1.png", "2.png"])
    rows = {
        "file_name": ["1.png", "2.png"],
        "text": ["a", "b"],
        "who": ["momo", None],
        "scene": ["s", float("nan")],
    }
    table = pandas.DataFrame(rows)
    columns = Columns(group="scene", character="who")
    for keywords in ({}, {"na_rep": "NaN"}, {"na_rep": "nan"}):
        table.to_csv(tmp_path / "metadata.csv", index=False, **keywords)
        entries, problems = read_image_folder(tmp_path, columns)
        assert problems == []
        assert [(one.group, one.character) for one in entries] == [("s", "momo"), ("2.png", "")]
    (tmp_path / "metadata.csv").unlink()
    write_lines(tmp_path, [json.dumps(row) for row in table.to_dict("records")])  # with a bare NaN
    assert "NaN" in (tmp_path / "metadata.jsonl").read_text()
    assert read_image_folder(tmp_path, columns) == (entries, [])


def test_a_missing_caption_is_an_empty_one(tmp_path: Path) -> None:
    captioned(tmp_path, 2)
    write_lines(tmp_path, ['{"file_name": "00.png", "text": NaN}', '{"file_name": "01.png", "text": "x"}'])
    assert "empty captions: metadata.jsonl line 1; write what the images show" in only_problem(tmp_path)


def test_a_column_that_is_empty_in_every_line(tmp_path: Path) -> None:
    captioned(tmp_path, 2, who=["", None])
    message = only_problem(tmp_path, Columns(character="who"))
    assert message.endswith(
        "metadata.jsonl: column 'who' is empty in every line; fill it in, or leave out dataset.character_column"
    )


def test_names_are_one_in_either_unicode_spelling_and_with_spaces(tmp_path: Path) -> None:
    spelt = [" caf\u00e9", "cafe\u0301 "]
    captioned(tmp_path, 2, scene=spelt, who=spelt)
    entries, problems = read_image_folder(tmp_path, Columns(group="scene", character="who"))
    assert problems == []
    assert {(one.group, one.character) for one in entries} == {("caf\u00e9", "caf\u00e9")}


def test_of_many_wrong_lines_a_few_are_told(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["1.png"])
    write_lines(tmp_path, ["{"] * 500)
    _, problems = read_image_folder(tmp_path, SOUND)
    assert len(problems) == 11
    assert problems[-1].endswith("and 490 more lines that are wrong")


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["1.png"])
    (tmp_path / "metadata.jsonl").write_bytes(b'{"file_name": "1.png", "text": "caf\xe9"}\n')
    assert "is not UTF-8; save the file as UTF-8 text" in only_problem(tmp_path)


def test_metadata_that_is_not_read(tmp_path: Path) -> None:
    captioned(tmp_path, 1)
    captioned(tmp_path / "sub", 1)
    _, problems = read_image_folder(tmp_path, SOUND)
    assert (
        f"{tmp_path / 'sub' / 'metadata.jsonl'}: is not read; put its lines into metadata.jsonl"
        in problems[0]
    )
    (tmp_path / "sub" / "metadata.jsonl").rename(tmp_path / "metadata.parquet")
    assert (
        "metadata.parquet: is not read; write it as metadata.jsonl"
        in read_image_folder(tmp_path, SOUND)[1][0]
    )


def test_two_spellings_of_one_name(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["caf\u00e9.png", "cafe\u0301.png"])
    write_lines(tmp_path, [{"file_name": "caf\u00e9.png", "text": "x"}])
    assert "caf\u00e9.png is there twice, in two Unicode spellings" in only_problem(tmp_path)

"""Captions as text files beside images: which file belongs to which image, and what it says."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from trainables.data.images import read_file
from trainables.errors import UserError
from trainables.util.text import decoded, same_name, shown

CAPTION_SUFFIXES = (".txt", ".caption")


def caption_files(folder: Path) -> dict[str, list[Path]]:
    """The text files of a folder by the names, without suffixes, of the images to which they belong."""
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in CAPTION_SUFFIXES and not os.path.isdir(path):
            files.setdefault(same_name(path.stem), []).append(path)
    return files


def texts_of(paths: Sequence[Path]) -> tuple[set[str], list[str]]:
    """What text files say, each on one line, and what is wrong with those that cannot be read."""
    texts: set[str] = set()
    problems: list[str] = []
    for path in paths:
        try:
            texts.add(one_line(decoded(read_file(path, "a text file"))))
        except UserError as error:
            problems += error.problems
        except ValueError as error:
            problems.append(f"{shown(str(path))}: {error}")
    return texts, problems


def one_line(text: str) -> str:
    """Returns a caption as it is read: on one line, single spaces between its words."""
    # A byte-order mark within the text comes of files that were joined.
    return " ".join(text.replace("\ufeff", "").split())

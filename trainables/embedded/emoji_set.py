"""The data set ``emoji``: real pictures, drawn by the artists of Twemoji (``trainables/embedded/emoji/``).

Art: copyright Twitter, Inc and other contributors, CC BY 4.0. ``python -m benchmarks.emoji_set`` made the two files.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

FOLDER = Path(__file__).parent / "emoji"
SHEET = "sheet.png"
METADATA = "captions.jsonl"
COLUMNS = 24  # pictures in a row of the sheet
TRIGGER = "emoji style"
_SIDE = 64


@dataclass(frozen=True)
class Emoji:
    """One picture.

    Attributes:
        name: Its code points, e.g. "1F436".
        caption: Unicode's name, e.g. "dog face".
        group: That of the first picture which looks much like it; its own where there is none.
        subcategory: Unicode's, e.g. "animal-mammal".
    """

    name: str
    caption: str
    group: str
    subcategory: str


@cache
def emoji_list() -> tuple[Emoji, ...]:
    """All pictures in the order of the sheet, which is Unicode's; reads none."""
    lines = (FOLDER / METADATA).read_text(encoding="utf-8").splitlines()
    found = map(json.loads, lines)
    return tuple(Emoji(line["code"], line["text"], line["group"], line["subcategory"]) for line in found)


def emoji_images() -> list[Image.Image]:
    """The pictures of `emoji_list`, 64x64 RGB on white."""
    from PIL import Image

    with Image.open(FOLDER / SHEET) as file:
        sheet = file.convert("RGB")
    found = []
    for number in range(len(emoji_list())):
        left, top = number % COLUMNS * _SIDE, number // COLUMNS * _SIDE
        found.append(sheet.crop((left, top, left + _SIDE, top + _SIDE)))
    return found

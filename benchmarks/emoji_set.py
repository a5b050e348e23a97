"""Makes the data set ``emoji`` (``trainables/embedded/emoji/``) from the npm package that its pictures come from.

    npm pack emoji-datasource-twitter@16.0.0
    python -m benchmarks.emoji_set emoji-datasource-twitter-16.0.0.tgz --out trainables/embedded/emoji

Of the 64x64 pictures it takes animals and nature, food and drink, and objects, without variants of skin tone and
without those whose caption the embedded text encoder would hardly read to the end. It lays them on white, puts them on
one sheet and writes a line for each: caption (Unicode's name in lower case), group, subcategory and code point.
Pictures that look alike (a green and a blue book) are of one group, which is held out as a whole or not at all.
"""

from __future__ import annotations

import argparse
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from trainables.data.images import to_rgb
from trainables.embedded import GENERATOR
from trainables.embedded.emoji_set import COLUMNS, METADATA, SHEET, TRIGGER
from trainables.models.prompt_lengths import pipeline_reader

CATEGORIES = ("Animals & Nature", "Food & Drink", "Objects")
LONGEST = 28  # tokens of trigger and caption, begin and end among them; the embedded text encoder reads 32
# Correlation from which on two pictures are of one group: of their colours, and of their brightness, in which the same
# thing in another colour is equal. Lower ones join what is merely round, or merely slanted.
ALIKE = {"RGB": 0.9, "L": 0.95}
SIDE = 64


def chosen(entries: Sequence[dict[str, Any]], tokens: dict[str, int]) -> list[dict[str, Any]]:
    """Returns the entries of ``emoji.json`` that belong to the set, in Unicode's order; none says what another does."""
    kept = [
        entry
        for entry in sorted(entries, key=lambda entry: int(entry["sort_order"]))
        if entry["category"] in CATEGORIES
        and entry["has_img_twitter"]
        and not entry.get("obsoleted_by")
        and tokens[entry["name"].lower()] <= LONGEST
    ]
    names = [entry["name"] for entry in kept]
    if len(set(names)) < len(names):
        raise ValueError("two pictures have one name")
    return kept


def groups_of(pictures: Sequence[Image.Image], names: Sequence[str]) -> list[str]:
    """Returns the group of each picture: the name of the first of those that it is connected to by likeness.

    Two are alike if they correlate at 32x32, in colour or in brightness, mirrored or not, as `ALIKE` says.
    """
    alike = np.zeros((len(pictures), len(pictures)), dtype=np.bool_)
    for mode, least in ALIKE.items():
        plain = _rows(pictures, mode)
        mirrored = _rows([picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for picture in pictures], mode)
        alike |= (plain @ plain.T >= least) | (plain @ mirrored.T >= least)
    group = list(range(len(pictures)))
    for one, other in np.argwhere(alike):
        low, high = sorted((group[one], group[other]))
        group = [low if number == high else number for number in group]
    return [names[number] for number in group]


def _rows(pictures: Sequence[Image.Image], mode: str) -> NDArray[np.float64]:
    """One row a picture, with mean 0 and length 1."""
    small = [picture.convert(mode).resize((32, 32), Image.Resampling.BOX) for picture in pictures]
    rows = np.stack(
        [np.asarray(one.filter(ImageFilter.GaussianBlur(1)), dtype=np.float64).ravel() for one in small]
    )
    rows -= rows.mean(axis=1, keepdims=True)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("package", type=Path, help="the .tgz of emoji-datasource-twitter 16.0.0")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(arguments)
    reader = pipeline_reader(GENERATOR)
    assert reader is not None
    with tarfile.open(given.package) as archive:

        def content(name: str) -> bytes:
            file = archive.extractfile(f"package/{name}")
            assert file is not None
            return file.read()

        entries = json.loads(content("emoji.json"))
        texts = [entry["name"].lower() for entry in entries]
        tokens = {text: len(reader.pieces(f"{TRIGGER}, {text}")) + 2 for text in texts}
        kept = chosen(entries, tokens)
        pictures = [
            to_rgb(Image.open(io.BytesIO(content(f"img/twitter/64/{entry['image']}")))) for entry in kept
        ]
    names = [entry["name"].lower() for entry in kept]
    rows = -(-len(kept) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * SIDE, rows * SIDE), "white")
    lines, groups = [], groups_of(pictures, names)
    for number, (entry, picture, group) in enumerate(zip(kept, pictures, groups, strict=True)):
        sheet.paste(picture, (number % COLUMNS * SIDE, number // COLUMNS * SIDE))
        line = {
            "text": names[number],
            "group": group,
            "subcategory": entry["subcategory"],
            "code": entry["unified"],
        }
        lines.append(json.dumps(line, ensure_ascii=False))
    given.out.mkdir(parents=True, exist_ok=True)
    sheet.save(given.out / SHEET, optimize=True)
    (given.out / METADATA).write_text("\n".join(lines) + "\n", encoding="utf-8")
    size = (given.out / SHEET).stat().st_size
    print(f"{len(kept)} pictures in {len(set(groups))} groups, {size:,} bytes")


if __name__ == "__main__":
    main()

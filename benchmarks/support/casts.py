"""Casts in ink that no data set of the project has: captioned fine-tuning's defaults are searched on them."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

#: The characters of each cast, one of each class in the order of the embedded model's classes.
CASTS = {
    "cast-1": ("tavi", "bosco", "luma", "grom", "kiki", "wexo", "omba", "drent"),
    "cast-2": ("nero", "jago", "pua", "tundo", "zaza", "bogi", "raju", "molo"),
    "cast-3": ("sela", "rolf", "vik", "kodi", "fenno", "quin", "hanno", "doma"),
    "cast-4": ("pixa", "hurk", "yuni", "oslo", "lirp", "gwib", "tamo", "brux"),
}
_FIRST_PLACE = 20  # the shipped cast is of the first ten identities of each class
_FIRST_PICTURE = 10_000  # seeds of small details that no other pictures have
_PICTURES = 1_000  # more than a cast has


def written_cast(name: str, folder: Path) -> dict[str, Any]:
    """Returns the fields of a data set of 128 pictures and 64 that are held out; writes it if it is not there.

    Several processes may write the same one.

    Args:
        name: One of `CASTS`.
        folder: Its parent, which exists.
    """
    from trainables.embedded.sprite_cast import TRIGGER, pictures_of
    from trainables.embedded.world import CLASSES

    number = tuple(CASTS).index(name)
    place = _FIRST_PLACE + number
    of_cast = {who: (kind, place) for who, kind in zip(CASTS[name], CLASSES, strict=True)}
    home = folder / name
    if not home.is_dir():
        begun = Path(tempfile.mkdtemp(dir=folder))
        rows: dict[str, list[str]] = {"train": [], "held-out": []}
        for part in rows:
            (begun / part).mkdir()
        for picture in pictures_of(of_cast, _FIRST_PICTURE + _PICTURES * number):
            part = "held-out" if picture.is_held_out else "train"
            file_name = f"{picture.name}.png"
            picture.draw().save(begun / part / file_name)
            row = {"file_name": file_name, "text": picture.caption, "character": picture.character}
            rows[part].append(json.dumps(row) + "\n")
        for part, lines in rows.items():
            (begun / part / "metadata.jsonl").write_text("".join(lines))
        try:
            os.rename(begun, home)
        except OSError:  # another process was faster
            shutil.rmtree(begun)
    return {
        "path": str(home / "train"),
        "references": str(home / "held-out"),
        "trigger": TRIGGER,
        "character_column": "character",
    }

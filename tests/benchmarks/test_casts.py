"""Casts for searches: they are data sets of the study, of characters that no other set has."""

import itertools
import json
from pathlib import Path

from PIL import Image

from benchmarks.support.casts import CASTS, written_cast
from trainables.config.fields import SubjectConfig
from trainables.embedded.sprite_cast import CHARACTERS


def test_each_character_has_one_name_and_a_name_one_character() -> None:
    names = [*CHARACTERS, *itertools.chain.from_iterable(CASTS.values())]
    assert len(set(names)) == len(names)


def test_a_cast_is_written_once_and_is_a_data_set(tmp_path: Path) -> None:
    fields = written_cast("cast-2", tmp_path)
    held_out = Path(fields["references"])
    rows = [json.loads(line) for line in (held_out / "metadata.jsonl").read_text().splitlines()]
    assert [len(list(Path(fields[part]).glob("*.png"))) for part in ("path", "references")] == [128, 64]
    assert {row["character"] for row in rows} == set(CASTS["cast-2"])
    assert all(row["text"].startswith(f"{row['character']} the ") for row in rows)
    assert Image.open(held_out / rows[0]["file_name"]).size == (64, 64)
    written = held_out.stat().st_mtime_ns
    assert written_cast("cast-2", tmp_path) == fields
    assert held_out.stat().st_mtime_ns == written
    assert [path.name for path in tmp_path.iterdir()] == ["cast-2"]
    assert SubjectConfig.model_validate({"name": "cast-2", "dataset": fields}).is_data_set


def test_casts_have_no_picture_in_common(tmp_path: Path) -> None:
    first, second = (
        {path.read_bytes() for path in Path(written_cast(name, tmp_path)["path"]).glob("*.png")}
        for name in ("cast-1", "cast-3")
    )
    assert len(first) == len(second) == 128
    assert not first & second

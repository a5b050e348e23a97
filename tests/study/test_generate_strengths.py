"""`study generate --strength`: images of each strength from the same noise, and the grid of strengths and prompts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from study.cli.main import main
from study.generate import draw_images, parse_strengths
from study.storage.layout import Storage
from tests.helpers.short_runs import config_of
from trainables.errors import UserError
from trainables.run.execute import execute

RUN, WORD = "confirm/lora-x/0000-cat-1-s1", "confirm/word/0000-cat-1-s1"
PROMPTS = ["{subject} in the snow", "a dog"]


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    found = Storage(tmp_path_factory.mktemp("strengths") / "storage", "mine")
    list(execute(config_of(found.runs / RUN, learning_rate=0.3)))
    assert json.loads((found.runs / RUN / "result.json").read_text())["state"] == "COMPLETE"
    (found.folder / "study.json").write_text("{}")
    return found


def pixels(path: Path) -> np.ndarray[Any, Any]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_strengths_are_drawn_from_the_same_noise_and_shown_in_a_grid(
    storage: Storage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = draw_images(storage, RUN, PROMPTS, tmp_path / "plain", count=2, seed=3)
    arguments = ["--storage", str(storage.root), "-o", str(tmp_path / "out"), "-n", "2", "--seed", "3"]
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        main(
            ["generate", "mine", RUN, "-p", PROMPTS[0], "-p", PROMPTS[1], "--strength", "0,0.5,1", *arguments]
        )
    assert not exit_.value.code
    written = [Path(line).name for line in capsys.readouterr().out.splitlines()]
    images = [
        f"{prompt:02d}-{image:02d}-s{s}.png"
        for prompt in (0, 1)
        for image in (0, 1)
        for s in ("0", "0.5", "1")
    ]
    assert written == [*images, "grid-00.png", "grid-01.png"]
    none, half, whole = (pixels(tmp_path / "out" / f"00-01-s{s}.png") for s in ("0", "0.5", "1"))
    assert np.abs(whole - pixels(plain[1])).max() <= 1  # of 255: merged weights round
    assert np.abs(whole - none).max() > 20
    assert 0 < np.abs(half - none).mean() < np.abs(whole - none).mean()
    grid, side = pixels(tmp_path / "out" / "grid-01.png"), 128
    cells = [
        pixels(tmp_path / "out" / f"{prompt:02d}-01-s{s}.png").repeat(2, 0).repeat(2, 1)
        for prompt in (0, 1)
        for s in ("0", "0.5", "1")
    ]
    assert cells[0].shape == (side, side, 3)
    places = [
        (top, left)
        for top in range(grid.shape[0] - side + 1)
        for left in range(10, grid.shape[1] - side, 132)
    ]
    found = [next(place for place in places if _is_at(grid, cell, place)) for cell in cells]
    assert [left for _, left in found] == [10, 142, 274] * 2
    assert len({top for top, _ in found[:3]}) == 1
    assert found[0][0] < found[3][0]


def test_a_folder_shows_one_call(
    storage: Storage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Grids of an earlier call do not lie beside images of a later one; what generate did not write stays."""
    out = tmp_path / "out"
    draw_images(storage, RUN, PROMPTS, out, count=2, steps=1, strengths=(0, 1))
    Image.new("RGB", (2, 2)).save(out / "grid-07.png")  # bears no mark of ours
    (out / "00-09.png").write_text("a note")
    (out / "notes.txt").write_text("mine")
    capsys.readouterr()
    paths = draw_images(storage, RUN, PROMPTS[:1], out, count=1, steps=1, strengths=(0.5,))
    assert [path.name for path in paths] == ["00-00-s0.5.png", "grid-00.png"]
    others = {"grid-07.png", "00-09.png", "notes.txt"}
    assert {path.name for path in out.iterdir()} == {"00-00-s0.5.png", "grid-00.png"} | others
    assert "9 images of an earlier call were removed" in "".join(capsys.readouterr())
    draw_images(storage, RUN, PROMPTS[:1], out, count=1, steps=1)
    assert {path.name for path in out.iterdir()} == {"00-00.png"} | others


@pytest.mark.parametrize("strength", [float("nan"), float("inf"), 11.0])
def test_a_strength_out_of_range_is_refused_in_a_notebook_too(
    strength: float, storage: Storage, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="a strength is a number from -10 to 10; got"):
        draw_images(storage, RUN, PROMPTS, tmp_path / "out", strengths=(0, strength))
    assert not (tmp_path / "out").exists()


def _is_at(grid: np.ndarray[Any, Any], cell: np.ndarray[Any, Any], place: tuple[int, int]) -> bool:
    top, left = place
    return np.array_equal(grid[top : top + len(cell), left : left + len(cell)], cell)


def test_strengths_are_numbers_in_the_order_given() -> None:
    assert parse_strengths("0, 0.5,1,-2") == (0.0, 0.5, 1.0, -2.0)
    for wrong in ("", "0,,1", "half", "nan", "11", "-inf"):
        with pytest.raises(UserError, match="from -10 to 10"):
            parse_strengths(wrong)
    with pytest.raises(UserError, match="1 twice"):
        parse_strengths("1,0,1.0")


def test_what_has_no_strength_is_refused_before_anything_is_loaded(storage: Storage, tmp_path: Path) -> None:
    other = storage.runs / WORD
    other.mkdir(parents=True)
    for name in ("run.json", "result.json"):
        (other / name).write_text((storage.runs / RUN / name).read_text())
    config = json.loads((other / "run.json").read_text()) | {"method": "textual_inversion", "training": {}}
    (other / "run.json").write_text(json.dumps(config))
    (other / "weights").mkdir()
    with pytest.raises(UserError, match="no strength to be turned"):
        draw_images(storage, WORD, PROMPTS, tmp_path / "out", strengths=(0.0, 1.0))
    assert not (tmp_path / "out").exists()

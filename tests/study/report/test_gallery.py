"""The sample gallery: which pictures are shown, at the same noise, small, the same from the report's own folder."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from study.report import build as build_module
from study.report.build import build_report
from study.report.figures import canvas
from study.report.gallery import (
    MOST_PICTURES,
    OVERVIEW,
    SIDE,
    Gallery,
    compute_gallery,
    limits,
    linked,
    prompt_of,
    read_picture,
)
from study.report.prepared import Rows, prepare
from study.report.tables import to_html
from study.results.csv_files import read_csv
from study.results.frames import Results
from tests.helpers.made_reports import table
from tests.helpers.synthetic_results import ARMS, PROMPTS, Arm, Study, make_results

STUDY = Study(trials=1, subjects=("dog-1", "bird-1", "fox-1"), modern=True)
NASTY = "<i>\"a'&b"


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    return prepare(make_results(replace(STUDY, folder=tmp_path_factory.mktemp("images"))))


@pytest.fixture(scope="module")
def gallery(rows: Rows) -> Gallery:
    return compute_gallery(rows)


@pytest.fixture
def unrendered(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = canvas.Rendering(
        dict.fromkeys(canvas.FORMATS, b"drawn"), (canvas.View(b"<svg xmlns='http://www.w3.org/2000/svg'/>"),)
    )
    monkeypatch.setattr(build_module, "render", lambda figure: drawn)


def moved(rows: Rows, path_of: Callable[[str, str], str]) -> Rows:
    """The rows with other files, by arm and file."""
    images = rows.images.copy()
    pairs = zip(images["arm"], images["path"], strict=True)
    images["path"] = [path_of(str(arm), str(path)) for arm, path in pairs]
    return replace(rows, images=images)


# ------------------------------------------------------------------ which pictures


def test_arms_by_prompts_by_seeds_with_base_and_references(gallery: Gallery) -> None:
    assert [one.subject for one in gallery.subjects] == ["bird-1", "dog-1"]  # and fox-1 gives way
    for one in gallery.subjects:
        assert one.prompts == tuple(prompt.replace("subject", "{subject}") for prompt in PROMPTS)
        assert one.reference_picture is not None
        assert one.reference_picture.width > 3 * one.reference_picture.height  # four, side by side
        assert [group.seed for group in one.groups] == [100, 101]
        for group in one.groups:
            assert [line.arm for line in group.lines] == [arm.name for arm in ARMS]
            assert group.base is group.lines[0]
            for line in group.lines:
                assert line.seed == group.seed
                assert all(shot is not None for shot in line.shots)
                sizes = {(shot.picture.width, shot.picture.height) for shot in line.shots if shot is not None}
                assert sizes == {(64, 64)}  # of two images a prompt the first


def test_the_first_image_of_a_strip_is_shown_with_its_own_scores(rows: Rows, gallery: Gallery) -> None:
    line = gallery.subjects[0].groups[1].lines[2]
    for k, shot in enumerate(line.shots):
        assert shot is not None
        own = rows.images[(rows.images["run_key"] == line.run_key) & (rows.images["key"] == shot.key)]
        with Image.open(own["path"].iloc[0]) as strip:
            first = np.asarray(strip.crop((0, 0, 64, 64)), dtype=float)
        assert np.abs(shot.picture.pixels - first).mean() < 6  # what WebP loses; other pictures are far away
        scores = rows.image_scores
        own = scores[(scores["run_key"] == line.run_key) & (scores["prompt"] == k) & (scores["image"] == 0)]
        own = own[own["kind"] == "instance"]
        assert f"subject fidelity {own['subject_scaled'].iloc[0]:.2f}".replace("-", "−") in shot.scores
        assert ("a failed image" in shot.scores) == (own["failed"].iloc[0] == 1)


@pytest.mark.parametrize(
    ("there", "shown"),
    [
        ((7, 2, 2, 5), (2, 2, 5)),  # 140 pictures: all
        ((5, 9, 3, 16), (2, 2, 8)),  # subjects give way first
        ((7, 2, 2, 8), (2, 2, 5)),  # then prompts
        ((9, 8, 2, 8), (2, 2, 4)),
        ((12, 8, 2, 8), (2, 1, 4)),  # then seeds
        ((20, 8, 2, 8), (2, 1, 4)),
        ((40, 8, 2, 8), (1, 1, 4)),
        ((60, 8, 2, 8), (1, 1, 2)),
        ((300, 8, 2, 8), (1, 1, 1)),
        ((900, 8, 2, 8), (1, 1, 1)),  # every arm, whatever it takes
        ((3, 1, 1, 1), (1, 1, 1)),
    ],
)
def test_what_gives_way_where_there_are_many(
    there: tuple[int, int, int, int], shown: tuple[int, int, int]
) -> None:
    arms, *_ = there
    assert limits(*there) == shown
    assert arms * np.prod(shown) <= MOST_PICTURES or shown == (1, 1, 1)
    assert limits(arms, *shown) == shown  # a report from its own folder shows the same


def test_overviews_stand_in_where_there_are_no_strips(rows: Rows) -> None:
    only = replace(rows, images=rows.images[rows.images["key"] == "grid"])
    found = compute_gallery(only)
    assert found.overviews
    assert found.subjects[0].keys == ("grid",)
    assert found.subjects[0].groups[0].lines[0].shots[0] is not None
    assert not compute_gallery(rows).overviews
    assert "grid" not in {key for one in compute_gallery(rows).subjects for key in one.keys}


def test_images_for_classifiers_are_no_samples_of_prompts(rows: Rows) -> None:
    drawn = rows.images[rows.images["key"] == "grid"].assign(key="generated/score-1")
    with_them = replace(rows, images=pd.concat([rows.images, drawn], ignore_index=True))
    assert compute_gallery(with_them) == compute_gallery(rows)


def test_broken_and_missing_pictures_are_left_out(rows: Rows, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG not really")
    assert read_picture(broken) is None
    assert read_picture(tmp_path / "none.png") is None
    gone = {"lora-cosine": str(broken), "dreambooth_lora": str(tmp_path / "none.png")}
    found = compute_gallery(moved(rows, lambda arm, path: gone.get(arm, path)))
    arms = {line.arm for one in found.subjects for group in one.groups for line in group.lines}
    assert arms == {arm.name for arm in ARMS} - set(gone)
    assert compute_gallery(moved(rows, lambda arm, path: "")) == Gallery()


def test_the_base_model_stands_in_with_another_seed(rows: Rows) -> None:
    images = rows.images
    found = compute_gallery(replace(rows, images=images[(images["arm"] != "base") | (images["seed"] == 100)]))
    bases = [group.base for group in found.subjects[0].groups]
    assert [base.seed for base in bases if base is not None] == [100, 100]
    keys = [(run, shot.key) for run, shot in found.kept()]
    assert len(keys) == len(set(keys))


def test_prompts_of_keys() -> None:
    assert prompt_of("03 subject on a beach") == "{subject} on a beach"
    assert prompt_of("grid") == "grid"


# ------------------------------------------------------------------ one picture


def test_pictures_are_small_and_taken_as_they_are_when_they_are_small(tmp_path: Path) -> None:
    strip = Image.effect_noise((1030, 512), 80).convert("RGB")
    strip.save(tmp_path / "strip.png")
    first = read_picture(tmp_path / "strip.png", first=True)
    assert first is not None
    assert (first.width, first.height) == (SIDE, SIDE)
    with Image.open(io.BytesIO(first.content)) as image:
        assert image.format == "WEBP"
    (tmp_path / "first.webp").write_bytes(first.content)
    assert read_picture(tmp_path / "first.webp", first=True) == first
    whole = read_picture(tmp_path / "strip.png", overview=True)
    assert whole is not None
    assert whole.width == OVERVIEW
    assert whole.pixels.shape == (whole.height, OVERVIEW, 3)


# ------------------------------------------------------------------ the page and the folder


class Links(HTMLParser):
    """Ids, links within the page, and what opens without a script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.alts: list[str] = []
        self.opened = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = {name: value or "" for name, value in attrs}
        self.ids += [known["id"]] if "id" in known else []
        if tag == "a" and known.get("href", "").startswith("#"):
            self.targets.append(known["href"][1:])
        if tag == "img" and known["src"].startswith("data:image/webp"):
            self.alts.append(known["alt"])
        self.opened += tag == "details" and known.get("class") == "zoom"


def named(folder: Path) -> Results:
    """A study with an arm of a harmful name, with pictures."""
    arms = (ARMS[0], ARMS[1], Arm(NASTY, "lora"))
    return make_results(Study(arms=arms, trials=1, curves=False, folder=folder))


def test_each_row_leads_to_its_place_and_every_picture_opens(tmp_path: Path, unrendered: None) -> None:
    (tmp_path / "images").mkdir()
    built = build_report(named(tmp_path / "images"), tmp_path / "r")
    text = built.html.read_text()
    page = Links(text)
    assert len(page.ids) == len(set(page.ids))
    assert set(page.targets) <= set(page.ids)
    lines = [target for target in page.targets if target.startswith("sample-")]
    assert len(set(lines)) == 3  # one place an arm
    assert page.opened == len(page.alts) == 2 * 2 * 3 * len(PROMPTS)
    assert f"{NASTY}, a {{subject}} on a beach, seed 100" in page.alts
    assert "<i>" not in text
    # The base model's pictures and the references are there once, to be shown beside each of the others.
    assert len(re.findall(r"--base-\d: url\(data:image/webp", text)) == 2 * 2 * len(PROMPTS)
    assert len(re.findall(r"--references: url\(data:image/webp", text)) == 2


def test_only_tables_of_arms_and_runs_lead_to_the_gallery(gallery: Gallery) -> None:
    from study.report.sections import compose

    report = compose(make_results(Study(trials=1, curves=False)))
    found = linked(table(report, "arms"), gallery)
    assert [row[0].anchor for row in found.rows] == [gallery.anchors[arm.name] for arm in ARMS]
    assert '<a href="#sample-1-1-0">base</a>' in to_html(found)
    assert linked(table(report, "budget"), gallery) == table(report, "budget")
    assert linked(table(report, "arms"), Gallery()) == table(report, "arms")
    run = next(line for line in gallery.subjects[1].groups[1].lines if not line.is_base)
    assert gallery.anchors[run.run_key] == run.anchor == "sample-2-2-1"


def test_a_copied_folder_alone_gives_the_same_gallery(tmp_path: Path, unrendered: None) -> None:
    subjects = ("a", "b", "c", "d", "e", "f")
    (tmp_path / "images").mkdir()
    study = Study(trials=1, subjects=subjects, curves=False, folder=tmp_path / "images")
    first = build_report(make_results(study), tmp_path / "first")
    for file in (tmp_path / "images").iterdir():
        file.unlink()
    again = build_report(read_csv(first.folder), tmp_path / "again")
    assert again.html.read_bytes() == first.html.read_bytes()
    files = {path.name: path.read_bytes() for path in (first.folder / "data" / "images").iterdir()}
    assert files == {path.name: path.read_bytes() for path in (again.folder / "data" / "images").iterdir()}
    shown = first.html.read_text().count('<details class="zoom"')
    assert shown == np.prod(limits(len(ARMS), 6, 2, len(PROMPTS))) * len(ARMS)
    assert sum(map(len, files.values())) < 2_000 * shown


def test_files_that_are_no_pictures_are_not_drawn_in(tmp_path: Path, unrendered: None) -> None:
    (tmp_path / "images").mkdir()
    first = build_report(named(tmp_path / "images"), tmp_path / "first")
    for path in (first.folder / "data" / "images").iterdir():
        path.write_bytes(b"RIFF....WAVE secret")
    again = build_report(read_csv(first.folder), tmp_path / "again")
    assert "no sample images" in again.html.read_text()

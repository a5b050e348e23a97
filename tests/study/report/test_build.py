"""The report folder: complete, self-contained, the same bytes again, harmless names, never half-written."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from study.report import ReportFiles, build_report
from study.report import build as build_module
from study.report.compact import compact_picture
from study.report.figures import canvas
from study.report.latex import CHARACTER
from study.report.latex_numbers import NUMBERS
from study.results.columns import RUN_COLUMNS
from study.results.csv_files import read_csv
from study.results.frames import Results
from tests.helpers.synthetic_results import ARMS, PROMPTS, Arm, Study, make_results
from trainables.errors import UserError

ROOT = Path(__file__).resolve().parents[3]
NEWER = ("class_kept", "quality_subject_prompt", "failed_images", "class_image_seconds", "class_image_flops",
         "ceiling_quality", "train_steps", "image_latency_fused_seconds")  # fmt: skip
SMALL = Study(subjects=("dog-1", "bird-1"), seeds=(100, 101))


def hashes(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


class Page(HTMLParser):
    """What a page loads, which elements it has, and the text it shows."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.scripts = 0
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.handlers: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.scripts += tag == "script"
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        self.links += [
            value or "" for name, value in attrs if name in ("href", "src", "srcset", "data", "action")
        ]
        if tag == "img":
            self.images.append(dict(attrs))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return make_results(replace(SMALL, folder=tmp_path_factory.mktemp("images")))


@pytest.fixture(scope="module")
def tiny() -> Results:
    return make_results(Study(arms=ARMS[:2], trials=1))


@pytest.fixture(scope="module")
def built(results: Results, tmp_path_factory: pytest.TempPathFactory) -> ReportFiles:
    return build_report(results, tmp_path_factory.mktemp("reports") / "made-up")


def placeholder(figure: canvas.Figure) -> canvas.Rendering:
    """Bytes in the place of a drawing."""
    content = figure.key.encode()
    empty = b'<svg xmlns="http://www.w3.org/2000/svg"/>'
    return canvas.Rendering(dict.fromkeys(canvas.FORMATS, content), (canvas.View(empty),))


@pytest.fixture
def unrendered(monkeypatch: pytest.MonkeyPatch) -> None:
    """No drawing at all, where the test is about the folder."""
    monkeypatch.setattr(build_module, "render", placeholder)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws each figure once, small, where the test is about something else than its files."""

    def quick(figure: canvas.Figure) -> canvas.Rendering:
        with canvas.figure_style():
            figure.draw().draw_without_rendering()
        return placeholder(figure)

    monkeypatch.setattr(build_module, "render", quick)


# ------------------------------------------------------------------ contents


def test_the_folder_holds_what_others_rely_on(built: ReportFiles) -> None:
    names = set(hashes(built.folder))
    assert {"report.html", "report.md", "manifest.json", "data/runs.csv", "data/curves.csv"} <= names
    for table in (
        "arms",
        "details",
        "against-best",
        "pairs",
        "budget",
        "chosen",
        "cosine-vs-constant",
        "exclusions",
    ):
        assert {f"tables/{table}.csv", f"tables/{table}.tex"} <= names
    figures = {name.split(".")[0] for name in names if name.startswith("figures/")}
    assert {
        "figures/intervals",
        "figures/pareto-quality-cost",
        "figures/curves",
        "figures/samples-1",
    } <= figures
    assert all(f"{figure}.{kind}" in names for figure in figures for kind in ("pdf", "png"))
    assert all(f"{figure}.svg" in names for figure in figures - {"figures/samples-1"})
    assert built.html.exists()
    assert len(built.figures) == 3 * len(figures) - 1
    header = (built.folder / "data" / "runs.csv").read_text().splitlines()[0].split(",")
    assert tuple(header[: len(RUN_COLUMNS)]) == RUN_COLUMNS


def test_runs_csv_has_one_row_a_run(built: ReportFiles, results: Results) -> None:
    with (built.folder / "data" / "runs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(results.frame)
    assert {row["state"] for row in rows} == {"COMPLETE", "FAIL", "PRUNED"}


def test_main_table_has_means_intervals_and_n(built: ReportFiles, results: Results) -> None:
    tables = [
        pd.read_csv(built.folder / "tables" / f"{name}.csv").set_index("arm")
        for name in ("arms", "details", "costs")
    ]
    table = tables[0].join([t[[c for c in t if c not in tables[0]]] for t in tables[1:]])
    assert list(table.index) == [arm.name for arm in ARMS]
    frame = results.frame
    confirm = frame[(frame["phase"] == "confirm") & (frame["state"] == "COMPLETE")]
    for name in ("quality", "subject_fidelity", "prompt_fidelity", "train_seconds", "device_seconds", "train_flops",
                 "peak_memory_bytes", "trainable_parameters", "artifact_bytes", "image_latency_seconds"):  # fmt: skip
        means = confirm.groupby(["arm", "subject"])[name].mean().groupby("arm").mean()
        assert np.allclose(table[name], means[table.index])
        assert table[[f"{name}_low", f"{name}_high"]].isna().all(axis=None)  # two subjects have no interval
    assert table["n"].tolist() == [2, 4, 4, 4, 4, 4]  # seeds of the base are averaged


def test_three_subjects_have_intervals_and_more_tables(tmp_path: Path, unrendered: None) -> None:
    study = Study(subjects=("a", "b", "c"), curves=False)
    files = build_report(make_results(study), tmp_path / "r")
    table = pd.read_csv(files.folder / "tables" / "arms.csv").set_index("arm").drop("base")
    for name in ("quality", "subject_fidelity_scaled", "prompt_fidelity_scaled", "train_seconds"):
        assert (table[f"{name}_low"] < table[name]).all()
        assert (table[f"{name}_high"] > table[name]).all()
    pairs = pd.read_csv(files.folder / "tables" / "pairs.csv")
    assert set(pairs["verdict"]) <= {"better", "worse", "equivalent", "not enough"}
    assert (pairs["simultaneous_low"] < pairs["quality_difference_low"]).all()
    assert (pairs["p_holm"] >= pairs["p"]).all()
    undecided = pairs[pairs["verdict"] == "not enough"]
    assert len(undecided)
    assert (undecided["subjects_needed"].dropna() > 3).all()
    ranking = pd.read_csv(files.folder / "tables" / "ranking.csv")
    assert ranking["best"].sum() == pytest.approx(1.0)
    assert len(pd.read_csv(files.folder / "tables" / "effects.csv")) == 10
    manifest = json.loads(files.manifest.read_text())
    assert manifest["statistics"]["margin"] == 0.05
    assert "Student's t" in manifest["statistics"]["interval"]


def test_the_page_loads_nothing_from_elsewhere(built: ReportFiles) -> None:
    text = built.html.read_text()
    page = Page(text)
    assert len(page.links) > 5
    assert all(link.startswith(("data:image/", "#")) for link in page.links)
    assert not page.tags & {"link", "iframe", "object", "embed", "base"}
    assert page.handlers == []
    assert page.scripts == 1
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert script == (ROOT / "study" / "report" / "templates" / "report.js").read_text()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'\"" in text  # no other script may run
    pictures = re.compile(r"url\(data:image/[^)]+\)|data:image/[^\"]+")
    assert not re.search(r"url\(|@import|https?://", pictures.sub("", text))
    assert all(image["alt"] for image in page.images)
    shown = [image for image in page.images if str(image["src"]).startswith("data:image/webp")]
    drawn = len(page.images) - len(shown)
    assert drawn > len(built.figures) // 3  # wide figures are there once more, for narrow screens
    assert len(shown) == 2 * 2 * len(ARMS) * len(PROMPTS)  # subjects, seeds, arms, prompts
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text
    assert "width=device-width" in text


def test_the_page_reads_from_verdict_to_provenance(built: ReportFiles) -> None:
    text = Page(built.html.read_text()).text
    order = ["Verdict", "n = 4 runs on 2 subjects", "Beware", "Results", "Quality versus cost", "Sample images",
             "Cosine versus constant", "Paired comparisons", "Quality on the way", "The search",
             "Failures and exclusions", "nan_loss", "How to read this report", "Provenance", "2.13.0"]  # fmt: skip
    places = [text.find(word, text.find("Verdict")) for word in order]
    assert -1 not in places
    assert text.count(order[3]) >= 1
    for section, later in zip(
        ("Failures and exclusions", "nan_loss"), ("nan_loss", "How to read"), strict=True
    ):
        assert text.rfind(section) < text.rfind(later)


def test_the_best_score_of_the_search_is_nowhere_a_result(built: ReportFiles, results: Results) -> None:
    """Trials' scores appear in figures and data, never as numbers in the words or tables of results."""
    frame = results.frame
    scores = frame.loc[(frame["phase"] == "search") & frame["quality"].notna(), "quality"]
    assert len(scores) > 10
    for name in ("arms", "details", "pairs", "against-best", "against-base"):
        text = (built.folder / "tables" / f"{name}.csv").read_text()
        assert not any(repr(float(score)) in text for score in scores)


def test_markdown_shows_the_same_verdict_and_links_its_figures(built: ReportFiles) -> None:
    text = built.markdown.read_text()
    assert "n = 4 runs on 2 subjects" in text
    targets = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)
    assert len(targets) == len({path.stem for path in built.figures})
    for target in targets:
        assert (built.folder / target).exists()
    assert "\n\n\n\n" not in text


def test_manifest_hashes_every_file_and_names_no_place(built: ReportFiles) -> None:
    manifest = json.loads(built.manifest.read_text())
    found = {name: value for name, value in hashes(built.folder).items() if name != "manifest.json"}
    assert {**manifest["files"], **manifest["inputs"]["hashes"]} == found
    assert manifest["statistics"]["seed"] == 0
    assert manifest["versions"]["matplotlib"]
    assert "study report" in manifest["rebuild"]
    everything = b"".join(
        path.read_bytes()
        for path in built.folder.rglob("*")
        if path.suffix in (".json", ".md", ".html", ".csv")
    )
    assert b"/somewhere/secret" not in everything
    assert str(built.folder).encode() not in everything


# ------------------------------------------------------------------ the same again


def test_the_same_bytes_in_another_process_from_shuffled_rows_and_from_csv(
    built: ReportFiles, results: Results, tmp_path: Path
) -> None:
    """Another hash seed, another clock, and the CSV files in the place of MLflow."""
    code = (
        "import sys; from pathlib import Path; "
        "from study.results.csv_files import read_csv; from study.report import build_report; "
        "build_report(read_csv(Path(sys.argv[1])), sys.argv[2]); "
        "print(sorted({'torch', 'ray', 'mlflow', 'optuna', 'diffusers'} & set(sys.modules)))"
    )
    target = tmp_path / "again"
    environment = {**os.environ, "PYTHONHASHSEED": "77", "SOURCE_DATE_EPOCH": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(built.folder / "data"), str(target)],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "[]"
    assert hashes(target) == hashes(built.folder)


def test_the_seed_of_the_statistics_is_a_setting(results: Results, tmp_path: Path, unrendered: None) -> None:
    first = build_report(results, tmp_path / "a", rng_seed=0)
    second = build_report(results, tmp_path / "b", rng_seed=1)
    assert json.loads(second.manifest.read_text())["statistics"]["seed"] == 1
    assert (first.folder / "data" / "runs.csv").read_bytes() == (
        second.folder / "data" / "runs.csv"
    ).read_bytes()
    shuffled = replace(results, frame=results.frame.sample(frac=1, random_state=2))
    third = build_report(shuffled, tmp_path / "c", rng_seed=0)
    assert third.html.read_bytes() == first.html.read_bytes()


# ------------------------------------------------------------------ all or nothing


def test_a_rebuild_replaces_the_report_and_leaves_nothing_beside_it(
    tiny: Results, tmp_path: Path, unrendered: None
) -> None:
    build_report(tiny, tmp_path / "r")
    (tmp_path / "r" / "stray.txt").write_text("from an earlier version")
    manifest = json.loads((tmp_path / "r" / "manifest.json").read_text())
    manifest["files"]["stray.txt"] = "of the report"
    (tmp_path / "r" / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "r" / "notes.txt").write_text("the reader's")
    build_report(tiny, tmp_path / "r")
    assert not (tmp_path / "r" / "stray.txt").exists()
    assert (tmp_path / "r" / "notes.txt").read_text() == "the reader's"
    assert os.listdir(tmp_path) == ["r"]


def test_a_failing_build_leaves_the_earlier_report_whole(
    tiny: Results, tmp_path: Path, unrendered: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = build_report(tiny, tmp_path / "r")
    before = hashes(files.folder)

    def broken(*_: object) -> str:
        raise RuntimeError("disk fell off")

    monkeypatch.setattr(build_module, "to_page", broken)
    with pytest.raises(RuntimeError, match="fell off"):
        build_report(tiny, tmp_path / "r")
    assert hashes(files.folder) == before
    assert os.listdir(tmp_path) == ["r"]


def test_a_failing_swap_brings_the_earlier_report_back(
    tiny: Results, tmp_path: Path, unrendered: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = build_report(tiny, tmp_path / "r")
    before, real = hashes(files.folder), os.replace

    def replace_once(source: os.PathLike[str], target: os.PathLike[str]) -> None:
        if ".new-" in str(source):
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(build_module.os, "replace", replace_once)
    with pytest.raises(UserError, match="No space left"):
        build_report(tiny, tmp_path / "r")
    assert hashes(files.folder) == before
    assert os.listdir(tmp_path) == ["r"]


def test_a_folder_with_other_things_is_refused(results: Results, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    with pytest.raises(UserError, match="not a report"):
        build_report(results, tmp_path / "thesis")
    assert os.listdir(tmp_path / "thesis") == ["chapter.tex"]
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="not a folder"):
        build_report(results, tmp_path / "file")
    with pytest.raises(UserError, match="cannot be written"):
        build_report(make_results(Study(trials=1, arms=ARMS[:1])), tmp_path / "file" / "below")


# ------------------------------------------------------------------ names


HOSTILE = (
    Arm("<script>alert('x')</script>", "lora", "cosine"),
    Arm("100%_a&b#c$d{e}~f^g\\input{h}", "lora"),
    Arm("猫-ü-🐈|`*_", "dreambooth"),
    Arm("</td><img src=x onerror=alert(1)>", "dreambooth_lora"),
)


def test_hostile_names_are_harmless_everywhere(tmp_path: Path, undrawn: None) -> None:
    results = make_results(Study(arms=HOSTILE, failing=("confirm/猫-ü-🐈|`*_/0001-dog-1-s100",)))
    frame = results.frame.assign(reason="<b onmouseover=alert(2)>boom</b> 50%")
    meta = {**results.meta, "study": "<h1>x</h1>_%&", "quality_rule": "<i>rule</i> 5%"}
    files = build_report(replace(results, frame=frame, meta=meta), tmp_path / "r")
    page = Page(files.html.read_text())
    assert "i" not in page.tags
    assert page.scripts == 1
    assert page.handlers == []
    assert len(page.links) > 5
    assert all(link.startswith(("data:image/", "#")) for link in page.links)
    for arm in HOSTILE:
        assert arm.name in page.text
    for path in files.tables:
        if path.suffix == ".tex":
            text = path.read_text().replace(CHARACTER, "").replace(NUMBERS, "")
            assert "\\input" not in text
            assert not re.search(r"(?<!\\)[#_]", text.replace(r"\textbackslash{}", "")), path.name
    markdown = files.markdown.read_text()
    assert "<script" not in markdown
    assert "<b " not in markdown
    assert read_csv(files.folder / "data").frame["arm"].nunique() == 4


# ------------------------------------------------------------------ gaps

GAPS = {
    "search only": Study(confirm=False),
    "one subject": Study(subjects=("dog-1",)),
    "one seed": Study(seeds=(100,)),
    "one run": Study(subjects=("dog-1",), seeds=(100,)),
    "one arm": Study(arms=ARMS[1:2]),
    "base only": Study(arms=ARMS[:1]),
    "no base": Study(arms=ARMS[1:]),
    "no curves": Study(curves=False),
    "no search": Study(trials=0),
}


@pytest.mark.parametrize("gap", GAPS)
def test_a_report_is_built_whatever_is_missing(gap: str, tmp_path: Path, undrawn: None) -> None:
    files = build_report(make_results(GAPS[gap]), tmp_path / "r")
    text = Page(files.html.read_text()).text
    assert files.verdict.headline in text.replace("\xa0", " ")
    assert not re.search(r"\bnan\b", text.lower())
    table = pd.read_csv(files.folder / "tables" / "arms.csv")  # `study launch` shows it whatever happened
    assert list(table["arm"]) == [arm.name for arm in GAPS[gap].arms]
    if gap == "search only":
        assert (table["n"] == 0).all()
        assert "No verdict yet" in text
        assert "The search" in text
    if gap == "one run":
        assert "No intervals: n = 1 run on 1 subject" in text.replace("\xa0", " ")


@pytest.mark.parametrize("state", ["FAIL", "RUNNING"])
def test_a_report_is_built_where_no_run_completed(state: str, tmp_path: Path, undrawn: None) -> None:
    results = make_results(Study(curves=False))
    numbers = results.frame.select_dtypes("float").columns
    frame = results.frame.assign(state=state, **dict.fromkeys(numbers, np.nan))
    files = build_report(replace(results, frame=frame), tmp_path / "r")
    text = files.html.read_text()
    assert "No verdict" in text
    assert "confirm/lora-cosine/0001-dog-1-s100" in text


def test_a_report_is_built_with_missing_measures(tmp_path: Path, undrawn: None) -> None:
    results = make_results(Study())
    frame = results.frame.assign(diversity=np.nan, train_flops=np.nan, drift=np.inf)
    frame.loc[frame.index[::3], "quality"] = np.nan
    files = build_report(replace(results, frame=frame), tmp_path / "r")
    table = pd.read_csv(files.folder / "tables" / "arms.csv")
    assert "train_flops" not in table.columns
    assert "drift" not in pd.read_csv(files.folder / "tables" / "details.csv").columns
    assert "quality" in table.columns


def test_a_report_is_built_of_an_empty_study(tmp_path: Path, undrawn: None) -> None:
    results = make_results(Study(confirm=False, trials=0))
    assert len(results.frame) == 0
    files = build_report(results, tmp_path / "r")
    assert "no runs yet" in files.html.read_text()


def test_a_report_with_scores_of_images_is_rebuilt_from_its_data_alone(tmp_path: Path, undrawn: None) -> None:
    study = Study(trials=2, repeats=2, subjects=("a", "b", "c"), modern=True, failing=(), pruned=())
    first = build_report(make_results(study), tmp_path / "one")
    assert (first.folder / "data" / "image_scores.parquet").exists()
    second = build_report(read_csv(first.folder / "data"), tmp_path / "two")
    assert hashes(first.folder) == hashes(second.folder)
    names = {path.stem for path in first.tables}
    assert {"choice", "pairs-subject-prompt", "costs", "tuning-cost", "anytime", "ceilings", "components",
            "prompts"} <= names  # fmt: skip
    assert {"anytime", "pareto-tuning"} <= {path.stem for path in first.figures}
    manifest = json.loads(first.manifest.read_text())
    assert "data/image_scores.parquet" in manifest["inputs"]["hashes"]


def test_the_shipped_data_still_makes_a_report(tmp_path: Path, undrawn: None) -> None:
    """It is from before class kept, class images and scores of images."""
    results = read_csv(ROOT / "reports" / "quickstart")
    old = results.frame.drop(columns=[c for c in NEWER if c in results.frame])
    files = build_report(replace(results, frame=old), tmp_path / "quickstart", compact=False)
    table = pd.read_csv(files.folder / "tables" / "arms.csv")
    assert table["quality"].notna().all()
    assert not set(table.columns) & set(NEWER)
    assert "class images" not in files.verdict.headline


# ------------------------------------------------------------------ a compact one


@pytest.fixture
def one_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same small PNG in the place of every figure and format."""
    file = io.BytesIO()
    Image.effect_noise((40, 20), 90).convert("RGB").save(file, "PNG")
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"/>'
    drawn = {name: svg if name == "svg" else file.getvalue() for name in canvas.FORMATS}
    rendering = canvas.Rendering(drawn, (canvas.View(svg),))
    monkeypatch.setattr(build_module, "render", lambda figure: rendering)


def test_a_compact_report_stays_so_when_rebuilt_and_gives_the_full_one_again(
    results: Results, tmp_path: Path, one_picture: None
) -> None:
    full = build_report(results, tmp_path / "full")
    small = build_report(results, tmp_path / "small", compact=True)
    names = set(hashes(small.folder))
    assert {path.stem for path in small.figures} == {path.stem for path in full.figures}
    assert {path.suffix for path in small.figures} == {".png", ".jpg"}
    assert len(small.figures) == len(full.figures) // 3
    assert not {"data/curves.csv", "data/runs.parquet"} & names
    assert {"data/runs.csv", "data/curves.parquet", "data/dictionary.csv", "report.html"} <= names
    for target in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", small.markdown.read_text()):
        assert (small.folder / target).exists()
    assert "compact" not in (small.folder / "tables" / "provenance.csv").read_text()

    again = build_report(read_csv(small.folder), tmp_path / "again")
    assert hashes(again.folder) == hashes(small.folder)
    full_again = build_report(read_csv(small.folder), tmp_path / "full-again", compact=False)
    assert hashes(full_again.folder) == hashes(full.folder)


@pytest.mark.parametrize(
    ("key", "name", "size"),
    [("curves", "curves.png", (400, 300)), ("samples-1", "samples-1.jpg", (200, 150))],
)
def test_a_compact_picture_is_a_third_of_the_size_and_looks_alike(
    key: str, name: str, size: tuple[int, int]
) -> None:
    chance = np.random.default_rng(0)
    blocks = np.kron(chance.integers(0, 256, (12, 16, 3)), np.ones((25, 25, 1))).astype(np.uint8)
    noisy = np.clip(blocks + chance.normal(0, 3, blocks.shape), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noisy).save(file, "PNG")
    found, content = compact_picture(key, {"png": file.getvalue()})
    assert (found, compact_picture(key, {"png": file.getvalue()})) == (name, (name, content))
    assert len(content) < len(file.getvalue()) / 3
    with Image.open(io.BytesIO(content)) as image:
        assert image.size == size
        shown = np.asarray(image.convert("RGB").resize((400, 300)), dtype=float)
    assert np.abs(shown - noisy).mean() < 16  # of other colours some 85

"""The parts of a report for a paper: what is cited is there, and the draft compiles with its references."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from study.report.build import build_report
from study.report.paper import paper_files, references
from study.report.sections import Report, compose
from study.statistics.paired import RESAMPLES
from tests.helpers.synthetic_results import ARMS, Study, make_results
from trainables.methods.adapter_kinds import KINDS
from trainables.methods.registry import get_method, method_names

ROOT = Path(__file__).parents[3]
STUDY = Study(arms=ARMS[:4], trials=2, subjects=("a", "b", "c"), modern=True, failing=(), pruned=())


@pytest.fixture(scope="module")
def report() -> Report:
    return compose(make_results(STUDY))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole report."""
    return build_report(make_results(STUDY), tmp_path_factory.mktemp("built") / "report").folder


def cited(text: str) -> set[str]:
    return {key for group in re.findall(r"\\cite\{([^}]*)\}", text) for key in group.split(",")}


def test_every_method_and_kind_of_adapter_has_its_paper() -> None:
    for name in method_names():
        method = get_method(name)
        papers = {*method.papers, *(KINDS["lora"].papers if method.artifact == "adapter" else ())}
        assert papers, name
        assert papers <= references().keys(), name
    for kind in KINDS.values():
        assert kind.papers, kind.title
        assert {*kind.papers} <= references().keys(), kind.title


def test_references_are_what_is_cited_and_each_entry_is_whole(report: Report) -> None:
    files = paper_files(report)
    keys = re.findall(r"^@\w+\{(\w+),$", files["references.bib"], re.M)
    assert set(keys) == cited(files["methods.tex"])
    assert len(keys) == len(set(keys))
    assert {"hu2022lora", "ruiz2023dreambooth", "holm1979"} <= set(keys)
    for key, entry in references().items():
        assert entry.count("{") == entry.count("}"), key
        assert all(f"{field} = {{" in entry for field in ("title", "author", "year")), key


def test_measures_and_encoders_are_cited_where_they_are_used(report: Report) -> None:
    """Every entry can be reached; none is cited of what was not measured."""
    of_measures = {
        "caron2021dino",
        "radford2021clip",
        "binkowski2018kid",
        "jayasumana2024cmmd",
        "zhang2018lpips",
    }
    rows = report.rows
    spec = {
        **rows.meta["spec"],
        "evaluation": {"image_encoder": "facebook/dino-vits16", "clip": "openai/clip-vit-base"},
    }
    confirm = rows.frame.assign(class_kid=0.1, class_cmmd=0.1, diversity=0.2)
    judged = replace(report, rows=replace(rows, frame=confirm, meta={**rows.meta, "spec": spec}))
    assert of_measures <= cited(paper_files(judged)["methods.tex"])
    less = rows.frame.drop(columns=[name for name in rows.frame if "kid" in name or "cmmd" in name])
    spec["evaluation"] = {"image_encoder": "embedded", "clip": "embedded"}
    other = replace(report, rows=replace(rows, frame=less, meta={**rows.meta, "spec": spec}))
    assert not {"caron2021dino", "radford2021clip", "binkowski2018kid"} & cited(
        paper_files(other)["methods.tex"]
    )


def test_the_paragraph_says_what_was_compared_and_on_what(report: Report) -> None:
    text = paper_files(report)["methods.tex"]
    assert r"LoRA~\cite{hu2022lora} (\texttt{lora-cosine} and \texttt{lora-constant})" in text
    assert r"DreamBooth~\cite{ruiz2023dreambooth} (\texttt{dreambooth-cosine})" in text
    assert "confirmed on 3 subjects with 2 seeds" in text
    assert "searches of 2 trials" in text or "1 search of 2 trials" in text
    assert f"{RESAMPLES:,} resamples" in text


def test_formulas_are_math_and_a_budget_in_steps_says_so_once(report: Report) -> None:
    text = paper_files(report)["methods.tex"]
    assert r"\mathrm{clip}(S, 0, 1) \times" in text
    assert r"s\_base" not in text
    assert text.count("optimizer steps") <= 1


def test_the_draft_holds_the_main_parts_and_names_the_others(report: Report) -> None:
    """No heading stands alone: words follow it, and the floats of a section end before the next."""
    files = paper_files(report)
    draft, appendix = files["draft.tex"], files["appendix.tex"]
    put_in = re.findall(r"^\\input\{\.\./tables/([^}]*)\.tex\}", draft, re.M)
    named = re.findall(r"^% \\input\{\.\./tables/([^}]*)\.tex\}", draft, re.M)
    behind = re.findall(r"^\\input\{\.\./tables/([^}]*)\.tex\}", appendix, re.M)
    assert {"summary", "arms", "against-best"} <= set(put_in)
    assert {"details", "costs", "pairs", "measures"} <= set(behind)
    assert {"chosen", "budget"} <= set(named)
    everything = [*put_in, *named, *behind]
    assert len(everything) == len(set(everything))
    assert {*everything} | {"prompts"} >= {table.key for table in report.tables}
    lines = draft.splitlines()
    sections = [k for k, line in enumerate(lines) if line.startswith(r"\section{") and "Methods" not in line]
    assert all("See " in lines[k + 1] for k in sections)
    assert draft.count(r"\FloatBarrier %") == len(sections)
    assert len(re.findall(r"\]\{samples", draft)) <= 2


def test_every_file_that_is_put_in_is_there(built: Path) -> None:
    folder = built / "paper"
    for name in ("draft.tex", "appendix.tex"):
        for file in re.findall(r"\\input\{([^}]*)\}", (folder / name).read_text()):
            assert (folder / file).is_file(), file
    for figure in re.findall(r"\\includegraphics\[[^]]*\]\{([^}]*)\}", (folder / "draft.tex").read_text()):
        assert (folder.parent / "figures" / f"{figure}.pdf").is_file(), figure


def output(folder: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=300)
    assert done.returncode == 0, done.stdout[-2000:]
    return done.stdout


def with_references(folder: Path, name: str) -> str:
    """Compiles an article with its references; returns the last log."""
    latex = ("pdflatex", "-interaction=nonstopmode", "-halt-on-error", f"{name}.tex")
    output(folder, *latex)
    output(folder, "bibtex", name)
    output(folder, *latex)
    return output(folder, *latex)


@pytest.mark.skipif(not (shutil.which("pdflatex") and shutil.which("bibtex")), reason="no TeX here")
def test_the_draft_compiles_and_its_fonts_are_in_it(built: Path, tmp_path: Path) -> None:
    shutil.copytree(built, tmp_path / "report")
    folder = tmp_path / "report" / "paper"
    log = with_references(folder, "draft")
    assert "undefined" not in log

    def run(*command: str) -> str:
        return output(folder, *command)

    assert "too large for page" not in log
    assert not re.search(r"Overfull \\hbox \((?:[2-9]\.|\d\d)", log)
    if shutil.which("pdftotext"):
        pages = run("pdftotext", "draft.pdf", "-").removesuffix("\f").split("\f")
        assert len(pages) <= 30
        assert [page for page in pages if len(page.split()) < 20] == [], "a heading alone"
    if shutil.which("pdffonts"):
        fonts = run("pdffonts", "draft.pdf").splitlines()[2:]
        assert fonts
        assert all(line.split()[-5] == "yes" for line in fonts), "every font is embedded"


@pytest.mark.skipif(not (shutil.which("pdflatex") and shutil.which("bibtex")), reason="no TeX here")
@pytest.mark.parametrize("options", ["twocolumn", "onecolumn"])
def test_the_documented_article_compiles(options: str, built: Path, tmp_path: Path) -> None:
    """The example of docs/results.md, with the report's folder beside it."""
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```latex\n(.*?)```", text, re.S)
    assert r"\documentclass[twocolumn]" in example
    (tmp_path / "report").symlink_to(built, target_is_directory=True)
    (tmp_path / "mine.tex").write_text(example.replace("[twocolumn]", f"[{options}]"), encoding="utf-8")
    log = with_references(tmp_path, "mine")
    assert "undefined" not in log
    assert not re.search(r"Overfull \\hbox \((?:[2-9]\.|\d\d)", log)

"""The rules of quality in math mode, compiled by a plain article, and sentences with code in HTML and LaTeX."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from study.report.code_words import held_together
from study.report.latex import escape_latex, latex_prose, to_latex
from study.report.latex_formulas import latex_with_formulas
from study.report.tables import Column, assemble, prose_html, text_cell, to_html, to_markdown
from tests.helpers.tex import compiled
from trainables.evaluation.quality import DATA_SET_RULE, RULE


def test_formulas_of_the_rule_stand_in_math_mode() -> None:
    text = latex_with_formulas(RULE)
    assert (
        r"$\mathrm{quality} = \mathrm{clip}(S, 0, 1) \times \mathrm{clip}(P, 0, 1) \times \mathrm{clip}(C, 0, 1)$"
        in text
    )
    assert (
        r"$S = (s - s_{\mathrm{base}}) / (s_{\mathrm{real}} - s_{\mathrm{base}})$ with $s$ the subject"
        in text
    )
    assert r"$\mathrm{quality}_{\mathrm{subject,\,prompt}} = \mathrm{clip}(S, 0, 1) \times" in text


@pytest.mark.parametrize("rule", [RULE, DATA_SET_RULE])
def test_nothing_of_a_formula_is_left_in_words(rule: str) -> None:
    prose = re.sub(r"\$[^$]*\$", "", latex_with_formulas(rule))
    assert r"\_" not in prose
    assert not re.search(r" x |clip|[()] / |\b[spcSPC] [=-]", prose)


def test_values_of_the_axes_are_equations() -> None:
    assert (
        latex_with_formulas("exactly, S 0, P 1 and C 1: its") == "exactly, $S = 0$, $P = 1$ and $C = 1$: its"
    )


@pytest.mark.parametrize(
    "text", [r"\input{x} s_base$", "a_s_base x b", "S 0.5", "class_P 1", "100 % s_based"]
)
def test_other_texts_are_escaped_as_ever(text: str) -> None:
    written = latex_with_formulas(text)
    assert written == escape_latex(text) or written == r"\textbackslash{}input\{x\} $s_{\mathrm{base}}$\$"


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no TeX here")
@pytest.mark.parametrize("options", ["onecolumn", "twocolumn"])
def test_a_plain_article_compiles_them_without_packages(options: str, tmp_path: Path) -> None:
    body = r"{\sloppy " + latex_with_formulas(RULE) + "\n\n" + latex_with_formulas(DATA_SET_RULE) + r"\par}"
    (tmp_path / "rules.tex").write_text(body, encoding="utf-8")
    log = compiled(tmp_path, "pdflatex", options, "rules")
    assert [line for line in log.splitlines() if line.startswith("Overfull")] == []


SENTENCE = "Two: `evaluation.at` adds places (`at: [0.25, 0.5]`), see `a_b <c>`."


def test_code_is_marked_in_each_language_after_escaping() -> None:
    assert prose_html(SENTENCE) == (
        "Two: <code>evaluation.at</code> adds places (<code>at: [0.25, 0.5]</code>), see <code>a_b &lt;c&gt;</code>."
    )
    assert latex_prose(SENTENCE) == (
        r"Two: \texttt{evaluation.at} adds places (\texttt{at: [0.25, 0.5]}), see "
        r"\texttt{a\_b \textless{}c\textgreater{}}."
    )


@pytest.mark.parametrize("name", ["a`b", "`", "``", "x` y", "`<b>` & `\\input{x}`"])
def test_backticks_of_a_user_break_nothing(name: str) -> None:
    """A name with backticks leaves the program's own code marked, and nothing of it is markup or a command."""
    html, latex = prose_html(f"{name}: `evaluation.at`."), latex_prose(f"{name}: `evaluation.at`.")
    assert "<code>evaluation.at</code>" in html
    assert r"\texttt{evaluation.at}" in latex
    assert html.count("<code>") == html.count("</code>")
    assert "<b>" not in html
    assert r"\input" not in latex


def test_names_in_cells_keep_their_backticks_and_sentences_are_marked() -> None:
    columns = [
        (Column("arm", "Arm"), [text_cell("`z`")]),
        (
            Column("meaning", "Meaning", prose=True),
            [text_cell(f"{'long ' * 30}see `study ls metrics` for it")],
        ),
    ]
    table = assemble("t", "See `a`.", columns, ("And `b`.",))
    html, latex = to_html(table), to_latex(table)
    assert "`z`" in html
    assert all(f"<code>{word}</code>" in html for word in ("a", "b", "study ls metrics"))
    assert r"\textasciigrave{}z\textasciigrave{}" in latex
    assert all(rf"\texttt{{{word}}}" in latex for word in ("a", "b", "study~ls~metrics"))
    assert "study ls metrics" in to_markdown(table)


def test_code_is_held_on_one_line() -> None:
    assert held_together("a b `c d` e") == "a b `c\u00a0d` e"

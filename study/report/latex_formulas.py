"""The formulas of the report's sentences in LaTeX's math mode, for articles without any package.

Sentences hold formulas as plain text, ``S = (s - s_base) / (s_real - s_base)``. Only what the rules of quality are
made of is taken for one (`trainables.evaluation.quality`): quotients of differences, and products of what is clipped.
"""

from __future__ import annotations

import re

from study.report.latex import latex_prose

_SYMBOL = r"[spc]_(?:base|real|floor|one)"
_DIFFERENCE = rf"\((?:{_SYMBOL}|[spc]) - (?:{_SYMBOL}|[spc])\)"
_CLIPPED = r"clip\([SPC], 0, 1\)"
_FORMULA = re.compile(
    rf"(?<![\w`])(?:(?P<product>(?:quality(?:_subject_prompt)? = )?{_CLIPPED}(?: x {_CLIPPED})*)"
    rf"|(?P<quotient>[SPC] = {_DIFFERENCE} / {_DIFFERENCE})"
    r"|(?P<value>[SPC] [01](?![\w.]))"
    rf"|(?P<symbol>{_SYMBOL}|(?<=with )[spc](?= the )|(?<=trigger )c(?= is )))(?![\w`])"
)


def latex_with_formulas(text: str) -> str:
    """Returns a sentence in LaTeX, its formulas in math mode and everything else escaped."""
    written, end = [], 0
    for match in _FORMULA.finditer(text):
        written += [latex_prose(text[end : match.start()]), _math(match)]
        end = match.end()
    return "".join([*written, latex_prose(text[end:])])


def _math(match: re.Match[str]) -> str:
    text = match[0].replace(" ", " = ") if match["value"] else match[0]
    text = text.replace("quality_subject_prompt", r"\mathrm{quality}_{\mathrm{subject,\,prompt}}")
    text = re.sub(r"^quality(?= =)", lambda _: r"\mathrm{quality}", text)
    text = re.sub(r"\b([spc])_(\w+)", r"\1_{\\mathrm{\2}}", text)
    text = text.replace(" x ", r" \times ").replace("clip(", r"\mathrm{clip}(")
    return f"${text}$"

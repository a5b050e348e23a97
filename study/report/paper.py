"""What a paper takes over: a paragraph on methods, an appendix, references, and a draft of the main parts.

``paper/draft.tex`` compiles as it is (``latexmk -pdf draft.tex``) and shows how each part is put in by ``\\input``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from importlib.resources import files

from study.report.content import Report, Section
from study.report.design import design_of
from study.report.downstream import DOWNSTREAM
from study.report.figures.canvas import Figure
from study.report.formatting import listing, plural
from study.report.glance import GLANCE
from study.report.latex import CHARACTER, escape_latex, latex_prose
from study.report.latex_formulas import latex_with_formulas
from study.report.prepared import Rows, distinct, section, value_or_none
from study.report.searches import budget_words, repeats_of, repeats_words, search_objective
from study.report.tables import Table
from study.storage.layout import REPORT_FIGURES, REPORT_TABLES
from trainables.methods.adapter_kinds import KINDS
from trainables.methods.protocol import AN_ADAPTER
from trainables.methods.registry import get_method, method_names

METHODS_TEX, APPENDIX_TEX, REFERENCES_BIB, DRAFT_TEX = (
    "methods.tex",
    "appendix.tex",
    "references.bib",
    "draft.tex",
)
_APPENDIX = ("provenance", "exclusions", "method")  # keys of sections
_SECTIONS = (
    GLANCE, "results", "hypotheses", DOWNSTREAM, "cost", "samples", "data-sets", "factor-effects", "pairs", "qualities",
    "designs",
)  # fmt: skip # of the draft; of the others their tables are named in it
_LONG_TABLES = (
    "details",
    "costs",
    "pairs",
    "downstream-gains-by-classifier",
    "downstream-chosen",
)  # which stand in the appendix
_LEFT_OUT = ("pairs-subject-prompt",)
_MOST_FIGURES = {"samples": 2}  # of a section: a page each
_SAMPLERS = {"tpe": "a tree-structured Parzen estimator", "random": "random search", "gp": "Gaussian processes",
             "nsgaii": "NSGA-II", "grid": "a grid"}  # fmt: skip
_SOFTWARE = (
    ("Ray Tune", "liaw2018tune"), ("Optuna", "akiba2019optuna"), ("MLflow", "zaharia2018mlflow"),
    ("PyTorch", "paszke2019pytorch"), ("diffusers", "diffusers"), ("PEFT", "peft"),
)  # fmt: skip
_STATISTICS = ("holm1979", "schuirmann1987")
#: What measures are computed with: part of a measure's name, or of an encoder's, how it is called, and its paper.
_MEASURES = (("kid", "KID", "binkowski2018kid"), ("cmmd", "CMMD", "jayasumana2024cmmd"))
_ENCODERS = (("dino", "DINO", "caron2021dino"), ("clip", "CLIP", "radford2021clip"))


def paper_files(report: Report) -> dict[str, str]:
    """Returns the files of the folder ``paper/`` by name."""
    methods = _methods(report)
    appendix = _appendix(report)
    draft = _draft(report)
    cited = sorted(set(re.findall(r"\\cite\{([^}]*)\}", methods + appendix + draft)))
    keys = sorted({key for group in cited for key in group.split(",")})
    return {
        METHODS_TEX: methods,
        APPENDIX_TEX: appendix,
        REFERENCES_BIB: "\n\n".join(references()[key] for key in keys) + "\n",
        DRAFT_TEX: draft,
    }


@lru_cache(maxsize=1)
def references() -> dict[str, str]:
    """Returns all BibTeX entries that there are, by key."""
    text = files("study.report").joinpath("templates", "references.bib").read_text(encoding="utf-8")
    entries = re.split(r"\n\n(?=@)", text.strip())
    return {entry.partition("{")[2].partition(",")[0]: entry for entry in entries}


def _cite(keys: Iterable[str]) -> str:
    known = [key for key in dict.fromkeys(keys) if key in references()]
    return rf"~\cite{{{','.join(known)}}}" if known else ""


# ------------------------------------------------------------------ methods


def _methods(report: Report) -> str:
    rows = report.rows
    paragraphs = [
        _compared(rows),
        _tuned(rows),
        _judged(report),
        _software(),
    ]
    text = "\n\n".join(paragraph for paragraph in paragraphs if paragraph)
    return f"{CHARACTER}\n{{\\sloppy % names in typewriter are not hyphenated\n{text}\\par}}\n"


def _compared(rows: Rows) -> str:
    """The arms, by method, with the papers that the methods are from."""
    by_method: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for arm in rows.trained_arms:
        by_method.setdefault(_method_of(rows, arm), []).append(arm)
    told = [
        f"{escape_latex(title)}{_cite(papers)} ({_texttt(arms)})"
        for (title, papers), arms in by_method.items()
    ]
    model = section(rows.meta, "spec", "model").get("path")
    on = rf" on the base model \texttt{{{escape_latex(str(model))}}}" if model else ""
    base = [arm for arm in rows.arms if arm not in rows.trained_arms]
    untrained = f" The untrained base model ({_texttt(base)}) is the reference." if base else ""
    return f"We compare {listing(told)}{on}.{untrained}" if told else ""


def _method_of(rows: Rows, arm: str) -> tuple[str, tuple[str, ...]]:
    """Title and papers of an arm's method, with those of its kind of adapter."""
    name = rows.methods.get(arm, "")
    if name not in method_names():
        return name, ()
    method = get_method(name)
    title, papers = method.title, tuple(method.papers)
    if method.what_trains == AN_ADAPTER:
        stated = section(rows.meta, "spec", "arms", arm).get("adapter")
        kind = KINDS.get(str(stated or section(rows.meta, "spec", "training").get("adapter") or "lora"))
        if kind is not None:
            papers = (*papers, *kind.papers)
            title = title if kind.title in title or kind is KINDS["lora"] else f"{title} as {kind.title}"
    return title, papers


def _texttt(names: Sequence[str]) -> str:
    return listing(rf"\texttt{{{escape_latex(name)}}}" for name in names)


def _tuned(rows: Rows) -> str:
    """How configurations were chosen, and what they were chosen on."""
    search = section(rows.meta, "spec", "search")
    trials = rows.search.groupby("arm")["trial"].nunique()
    if trials.empty:
        return "No hyperparameter was searched: each arm has one stated configuration."
    repeats = repeats_of(rows)
    low, high = int(trials.min()) // repeats, int(trials.max()) // repeats
    count = f"{low}" if low == high else f"{low} to {high}"
    sampler = str(search.get("sampler") or "")
    by = f" by {_SAMPLERS[sampler]}" if sampler in _SAMPLERS else ""
    words = [
        f"Each arm was tuned by {repeats} {'search' if repeats == 1 else 'searches'} of {count} trials{by}, of which "
        f"the first was the method's default, for {search_objective(rows).words}, on "
        f"{plural(rows.search['subject'].nunique(), 'subject')} other than those of the results.",
        *repeats_words(rows),
        *budget_words(rows),
    ]
    return " ".join([words[0], *map(latex_prose, words[1:])])


def _judged(report: Report) -> str:
    """What the confirm runs are judged on and how, in the words of the report's own section on method."""
    rows = report.rows
    confirm = rows.confirm
    if confirm.empty:
        return "No configuration has been confirmed yet."
    design = {phase.phase: phase for phase in design_of(rows)}
    images = design["confirm"].images if "confirm" in design else None
    judged = f", each judged by {images} images of its subject" if value_or_none(images) else ""
    counts = (
        f"Chosen configurations were confirmed on {plural(len(distinct(confirm['subject'])), 'subject')} with "
        f"{plural(len(distinct(confirm['seed'])), 'seed')}{judged}."
    )
    method = next(one for one in report.sections if one.key == "method")
    return (
        " ".join([counts, *map(latex_with_formulas, method.paragraphs)])
        + f"{_with_what(rows)} Tests follow Holm and Schuirmann{_cite(_STATISTICS)}."
    )


def _with_what(rows: Rows) -> str:
    """The papers of the measures that the confirm runs have, and of the encoders that they were judged with."""
    measured = [str(name) for name in rows.confirm.columns if rows.confirm[name].notna().any()]
    evaluation = section(rows.meta, "spec", "evaluation")
    encoders = [str(evaluation.get(name) or "").lower() for name in ("image_encoder", "clip")]
    told = [
        f"{title}{_cite([key])}"
        for part, title, key in _MEASURES
        if any(part in name.split("_") for name in measured)
    ]
    read = [
        f"{title}{_cite([key])}"
        for part, title, key in _ENCODERS
        if any(part in encoder for encoder in encoders)
    ]
    words = []
    if told:
        words.append(f"Distances of sets of images are {listing(told)}.")
    if "diversity" in measured:
        words.append(
            f"Perceptual distance is LPIPS{_cite(['zhang2018lpips'])} where that was installed, and otherwise by "
            f"multi-scale structural similarity{_cite(['wang2003msssim'])}."
        )
    if read:
        words.append(f"Images are read by {listing(read)}.")
    return "".join(f" {word}" for word in words)


def _software() -> str:
    told = [f"{name}{_cite([key])}" for name, key in _SOFTWARE]
    return (
        f"Runs were placed by {told[0]}, proposed by {told[1]} and recorded in {told[2]}; models were trained with "
        f"{listing(told[3:])}. Versions and machines stand in the appendix."
    )


# ------------------------------------------------------------------ appendix and draft


def _appendix(report: Report) -> str:
    """What stands behind the results, and the tables that are too long for the text before it."""
    lines = []
    for one in report.sections:
        if one.key in _APPENDIX:
            shown = list(one.tables)
        else:
            shown = [table for table in one.tables if table.key in _LONG_TABLES and one.key in _SECTIONS]
        if shown:
            lines += [rf"\subsection{{{escape_latex(one.title)}}}", _where([], shown), *_inputs(shown)]
    return "\n".join(lines) + "\n"


def _inputs(shown: Iterable[Table]) -> list[str]:
    return [rf"\input{{../{REPORT_TABLES}/{table.key}.tex}}" for table in shown]


def _where(drawn: Sequence[Figure], shown: Sequence[Table]) -> str:
    """The sentence that names the floats, without which a heading could stand alone on a page of them."""
    named = []
    for kind, label, keys in (
        ("Figure", "fig", [figure.key for figure in drawn]),
        ("Table", "tab", [table.key for table in shown]),
    ):
        if keys:
            numbers = listing(rf"\ref{{{label}:{key}}}" for key in keys)
            named.append(f"{kind}{'s' if len(keys) > 1 else ''}~{numbers}")
    return f"See {listing(named)}."


def _counted(rows: Rows) -> str:
    """How many units and seeds the figures are over."""
    unit = "data set" if rows.of_data_sets else "subject"
    units, seeds = (len(distinct(rows.confirm[name])) for name in ("subject", "seed"))
    return f"n: {plural(units, unit)}, {plural(seeds, 'seed')}."


def _section(one: Section, counted: str) -> list[str]:
    """A section of the draft: its words, its figures, and those of its tables that are short; nothing without any.

    Args:
        counted: What the captions of figures say of n.
    """
    drawn = [figure for figure in one.figures if isinstance(figure, Figure)][: _MOST_FIGURES.get(one.key)]
    shown = [table for table in one.tables if table.key not in (*_LONG_TABLES, *_LEFT_OUT)]
    if not (drawn or shown):
        return []
    return [
        rf"\section{{{escape_latex(one.title)}}}",
        " ".join([*map(latex_prose, one.paragraphs), _where(drawn, shown)]),
        *(_figure(figure, counted) for figure in drawn),
        *_inputs(shown),
        r"\FloatBarrier % floats wait for their page no longer than their section",
    ]


def _left_out(report: Report) -> list[str]:
    """The floats that the draft leaves out, as comments at the place where they could be put in."""
    lines = []
    for one in report.sections:
        if one.key not in _APPENDIX:
            left = [table for table in one.tables if one.key not in _SECTIONS or table.key in _LEFT_OUT]
            lines += [f"% {line} % {one.title}" for line in _inputs(left)]
    return ["% Further tables of the report (its figures are in ../figures):", *lines] if lines else []


def _draft(report: Report) -> str:
    counted = _counted(report.rows)
    body = [
        line
        for one in report.sections
        if one.key in _SECTIONS
        for line in _section(one, "" if one.key == DOWNSTREAM else counted)  # its n is of classifiers
    ]
    verdict = latex_prose(report.verdict.headline)
    return "\n".join(
        [
            "% A draft of the report's main parts, to be cut down: latexmk -pdf draft.tex",
            r"\documentclass[10pt]{article}",
            r"\usepackage{booktabs,graphicx}",
            r"\IfFileExists{geometry.sty}{\usepackage[margin=1in]{geometry}}{}",
            r"\IfFileExists{placeins.sty}{\usepackage{placeins}}{}",
            r"\providecommand\FloatBarrier{\clearpage}",
            rf"\graphicspath{{{{../{REPORT_FIGURES}/}}}}",
            r"\renewcommand\topfraction{.95}\renewcommand\bottomfraction{.95}\renewcommand\textfraction{.02}",
            r"\renewcommand\floatpagefraction{.6}\setcounter{totalnumber}{6}",
            CHARACTER,
            r"\begin{document}",
            rf"\title{{{escape_latex(report.study)}}}\author{{}}\date{{}}\maketitle",
            rf"\noindent {verdict}",
            r"\section{Methods}",
            rf"\input{{{METHODS_TEX}}}",
            *body,
            *_left_out(report),
            r"\bibliographystyle{plain}",
            rf"\bibliography{{{REFERENCES_BIB.removesuffix('.bib')}}}",
            r"\appendix\section{Appendix}",  # beside the references: its tables take pages of their own
            rf"\input{{{APPENDIX_TEX}}}",
            r"\end{document}",
            "",
        ]
    )


def _figure(figure: Figure, counted: str) -> str:
    """A float with the figure at about the width that it was drawn for; n where it shows means or intervals."""
    caption = (
        f"{figure.caption} {counted}"
        if counted and re.search(r"\b([Mm]eans?|intervals?)\b", figure.caption)
        else figure.caption
    )
    star, width = ("*", r"\textwidth") if figure.wide else ("", r".6\columnwidth")
    return "\n".join(
        [
            rf"\begin{{figure{star}}}[htbp]",
            rf"  \centering\includegraphics[width={width},height=.8\textheight,keepaspectratio]{{{figure.key}}}",
            rf"  \caption{{{latex_prose(caption)}}}",
            rf"  \label{{fig:{figure.key}}}",
            rf"\end{{figure{star}}}",
        ]
    )

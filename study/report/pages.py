"""The report as one HTML file and as Markdown, from the same sections."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from functools import lru_cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from study.report.content import Report
from study.report.figures.canvas import Figure
from study.report.gallery import linked
from study.report.tables import escape_markdown, to_html, to_markdown

Rendered = Mapping[str, Mapping[str, bytes]]  # figure key -> format -> bytes

_TYPES = {"svg": "image/svg+xml", "png": "image/png"}


@lru_cache(maxsize=1)
def environment() -> Environment:
    """Templates; everything that is put into HTML is escaped unless it is markup of ours."""
    found = Environment(
        loader=PackageLoader("study.report", "templates"),
        autoescape=lambda name: bool(name and ".html" in name),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_unbroken,
    )
    found.filters["md"] = escape_markdown
    found.tests["figure"] = lambda value: isinstance(value, Figure)
    return found


def _unbroken(value: object) -> object:
    """Keeps a percent sign on the line of its number."""
    return value.replace(" %", "\u00a0%") if type(value) is str else value


def data_uri(key: str, files: Mapping[str, bytes]) -> str:
    """The picture in the page itself: vectors, but pixels where the figure is made of pixels."""
    kind = "png" if key.startswith("samples") else "svg"
    return f"data:{_TYPES[kind]};base64,{base64.b64encode(files[kind]).decode()}"


def to_page(report: Report, rendered: Rendered) -> str:
    """One self-contained HTML file: no request leaves it."""
    style = "".join(environment().get_template(f"{name}.css").render() for name in ("report", "gallery"))
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            report=report,
            style=Markup(style),
            table=lambda table: Markup(to_html(linked(table, report.gallery))),
            uri=lambda figure: Markup(data_uri(figure.key, rendered[figure.key])),
        )
    )


def to_text(report: Report) -> str:
    """The report in Markdown; figures are the PNG files beside it."""
    return environment().get_template("report.md.j2").render(report=report, table=to_markdown)

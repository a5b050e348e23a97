"""The report as one HTML file and as Markdown, from the same sections."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from study.report.content import Report
from study.report.figures.canvas import Figure, Rendering, View
from study.report.figures.small_svg import svg_uri
from study.report.figures.spots import Spot
from study.report.gallery import linked
from study.report.glance import GLANCE
from study.report.tables import escape_markdown, prose_html, to_html, to_markdown

Rendered = Mapping[str, Rendering]  # by key of the figure

_TIP = 20  # rem: how wide what is shown of a spot may be


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
    found.filters["prose"] = lambda text: Markup(prose_html(str(_unbroken(text))))
    found.tests["figure"] = lambda value: isinstance(value, Figure)
    found.tests["pixels"] = lambda figure: figure.pixels
    return found


def _unbroken(value: object) -> object:
    """Keeps a percent sign on the line of its number."""
    return value.replace(" %", "\u00a0%") if type(value) is str else value


def png_uri(content: bytes) -> str:
    """A picture of pixels in the page itself."""
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def beside(spot: Spot) -> str:
    """CSS that puts what is shown of a spot beside it, within the figure's width."""
    wide = max(spot.x, 100 - spot.x)
    across = f"left:{spot.x:g}%" if spot.x < 50 else f"right:{100 - spot.x:g}%"
    down = f"top:calc({spot.y:g}% + .8rem)" if spot.y < 50 else f"bottom:calc({100 - spot.y:g}% + .8rem)"
    return f"{across};{down};max-width:min({_TIP}rem,{wide:g}%)"


def _verbatim(name: str) -> str:
    """A file of the templates as it is: its braces are its own."""
    return files("study.report").joinpath("templates", name).read_text(encoding="utf-8")


def to_page(report: Report, rendered: Rendered) -> str:
    """One self-contained HTML file: no request leaves it, and no script runs but its own."""
    style, script = _verbatim("report.css") + _verbatim("gallery.css"), _verbatim("report.js")
    digest = hashlib.sha256(script.encode()).digest()

    def svg(view: View) -> Markup:
        return Markup(svg_uri(view.svg))

    return (
        environment()
        .get_template("report.html.j2")
        .render(
            report=report,
            glance=GLANCE,
            style=Markup(style),
            script=Markup(script),
            script_hash=Markup(base64.b64encode(digest).decode()),
            table=lambda table: Markup(to_html(linked(table, report.gallery))),
            views=lambda figure: rendered[figure.key].views,
            svg=svg,
            png=lambda figure: Markup(png_uri(rendered[figure.key].files["png"])),
            beside=beside,
        )
    )


def to_text(report: Report, picture: Callable[[str], str]) -> str:
    """The report in Markdown; figures are files beside it, which `picture` names by their keys."""
    template = environment().get_template("report.md.j2")
    return template.render(report=report, table=to_markdown, picture=picture)

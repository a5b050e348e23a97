"""Smaller drawings for pages: the same paths at the same places in the same colours, in fewer bytes."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from urllib.parse import unquote

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure as Canvas

from study.report.figures.small_svg import small_svg, svg_uri
from study.report.figures.style import RC

SVG = "{http://www.w3.org/2000/svg}"
LINKS = ("{http://www.w3.org/1999/xlink}href", "href")
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?")


@pytest.fixture(scope="module")
def drawing() -> bytes:
    with mpl.rc_context(RC):
        canvas = Canvas(figsize=(3, 2))
        first, second = canvas.subplots(1, 2)
        chance = np.random.default_rng(0)
        first.plot(*chance.normal(size=(2, 30)), color="#a1b2c3", marker="D", label="<one> & two")
        first.scatter(*chance.normal(size=(2, 9)), alpha=0.4)
        first.fill_between([0, 1], [0, 1], [1, 2], alpha=0.2)
        first.legend()
        second.imshow(chance.uniform(size=(4, 4)))
        second.set_title("-- a comment --")
        file = io.BytesIO()
        canvas.savefig(file, format="svg", metadata={"Date": "2026-01-01", "Creator": "somebody"})
    return file.getvalue()


def drawn(svg: bytes) -> list[tuple[str, list[float], str]]:
    """What is painted, in its order: commands of paths, all numbers of place and shape, and style and picture; what is
    used from elsewhere is put in its place."""
    root = ET.fromstring(re.sub(rb"#([0-9a-f])([0-9a-f])([0-9a-f])\b", rb"#\1\1\2\2\3\3", svg))
    named = {element.get("id"): element for element in root.iter() if element.get("id")}
    found: list[tuple[str, list[float], str]] = []

    def walk(element: ET.Element, above: str, inherited: str = "") -> None:
        if element.tag == f"{SVG}defs" or element.tag == f"{SVG}metadata":
            return
        place = " ".join([above, *(element.get(k, "") for k in ("transform", "x", "y"))])
        if element.tag == f"{SVG}use" and (
            moved := re.fullmatch(r"translate\((\S+) (\S+)\)", element.get("transform", ""))
        ):
            place = " ".join([above, *(part for part in moved.groups() if float(part))])
        clip = re.search(r"url\(#([^)]+)\)", element.get("clip-path", ""))
        if clip:
            place += " clip " + " ".join(
                named[clip[1]][0].attrib.get(k, "") for k in ("x", "y", "width", "height")
            )
        link = next((element.get(k) for k in LINKS if element.get(k)), None)
        if element.tag == f"{SVG}use":
            used = named[(link or "")[1:]]
            style = (element.get("style") or inherited or used.get("style", "")).replace(" ", "")
            walk(used, place + style)
        elif element.tag in (f"{SVG}path", f"{SVG}image", f"{SVG}rect"):
            shape = place + " " + element.get("d", "")
            style = re.sub(r"\s+", "", element.get("style", "")) + (link or "")[:200]
            found.append((re.sub(r"[\s\d.-]", "", shape), [float(n) for n in NUMBER.findall(shape)], style))
        own = element.get("style", inherited) if element.tag == f"{SVG}g" else inherited
        for child in element:
            walk(child, place, own)

    walk(root, "")
    return found


def test_the_drawing_is_the_same_to_a_tenth_of_a_point(drawing: bytes) -> None:
    small = small_svg(drawing)
    before, after = drawn(drawing), drawn(small)
    assert len(before) == len(after) > 100
    for one, other in zip(before, after, strict=True):
        assert (one[0], one[2]) == (other[0], other[2])
        np.testing.assert_allclose(one[1], other[1], atol=0.0501)
    styles = [re.findall(r"<style[^>]*>([^<]*)", svg.decode()) for svg in (drawing, small)]
    assert styles[0] == styles[1]


def test_it_is_smaller_the_same_again_and_says_nothing_of_its_making(drawing: bytes) -> None:
    small = small_svg(drawing)
    picture = len(re.findall(r"base64,([^\"]*)", drawing.decode())[0])
    assert len(small) - picture < 0.7 * (len(drawing) - picture)
    assert small == small_svg(drawing)
    for word in (b"somebody", b"2026", b"comment", b"metadata", b"<!--", b"http://www.w3.org/1999"):
        assert word not in small
    assert small.startswith(b"<svg ")


def test_in_a_page_it_is_text_that_neither_the_address_nor_the_attribute_takes_for_its_own(
    drawing: bytes,
) -> None:
    page = HTMLParser()
    found: list[str] = []
    page.handle_starttag = lambda tag, attributes: found.append(dict(attributes)["src"] or "")  # type: ignore[method-assign]
    page.feed(f'<img src="{svg_uri(drawing)}">')
    head, text = found[0].split(",", 1)
    assert head == "data:image/svg+xml"
    assert "#" not in text  # which would begin a fragment
    assert "\n" not in text
    assert drawn(unquote(text).encode()) == drawn(small_svg(drawing))
    quoted = b"<svg xmlns='http://www.w3.org/2000/svg'><path style=\"font:'A&amp;B'\" d='M0 0'/></svg>"
    again = ET.fromstring(unquote(svg_uri(quoted).split(",", 1)[1]))
    assert again[0].get("style") == "font:'A&B'"


def test_marks_of_one_style_have_it_once(drawing: bytes) -> None:
    small = small_svg(drawing).decode()
    assert small.count("#a1b2c3") < drawing.decode().count("#a1b2c3") / 5


def test_the_opacity_of_marks_is_no_groups() -> None:
    """Where marks lie over each other, a group's would paint them as one."""
    use = "<use href='#m' x='{}' y='0' style='fill: red; opacity: 0.5'/>"
    marks = "<defs><path id='m' d='M0 0z'/></defs>" + "".join(map(use.format, range(5)))
    svg = f"<svg xmlns='http://www.w3.org/2000/svg'>{marks}</svg>"
    assert small_svg(svg.encode()).decode().count("opacity:0.5") == 5

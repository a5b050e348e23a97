"""Drawings for pages in half of the bytes: without what no reader of a page sees."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from itertools import groupby

_SVG = "http://www.w3.org/2000/svg"
_LINK = "{http://www.w3.org/1999/xlink}href"
_IN_VALUE = re.compile(r"(?<=url\(#)[\w.-]+(?=\))")
_SIX_DIGITS = re.compile(r"#([0-9a-f])\1([0-9a-f])\2([0-9a-f])\3\b")
_LONG_NUMBER = re.compile(r"-?\d+\.\d+")
_TRANSLATION = re.compile(r"translate\((-?[\d.]+)[ ,]+(-?[\d.]+)\)")
_MANY = 3  # marks for which a group of their own is shorter
_PLACES = (
    "d",
    "x",
    "y",
    "width",
    "height",
    "points",
)  # attributes of coordinates, in points or units of a glyph


def small_svg(svg: bytes) -> bytes:
    """Returns the same drawing, coordinates to a tenth of a point, as matplotlib writes it with text as paths.

    Comments, metadata, names that nothing refers to, groups that say nothing and white space go; other names are short.
    Marks of one style that follow each other have it once.
    The same drawing gives the same bytes.
    """
    root = ET.fromstring(svg)
    referred = {name for element in root.iter() for name in _references(element)}
    names = {name: f"i{k}" for k, name in enumerate(sorted(referred))}
    for element in root.iter():
        if element.tag != f"{{{_SVG}}}style":
            element.text = None
        element.tail = None
        for child in [child for child in element if child.tag == f"{{{_SVG}}}metadata"]:
            element.remove(child)
        small = [_small(key, value, names) for key, value in element.attrib.items()]
        element.attrib = {key: value for key, value in small if value}
        _shorten_place(element)
    _inherit_styles(root)
    _unwrap(root)
    _share_styles(root)
    ET.register_namespace("", _SVG)
    return ET.tostring(root, encoding="unicode").replace(" />", "/>").encode()


def svg_uri(svg: bytes) -> str:
    """The smaller drawing as the address of a picture in a page, for an attribute in double quotation marks.

    It is text, a quarter shorter than base64. What an address or an attribute would take for its own is escaped.
    """
    text = re.sub(r"\s+", " ", small_svg(svg).decode())
    text = text.replace("'", "&apos;").replace('"', "'")
    return "data:image/svg+xml," + text.replace("%", "%25").replace("#", "%23").replace("&", "%26")


def _references(element: ET.Element) -> list[str]:
    """The names that an element refers to."""
    linked = element.get(_LINK, "").removeprefix("#")
    return [linked, *(name for value in element.attrib.values() for name in _IN_VALUE.findall(value))]


def _small(key: str, value: str, names: dict[str, str]) -> tuple[str, str]:
    """An attribute in fewer bytes; its value is empty where it can go."""
    if key == "id":
        return key, names.get(value, "")
    if key == _LINK:
        linked = value.removeprefix("#")
        return "href", f"#{names[linked]}" if linked in names and value.startswith("#") else value
    value = _IN_VALUE.sub(lambda found: names[found[0]], value)
    if key == "style":
        return key, _SIX_DIGITS.sub(r"#\1\2\3", re.sub(r"([:;])\s+", r"\1", value))
    if key == "transform":  # scales of glyphs have more digits
        return key, re.sub(r"translate\([^)]*\)", lambda found: _rounded(found[0]), value)
    if key in _PLACES:
        value = _rounded(value)
    return key, re.sub(r"\s*([A-Za-z])\s*", r"\1", value.strip()) if key == "d" else value


def _shorten_place(element: ET.Element) -> None:
    """What is used at a place says so by `x` and `y`, which are added as a translation is (SVG 2, section 5.5)."""
    moved = _TRANSLATION.fullmatch(element.get("transform", ""))
    if element.tag != f"{{{_SVG}}}use" or moved is None or "x" in element.attrib or "y" in element.attrib:
        return
    del element.attrib["transform"]
    element.attrib |= {name: value for name, value in zip("xy", moved.groups(), strict=True) if float(value)}


def _rounded(text: str) -> str:
    return re.sub(r"\s+", " ", _LONG_NUMBER.sub(lambda number: f"{round(float(number[0]), 1) + 0.0:g}", text))


def _unwrap(element: ET.Element) -> None:
    """Puts the children of groups without attributes into their place; definitions that are empty go."""
    kept: list[ET.Element] = []
    for child in list(element):
        _unwrap(child)
        if child.tag == f"{{{_SVG}}}g" and not child.attrib:
            kept += list(child)
        elif len(child) or child.tag != f"{{{_SVG}}}defs":
            kept.append(child)
    element[:] = kept


def _inherit_styles(root: ET.Element) -> None:
    """Drops the style of a mark where what it refers to has that very style, which counts there anyway."""
    styles = {f"#{element.get('id')}": element.get("style") for element in root.iter() if element.get("id")}
    for element in root.iter(f"{{{_SVG}}}use"):
        own = element.get("style")
        if own and own == styles.get(element.get("href", "")) and "opacity:" not in own:
            del element.attrib["style"]


def _share_styles(element: ET.Element) -> None:
    """Puts marks that follow each other and have one style into a group that has it.

    What is set this way is inherited; `opacity` is not, and of a group it would be that of all marks together.
    """
    kept: list[ET.Element] = []
    for style, run in groupby(
        element, key=lambda child: child.get("style") if child.tag == f"{{{_SVG}}}use" else None
    ):
        marks = list(run)
        if style is None or len(marks) < _MANY or re.search(r"(^|;)opacity:", style):
            kept += marks
            continue
        group = ET.Element(f"{{{_SVG}}}g", {"style": style})
        for mark in marks:
            del mark.attrib["style"]
            group.append(mark)
        kept.append(group)
    element[:] = kept
    for child in kept:
        _share_styles(child)

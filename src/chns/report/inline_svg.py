"""An SVG file of matplotlib's, made fit for standing inside a page with others like it.

Ids are unique in a page, where matplotlib numbers each figure's parts from 1; colours become the page's variables, and
fonts the page's font. Coordinates are cut to a hundredth of a point, which halves the size.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree

from chns.report.palette import COLOURS, PAPER

_SVG = "http://www.w3.org/2000/svg"
_LINK = "{http://www.w3.org/1999/xlink}href"
_VARIABLES = {colour.light: f"var({colour.variable})" for colour in COLOURS}
_COLOUR = re.compile(r"#[0-9a-f]{6}\b")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_LONG_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_FONT = re.compile(r"(font-family: |font: [^;']*?px )[^;]+")
_GEOMETRY = ("d", "x", "y", "points", "width", "height")


def inline_svg(svg: str, *, name: str, label: str) -> str:
    """Turn a figure into an element of a page.

    Args:
        svg: A whole SVG document, drawn by matplotlib with text as text.
        name: Unique in the page; every id begins with it.
        label: Text instead of the figure.

    Returns:
        An ``<svg>`` element without a size of its own, whose texts are escaped.
    """
    root = ElementTree.fromstring(svg)  # noqa: S314 - matplotlib has just written it
    root.attrib.pop("width", None)
    root.attrib.pop("height", None)
    _remove(root, f"{{{_SVG}}}metadata")
    used = _references(root)
    for element in root.iter():
        element.tag = element.tag.removeprefix(f"{{{_SVG}}}")
        _rename(element, name, used)
        _restyle(element)
        _strip(element)
    root.attrib |= {"role": "img", "aria-label": label}
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=False)


def _remove(root: ElementTree.Element, tag: str) -> None:
    for child in root.findall(tag):
        root.remove(child)


def _references(root: ElementTree.Element) -> set[str]:
    """Every id that something in the figure points to."""
    found = set()
    for element in root.iter():
        found.update(_REFERENCE.findall(" ".join(element.attrib.values())))
        found.add(element.get(_LINK, "").removeprefix("#"))
    return found


def _rename(element: ElementTree.Element, name: str, used: set[str]) -> None:
    identifier = element.attrib.pop("id", None)
    if identifier in used:
        element.set("id", f"{name}-{identifier}")
    link = element.attrib.pop(_LINK, None)
    if link is not None:
        element.set("href", link if link.startswith("data:") else f"#{name}-{link.removeprefix('#')}")
    for attribute in ("clip-path", "style"):
        if attribute in element.attrib:
            element.set(attribute, _REFERENCE.sub(rf"url(#{name}-\1)", element.attrib[attribute]))


def _restyle(element: ElementTree.Element) -> None:
    style = element.get("style")
    if style is not None:
        style = _FONT.sub(r"\1var(--font)", style)
        style = style.replace(f"fill: {PAPER.light}", "fill: none") if element.tag == "path" else style
        element.set("style", _COLOUR.sub(lambda found: _VARIABLES.get(found[0], found[0]), style))
    for attribute in _GEOMETRY:
        if attribute in element.attrib:
            element.set(attribute, _LONG_NUMBER.sub(_rounded, " ".join(element.attrib[attribute].split())))


def _strip(element: ElementTree.Element) -> None:
    """Drop line breaks between elements, and rotations by nothing."""
    element.tail = None
    if len(element):
        element.text = None
    if element.get("transform", "").startswith("rotate(-0 "):
        del element.attrib["transform"]


def _rounded(number: re.Match[str]) -> str:
    return f"{float(number[0]):.2f}".rstrip("0").rstrip(".")

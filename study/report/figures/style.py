"""How figures look: one place for sizes, fonts, colours and markers."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from trainables.methods.registry import BASE

COLUMN = 3.25  # inches: one column of a two-column paper
PAGE = 6.75  # inches: both columns
PAGE_LETTERS = 80  # of axis labels beside each other, on a page
LABEL = 28  # letters of an arm's name in a figure
FEW_MARKS = 30  # on one line, or of one search, that do not hide each other
BASE_COLOR = "#5a5a5a"

# Okabe and Ito (2008), without the yellow that vanishes on white, and two more.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A4FB0", "#882255")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "*")
LINES = ("-", (0, (4, 1.5)), (0, (1, 1)))

RC: dict[str, Any] = {
    # A layout engine of the user's settings would lay figures out again in each format (canvas.py).
    "figure.autolayout": False,
    "figure.constrained_layout.use": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: the same glyphs everywhere
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.handlelength": 2.2,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.4,
    "lines.markersize": 5,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "figure.dpi": 100,
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    "svg.fonttype": "path",
    "svg.hashsalt": "study",
    "axes.formatter.useoffset": False,
    "text.parse_math": False,  # names are the user's: a "$" in one is a dollar sign
    "text.usetex": False,
    "image.interpolation": "nearest",
}


@dataclass(frozen=True)
class ArmStyle:
    """How one arm is drawn in every figure of a report."""

    color: str
    marker: str
    line: Any
    filled: bool = True
    label: str = ""  # the arm's name, as long as there is room for

    @property
    def face(self) -> str:
        """Fill of the marker."""
        return self.color if self.filled else "white"


def arm_styles(arms: Sequence[str], methods: Mapping[str, str]) -> dict[str, ArmStyle]:
    """A style for each arm, told apart by colour and by marker.

    Where every method has at most two arms (say cosine and constant), they share the method's colour and marker;
    the second is open and dashed. Otherwise each arm has its own. The base model is grey.
    """
    trained = [arm for arm in arms if methods.get(arm) != BASE]
    of_method: dict[str, list[str]] = {}
    for arm in trained:
        of_method.setdefault(methods.get(arm, ""), []).append(arm)
    styles = {arm: ArmStyle(BASE_COLOR, "X", LINES[2]) for arm in arms if arm not in trained}
    by_method = len(of_method) > 1 and max(map(len, of_method.values())) <= 2
    for k, arm in enumerate(trained):
        if by_method:
            family = of_method[methods.get(arm, "")]
            hue, place = list(of_method).index(methods.get(arm, "")), family.index(arm)
            styles[arm] = ArmStyle(
                PALETTE[hue % len(PALETTE)], MARKERS[hue % len(MARKERS)], LINES[place], place == 0
            )
        else:
            turn = k // len(PALETTE)
            styles[arm] = ArmStyle(
                PALETTE[k % len(PALETTE)], MARKERS[k % len(MARKERS)], LINES[turn % len(LINES)]
            )
    labels = arm_labels(arms)
    return {arm: replace(styles[arm], label=labels[arm]) for arm in arms}


def arm_labels(arms: Sequence[str], limit: int = LABEL) -> dict[str, str]:
    """A label for each arm, at most `limit` letters long and different from every other.

    Long names lose the beginning and the end that they have in common first, and then their middle.
    """
    clean = {arm: shorten(arm, 10_000) for arm in arms}
    long = [name for name in clean.values() if len(name) > limit]
    head, tail = (common_part(long, end) if len(long) > 1 else 0 for end in (False, True))

    def label(name: str) -> str:
        if len(name) <= limit:
            return name
        middle = name[head : len(name) - tail]
        return shorten(("…" if head else "") + middle + ("…" if tail else ""), limit)

    found: dict[str, str] = {}
    for arm in arms:
        text, number = label(clean[arm]), 2
        while text in found.values():
            text, number = f"{label(clean[arm])[: limit - 3]} {number}", number + 1
        found[arm] = text
    return found


def common_part(names: Sequence[str], at_end: bool) -> int:
    """How many letters all names begin (or end) with, cut back to whole words; 0 if nothing else would remain."""
    sample = [name[::-1] if at_end else name for name in names]
    different = (k for k, letters in enumerate(zip(*sample, strict=False)) if len(set(letters)) > 1)
    count = next(different, min(map(len, sample)))
    while count and sample[0][count - 1] not in "-_. ":
        count -= 1
    return count if min(map(len, names)) > 2 * count or not at_end else 0


def room_for(count: int, usual: float, least: float) -> float:
    """Opacity or area of small marks, less where there are many, so that they do not run together into a bar."""
    return max(least, usual * min(1.0, FEW_MARKS / max(count, 1)))


def axis_label(text: str, panels: int) -> str:
    """An axis label in as many lines as keep it within one of so many panels side by side on a page."""
    return "\n".join(textwrap.wrap(text, max(12, PAGE_LETTERS // panels), break_long_words=False))


def shorten(name: str, limit: int = LABEL) -> str:
    """A name that fits on an axis; the middle goes, since names differ at their ends."""
    clean = "".join(c if c.isprintable() else " " for c in name)
    return clean if len(clean) <= limit else clean[: limit // 2 - 1] + "…" + clean[-(limit // 2) :]

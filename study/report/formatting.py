"""Numbers as people read them: digits by uncertainty, one SI unit a column, "--" for what is missing."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

MISSING = "--"

_SCALES: dict[str, tuple[tuple[float, str], ...]] = {
    "s": ((3600.0, "h"), (1.0, "s"), (1e-3, "ms")),
    "FLOP": ((1e18, "EFLOP"), (1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP")),
    "B": ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B")),
    "count": ((1e9, "B"), (1e6, "M"), (1e3, "k"), (1.0, "")),
}
_HOURS_FROM = 36_000.0  # seconds; below ten hours seconds are easier to compare


@dataclass(frozen=True)
class Scale:
    """A unit for display: shown number = value / factor."""

    factor: float = 1.0
    unit: str = ""


def scale_for(unit: str, values: Iterable[float | None]) -> Scale:
    """Returns the unit in which all of `values` read well: the largest with the smallest positive one >= 0.1.

    Args:
        unit: "s", "FLOP", "B" (bytes), "count", or anything else for no scaling.
        values: In the base unit; None and NaN are passed over.
    """
    if unit not in _SCALES:
        return Scale(1.0, unit)
    known = [value for value in values if value is not None and math.isfinite(value) and value > 0]
    scales = _SCALES[unit]
    if not known:
        return Scale(1.0, {"count": ""}.get(unit, unit))
    for factor, name in scales:
        if unit == "s" and factor == 3600.0 and max(known) < _HOURS_FROM:
            continue
        if min(known) >= 0.1 * factor or (max(known) >= 1e3 * factor and min(known) >= 1e-3 * factor):
            return Scale(factor, name)
    return Scale(*scales[-1])


def decimals_for(value: float, half_width: float | None = None, digits: int = 3) -> int:
    """Decimals to print, by the uncertainty where there is one, else `digits` significant digits.

    Of the uncertainty, two digits are shown if they are at most 35, otherwise one (as the Particle Data Group
    does).
    """
    if half_width is not None and half_width > 0:
        exponent = math.floor(math.log10(half_width))
        return min(6, max(0, (1 if half_width / 10**exponent <= 3.5 else 0) - exponent))
    if value == 0 or not math.isfinite(value):
        return 0 if value == 0 else digits
    return min(8, max(0, digits - 1 - math.floor(math.log10(abs(value)))))


def readable_decimals(value: float, half_width: float | None, common: int) -> int:
    """The decimals of a column, `common`, or more of a value that they would leave fewer than two significant digits
    of: as many as its own uncertainty supports, and one for the second digit.
    """
    if not value or abs(value) >= 10 ** (1 - common):
        return common
    own = decimals_for(value, half_width, digits=2)
    return max(common, min(own + 1, decimals_for(value, digits=2)))


def fixed(value: float, decimals: int) -> str:
    """Fixed-point text with a true minus sign; "-0.00" becomes "0.00"."""
    text = f"{value:.{decimals}f}"
    return text.lstrip("-") if not text.strip("-0.") else text.replace("-", "−")


PLAIN = Scale()


def number(value: object, scale: Scale = PLAIN, digits: int = 3) -> str:
    """Text of one number in the unit of `scale`, or "--"."""
    if (
        value is None
        or isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not math.isfinite(value)
    ):
        return MISSING
    shown = float(value) / scale.factor
    if shown and (abs(shown) < 1e-3 or abs(shown) >= 1e7):
        return f"{shown:.{digits - 1}e}".replace("-", "−")
    return fixed(shown, decimals_for(shown, digits=digits))


def interval(low: float | None, high: float | None, decimals: int, scale: Scale = PLAIN) -> str:
    """Text "[low, high]", or an empty text without an interval."""
    if low is None or high is None:
        return ""
    return f"[{fixed(low / scale.factor, decimals)}, {fixed(high / scale.factor, decimals)}]"


def p_value(p: float | None) -> str:
    """Text of a p value: two digits, never "0"."""
    if p is None or not math.isfinite(p):
        return MISSING
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.2 else f"{p:.2f}"


def about(count: int) -> int:
    """A number that is itself an estimate: above 20 to the nearest 5, from 100 on to two significant digits.

    Always an int: 7 -> 7, 23 -> 25, 91 -> 90, 184 -> 180.
    """
    if count <= 20:
        return count
    step = 5 if count < 100 else 10 ** (len(str(count)) - 2)
    return step * ((2 * count + step) // (2 * step))


def plural(count: int, noun: str) -> str:
    """ "1 run", "2 runs"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def listing(words: Iterable[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    items = list(words)
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"

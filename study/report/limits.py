"""Limits on what a run costs or reaches, as a user writes them: ``peak_memory<8GB, train_seconds<600``."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pandas as pd

from study.report.formatting import Scale, number, scale_for
from study.report.measures import ALL, measure
from trainables.config.messages import did_you_mean
from trainables.errors import UserError

_UNITS = {
    "": 1.0, "$": 1.0, "s": 1.0, "ms": 1e-3, "min": 60.0, "h": 3600.0, "B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9,
    "FLOP": 1.0, "GFLOP": 1e9, "TFLOP": 1e12, "PFLOP": 1e15, "k": 1e3, "M": 1e6,
}  # fmt: skip
#: Of which quantity a unit is; the unit of a measure must be the same.
_QUANTITIES = {
    "s": ("s", "ms", "min", "h"),
    "B": ("B", "kB", "MB", "GB"),
    "FLOP": ("FLOP", "GFLOP", "TFLOP", "PFLOP"),
    "$": ("$",),
    "count": ("k", "M"),
}
_LIMIT = re.compile(r"\s*([a-z_0-9]+)\s*(<=|>=|<|>)\s*([0-9.eE+-]+)\s*([A-Za-z$]*)\s*")
_ENDINGS = ("", "_bytes", "_seconds", "_scaled")  # that may be left out of a measure's name
_DIGITS = range(3, 10)


@dataclass(frozen=True)
class Limit:
    """A limit on a measure.

    Attributes:
        below: Whether values must lie below it; or else above.
        strict: Whether the limit itself is beyond it.
        value: In the measure's base unit.
        unit: That it was written in; empty for the base unit.
        text: As the user wrote it.
    """

    measure: str
    below: bool
    strict: bool
    value: float
    unit: str
    text: str

    def kept_by(self, values: pd.Series) -> bool:
        """Whether all of the values are known and within."""
        inside = {
            (True, True): values < self.value,
            (True, False): values <= self.value,
            (False, True): values > self.value,
            (False, False): values >= self.value,
        }[self.below, self.strict]
        return bool(len(values) and inside.all())

    def furthest(self, values: pd.Series) -> float:
        """Of the values the one that is furthest in the direction of the limit, or beyond it."""
        return float(values.max() if self.below else values.min())

    @property
    def furthest_word(self) -> str:
        """What `furthest` is of all runs: "most", or "least"."""
        return "most" if self.below else "least"

    def told(self, value: float) -> str:
        """A value in the unit of the limit, with as many digits as tell it from the limit, e.g. "902 MB"."""
        scale = self._scale(value)
        text = ""
        for digits in _DIGITS:
            text = number(value, scale, digits)
            if value == self.value or text != number(self.value, scale, digits):
                break
        return f"{text} {scale.unit}".strip()

    def _scale(self, value: float) -> Scale:
        if self.unit:
            return Scale(_UNITS[self.unit], self.unit)
        unit = measure(self.measure).unit
        return Scale(1.0, unit) if unit == "s" else scale_for(unit, [abs(value)])


def parse_limits(text: str) -> tuple[Limit, ...]:
    """Returns the limits of ``--budget``: ``peak_memory<8GB, train_seconds<600, dollars<1``.

    Raises:
        UserError: With every part that cannot be read.
    """
    found, problems = [], []
    for part in filter(None, (part.strip() for part in text.split(","))):
        try:
            found.append(_limit(part))
        except ValueError as error:
            problems.append(f"--budget {part!r}: {error}")
    if not found and not problems:
        problems.append('--budget is empty; write limits such as "peak_memory<8GB, train_seconds<600"')
    if problems:
        raise UserError(*problems)
    return tuple(found)


def _limit(part: str) -> Limit:
    match = _LIMIT.fullmatch(part)
    if match is None:
        raise ValueError(
            "is no limit; write a measure, < or >, and a number with its unit, such as peak_memory<8GB"
        )
    said, sign, value, unit = match.groups()
    name = next((said + ending for ending in _ENDINGS if said + ending in ALL), None)
    if name is None:
        near = did_you_mean(said, ALL)
        raise ValueError(f"no measure is called {said!r}; {near}see `study ls metrics`")
    try:
        amount = float(value)
    except ValueError:
        raise ValueError(f"{value!r} is no number") from None
    if unit and unit not in _QUANTITIES.get(measure(name).unit, ()):
        fitting = _QUANTITIES.get(measure(name).unit, ())
        remedy = f"take one of {', '.join(fitting)}" if fitting else "it has none"
        raise ValueError(f"{unit!r} is no unit of {name}; {remedy}")
    return Limit(name, sign.startswith("<"), len(sign) == 1, amount * _UNITS[unit], unit, part)

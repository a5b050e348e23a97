"""Numbers, dates and booleans as spreadsheets write them: which notation a file is in, and what a cell then says."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Literal, Self, get_args

_MINUS = str.maketrans({"\u2212": "-"})
_GAPS = re.compile(r"(?<=\d)[ \u00a0\u202f'’](?=\d{3}(?!\d))")  # between groups of three digits
_ANY_NUMBER = re.compile(r"[+-]?(?=[\d.,]*\d)[\d.,]+(?:[eE][+-]?\d+)?")
_ISO = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d")
_DATE = re.compile(r"(\d{1,4})([./-])(\d{1,2})\2(\d{1,4}),? ")
_CLOCKS = ("%H:%M:%S.%f", "%H:%M:%S", "%H:%M", "%I:%M:%S %p", "%I:%M %p")
_TRUE = ("true", "wahr", "vrai", "verdadero", "verdadeiro", "vero", "waar", "prawda", "sant", "истина")
_FALSE = ("false", "falsch", "faux", "falso", "onwaar", "fałsz", "falskt", "ложь")
BOOLEANS = dict.fromkeys(_TRUE, True) | dict.fromkeys(_FALSE, False)

Mark = Literal[".", ","]
Order = Literal["dmy", "mdy"]
Kind = Literal["text", "integer", "number", "time", "boolean", "param"]


class CellError(ValueError):
    """Says what a cell holds and what is expected there."""


@dataclass(frozen=True)
class Notation:
    """How a file writes numbers and dates.

    Attributes:
        mark: The decimal mark; None where the file's numbers do not tell it.
        order: Day or month first, in dates with slashes or dashes; None where the file's dates do not tell it.
    """

    mark: Mark | None = "."
    order: Order | None = None

    @classmethod
    def of(cls, delimiter: str, numbers: Iterable[str], times: Iterable[str]) -> Self:
        """Finds a file's notation by the cells that can be read in one way only: that of most of them."""
        marks: Counter[Mark] = Counter(mark for mark in map(number_mark, numbers) if mark)
        orders: Counter[Order] = Counter(order for order in map(_date_order, times) if order)
        default: Mark | None = "." if delimiter == "," else None
        mark = marks.most_common(1)[0][0] if marks else default
        return cls(mark, orders.most_common(1)[0][0] if orders else None)

    # ------------------------------------------------------------------ what a cell says

    def number(self, text: str) -> Decimal:
        """Returns a number; raises CellError with what is expected."""
        plain = _GAPS.sub("", text.translate(_MINUS))
        if plain.lower().lstrip("+-") in ("inf", "infinity", "nan"):
            return Decimal(plain)
        if not _ANY_NUMBER.fullmatch(plain):
            raise CellError(f"{text!r} is not a number; expected {self._example()}, or an empty cell")
        mark = self.mark
        if mark is None and any(sign in plain for sign in ".,"):
            raise CellError(
                f"{text!r} may be a fraction or have thousands set apart, and no other cell tells which; write "
                "numbers without such separators, as 0.4175 in a file whose columns are separated by commas"
            )
        mantissa, _, exponent = plain.lower().partition("e")
        whole, _, fraction = mantissa.partition(mark or ".")
        other = "," if mark == "." else "."
        if _grouped(whole, other):
            whole = whole.replace(other, "")
        if any(sign in whole + fraction for sign in ".,"):
            raise CellError(
                f"{text!r} is not a number where the decimal mark is {mark!r}, as elsewhere in this file; "
                f"expected {self._example()}"
            )
        return Decimal(f"{whole}.{fraction or 0}e{exponent or 0}")

    def integer(self, text: str) -> int:
        """Returns a whole number, also one that is written ``3.0``; raises CellError with what is expected."""
        value = self.number(text)
        if not value.is_finite() or value != value.to_integral_value():
            raise CellError(f"{text!r} is not a whole number; expected one such as 100")
        return int(value)

    def time(self, text: str) -> str:
        """Returns a time in ISO 8601, UTC where no zone is written; raises CellError with what is expected."""
        plain = text.replace("\u202f", " ").replace("\u00a0", " ")
        if _ISO.match(plain):
            try:
                return _utc(datetime.fromisoformat(plain))
            except ValueError:
                pass
        match = _DATE.match(plain)
        for date in self._dates(match.groups()) if match else ():
            rest = plain[match.end() :].strip().replace("a.m.", "AM").replace("p.m.", "PM")  # type: ignore[union-attr]
            for clock in _CLOCKS:
                try:
                    return _utc(datetime.strptime(f"{date} {rest}", f"%Y-%m-%d {clock}"))
                except ValueError:
                    continue
        unclear = self.order is None and match is not None and match[2] != "." and len(match[1]) < 4
        why = "may have the day or the month first" if unclear else "is not a date with a time"
        raise CellError(f"{text!r} {why}; expected 2026-11-28T14:03:00+00:00, or an empty cell")

    def _dates(self, parts: tuple[str, ...]) -> list[str]:
        first, sign, second, third = parts
        if len(first) == 4:
            return [f"{first}-{second}-{third}"]
        if sign == "." and len(third) == 2:
            third = f"20{third}"
        if len(third) != 4:  # of 26/11/28 nobody knows which part is the year
            return []
        order = "dmy" if sign == "." else self.order
        return (
            []
            if order is None
            else [f"{third}-{second}-{first}" if order == "dmy" else f"{third}-{first}-{second}"]
        )

    def _example(self) -> str:
        return "one such as 0,4175" if self.mark == "," else "one such as 0.4175"


def number_mark(text: str) -> Mark | None:
    """Returns the decimal mark of a number that can be read in one way only; None where it tells nothing."""
    plain = _GAPS.sub("", text.translate(_MINUS))
    if not _ANY_NUMBER.fullmatch(plain):
        return None
    mantissa = plain.lower().partition("e")[0].lstrip("+-")
    dots, commas = mantissa.count("."), mantissa.count(",")
    if dots and commas:
        return "." if mantissa.rfind(".") > mantissa.rfind(",") else ","
    if not dots and not commas:
        return None
    sign: Mark = "." if dots else ","
    if not _grouped(mantissa, sign):
        return sign if dots + commas == 1 else None
    if dots + commas > 1:
        return "," if dots else "."
    return sign if "e" in plain.lower() else None


def boolean(text: str) -> bool:
    """Returns a boolean, in the words of several languages' spreadsheets; raises CellError for anything else."""
    value = BOOLEANS.get(text.casefold(), {"1": True, "0": False}.get(text))
    if value is None:
        raise CellError(f"{text!r} is neither true nor false; write true, false or nothing")
    return value


@functools.cache
def param_kind(field: str) -> Kind:
    """Returns how a training field is written: by its type in the methods' configurations."""
    from trainables.methods.registry import method_config_class, method_names

    types: set[object] = set()
    for method in method_names():
        known = method_config_class(method).model_fields.get(field)
        if known is not None:
            annotation = known.annotation
            types |= set(get_args(annotation)) or {annotation}
    types -= {type(None)}
    if types == {bool}:
        return "boolean"
    return "number" if types and types <= {int, float} else "param"


def _grouped(text: str, sign: str) -> bool:
    """Whether a whole number has its thousands set apart by `sign`."""
    return re.fullmatch(rf"[+-]?[1-9]\d{{0,2}}(?:{re.escape(sign)}\d{{3}})+", text) is not None


def _date_order(text: str) -> Order | None:
    match = _DATE.match(text)
    if match is None or match[2] == "." or len(match[1]) == 4:
        return None
    if int(match[1]) > 12:
        return "dmy"
    return "mdy" if int(match[3]) > 12 else None


def _utc(time: datetime) -> str:
    aware = time if time.tzinfo is not None else time.replace(tzinfo=UTC)
    return aware.astimezone(UTC).isoformat(timespec="milliseconds")

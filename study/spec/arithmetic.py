"""Arithmetic that a study file states, such as ``8 * (10000 + 20000)``: numbers, + - * / **, brackets, and no names."""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable

_BINARY: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
MOST_CHARACTERS = 500


def value_of(text: str) -> float:
    """Returns the value of an expression, in floating-point numbers.

    Raises:
        ValueError: It is no such expression, or has no finite value; with what to write instead.
    """
    try:
        found = _evaluated(ast.parse(_without_commas(text).strip(), mode="eval").body)
    except ZeroDivisionError:
        raise ValueError(f"{text!r} divides by 0") from None
    except OverflowError:
        raise ValueError(f"{text!r} is too large a number") from None
    except (SyntaxError, RecursionError, MemoryError):
        raise ValueError(_unreadable(text)) from None
    if not math.isfinite(found):
        raise ValueError(f"{text!r} is too large a number")
    return found


def _without_commas(text: str) -> str:
    """The text without the commas between thousands; others are decimal marks, or mistakes."""
    for written in re.findall(r"[\d.,]*,[\d.,]*", text):
        if not re.fullmatch(r"\d{1,3}(,\d{3})+(\.\d*)?", written):
            raise ValueError(
                f"{text!r}: a comma stands between thousands alone (10,000); write 1.5 for a decimal number"
            )
    return text.replace(",", "")


def _evaluated(node: ast.expr) -> float:
    if (
        isinstance(node, ast.Constant)
        and isinstance(node.value, int | float)
        and not isinstance(node.value, bool)
    ):
        return float(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = _evaluated(node.operand)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        found = _BINARY[type(node.op)](_evaluated(node.left), _evaluated(node.right))
        if isinstance(found, complex):
            raise ValueError("a root of a negative number has no value here")
        return found
    raise ValueError(_unreadable(ast.unparse(node)))


def _unreadable(text: str) -> str:
    return f"{text!r} is no arithmetic; write numbers, + - * / **, and brackets, such as 8 * (10000 + 20000)"

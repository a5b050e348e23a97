"""Spans of time as people read them."""

from __future__ import annotations

import pytest

from study.util.units import duration, short_duration


@pytest.mark.parametrize(
    ("seconds", "words", "short"),
    [(0.2, "0 s", "0s"), (89, "89 s", "1m29s"), (125, "2 min", "2m05s"), (3599.6, "60 min", "1h00m"),
     (7320, "2 h 2 min", "2h02m")],
)  # fmt: skip
def test_spans(seconds: float, words: str, short: str) -> None:
    assert duration(seconds) == words
    assert short_duration(seconds) == short


def test_an_unknown_span() -> None:
    assert short_duration(None) == "--"

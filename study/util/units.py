"""Sizes, durations and times as people read them."""

from __future__ import annotations

from datetime import UTC, datetime


def size(count: float) -> str:
    """Returns a number of bytes for people, e.g. ``1.5 GB`` (decimal units)."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def iso_time(seconds: float) -> str:
    """Formats seconds since the epoch in UTC with milliseconds."""
    return datetime.fromtimestamp(round(seconds * 1000) / 1000, UTC).isoformat(timespec="milliseconds")


def duration(seconds: float) -> str:
    """Returns a span for people, e.g. ``45 s``, ``7 min``, ``3 h 20 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def short_duration(seconds: float | None) -> str:
    """Returns a span for a line that is short of space: ``1h02m``, ``3m05s`` or ``12s``; ``--`` for unknown."""
    if seconds is None:
        return "--"
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60}h{minutes % 60:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"

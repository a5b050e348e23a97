"""What is known of a study's origin: its identity, its launches, and what wrote its records."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from study.report.compact import COMPACT


def provenance_facts(meta: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is known of the study's origin, as names and texts."""
    told = {
        "study",
        "quality_rule",
        "references",
        "spec",
        "arms",
        "launches",
        "objective",
        "hypotheses",
        COMPACT,
    }
    facts = [(name, value) for name, value in sorted(meta.items()) if name not in told]
    launches = meta.get("launches")
    for k, launch in enumerate(launches if isinstance(launches, (list, tuple)) else ()):
        for name, value in launch.items() if isinstance(launch, Mapping) else ():
            if name == "time" and isinstance(value, (int, float)):
                value = datetime.fromtimestamp(value, UTC).isoformat(timespec="seconds")
            facts.append((f"launch {k + 1}: {name}", value))
    return [(name, _flat(value)) for name, value in facts if value not in (None, "", [], {})]


def _flat(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(
            f"{name} {_flat(item)}" for name, item in value.items() if item not in (None, [], "")
        )
    if isinstance(value, (list, tuple)):
        return ", ".join(_flat(item) for item in value)
    return str(value)

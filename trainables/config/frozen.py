"""What all configuration has in common: it does not change, and keys that it does not know are refused."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """Base of all configuration: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def without(content: dict[str, Any], *names: str) -> dict[str, Any]:
    """Returns a mapping without some names."""
    return {name: value for name, value in content.items() if name not in names}

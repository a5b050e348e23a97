"""A run that is to happen, and whoever is told how it goes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from study.storage.run_key import RunKey

if TYPE_CHECKING:
    from trainables.classifier_run_config import ClassifierRunConfig
    from trainables.run_config import RunConfig


@dataclass(frozen=True)
class PlannedRun:
    """A run with its folder and its full configuration.

    Attributes:
        attempt: Which one this is, by the ledger: 1, 2, 3, ... over all launches.
    """

    key: RunKey
    folder: Path
    config: RunConfig | ClassifierRunConfig
    attempt: int = 1


class RunListener(Protocol):
    """Something that stores the progress of runs elsewhere, by reading their event files."""

    def watch(self, run: PlannedRun) -> None:
        """Starts to read a run's events as they come; a second call for it is harmless."""
        ...

    def close(self) -> None:
        """Catches up with the event files and stops."""
        ...

"""The identity of a run and its place in storage: what ledger, Ray, MLflow and the report agree on."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, Self

if TYPE_CHECKING:
    from trainables.config import RunConfig

Phase = Literal["search", "confirm"]
State = Literal["RUNNING", "COMPLETE", "PRUNED", "FAIL"]

_NAME = re.compile(r"^(search|confirm)/([^/]+)/(\d{4,})-([^/]+)-s(\d+)$")


@dataclass(frozen=True, order=True)
class RunKey:
    """Names one run of a study for ever; nothing hangs on Ray's trial ids or on time stamps.

    Attributes:
        trial: Number of the trial in the arm's search; a confirm run bears the number of the trial that it confirms.
    """

    phase: Phase
    arm: str
    trial: int
    subject: str
    seed: int

    @property
    def name(self) -> str:
        """The key as a relative path, e.g. ``search/lora-cosine/0003-cat-1-s0``."""
        return f"{self.phase}/{self.arm}/{self.trial:04d}-{self.subject}-s{self.seed}"

    @classmethod
    def parse(cls, name: str) -> Self:
        """Inverse of `name`; raises ValueError for anything else."""
        match = _NAME.match(name)
        if not match:
            raise ValueError(f"{name!r} is not the name of a run, which reads phase/arm/0000-subject-s0")
        phase, arm, trial, subject, seed = match.groups()
        return cls(phase, arm, int(trial), subject, int(seed))  # type: ignore[arg-type]


@dataclass(frozen=True)
class PlannedRun:
    """A run with its folder and its full configuration."""

    key: RunKey
    folder: Path
    config: RunConfig


@dataclass(frozen=True)
class Storage:
    """Where everything of a study lies, under one root folder (``--storage``)."""

    root: Path
    study: str

    @property
    def folder(self) -> Path:
        """The study's own folder."""
        return self.root / self.study

    @property
    def cache(self) -> Path:
        """Content-addressed caches, shared by all studies of the storage."""
        return self.root / "cache"

    @property
    def ledger_url(self) -> str:
        """Default URL of the Optuna storage."""
        return f"sqlite:///{self.folder / 'ledger.db'}"

    @property
    def tracking_uri(self) -> str:
        """Default MLflow tracking URI: one absolute SQLite file for all studies of the storage."""
        return f"sqlite:///{self.root / 'mlflow.db'}"

    @property
    def artifact_root(self) -> Path:
        """Where the default MLflow store keeps its artifacts."""
        return self.root / "mlartifacts"

    def run_folder(self, key: RunKey) -> Path:
        """The folder of one run."""
        return self.folder / "runs" / key.name


class Follower(Protocol):
    """Something that shows or stores the progress of runs by following their event files."""

    def follow(self, run: PlannedRun) -> None:
        """Starts to follow a run; following it again is harmless."""
        ...

    def close(self) -> None:
        """Catches up with the event files and stops."""
        ...

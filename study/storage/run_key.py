"""The identity of a run: arm, phase, trial, subject and seed; what ledger, Ray, MLflow and the report agree on."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, Self, get_args

Phase = Literal["search", "confirm"]
PHASES: tuple[Phase, ...] = get_args(Phase)

#: The phases of classifiers, whose "arms" are the cells of the downstream table (`study.spec.downstream.Cell`): a
#: search for each, then its choice with every seed.
DownstreamPhase = Literal["downstream-search", "downstream"]
DOWNSTREAM_SEARCH: Literal["downstream-search"] = "downstream-search"
DOWNSTREAM: Literal["downstream"] = "downstream"
DOWNSTREAM_PHASES: tuple[DownstreamPhase, ...] = get_args(DownstreamPhase)

#: In the place of a phase: weights that were trained elsewhere, judged as confirm runs are and part of no plan.
Foreign = Literal["foreign"]
FOREIGN: Foreign = "foreign"

State = Literal["RUNNING", "COMPLETE", "PRUNED", "FAIL"]
STATES: tuple[State, ...] = get_args(State)

#: The states of a run that has ended, with what people are told.
END_WORDS: dict[State, Literal["complete", "pruned", "failed"]] = {
    "COMPLETE": "complete",
    "PRUNED": "pruned",
    "FAIL": "failed",
}

# Arms and subjects bear names that are safe as folders (see `study.spec.sections.sound_name`).
_PART = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"

_NAME = re.compile(
    rf"({'|'.join((*PHASES, *DOWNSTREAM_PHASES, FOREIGN))})/({_PART})/([0-9]{{4,9}})-({_PART})-s([0-9]{{1,10}})"
)


def is_sound_name(name: str) -> bool:
    """Whether something read from outside can be a study's, an arm's or a subject's name, and so a folder's."""
    return re.fullmatch(_PART, name) is not None


@dataclass(frozen=True, order=True)
class RunKey:
    """Names one run of a study for ever; nothing hangs on Ray's trial ids or on time stamps.

    Attributes:
        trial: Number of the trial in the arm's search; a confirm run bears the number of the trial that it confirms.
    """

    phase: Phase | DownstreamPhase | Foreign
    arm: str
    trial: int
    subject: str
    seed: int

    @property
    def planned_phase(self) -> Phase:
        """The phase of a run that fine-tunes by the study's plan; raises ValueError for any other."""
        if self.phase == "search" or self.phase == "confirm":
            return self.phase
        if self.phase == FOREIGN:
            raise ValueError(f"{self.name} is no run of the study's plan: its weights were trained elsewhere")
        raise ValueError(f"{self.name} trains a classifier, and fine-tunes nothing")

    @property
    def searches(self) -> bool:
        """Whether it is a run of a search, of arms or of classifiers."""
        return self.phase in ("search", DOWNSTREAM_SEARCH)

    @property
    def trains_classifier(self) -> bool:
        """Whether it is a run of the downstream phase."""
        return self.phase in DOWNSTREAM_PHASES

    @property
    def name(self) -> str:
        """The key as a relative path, e.g. ``search/lora-cosine/0003-cat-1-s0``."""
        return f"{self.phase}/{self.arm}/{self.trial:04d}-{self.subject}-s{self.seed}"

    @classmethod
    def parse(cls, name: str) -> Self:
        """Inverse of `name`; raises ValueError for anything else."""
        match = _NAME.fullmatch(name)
        if not match:
            raise ValueError(f"{name!r} is not the name of a run, which reads phase/arm/0000-subject-s0")
        phase, arm, trial, subject, seed = match.groups()
        return cls(phase, arm, int(trial), subject, int(seed))  # type: ignore[arg-type]

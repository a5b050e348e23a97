"""What others say of generated images, judged by the study's classifiers.

Each source of a claim is judged by itself, by the mean of its classifiers: a mean over sources would let one that harms
hide another that helps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from study.report.downstream_analysis import (
    Findings,
    Gain,
    Recipe,
    decided,
    differences_of,
    mean_difference,
)
from study.report.downstream_data import Source
from study.spec.downstream import Claim
from study.statistics.downstream.comparison import SeedMean
from study.statistics.paired import Outcome

Ruling = Literal["supported", "refuted", "not decided", "not measured"]
RULINGS: tuple[Ruling, ...] = ("supported", "refuted", "not decided", "not measured")


@dataclass(frozen=True)
class JudgedClaim:
    """A claim and what came of it.

    Attributes:
        gains: Of each source that was measured the mean over the claim's classifiers, decided with those of all
            claims.
        missing: Names of the other sources that it is about.
    """

    name: str
    claim: Claim
    ruling: Ruling
    gains: tuple[Gain, ...]
    missing: tuple[str, ...]

    @property
    def contrary(self) -> tuple[Gain, ...]:
        """The sources that are established to be otherwise than expected."""
        return tuple(
            gain for gain in self.gains if gain.outcome not in (*_expected(self.claim), "not enough")
        )


@dataclass(frozen=True)
class _Question:
    """A comparison that claims ask for; those that several ask for count once among all that share a level."""

    source: Source
    against: str
    score: str
    recipes: tuple[Recipe, ...]


def judge_claims(found: Findings) -> tuple[JudgedClaim, ...]:
    """Judges the claims of the study file; all of their sources share one level."""
    claims = found.phase.spec.claims if found.phase.spec else {}
    asked = {name: _questions(found, claim) for name, claim in claims.items()}
    gains = _decided(found, [question for questions in asked.values() for question in questions])
    judged = []
    for name, claim in claims.items():
        own = tuple(gains[question] for question in asked[name] if question in gains)
        measured = [gain.source.name for gain in own]
        missing = tuple(one for one in _named(found, claim) if one not in measured)
        judged.append(JudgedClaim(name, claim, _ruling(claim, own, missing), own, missing))
    return tuple(judged)


def _named(found: Findings, claim: Claim) -> tuple[str, ...]:
    """The sources that a claim is about: all real images with generated ones, where it names none."""
    planned = found.phase.with_generated or tuple(source.name for source in found.generated)
    named = planned if claim.sources is None else claim.sources
    return tuple(name for name in named if name != claim.against)


def _questions(found: Findings, claim: Claim) -> list[_Question]:
    named = _named(found, claim)
    recipes = tuple(
        one for one in found.phase.recipes if claim.classifiers is None or one[0] in claim.classifiers
    )
    return [
        _Question(source, claim.against, claim.score, recipes)
        for source in found.phase.sources
        if source.name in named
    ]


def _decided(found: Findings, questions: Sequence[_Question]) -> dict[_Question, Gain]:
    """The decisions on what was measured. Larger is better in all scores that a claim may name."""
    phase = found.phase
    measured: dict[_Question, SeedMean] = {}
    for one in dict.fromkeys(questions):
        tables = differences_of(phase, found.tables, one.score, [one.source], one.recipes, one.against)
        if (mean := mean_difference(tables)) is not None:
            measured[one] = mean
    family = [(one.source, None, mean) for one, mean in measured.items()]
    gains = decided([family], "accuracy", phase.margin, found.settings)
    return dict(zip(measured, gains, strict=True))


def _expected(claim: Claim) -> tuple[Outcome, ...]:
    return ("equivalent", "worse") if claim.predicts == "not_better" else (claim.predicts,)


def _ruling(claim: Claim, gains: Sequence[Gain], missing: Sequence[str]) -> Ruling:
    """One source that is otherwise refutes; to support, every source has to be as expected."""
    expected = _expected(claim)
    outcomes = {gain.outcome for gain in gains}
    if not outcomes:
        return "not measured"
    if outcomes - {*expected, "not enough"}:
        return "refuted"
    return "supported" if outcomes <= set(expected) and not missing else "not decided"

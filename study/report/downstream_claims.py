"""What others say of generated images, judged by the study's classifiers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from study.report.downstream_analysis import (
    Findings,
    Gain,
    decided,
    differences_of,
    mean_difference,
)
from study.report.downstream_data import Source
from study.spec.downstream import Claim
from study.statistics.downstream.comparison import ScoreTable, SeedMean

Ruling = Literal["supported", "refuted", "not decided", "not measured"]
RULINGS: tuple[Ruling, ...] = ("supported", "refuted", "not decided", "not measured")


@dataclass(frozen=True)
class JudgedClaim:
    """A claim and what came of it.

    Attributes:
        gain: The mean over its sources and classifiers, decided with those of the other claims; None where nothing of
            it was measured.
        sources: Those that were measured; `missing`: of those that it names, the others.
    """

    name: str
    claim: Claim
    ruling: Ruling
    gain: Gain | None
    sources: tuple[str, ...]
    missing: tuple[str, ...]


def judge_claims(found: Findings) -> tuple[JudgedClaim, ...]:
    """Judges the claims of the study file; all share one level."""
    claims = found.phase.spec.claims if found.phase.spec else {}
    measured = {name: _measured(found, claim) for name, claim in claims.items()}
    asked = [(name, mean) for name, (_, mean) in measured.items() if mean is not None]
    gains = _decided(found, claims, asked)
    judged = []
    for name, claim in claims.items():
        sources, _ = measured[name]
        gain = gains.get(name)
        named = claim.sources or tuple(source.name for source in found.generated)
        seen = tuple(source.name for source in sources) if gain else ()
        missing = tuple(one for one in named if one not in seen)
        judged.append(JudgedClaim(name, claim, _ruling(claim, gain), gain, seen, missing))
    return tuple(judged)


def _measured(found: Findings, claim: Claim) -> tuple[list[Source], SeedMean | None]:
    """The sources of a claim that were measured, and the mean difference over these and the claim's classifiers."""
    phase = found.phase
    named = [
        source
        for source in phase.sources
        if (source.adds_images if claim.sources is None else source.name in claim.sources)
        and source.name != claim.against
    ]
    recipes = [one for one in phase.recipes if claim.classifiers is None or one[0] in claim.classifiers]

    def differences(sources: list[Source]) -> list[ScoreTable]:
        return differences_of(phase, found.tables, claim.score, sources, recipes, claim.against)

    known = [source for source in named if differences([source])]
    return known, mean_difference(differences(known))


def _decided(found: Findings, claims: dict[str, Claim], asked: list[tuple[str, SeedMean]]) -> dict[str, Gain]:
    """The decisions by claim. Each is one of its own score, and larger is better in all of them."""
    source = Source("claim", None, None, None, 1.0)
    family = [(source, None, mean) for _, mean in asked]
    gains = decided([family], "accuracy", found.phase.margin, found.settings)
    return {name: gain for (name, _), gain in zip(asked, gains, strict=True)}


def _ruling(claim: Claim, gain: Gain | None) -> Ruling:
    if gain is None:
        return "not measured"
    if gain.outcome == "not enough":
        return "not decided"
    meant = ("equivalent", "worse") if claim.predicts == "not_better" else (claim.predicts,)
    return "supported" if gain.outcome in meant else "refuted"

"""The tables of what others say of generated images: the verdicts, and what was found of each source."""

from __future__ import annotations

from collections.abc import Sequence

from study.report.downstream_claims import JudgedClaim
from study.report.downstream_tables import POINTS, TITLES, scored
from study.report.formatting import listing
from study.report.results_tables import p_values, texts
from study.report.tables import Column, Table, assemble

_NAMED = 3  # in a cell on many


def claims_table(judged: Sequence[JudgedClaim]) -> Table | None:
    """The claims with their verdicts."""
    if not judged:
        return None
    columns = [
        texts("name", "Claim", [one.name for one in judged]),
        texts("ruling", "Verdict", [claim_words(one) for one in judged]),
        texts("expected", "Expected", [expected_words(one) for one in judged]),
        texts("claim", "In words", [one.claim.says for one in judged]),
        texts(
            "sources", "Judged by", [_few([gain.source.name for gain in one.gains]) or None for one in judged]
        ),
        texts("source", "Source", [one.claim.source or None for one in judged]),
    ]
    notes = (
        "Each of the sources that a claim is judged by (real images with generated ones, all where it names none) is "
        "compared by itself, by the mean of the classifiers that it names (all, where it names none). Supported: "
        "every one has a verdict that is expected (not better: equivalent or worse); refuted: at least one is "
        "established to be otherwise, whatever the others are; not decided: neither.",
    )
    return assemble("downstream-claims", "Claims about generated images.", columns, notes)


def claim_sources_table(judged: Sequence[JudgedClaim], margin: float) -> Table | None:
    """What was found of each source of each claim."""
    lines = [(one, gain) for one in judged for gain in one.gains]
    if not lines:
        return None
    columns = [
        texts("name", "Claim", [one.name for one, _ in lines]),
        texts("source", "Learns from", [gain.source.name for _, gain in lines]),
        (
            Column("estimate", "Found", "points", numeric=True, has_interval=True),
            [scored(gain.estimate, POINTS, sign=True) for _, gain in lines],
        ),
        texts("outcome", "Verdict", [gain.outcome for _, gain in lines]),
        p_values("p", "p", [gain.p for _, gain in lines]),
        texts("against", "Less", [one.claim.against for one, _ in lines]),
        texts("score", "In", [TITLES[one.claim.score].lower() for one, _ in lines]),
    ]
    notes = (
        "Found: mean difference on test images, over the claim's classifiers, with its interval. p and verdicts "
        f"(equivalent: within ±{100 * margin:g} points): adjusted by Holm over all lines together; a comparison that "
        "several claims ask for counts once.",
    )
    return assemble("downstream-claim-sources", "The claims, source by source.", columns, notes)


def expected_words(one: JudgedClaim) -> str:
    """E.g. "not better than real in accuracy"."""
    claim = one.claim
    relation = (
        "equivalent to" if claim.predicts == "equivalent" else f"{claim.predicts.replace('_', ' ')} than"
    )
    return f"{relation} {claim.against} in {TITLES[claim.score].lower()}"


def claim_words(one: JudgedClaim) -> str:
    """The ruling with what refutes it, or what is missing."""
    if one.ruling == "not measured":
        return f"not measured: no runs of {_few(one.missing) or 'generated images'}"
    found = ""
    if one.ruling == "refuted":
        outcomes = dict.fromkeys(gain.outcome for gain in one.contrary)
        by_outcome = {
            outcome: [gain.source.name for gain in one.contrary if gain.outcome == outcome]
            for outcome in outcomes
        }
        found = ": " + "; ".join(f"{outcome} with {_few(names)}" for outcome, names in by_outcome.items())
    return f"{one.ruling}{found}{f'; without {_few(one.missing)}' if one.missing else ''}"


def _few(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return listing(names) if more <= 0 else f"{', '.join(names[:_NAMED])} and {more} more"

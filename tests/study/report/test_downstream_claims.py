"""Claims over several sources: each source is judged by itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

from study.report import downstream_claims
from study.report.comparisons import Settings
from study.report.content import Report
from study.report.downstream_analysis import Findings, Gain, analyse_downstream
from study.report.downstream_claim_tables import claim_sources_table, claim_words
from study.report.downstream_claims import JudgedClaim, judge_claims
from study.report.downstream_data import phase_of
from study.report.prepared import prepare
from study.report.sections import compose
from study.results.from_folders import local_results
from study.spec.downstream import Claim
from study.statistics.paired import Outcome
from tests.helpers.downstream_runs import world_of, write_study
from tests.helpers.made_reports import cells, table

QUICK = Settings(resamples=300)
SOURCES = ("copies-x10", "wrong-x10", "noise-x10")
CLAIMS: dict[str, dict[str, Any]] = {
    "nothing-helps": {"says": "Extra images won't help", "predicts": "not_better"},
    "all-help": {"says": "Extra images help", "predicts": "better", "sources": ("copies-x10", "wrong-x10")},
    "wrong-harms": {"says": "Wrong images harm", "predicts": "worse", "sources": ("wrong-x10",)},
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    """Of a study in which copies help and images of the wrong classes harm more than that."""
    world = world_of(trials=1, generated_only=False, claims=CLAIMS)
    phase = phase_of(prepare(local_results(write_study(tmp_path_factory.mktemp("storage"), world))))
    assert phase is not None
    analysed = analyse_downstream(phase, QUICK)
    assert analysed is not None
    return analysed


def judged(
    found: Findings, monkeypatch: pytest.MonkeyPatch, predicts: str, outcomes: dict[str, Outcome]
) -> JudgedClaim:
    """A claim over all sources, of which these are the verdicts."""

    def decided(families: Any, *_: Any) -> list[Gain]:
        return [
            Gain(source, None, "accuracy", mean, mean.estimate(), 0.01, outcomes[source.name])
            for source, _, mean in families[0]
        ]

    claim = Claim(says="so", predicts=predicts, sources=SOURCES)  # type: ignore[arg-type]
    assert found.phase.spec is not None
    spec = found.phase.spec.model_copy(update={"claims": {"one": claim}})
    monkeypatch.setattr(downstream_claims, "decided", decided)
    (one,) = judge_claims(replace(found, phase=replace(found.phase, spec=spec)))
    return one


def test_an_arm_that_harms_does_not_hide_one_that_helps(found: Findings) -> None:
    by_name = {one.name: one for one in judge_claims(found)}
    outcomes = {gain.source.name: gain.outcome for gain in by_name["nothing-helps"].gains}
    assert (outcomes["copies-x10"], outcomes["wrong-x10"]) == ("better", "worse")
    values = [gain.found.mean for gain in by_name["nothing-helps"].gains]
    assert sum(values) < 0  # by their mean, nothing helps
    assert claim_words(by_name["nothing-helps"]) == "refuted: better with copies-x10"
    assert claim_words(by_name["all-help"]) == "refuted: worse with wrong-x10"
    assert by_name["wrong-harms"].ruling == "supported"


def test_each_source_has_a_line_and_what_several_claims_ask_counts_once(found: Findings) -> None:
    claims = judge_claims(found)
    lines = claim_sources_table(claims, 0.02)
    assert lines is not None
    told = list(zip(cells(lines, "name"), cells(lines, "source"), cells(lines, "outcome"), strict=True))
    assert ("nothing-helps", "copies-x10", "better") in told
    assert [name for name, _, _ in told] == ["all-help"] * 2 + ["nothing-helps"] * 3 + ["wrong-harms"]
    # Three comparisons in all: the smallest p is multiplied by three, and not by the six lines.
    gains = {gain.source.name: gain for one in claims for gain in one.gains}
    first = min(gains.values(), key=lambda gain: gain.found.p)
    assert first.p == pytest.approx(3 * first.found.p)


@pytest.mark.parametrize(
    ("predicts", "outcomes", "ruling"),
    [
        ("not_better", ("equivalent", "worse", "worse"), "supported"),
        ("not_better", ("equivalent", "worse", "not enough"), "not decided"),
        ("not_better", ("worse", "better", "not enough"), "refuted"),
        ("better", ("better", "better", "better"), "supported"),
        ("better", ("better", "better", "not enough"), "not decided"),
        ("better", ("better", "equivalent", "better"), "refuted"),
        ("better", ("better", "worse", "not enough"), "refuted"),
        ("equivalent", ("equivalent", "equivalent", "equivalent"), "supported"),
        ("equivalent", ("equivalent", "worse", "equivalent"), "refuted"),
        ("equivalent", ("not enough", "not enough", "not enough"), "not decided"),
        ("worse", ("worse", "worse", "worse"), "supported"),
        ("worse", ("worse", "equivalent", "worse"), "refuted"),
        ("worse", ("worse", "not enough", "better"), "refuted"),
    ],
)
def test_every_source_supports_and_any_refutes(
    found: Findings,
    monkeypatch: pytest.MonkeyPatch,
    predicts: str,
    outcomes: tuple[Outcome, ...],
    ruling: str,
) -> None:
    assert set(outcomes) <= set(get_args(Outcome))
    one = judged(found, monkeypatch, predicts, dict(zip(SOURCES, outcomes, strict=True)))
    assert one.ruling == ruling
    assert bool(one.contrary) == (ruling == "refuted")


def test_a_study_under_way_supports_nothing_that_a_missing_source_may_refute(tmp_path: Path) -> None:
    spec = {"seeds": (0, 1, 2), "trials": 1, "generated_only": False, "ratios": (1.0, 10.0)}
    away = frozenset(
        f"downstream/wrong-x1.resnet18/0001-g{g}-s{s}" for g in (100, 101, 102) for s in (0, 1, 2)
    )
    claims = {"harm": {"says": "It harms", "predicts": "worse"}}
    world = world_of(("wrong",), claims=claims, left_out=away, **spec)
    report: Report = compose(local_results(write_study(tmp_path, world)), QUICK)
    assert cells(table(report, "downstream-claims"), "ruling") == ["not decided; without wrong-x1"]
    assert cells(table(report, "downstream-claim-sources"), "outcome") == ["worse"]

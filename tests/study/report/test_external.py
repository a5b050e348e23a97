"""Reports of results that this program did not make: numbers against an independent computation, names, directions."""

from __future__ import annotations

import csv
import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from study.report import build_report
from study.report.comparisons import Settings
from study.report.external_sections import compose_external
from study.report.figures.canvas import Figure
from study.report.figures.pareto import compute_front
from study.report.measures import external_measures, measure
from study.report.sections import Report
from study.report.tables import Table
from study.results.any_table import table_source
from study.results.csv_files import read_csv
from study.results.external import external_results
from study.results.frames import Results
from study.results.mapping import mapping_of
from tests.helpers.other_results import SUBJECTS, OtherRun, other_runs, write_table
from trainables.errors import UserError

QUICK = Settings(resamples=500)
MEANING = {
    "arm": ["adapter"], "quality": ["fid"], "cost": ["minutes", "memory"], "subject": ["item"], "seed": ["seed"],
    "lower_is_better": ["fid"], "metrics": ["clip"],
}  # fmt: skip


def results(path: Path, runs: list[OtherRun], **meaning: Any) -> Results:
    table = write_table(path / "other.csv", [vars(run) for run in runs])
    return external_results(table_source(table), mapping_of(None, {**MEANING, **meaning}))


def report(path: Path, runs: list[OtherRun], **meaning: Any) -> Report:
    return compose_external(results(path, runs, **meaning), QUICK)


def table(found: Report, key: str) -> Table:
    return next(one for one in found.tables if one.key == key)


def column(found: Table, key: str) -> list[Any]:
    place = [one.key for one in found.columns].index(key)
    return [row[place].value for row in found.rows]


def cells(found: Table, key: str) -> list[tuple[float | None, float | None]]:
    place = [one.key for one in found.columns].index(key)
    return [(row[place].low, row[place].high) for row in found.rows]


def subject_means(runs: list[OtherRun], adapter: str) -> np.ndarray:
    return np.array(
        [
            np.mean([run.fid for run in runs if (run.adapter, run.item) == (adapter, item)])
            for item in SUBJECTS
        ]
    )


def holm(p: dict[tuple[str, str], float]) -> dict[tuple[str, str], float]:
    """Holm's adjustment, by its definition."""
    ordered, adjusted, largest = sorted(p, key=lambda pair: p[pair]), {}, 0.0
    for place, pair in enumerate(ordered):
        largest = max(largest, min(1.0, (len(p) - place) * p[pair]))
        adjusted[pair] = largest
    return adjusted


def text_of(found: Report) -> str:
    return " ".join((found.verdict.headline, *found.verdict.points, *found.verdict.warnings))


@pytest.fixture(scope="module")
def runs() -> list[OtherRun]:
    return other_runs()


@pytest.fixture(scope="module")
def found(runs: list[OtherRun], tmp_path_factory: pytest.TempPathFactory) -> Report:
    return report(tmp_path_factory.mktemp("other"), runs)


# Numbers


def test_means_and_intervals_are_those_of_scipy(runs: list[OtherRun], found: Report) -> None:
    arms = table(found, "arms")
    for arm, mean, (low, high) in zip(
        column(arms, "arm"), column(arms, "metric.fid"), cells(arms, "metric.fid"), strict=True
    ):
        units = subject_means(runs, arm)
        assert mean == pytest.approx(units.mean(), rel=1e-12)
        expected = stats.t.interval(0.95, len(units) - 1, units.mean(), stats.sem(units))
        assert (low, high) == pytest.approx(expected, rel=1e-9)


def test_differences_tests_and_verdicts_are_those_of_scipy(runs: list[OtherRun], found: Report) -> None:
    pairs = table(found, "pairs")
    units = {arm: subject_means(runs, arm) for arm in ("LoRA", "LoKr", "OFT")}
    named = list(zip(column(pairs, "first"), column(pairs, "second"), strict=True))
    assert {frozenset(pair) for pair in named} == {
        frozenset(pair) for pair in itertools.combinations(units, 2)
    }
    p = {pair: float(stats.ttest_rel(units[pair[0]], units[pair[1]]).pvalue) for pair in named}
    adjusted = holm(p)
    for k, pair in enumerate(named):
        difference = units[pair[0]] - units[pair[1]]
        assert column(pairs, "metric.fid_difference")[k] == pytest.approx(difference.mean(), rel=1e-9)
        expected = stats.t.interval(0.95, len(difference) - 1, difference.mean(), stats.sem(difference))
        assert cells(pairs, "metric.fid_difference")[k] == pytest.approx(expected, rel=1e-9)
        assert column(pairs, "p")[k] == pytest.approx(p[pair], rel=1e-7)
        assert column(pairs, "p_holm")[k] == pytest.approx(adjusted[pair], rel=1e-7)
        verdict = "not enough" if adjusted[pair] >= 0.05 else "better" if difference.mean() < 0 else "worse"
        assert column(pairs, "verdict")[k] == verdict
    assert (
        sorted(column(pairs, "verdict")) == ["better", "better", "not enough"]
        or len(set(adjusted.values())) > 1
    )


def test_an_equivalence_is_asked_for_by_a_margin(runs: list[OtherRun], tmp_path: Path) -> None:
    one = next(
        c for c in report(tmp_path, runs, margin=2.0).analysis.pairs if {c.first, c.second} == {"LoKr", "OFT"}
    )
    difference = subject_means(runs, "LoKr") - subject_means(runs, "OFT")
    p = max(
        stats.ttest_1samp(difference, -2.0, alternative="greater").pvalue,
        stats.ttest_1samp(difference, 2.0, alternative="less").pvalue,
    )
    assert p < 0.05 / 3
    assert one.outcome == "equivalent"
    plain = next(c for c in report(tmp_path, runs).analysis.pairs if {c.first, c.second} == {"LoKr", "OFT"})
    assert plain.p_equivalent is None


# Directions and names


def test_axes_bear_the_arrows_that_tables_have(found: Report) -> None:
    """Of a measure of which lower is better: in the ranked figure, the intervals and the Pareto fronts."""
    checked = []
    for figure in found.figures:
        if figure.key.startswith(("ranked", "intervals", "pareto")):
            axes = figure.draw().axes
            labels = [label for ax in axes for label in (ax.get_xlabel(), ax.get_ylabel()) if label]
            checked += [label.replace("\n", " ")[-1] for label in labels]
            assert labels
            assert all(label[-1] in "↑↓" for label in labels), figure.key
    assert "↓" in checked


def test_lower_is_better_turns_everything(runs: list[OtherRun], found: Report) -> None:
    means = {arm: subject_means(runs, arm).mean() for arm in ("LoRA", "LoKr", "OFT")}
    ordered = sorted(means, key=lambda arm: means[arm])
    assert found.analysis.best == ordered[0]
    arms = table(found, "arms")
    assert column(arms, "arm") == ordered
    place = [one.key for one in arms.columns].index("metric.fid")
    assert arms.columns[place].heading == "fid ↓"
    assert [row[place].rank for row in arms.rows] == [1, 2, None]
    assert all(c.improvement.value > 0.5 for c in found.analysis.against_best if c.second == "LoRA")
    assert "lowest mean" in found.verdict.headline
    assert "highest" not in text_of(found)
    with external_measures(measures_of(found)):
        front = compute_front(found.analysis, "metric.minutes", "metric.fid")
    cheap = {run.adapter: [] for run in runs}
    for run in runs:
        cheap[run.adapter].append(run.minutes)
    costs = {arm: np.mean(values) for arm, values in cheap.items()}
    on_front = {
        arm
        for arm in means
        if not any(means[o] <= means[arm] and costs[o] <= costs[arm] and o != arm for o in means)
    }
    assert {point.arm for point in front.points if point.on_front} == on_front
    shares = {standing.arm: standing.best for standing in found.analysis.standings}
    assert shares["LoRA"] == 0.0


def test_how_to_read_d_is_said_where_lower_is_better(
    runs: list[OtherRun], found: Report, tmp_path: Path
) -> None:
    note = table(found, "effects").notes[0]
    assert "of fid lower is better, so that a negative d speaks for the first arm" in note
    pair = next(c for c in found.analysis.pairs if c.outcome == "better")
    assert pair.effect.value < 0 < 0.5 < pair.improvement.value
    higher = report(tmp_path, [replace(run, fid=-run.fid) for run in runs], lower_is_better=[])
    assert "a negative d" not in table(higher, "effects").notes[0]


def test_runs_without_the_first_quality_are_in_no_comparison_of_it(
    runs: list[OtherRun], tmp_path: Path
) -> None:
    made = report(tmp_path, [replace(run, fid=math.nan) if k == 0 else run for k, run in enumerate(runs)])
    left = table(made, "left-out")
    assert left.caption == "Runs that are not compared by fid, and why."
    assert left.rows[0][0].text == "have no value of fid; their other measures count"
    assert "1 of 36 runs are not compared by fid; the section" in text_of(made)


def test_the_headline_says_what_is_open_and_what_would_decide_it(found: Report) -> None:
    assert (
        "but the lead over LoKr is not established: there are 6 subjects; a decision takes at least about"
        in (found.verdict.headline)
    )
    assert " it " not in found.verdict.headline
    glance = next(section for section in found.sections if section.key == "glance")
    assert "The cheapest arm over which no lead of OFT is established: LoKr (minutes" in " ".join(
        glance.paragraphs
    )


def measures_of(found: Report) -> Any:
    from study.report.external import external_of

    facts = external_of(found.rows.meta)
    assert facts is not None
    return facts.shown_measures()


def test_higher_is_better_unless_it_is_said(runs: list[OtherRun], tmp_path: Path) -> None:
    turned = [replace(run, fid=-run.fid) for run in runs]
    higher, lower = report(tmp_path, turned, lower_is_better=[]), report(tmp_path, runs)
    assert higher.analysis.best == lower.analysis.best
    assert [c.outcome for c in higher.analysis.pairs] == [c.outcome for c in lower.analysis.pairs]
    assert [c.p for c in higher.analysis.pairs] == pytest.approx([c.p for c in lower.analysis.pairs])
    assert "highest mean" in higher.verdict.headline


def test_metrics_keep_their_names_and_no_word_is_of_another_program(found: Report) -> None:
    said = " ".join(
        (
            text_of(found),
            *(p for section in found.sections for p in (section.title, *section.paragraphs)),
            *(t for one in found.tables for t in (one.caption, *one.notes, *(c.title for c in one.columns))),
            *(t for one in found.figures for t in (one.caption, one.alt)),
        )
    )
    for word in (
        "trained arm",
        "base model",
        "class image",
        "search",
        "prompt",
        "confirm",
        "training time",
        "study file",
    ):
        assert word not in said.lower(), word
    assert "fid of" in said
    keys = {section.key for section in found.sections}
    assert keys == {"glance", "results", "cost", "pairs", "data", "method", "provenance"}


def test_a_metric_called_as_one_of_this_program_is_not_taken_for_it(
    runs: list[OtherRun], tmp_path: Path
) -> None:
    """This program's quality lies between 0 and 1, its intervals are cut there, and it is shown with two decimals."""
    rows = [{**vars(run), "quality": run.fid / 1e4} for run in runs]
    source = table_source(write_table(tmp_path / "t.csv", rows))
    meaning = mapping_of(None, {**MEANING, "quality": ["quality"], "lower_is_better": ["quality"]})
    made = compose_external(external_results(source, meaning), QUICK)
    arms = table(made, "arms")
    place = [one.key for one in arms.columns].index("metric.quality")
    assert all(
        row[place].text.startswith("0.002") or row[place].text.startswith("0.003") for row in arms.rows
    )
    assert arms.columns[place].title == "quality"
    assert measure("quality").title == "Quality"


def test_titles_units_and_meanings_of_a_mapping(runs: list[OtherRun], tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(
        "arm: adapter\nquality: fid\nlower_is_better: true\nsubject: item\nname: My adapters\ncost: [minutes, memory]\n"
        "metrics:\n  fid: {title: FID (DINO), description: Fréchet distance.}\n  memory: {title: Memory, unit: B}\n"
    )
    source = table_source(write_table(tmp_path / "t.csv", [vars(run) for run in runs]))
    made = compose_external(external_results(source, mapping_of(path, {})), QUICK)
    assert made.study == "My adapters"
    assert [one.heading for one in table(made, "arms").columns[3:]] == [
        "FID (DINO) ↓",
        "minutes ↓",
        "Memory (GB) ↓",
    ]
    assert "FID (DINO)" in made.verdict.headline
    assert "Fréchet distance." in column(table(made, "measures"), "description")


# What the data cannot say


def without(runs: list[OtherRun], **changed: Any) -> list[OtherRun]:
    return [replace(run, **changed) for run in runs]


def test_without_subjects_there_is_no_interval_and_no_verdict(runs: list[OtherRun], tmp_path: Path) -> None:
    for seeds in ([], ["seed"]):
        made = report(tmp_path, runs, subject=[], seed=seeds)
        said = text_of(made)
        assert "one subject cannot carry a verdict" in said
        assert "no subject is named, and nothing can be said of chance" in made.verdict.headline
        assert all(c.outcome == "not enough" and c.p is None for c in made.analysis.pairs)
        assert all(one.low is None for r in made.analysis.arms for one in r.estimates.values())
        assert "pairs" not in [one.key for one in made.tables]
        assert ("No seed is named" in said) is not bool(seeds)


def test_seeds_as_units_are_named_so(runs: list[OtherRun], tmp_path: Path) -> None:
    many = [replace(run, seed=f"{run.seed}{run.item}", item="x") for run in runs]
    made = report(tmp_path, many, subject=["seed"])
    assert "The units are seeds: intervals and verdicts speak of other seeds" in text_of(made)
    assert made.analysis.subjects == 2 * len(SUBJECTS)


def test_two_subjects_carry_no_interval(runs: list[OtherRun], tmp_path: Path) -> None:
    made = report(tmp_path, [run for run in runs if run.item in SUBJECTS[:2]])
    assert "There are 2 subjects, and 3 are the fewest" in text_of(made)


def test_without_seeds_arms_are_paired_by_subject(runs: list[OtherRun], tmp_path: Path) -> None:
    made = report(tmp_path, runs, seed=[])
    assert "several runs of one arm and subject were averaged" in text_of(made)
    one = made.analysis.pairs[0]
    difference = subject_means(runs, one.first) - subject_means(runs, one.second)
    assert one.difference.value == pytest.approx(difference.mean())
    assert one.difference.n == len(SUBJECTS)
    assert "subject and seed" not in text_of(made)


def test_arms_without_a_common_seed_are_not_compared(runs: list[OtherRun], tmp_path: Path) -> None:
    apart = [replace(run, seed=run.seed + run.adapter) for run in runs]
    said = text_of(report(tmp_path, apart))
    assert (
        "3 of 3 pairs of arms have no subject and seed in common and cannot be compared; without --seed"
        in said
    )


def test_arms_that_share_few_seeds_are_said_to_be_compared_on_few_runs(tmp_path: Path) -> None:
    """A leads by means, and B on the one seed of nine that they share: what is compared is told."""
    runs = [
        OtherRun(adapter, item, str(seed), 1.0 - 0.5 * (adapter == "A") * (seed != 8), 0.5, 1.0, 1e9)
        for adapter, seeds in (("A", range(9)), ("B", range(8, 17)))
        for item in SUBJECTS
        for seed in seeds
    ]
    runs = [replace(run, fid=run.fid + 0.3 * (run.adapter == "A" and run.seed == "8")) for run in runs]
    said = text_of(report(tmp_path, runs))
    assert "1 pair of arms is compared on less than half of their runs" in said
    assert "(A and B: 6 of 54)" in said
    half = [replace(run, seed=str(int(run.seed) - 4)) if run.adapter == "B" else run for run in runs]
    assert "less than half of their runs" not in text_of(report(tmp_path, half))


def test_runs_that_diverged_are_said_with_the_arm_that_leads(runs: list[OtherRun], tmp_path: Path) -> None:
    runs = [replace(run, fid=run.fid - 5 * (run.adapter == "LoKr")) for run in runs]

    def lost(adapter: str) -> Report:
        return report(tmp_path, [
            replace(run, fid=math.nan) if (run.adapter, run.item) == (adapter, "cup") else run for run in runs
        ])  # fmt: skip

    best = lost("LoKr")
    assert best.analysis.best == "LoKr"
    assert "But 2 of LoKr's 12 runs have no fid" in best.verdict.headline
    assert "are in no mean: LoKr 2 of 12." in text_of(best)
    other = lost("LoRA")
    assert "have no fid" not in other.verdict.headline
    assert "are in no mean: LoRA 2 of 12." in text_of(other)


def test_runs_that_were_done_twice_are_averaged_and_said(runs: list[OtherRun], tmp_path: Path) -> None:
    again = [replace(runs[0], fid=runs[0].fid + 2)]
    made = report(tmp_path, [*runs, *again])
    assert (
        "1 combination of arm, subject and seed has several runs that completed; they were averaged."
        in text_of(made)
    )
    means = subject_means([replace(runs[0], fid=runs[0].fid + 1), *runs[1:]], runs[0].adapter)
    assert made.analysis.arm(runs[0].adapter).estimates["metric.fid"].value == pytest.approx(means.mean())


def test_arms_on_other_subjects_and_costs_that_are_missing_are_named(
    runs: list[OtherRun], tmp_path: Path
) -> None:
    few = [
        replace(run, minutes=math.nan) if run.adapter == "OFT" else run
        for run in runs
        if (run.adapter, run.item) != ("LoKr", "cup")
    ]
    said = text_of(report(tmp_path, few))
    assert "1 arm of 3 was not run on all 6 subjects (LoKr)" in said
    assert "minutes is missing for 1 arm: OFT." in said
    assert "No cost is named" in text_of(report(tmp_path, runs, cost=[]))


def test_whether_arms_were_tuned_alike_is_never_known(found: Report) -> None:
    assert "Whether arms were tuned alike" in text_of(found)


def test_settings_over_which_means_are_taken_are_named(runs: list[OtherRun], tmp_path: Path) -> None:
    good = results(tmp_path, runs)
    meta = {**good.meta, "external": {**good.meta["external"], "varying": ["lr", "rank"]}}
    said = text_of(compose_external(replace(good, meta=meta), QUICK))
    assert "Runs of one arm also differ in lr and rank, and their means are over these settings, too." in said
    assert "also differ" not in text_of(compose_external(good, QUICK))


# Files


def test_a_report_is_the_same_from_its_own_data(runs: list[OtherRun], tmp_path: Path) -> None:
    first = build_report(results(tmp_path, runs), tmp_path / "one")
    again = build_report(read_csv(tmp_path / "one" / "data"), tmp_path / "two")
    for path in (*first.tables, *first.figures, *first.data, first.html, first.markdown, first.manifest):
        name = path.relative_to(first.folder)
        assert path.read_bytes() == (again.folder / name).read_bytes(), name
    with (tmp_path / "one" / "tables" / "arms.csv").open() as file:
        assert "metric.fid_low" in next(csv.reader(file))


def test_names_of_others_are_harmless_in_every_format(runs: list[OtherRun], tmp_path: Path) -> None:
    wild = [replace(run, adapter=f"<b>{run.adapter}</b> & $x_1$ \\ | trained arm") for run in runs]
    files = build_report(results(tmp_path, wild), tmp_path / "one")
    page = files.html.read_text()
    assert "<b>LoRA" not in page
    assert "&lt;b&gt;LoRA&lt;/b&gt; &amp; $x_1$ \\ | trained arm" in page
    assert r"\$x\_1\$" in (files.folder / "tables" / "arms.tex").read_text()


def test_damaged_facts_are_refused(runs: list[OtherRun], tmp_path: Path) -> None:
    good = results(tmp_path, runs)
    for broken in (
        {**good.meta["external"], "measures": []},
        {**good.meta["external"], "measures": [{"name": "x", "role": "cost"}]},
        "text",
    ):
        with pytest.raises(UserError, match="damaged where it says what was compared"):
            build_report(replace(good, meta={**good.meta, "external": broken}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_figures_are_drawn_with_the_names_of_others(found: Report) -> None:
    figures = {one.key: one for one in found.figures}
    assert set(figures) == {"ranked", "intervals", "differences", "pareto-costs"}
    for one in figures.values():
        assert isinstance(one, Figure)
        labels = [text.get_text() for text in one.draw().findobj(lambda artist: hasattr(artist, "get_text"))]
        assert any("fid" in label for label in labels), one.key
        assert not any("metric." in label for label in labels), one.key

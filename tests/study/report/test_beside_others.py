"""Results of others beside each other, and beside a study: by the measures that all have, paired by subject."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from study.report import build_report
from study.report.external_sections import compose_external
from study.report.sections import Report
from study.results.any_table import table_source
from study.results.beside_others import beside_others
from study.results.csv_files import read_csv
from study.results.external import external_results
from study.results.mapping import mapping_of
from study.results.side_by_side import Beside
from tests.helpers.made_reports import QUICK
from tests.helpers.other_results import OtherRun, other_runs, write_table
from tests.helpers.synthetic_results import ARMS, Study, make_results
from trainables.errors import UserError

SUBJECTS = ("dog-1", "bird-1", "fox-1", "owl-1")
MEANING: dict[str, Any] = {
    "arm": ["adapter"],
    "quality": ["fid"],
    "lower_is_better": True,
    "subject": ["item"],
    "seed": ["seed"],
}


@pytest.fixture
def runs() -> list[OtherRun]:
    return other_runs()


def theirs(
    folder: Path, name: str, rows: list[dict[str, Any]], mapping: Path | None = None, **more: Any
) -> Beside:
    source = table_source(write_table(folder / f"{name}.csv", rows))
    meaning = mapping_of(mapping, {**({} if mapping else MEANING), "name": name, **more})
    return Beside(name, external_results(source, meaning))


def shifted(runs: list[OtherRun], by: float, **renamed: str) -> list[dict[str, Any]]:
    """The runs with a larger fid, seeds of other names, and columns under other names."""
    rows = [{**vars(one), "fid": one.fid + by, "seed": f"rng-{one.seed}"} for one in runs]
    return [{renamed.get(name, name): value for name, value in row.items()} for row in rows]


def own(**spec: Any) -> Beside:
    study = Study(arms=ARMS[:3], subjects=SUBJECTS, trials=2, modern=True)
    results = make_results(study)
    meta = {"study": "own", "spec": {"name": "own", "report": {"margin": 0.05}, **spec}}
    return Beside("own", replace(results, meta=meta))


def quality_rows(subjects: tuple[str, ...] = SUBJECTS) -> list[dict[str, Any]]:
    return [
        {"adapter": arm, "item": item, "seed": k, "quality": 0.3 + 0.1 * n + 0.01 * k * n + 0.02 * len(item)}
        for n, arm in enumerate(("LoKr", "OFT"))
        for item in subjects
        for k in (0, 1)
    ]


def composed(*found: Beside) -> Report:
    return compose_external(beside_others(found), QUICK)


def warnings(report: Report) -> str:
    return " ".join(report.verdict.warnings)


def test_two_tables_are_paired_by_subject_whatever_their_seeds_are_called(
    runs: list[OtherRun], tmp_path: Path
) -> None:
    fewer = [one for one in runs if one.item != "van"]
    one = theirs(tmp_path, "A", [vars(run) for run in runs])
    report = composed(one, theirs(tmp_path, "B", shifted(fewer, 1.0)))
    assert set(report.rows.arms) == {f"{name}/{arm}" for name in "AB" for arm in ("LoRA", "LoKr", "OFT")}

    def means(rows: list[OtherRun], arm: str) -> np.ndarray:
        items = sorted({one.item for one in fewer})
        return np.array([np.mean([r.fid for r in rows if (r.adapter, r.item) == (arm, i)]) for i in items])

    pair = next(c for c in report.analysis.pairs if {c.first, c.second} == {"A/LoKr", "B/LoRA"})
    assert pair.first == "A/LoKr"
    difference = means(runs, "LoKr") - means(fewer, "LoRA") - 1.0
    assert pair.difference.n_subjects == 5
    assert pair.difference.value == pytest.approx(difference.mean())
    assert pair.p == pytest.approx(stats.ttest_1samp(difference, 0.0).pvalue)
    assert pair.outcome == "better"
    assert report.verdict.warnings[0].startswith(
        "These results need not be on one scale: what A and B have was"
    )
    assert "need not be on one scale" in report.verdict.headline
    assert "Arms are ranked by fid." in report.verdict.warnings[1]
    assert "5 subjects are in more than one of the reports, by name alone" in warnings(report)
    assert "Whether arms were tuned alike" in warnings(report)
    assert set(report.rows.frame["seed"]) == {0, 1, 2, 3}  # seeds are told apart, and not paired


def test_measures_are_the_same_by_name_or_by_the_title_that_a_mapping_gives(
    runs: list[OtherRun], tmp_path: Path
) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(
        "arm: adapter\nquality: [score, fid_dino]\nlower_is_better: [fid_dino]\nsubject: item\nseed: seed\n"
        "cost: minutes\nmetrics: {fid_dino: {title: FID}, score: {}}\n"
    )
    one = theirs(
        tmp_path, "A", shifted(runs, 0), quality=["fid", "clip"], lower_is_better=["fid"], cost=["minutes"]
    )
    two = theirs(tmp_path, "B", shifted(runs, 1, fid="fid_dino", clip="score"), path)
    facts = beside_others([one, two]).meta["external"]
    told = [(m["name"], m["title"], m["role"], m["direction"]) for m in facts["measures"]]
    assert told == [("metric.fid", "FID", "quality", "min"), ("metric.minutes", "minutes", "cost", "min")]
    assert dict(facts["differences"])["FID"] == ["fid", "fid_dino"]
    report = composed(one, two)
    assert "clip of A is not among it. score of B is not among it." in warnings(report)
    assert report.analysis.primary == "metric.fid"
    table = next(one for one in report.tables if one.key == "designs")
    assert [cell.text for cell in table.rows[0]] == ["source", "the table A.csv", "the table B.csv"]


def test_without_a_measure_in_common_each_ones_are_told(runs: list[OtherRun], tmp_path: Path) -> None:
    one = theirs(tmp_path, "A", shifted(runs, 0))
    two = theirs(tmp_path, "B", shifted(runs, 0), quality=["clip"], cost=["minutes"], lower_is_better=False)
    with pytest.raises(UserError) as error:
        beside_others([one, two])
    (said,) = error.value.problems
    assert (
        "A, B have no measure in common that arms can be ranked by: A has fid; B has clip, minutes." in said
    )
    assert "as the title of the column in the --mapping" in said
    assert "--quality NAME" in said
    with pytest.raises(UserError, match=r"own has quality, .*class_kept.* and \d+ more; A has fid"):
        beside_others([own(), one])


def test_a_measure_that_is_better_the_other_way_is_another(runs: list[OtherRun], tmp_path: Path) -> None:
    rows = shifted(runs, 0)
    one = theirs(tmp_path, "A", rows, quality=["fid", "clip"], lower_is_better=["fid"])
    two = theirs(tmp_path, "B", rows, lower_is_better=False)
    with pytest.raises(
        UserError, match="not the same: fid, of which this is better: lower in A, higher in B"
    ):
        beside_others([one, two])
    both = theirs(tmp_path, "B", rows, quality=["fid", "clip"], lower_is_better=False)
    report = composed(one, both)
    assert report.analysis.primary == "metric.clip"
    assert "Not compared though called alike: fid, of which this is better: lower in A" in warnings(report)


def test_a_cost_in_another_unit_is_another(runs: list[OtherRun], tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(
        "metrics: {minutes: {unit: s}}\narm: adapter\nquality: fid\nlower_is_better: true\ncost: minutes\n"
    )
    one = theirs(tmp_path, "A", shifted(runs, 0), cost=["minutes"])
    facts = beside_others([one, theirs(tmp_path, "B", shifted(runs, 0), path)]).meta["external"]
    assert [m["name"] for m in facts["measures"]] == ["metric.fid"]
    assert "minutes, of which the unit is: none in A, s in B" in " ".join(facts["notes"])


def test_a_study_beside_results_of_others(tmp_path: Path) -> None:
    them = theirs(tmp_path, "them", quality_rows(), quality=["quality"], lower_is_better=False)
    report = composed(own(), them)
    analysis = report.analysis
    assert analysis.primary == "metric.quality"
    assert analysis.arm("own/base").is_base
    assert not any("base" in name for c in analysis.pairs for name in (c.first, c.second))
    frame = own().results.frame
    mine = (
        frame[(frame["phase"] == "confirm") & (frame["arm"] == "lora-cosine")]
        .groupby("subject")["quality"]
        .mean()
    )
    rows = [row for row in quality_rows() if row["adapter"] == "OFT"]
    other = np.array([np.mean([r["quality"] for r in rows if r["item"] == name]) for name in mine.index])
    pair = next(c for c in analysis.pairs if {c.first, c.second} == {"own/lora-cosine", "them/OFT"})
    sign = 1 if pair.first.startswith("own") else -1
    assert pair.difference.value == pytest.approx(sign * (mine.to_numpy() - other).mean())
    assert pair.p == pytest.approx(stats.ttest_rel(mine.to_numpy(), other).pvalue)
    assert "what them has was measured by another program" in report.verdict.warnings[0]
    assert analysis.margin is None  # only the study states one


def test_a_margin_that_all_state_of_the_measure_that_ranks(tmp_path: Path) -> None:
    them = theirs(tmp_path, "them", quality_rows(), quality=["quality"], lower_is_better=False, margin=0.05)
    assert composed(own(), them).analysis.margin == 0.05
    assert composed(own(report={"margin": 0.1}), them).analysis.margin is None


def test_without_a_common_subject_there_are_means_and_no_test_across(tmp_path: Path) -> None:
    items = ("cup", "van", "shoe")
    them = theirs(tmp_path, "them", quality_rows(items), quality=["quality"], lower_is_better=False)
    report = composed(own(), them)
    across = [c for c in report.analysis.pairs if c.first.split("/")[0] != c.second.split("/")[0]]
    assert len(across) == 4
    assert all(c.difference.value is None and c.p is None for c in across)
    assert "no subject in common, so that nothing is tested between arms of different" in warnings(report)
    assert report.analysis.arm("them/OFT").estimates["metric.quality"].low is not None


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"subject": [], "seed": []}, "them names no subject: its runs count as runs of one"),
        ({"subject": ["seed"], "seed": ["seed"]}, "The units of them are seeds"),
    ],
)
def test_units_that_are_no_subjects_are_nobody_elses(more: dict[str, Any], said: str, tmp_path: Path) -> None:
    them = theirs(tmp_path, "them", quality_rows(), quality=["quality"], lower_is_better=False, **more)
    same = theirs(tmp_path, "same", quality_rows(), quality=["quality"], lower_is_better=False)
    report = composed(same, them)
    assert said in warnings(report)
    across = [c for c in report.analysis.pairs if c.first.split("/")[0] != c.second.split("/")[0]]
    assert all(c.difference.value is None for c in across)


def test_the_cheapest_is_one_that_was_compared(tmp_path: Path) -> None:
    def rows(items: tuple[str, ...], arm: str, quality: float, minutes: float) -> list[dict[str, Any]]:
        return [{"adapter": arm, "item": i, "seed": 0, "quality": quality, "minutes": minutes} for i in items]

    told: dict[str, Any] = {"quality": ["quality"], "cost": ["minutes"], "lower_is_better": False}
    one = theirs(tmp_path, "A", [*rows(SUBJECTS, "x", 0.5, 9), *rows(SUBJECTS[:2], "y", 0.4, 5)], **told)
    two = theirs(tmp_path, "B", rows(("cup",), "z", 0.3, 1), **told)
    glance = next(section for section in composed(one, two).sections if section.key == "glance")
    said = " ".join(glance.paragraphs)
    assert "The cheapest arm over which no lead of A/x is established: A/y (minutes 5.00)." in said


def test_the_report_is_the_same_from_its_own_data(runs: list[OtherRun], tmp_path: Path) -> None:
    found = beside_others([theirs(tmp_path, "A", shifted(runs, 0)), theirs(tmp_path, "B", shifted(runs, 1))])
    first = build_report(found, tmp_path / "a")
    build_report(read_csv(tmp_path / "a"), tmp_path / "b")
    assert first.html.read_bytes() == (tmp_path / "b" / "report.html").read_bytes()

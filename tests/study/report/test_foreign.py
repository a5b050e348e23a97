"""Weights from elsewhere in the report: beside the arms of the same subject and seeds, and in nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from study.report.build import build_report
from study.report.foreign import foreign_table, foreign_words
from study.report.prepared import prepare
from study.report.sections import compose
from study.report.tables import to_csv
from study.results.csv_files import read_csv
from study.results.frames import Results
from study.storage.run_key import RunKey
from tests.helpers.synthetic_results import ARMS, Study, make_results

STUDY = Study(arms=ARMS[:3], trials=1, subjects=("a", "b", "c"), modern=True, failing=(), pruned=())
SHA256 = "0123456789ab" + "c" * 52


def with_files(name: str = "theirs", quality: float = 0.99, failed: bool = False) -> Results:
    """A study with a file that was judged on subject b, better than any arm, with both seeds of the study."""
    results = make_results(STUDY)
    frame = results.frame
    like = frame[(frame["phase"] == "confirm") & (frame["subject"] == "b") & (frame["method"] != "base")]
    like = like.drop_duplicates("seed").assign(
        phase="foreign",
        arm=name,
        method="foreign",
        trial=0,
        quality=quality,
        class_kept=0.5,
        learning_rate=None,
    )
    like["run_key"] = [RunKey("foreign", name, 0, "b", int(seed)).name for seed in like["seed"]]
    like[["param.file", "param.layout", "param.sha256"]] = [f"{name}.safetensors", "kohya", SHA256]
    if failed:
        like.loc[like.index[0], ["state", "quality"]] = ["FAIL", None]
    points = results.curves[results.curves["run_key"].isin(frame["run_key"])].head(3)
    points = points.assign(run_key=like["run_key"].iloc[0], arm=name, phase="foreign", value=0.99)
    return replace(
        results,
        frame=pd.concat([frame, like], ignore_index=True),
        curves=pd.concat([results.curves, points], ignore_index=True),
    )


def test_they_stand_beside_the_arms_on_the_same_subject_and_seeds() -> None:
    rows = prepare(with_files())
    table = foreign_table(rows)
    assert table is not None
    lines = to_csv(table).splitlines()
    assert len(lines) == 1 + 1 + len(ARMS[:3])
    own = rows.confirm
    of = {line.split(",")[1]: line.split(",") for line in lines[1:]}
    assert of["foreign/theirs"][:4] == ["b", "foreign/theirs", "2", "0.99"]
    assert of["foreign/theirs"][-3:] == ["theirs.safetensors", "kohya", SHA256[:12]]
    for arm in rows.arms:
        expected = own.loc[(own["arm"] == arm) & (own["subject"] == "b"), "quality"].mean()
        assert float(of[arm][3]) == pytest.approx(expected, abs=1e-6), arm
        assert of[arm][-3:] == ["", "", ""]


def test_nothing_else_of_the_report_knows_them() -> None:
    without, with_them = compose(make_results(STUDY)), compose(with_files(name=ARMS[1].name))
    added = [section.key for section in with_them.sections if section.key == "foreign"]
    assert added == ["foreign"]
    assert with_them.verdict == without.verdict
    assert with_them.summary == without.summary
    rest = [section for section in with_them.sections if section.key != "foreign"]
    assert [to_csv(table) for section in rest for table in section.tables] == [
        to_csv(table) for section in without.sections for table in section.tables
    ]
    assert not foreign_table(prepare(make_results(STUDY)))


def test_a_run_that_failed_is_counted_and_left_out_of_the_mean() -> None:
    rows = prepare(with_files(failed=True))
    assert "1 run did not complete." in foreign_words(rows)[0]
    line = to_csv(foreign_table(rows)).splitlines()[1].split(",")  # type: ignore[arg-type]
    assert line[2:4] == ["1 of 2", "0.99"]


def test_a_report_made_again_of_its_folder_has_them(tmp_path: Path) -> None:
    first = build_report(with_files(), tmp_path / "first")
    again = build_report(read_csv(first.folder), tmp_path / "again")
    for name in ("report.md", "tables/foreign.csv"):
        assert (again.folder / name).read_bytes() == (first.folder / name).read_bytes()
    assert "foreign/theirs" in first.html.read_text()

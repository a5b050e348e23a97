"""The columns of a report's CSV files keep their names and their order: spreadsheets and scripts hang on them.

`csv_names.txt` was written from the code as it was before its modules were put into packages, of the study `fake_runs`.
A new metric adds its column to that file in the same commit.
"""

from __future__ import annotations

import json
from pathlib import Path

from study.results.csv_files import write_csv
from study.results.from_folders import local_results
from tests.helpers.fake_runs import make_study
from tests.helpers.frozen_names import written_names


def test_every_column_is_where_it_was(tmp_path: Path) -> None:
    storage = make_study(tmp_path)
    (storage.folder / "study.json").write_text(json.dumps({"digest": "d1g", "spec": {"name": "fake"}}))
    results = local_results(storage)
    write_csv(results, tmp_path / "csv")
    expected = Path(__file__).with_name("csv_names.txt").read_text()
    assert written_names(tmp_path / "csv", results.image_scores.columns) == expected

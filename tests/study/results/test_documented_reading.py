"""What docs/results.md says on reading a report with other programs: it works on the reports that are shipped."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from study.results.csv_files import read_csv
from study.results.frames import Results

ROOT = Path(__file__).resolve().parents[3]


def test_the_lines_that_read_a_report_run(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    (code,) = (one for one in re.findall(r"```python\n(.*?)```", text, re.S) if "read_schema" in one)
    monkeypatch.chdir(ROOT)
    space: dict[str, Any] = {}
    exec(compile(code, "docs/results.md", "exec"), space)
    shipped: Results = read_csv(ROOT / "reports" / "quickstart")
    assert len(space["runs"]) == len(shipped.frame)
    assert len(space["curves"]) == len(shipped.curves)
    assert space["runs"]["started"].dt.tz is not None
    assert b"value of the metric" in space["words"][b"meaning"].lower()

"""The table that a launch ends with, from the report's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from study.api import result_table

HEAD = "arm,n,quality,quality_low,quality_high"


@pytest.mark.parametrize(
    ("head", "row", "found"),
    [
        (
            f"{HEAD},subject_fidelity_scaled,prompt_fidelity_scaled,class_kept,train_seconds",
            "a,3,0.5,0.4,0.6,0.7,0.8,0.9,12",
            {
                "quality": 0.5,
                "95 %": "0.40 .. 0.60",
                "subject": 0.7,
                "prompt": 0.8,
                "class": 0.9,
                "train s": 12.0,
            },
        ),
        (  # without a quality the report's columns are of fidelities as they were measured
            "arm,n,subject_fidelity,prompt_fidelity,train_seconds",
            "a,1,0.204,0.495,7.21",
            {
                "quality": None,
                "95 %": None,
                "subject": 0.204,
                "prompt": 0.495,
                "class": None,
                "train s": 7.21,
            },
        ),
    ],
)
def test_fidelities_are_told_with_a_quality_and_without(
    tmp_path: Path, head: str, row: str, found: dict[str, object]
) -> None:
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "arms.csv").write_text(f"{head}\n{row}\n")
    (line,) = result_table(tmp_path)
    assert {name: value for name, value in line.items() if name not in ("arm", "n")} == found

"""A report of others' results against scipy, on a table that is made up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks import recomputed_tables


@pytest.fixture
def table(tmp_path: Path) -> tuple[Path, Path]:
    chance = np.random.default_rng(0)
    rows = [
        {"way": way, "item": item, "rng": seed, "score": 0.5 + 0.1 * place + 0.02 * chance.normal()}
        for place, way in enumerate(("1", "b", "c"))
        for item in ("x", "y", "z", "w")
        for seed in (1, 2)
        if (way, item) != ("c", "w")  # one arm lacks a subject
    ]
    file, mapping = tmp_path / "theirs.csv", tmp_path / "map.yaml"
    pd.DataFrame(rows).to_csv(file, index=False)
    mapping.write_text("arm: way\nquality: score\nsubject: item\nseed: rng\n")
    return file, mapping


def test_the_report_is_what_scipy_says(table: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    file, mapping = table
    assert recomputed_tables.main([str(file), "--mapping", str(mapping)]) == 0
    assert "22 rows, 3 arms, 4 subjects, 3 pairs" in capsys.readouterr().out


def test_a_wrong_table_is_found(
    table: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file, mapping = table
    monkeypatch.setattr(recomputed_tables, "_LEVEL", 0.9)
    assert recomputed_tables.main([str(file), "--mapping", str(mapping)]) == 1
    assert "pairs: largest difference" in capsys.readouterr().out

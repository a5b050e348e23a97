"""Which run an arm's name means: the best that is known, and never the first for want of a number."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from study.export.trained import complete_run
from study.storage.layout import Storage
from trainables.errors import UserError

RUNS = ("confirm/a/0000-cat-s1", "confirm/a/0000-cat-s2", "confirm/a/0000-cat-s3")


def storage_with(folder: Path, *evaluations: Mapping[str, float | None]) -> Storage:
    """A storage with a complete run for each evaluation."""
    storage = Storage(folder, "mine")
    for run, evaluation in zip(RUNS, evaluations, strict=False):
        (storage.runs / run).mkdir(parents=True)
        content = {"state": "COMPLETE", "evaluation": dict(evaluation), "cost": {}, "step": 2, "digest": ""}
        (storage.runs / run / "result.json").write_text(json.dumps(content))
    return storage


def test_of_an_arm_the_best_run_is_taken(tmp_path: Path) -> None:
    storage = storage_with(tmp_path, {"quality": 0.1}, {"quality": 0.3}, {"quality": None})
    assert complete_run(storage, "a") == storage.runs / RUNS[1]


def test_where_no_run_has_a_quality_subject_fidelity_tells(tmp_path: Path) -> None:
    rows = [{"quality": None, "subject_fidelity_scaled": value} for value in (-0.3, None, -0.1)]
    storage = storage_with(tmp_path, *rows)
    assert complete_run(storage, "a") == storage.runs / RUNS[2]


def test_where_nothing_tells_the_user_is_asked(tmp_path: Path) -> None:
    storage = storage_with(tmp_path, {"quality": None}, {"drift": 0.5})
    with pytest.raises(UserError, match="has 2 complete runs, and none has quality or") as caught:
        complete_run(storage, "a")
    assert all(run in str(caught.value) for run in RUNS[:2])
    assert complete_run(storage, RUNS[0]) == storage.runs / RUNS[0]
    alone = storage_with(tmp_path / "other", {"quality": None})
    assert complete_run(alone, "a") == alone.runs / RUNS[0]


def test_a_part_of_a_run_s_name_with_a_slash_names_the_run(tmp_path: Path) -> None:
    storage = storage_with(tmp_path, {"quality": 0.1}, {"quality": 0.3})
    assert complete_run(storage, "a/0000-cat-s1") == storage.runs / RUNS[0]
    assert complete_run(storage, f"/{RUNS[0]}/") == storage.runs / RUNS[0]
    with pytest.raises(UserError, match="part of the names of 2 runs"):
        complete_run(storage, "confirm/a")
    for name in ("cat-s1", "other/0000"):  # a word alone might mean an arm of which nothing is there yet
        with pytest.raises(UserError, match="is neither a run"):
            complete_run(storage, name)
    with pytest.raises(UserError, match="is not complete"):
        complete_run(storage, RUNS[2])

"""Params, metrics, tags and artifacts in MLflow keep their names: dashboards and queries hang on them.

`mlflow_names.txt` was written from the code as it was before its modules were put into packages, of the study of
`fake_runs`. A new metric adds its name to that file in the same commit.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from study.tracking.run_ids import TrackingRecord
from study.tracking.sync import sync
from tests.helpers.fake_runs import make_study
from tests.helpers.frozen_names import tracked_names
from tests.helpers.mlflow_stores import prepare_store
from tests.helpers.tracked_runs import SOME


def test_every_name_is_what_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    storage = make_study(tmp_path, runs=list(SOME.values()))
    spec = {"name": "fake", "arms": {"lora-cosine": {"method": "lora", "lr_scheduler": "cosine"}}}
    (storage.folder / "study.json").write_text(json.dumps({"digest": "d1g", "identity": {}, "spec": spec}))
    store = prepare_store(storage)
    TrackingRecord(storage).add_launch()
    sync(storage)
    assert tracked_names(store) == Path(__file__).with_name("mlflow_names.txt").read_text()

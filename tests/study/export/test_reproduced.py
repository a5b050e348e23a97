"""`study reproduce`: a run trained again from its record is the same to the last bit, and what differs is told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from study.cli.main import main
from study.export import reproduced
from study.export.reproduced import reproduce
from study.spec.study_spec import StudySpec
from study.storage.layout import Storage
from study.storage.run_key import RunKey
from study.tracking.run_ids import TrackingRecord
from trainables.errors import UserError
from trainables.run.execute import execute

RUN, BASE = "confirm/lora-x/0000-cat-1-s1", "confirm/base/0000-cat-1-s1"
FILE = "weights/pytorch_lora_weights.safetensors"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    """A study with two confirm runs, launched here and now."""
    spec = StudySpec.model_validate(
        {
            "name": "mine",
            "subjects": ["cat-1", "dog-1"],
            "training": {"train_batch_size": 1},
            "budget": {"max_train_steps": 2},
            "arms": {"base": {"method": "base"},
                     "lora-x": {"method": "lora", "search_space": "fixed", "learning_rate": 0.01, "r": 2}},
            "search": {"subjects": ["dog-1"], "seeds": [0]},
            "confirm": {"subjects": ["cat-1"], "seeds": [1]},
            "evaluation": {"num_prompts": 2, "images_per_prompt": 1, "num_inference_steps": 2, "anchor_images": 4,
                           "num_class_images": 4},
        }
    )  # fmt: skip
    found = Storage(tmp_path_factory.mktemp("reproduced") / "storage", "mine")
    found.folder.mkdir(parents=True)
    TrackingRecord(found).add_launch()
    for run in (RUN, BASE):
        list(execute(spec.run_config(RunKey.parse(run), {}, found)))
    (found.folder / "study.json").write_text(json.dumps(spec.record()))
    return found


@pytest.fixture
def storage(made: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """A copy of it, made by code that a commit holds."""
    monkeypatch.setattr(reproduced, "git_state", lambda: None)
    copy = Storage(tmp_path / "storage", "mine")
    shutil.copytree(made.root, copy.root)
    path = copy.folder / "tracking.json"
    record = json.loads(path.read_text())
    record["launches"][0] |= {"git_commit": None, "git_dirty": None}
    path.write_text(json.dumps(record))
    for run in (RUN, BASE):
        file = copy.runs / run / "run.json"
        file.write_text(file.read_text().replace(str(made.root), str(copy.root)))
    return copy


def ended(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    return int(exit_.value.code or 0)


def test_it_is_the_same_to_the_last_bit_and_without_the_studys_caches(
    storage: Storage, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(storage.cache, ignore_errors=True)
    capsys.readouterr()
    assert ended(["reproduce", "mine", "lora-x", "--storage", str(storage.root), "--format", "json"]) == 0
    told = capsys.readouterr()
    rows: dict[str, dict[str, Any]] = {row["metric"]: row for row in json.loads(told.out)}
    assert rows["subject_fidelity"]["difference"] == 0
    assert rows["train_flops"]["first"] > 0
    assert "train_seconds" not in rows
    assert "the same to the last bit: weights and scores" in told.err
    folder = storage.folder / "reproduced" / RUN
    assert (folder / FILE).read_bytes() == (storage.runs / RUN / FILE).read_bytes()
    assert not (folder / "cache").exists()
    assert not storage.cache.exists(), "nothing of the study's own was made or used"


def test_what_differs_is_told_and_is_a_fault_where_nothing_else_does(
    storage: Storage, capsys: pytest.CaptureFixture[str]
) -> None:
    path = storage.runs / RUN / FILE
    tensors = load_file(path)
    key = sorted(tensors)[0]
    tensors[key] = tensors[key] + 0.5
    save_file(tensors, path)
    found = reproduce(storage, RUN)
    assert found.promised
    assert not found.exact
    assert found.furthest is not None
    assert found.furthest[0].endswith(key)
    assert found.furthest[1] == pytest.approx(0.5, abs=1e-6)
    files = sorted(path.parent.rglob("*.safetensors"))
    whole = torch.cat([value.flatten().double() for file in files for value in load_file(file).values()])
    assert found.distance == pytest.approx(
        (0.25 * tensors[key].numel()) ** 0.5 / float(whole.norm()), rel=1e-5
    )
    assert ended(["reproduce", "mine", RUN, "--storage", str(storage.root)]) == 1
    assert "so that it had to be the same" in capsys.readouterr().err


def test_elsewhere_it_need_not_be_the_same(storage: Storage) -> None:
    path = storage.folder / "tracking.json"
    record = json.loads(path.read_text())
    record["launches"][0]["versions"]["torch"] = "1.0"
    path.write_text(json.dumps(record))
    found = reproduce(storage, RUN)
    assert not found.promised
    assert any(line.startswith("not as then: torch: 1.0 then") for line in found.lines())


def test_a_base_model_has_scores_alone(storage: Storage) -> None:
    found = reproduce(storage, BASE)
    assert found.same_weights is None
    assert found.exact
    assert found.lines()[1] == "the same to the last bit"


def test_a_run_that_is_not_there_is_refused(storage: Storage) -> None:
    with pytest.raises(UserError, match="neither a run"):
        reproduce(storage, "lora-y")
    shutil.rmtree(storage.runs / RUN / "weights")
    with pytest.raises(UserError, match="are gone"):
        reproduce(storage, RUN)

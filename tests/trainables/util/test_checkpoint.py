"""Resume state on disk."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from trainables.util.checkpoint import (
    Checkpoint,
    join_state,
    load_latest,
    remove_torn,
    save_checkpoint,
    split_state,
)


def make(step: int) -> Checkpoint:
    return Checkpoint(
        step, {"weights.a": torch.full((3, 2), float(step))}, {"rate": 0.1 * step, "none": None}
    )


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    place = save_checkpoint(tmp_path, make(3))
    found = load_latest(tmp_path)
    assert found is not None
    assert found.step == 3
    assert torch.equal(found.tensors["weights.a"], torch.full((3, 2), 3.0))
    assert found.state == {"rate": 0.1 * 3, "none": None}
    assert sorted(path.name for path in place.iterdir()) == ["state.json", "tensors.safetensors"]


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    for step in (2, 4, 6, 10, 100):
        save_checkpoint(tmp_path, make(step))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000010", "step-00000100"]


@pytest.mark.parametrize("damage", ["cut tensors", "flipped bit", "cut state", "no tensors", "empty folder"])
def test_a_damaged_newest_one_is_passed_over(tmp_path: Path, damage: str) -> None:
    save_checkpoint(tmp_path, make(2))
    place = save_checkpoint(tmp_path, make(4))
    tensors, state = place / "tensors.safetensors", place / "state.json"
    content = tensors.read_bytes()
    if damage == "cut tensors":
        tensors.write_bytes(content[:-1])
    elif damage == "flipped bit":
        tensors.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "cut state":
        state.write_bytes(state.read_bytes()[:-5])
    elif damage == "no tensors":
        tensors.unlink()
    else:
        shutil.rmtree(place)
        place.mkdir()
    found = load_latest(tmp_path)
    assert found is not None
    assert found.step == 2
    save_checkpoint(tmp_path, make(4))  # the run comes by again
    again = load_latest(tmp_path)
    assert again is not None
    assert again.step == 4


def test_a_write_that_was_cut_short_is_not_seen_and_is_removed_later(tmp_path: Path) -> None:
    partial = tmp_path / "step-00000008.123.partial"
    partial.mkdir()
    assert load_latest(tmp_path) is None
    save_checkpoint(tmp_path, make(2))
    assert partial.exists()  # another, which this one knows nothing of, may be at it
    remove_torn(tmp_path)  # by the next attempt
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002"]


def test_nothing_saved_is_nothing_found(tmp_path: Path) -> None:
    assert load_latest(tmp_path / "missing") is None


def test_nested_state_survives_json() -> None:
    state = {
        "state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(2)}, 11: {"step": torch.tensor(1.0)}},
        "param_groups": [
            {"lr": 1e-4 / 3, "betas": (0.9, 0.999), "fused": True, "foreach": None, "name": "unet"}
        ],
        "empty": {},
    }
    tensors, content = split_state(state, "optimizer")
    joined = join_state(tensors, json.loads(json.dumps(content)))
    assert joined["param_groups"][0] == {**state["param_groups"][0], "betas": [0.9, 0.999]}  # type: ignore[index]
    assert joined["state"][11]["step"] == 1.0
    assert torch.equal(joined["state"][0]["exp_avg"], torch.ones(2))
    assert joined["empty"] == {}


def test_what_is_neither_tensor_nor_json_is_refused() -> None:
    with pytest.raises(TypeError, match=r"optimizer\.closure"):
        split_state({"closure": print}, "optimizer")

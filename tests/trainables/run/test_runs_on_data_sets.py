"""A whole run on a shipped data set, stopped and resumed: weights, measures and counted costs are those of one go."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.training_runs import MakeConfig
from trainables.run.execute import execute
from trainables.run.resident import Resident
from trainables.run_config import RunConfig


@pytest.mark.parametrize("name", ["sprite-cast", "emoji"])
def test_a_run_that_was_stopped_ends_with_the_same_bits(
    name: str, make_config: MakeConfig, resident: Resident
) -> None:
    more: dict[str, Any] = {
        "max_train_steps": 4,
        "train_batch_size": 2,
        "checkpointing_steps": 2,
        "caption_dropout": 0.3,
        "resolution": 16,
    }

    def on_the_data_set(folder: str) -> RunConfig:
        stated = make_config("text_to_image", folder, **more).model_dump(mode="json")
        return RunConfig.model_validate(stated | {"subject": {"name": name}})

    whole, broken = on_the_data_set("whole"), on_the_data_set("broken")
    list(execute(whole, resident))
    run = execute(broken, resident)
    for event in run:
        if event.kind == "progress" and event.step == 3:
            break
    with pytest.raises(KeyboardInterrupt):
        run.throw(KeyboardInterrupt())
    events = list(execute(broken, resident))
    assert events[0].data["resumed_step"] == 2

    def weights(config: RunConfig) -> dict[str, bytes]:
        folder = Path(config.output_dir) / "weights"
        return {
            str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.safetensors"))
        }

    results = [json.loads((Path(one.output_dir) / "result.json").read_text()) for one in (whole, broken)]
    assert [one["state"] for one in results] == ["COMPLETE", "COMPLETE"]
    assert weights(whole) == weights(broken) != {}
    assert results[0]["evaluation"] == results[1]["evaluation"]
    assert results[0]["evaluation"]["subject_fidelity"] is not None
    assert results[0]["cost"]["train_flops"] == results[1]["cost"]["train_flops"] > 0

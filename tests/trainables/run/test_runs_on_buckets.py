"""Whole runs on images of several sizes, stopped and resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.captioned_images import RESOLUTION, data_set
from tests.helpers.training_runs import MakeConfig
from trainables.run import execute as execute_module
from trainables.run.execute import execute
from trainables.run.resident import Resident


def final_weights(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.safetensors"))
    }


@pytest.mark.parametrize("trains", ["adapter", "full"])
def test_a_run_that_was_stopped_ends_with_the_same_bits(
    trains: str, make_config: MakeConfig, resident: Resident, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all that has a state or a stream of its own: buckets, orders of tags, dropped captions, an average."""
    subject = data_set({(16, 16): 3, (24, 8): 2}, trigger="")
    subject = type(subject)(**{**vars(subject), "is_data_set": False, "class_prompt": "a cat"})
    subject = type(subject)(**{**vars(subject), "instance_prompt": "a sks cat"})
    monkeypatch.setattr(execute_module, "resolve_subject", lambda *_, **__: subject)
    more: dict[str, Any] = {
        "trains": trains,
        "max_train_steps": 6,
        "train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "caption_dropout": 0.3,
        "shuffle_captions": True,
        "keep_tokens": 1,
        "random_flip": True,
        "noise_offset": 0.1,
        "use_ema": True,
        "train_text_encoder": trains == "full",
        "lr_scheduler": "cosine",
        "resolution": RESOLUTION,
        "aspect_ratio_buckets": True,
        "captions": "files",
    }
    whole, broken = (make_config("text_to_image", name, **more) for name in ("whole", "broken"))
    list(execute(whole, resident))
    run = execute(broken, resident)
    for event in run:
        if event.kind == "progress" and event.step == 5:
            break
    with pytest.raises(KeyboardInterrupt):
        run.throw(KeyboardInterrupt())
    events = list(execute(broken, resident))
    assert events[0].data["resumed_step"] == 4
    ours, theirs = (final_weights(Path(one.output_dir) / "weights") for one in (whole, broken))
    assert ours == theirs
    assert len(ours) >= 1
    costs = [
        json.loads((Path(one.output_dir) / "result.json").read_text())["cost"] for one in (whole, broken)
    ]
    assert costs[0]["train_flops"] == costs[1]["train_flops"] > 0

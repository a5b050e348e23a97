"""Images of several sizes, trained on by several processes: the same batches and weights as by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.helpers.image_folders import picture, write_lines
from tests.helpers.rounding import apart
from tests.helpers.training_runs import MakeConfig
from tests.helpers.worker_jobs import do, job, result
from trainables.config.fields import SubjectConfig
from trainables.run.execute import execute
from trainables.run.resident import Resident
from trainables.run_config import RunConfig

SIZES = [(40, 40), (60, 20), (40, 40), (20, 60), (60, 20), (40, 40), (60, 20), (40, 40)] * 2
FIELDS: dict[str, Any] = {
    "train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "max_train_steps": 8,
    "checkpointing_steps": 8,
    "learning_rate": 1e-3,
    "aspect_ratio_buckets": True,
    "caption_dropout": 0.2,
    "shuffle_captions": True,
    "trains": "full",
    "use_ema": False,
    # Gradients that are zero but for rounding would be blown up to whole steps by Adam.
    "adam_epsilon": 1e-5,
}


def captioned(folder: Path) -> SubjectConfig:
    folder.mkdir()
    for number, size in enumerate(SIZES):
        picture(number, size).save(folder / f"{number}.png")
    write_lines(
        folder,
        [{"file_name": f"{number}.png", "text": f"a cat, red, {number}"} for number in range(len(SIZES))],
    )
    return SubjectConfig.model_validate(
        {"name": "mine", "dataset": {"path": str(folder), "trigger": "a dog", "holdout": 0.5}}
    )


@pytest.mark.slow
def test_worker_groups_train_on_the_same_buckets(make_config: MakeConfig, tmp_path: Path) -> None:
    """Exchanged gradients (DDP) and a shared model (FSDP)."""
    resident, subject = Resident(), captioned(tmp_path / "images")

    def config_of(name: str, **more: Any) -> RunConfig:
        return make_config("text_to_image", name, **FIELDS | more).model_copy(update={"subject": subject})

    alone, ddp, fsdp = map(config_of, ("alone", "ddp", "fsdp"))
    start = config_of("start", learning_rate=1e-12)
    for config in (alone, start):
        list(execute(config, resident))
    ends = do(tmp_path, [job(ddp, 2), job(fsdp, 2, sharded=True)])
    assert [end and end.endswith("events") for end in ends[0]] == [True] * 2, ends
    for config in (ddp, fsdp):
        assert result(config)["state"] == "COMPLETE", result(config)
        assert apart(config, alone, start) < 1e-2
        assert result(config)["cost"]["train_flops"] == result(alone)["cost"]["train_flops"]

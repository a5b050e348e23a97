"""Equal cost: a run ends where its budget of steps, FLOPs or seconds ends, and everything follows that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.training_runs import MakeConfig, MakeTrainer
from tests.helpers.worker_jobs import do, job
from trainables.config.fields import TrainingConfig
from trainables.errors import TrainingFailure
from trainables.events import Event, read_events
from trainables.methods.adapters import WEIGHTS_FILE
from trainables.run.execute import execute
from trainables.run_config import RunConfig
from trainables.training import length
from trainables.training.length import Spent, settle_length, steps_within
from trainables.training.loop import Trainer, train_step
from trainables.training.trainer import count_step_flops


def result_of(config: RunConfig) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((Path(config.output_dir) / "result.json").read_text())
    return content


def test_the_smallest_budget_ends_a_run() -> None:
    fields = {"max_train_steps": 100, "max_train_flops": 1e6, "max_train_seconds": 9.0}
    config = TrainingConfig(**fields)
    assert steps_within(config, 20_000, 0.1) == 50
    assert steps_within(config, 20_000, 1.0) == 9
    assert steps_within(config, 1, 0.001) == 100
    assert steps_within(config, 300_001, 0.1) == 3, "a step that does not fit in is not begun"


def test_a_share_of_a_budget_is_the_same_share_with_and_without_class_images() -> None:
    config = TrainingConfig(max_train_steps=10_000, max_train_flops=1000, budget_share=0.4)
    whole = config.model_copy(update={"budget_share": 1.0})
    for spent, per_step in ((Spent(), 5), (Spent(flops=300), 7), (Spent(flops=800), 2)):
        assert steps_within(config, per_step, None, spent) == 0.4 * steps_within(whole, per_step, None, spent)
    with pytest.raises(TrainingFailure, match="and budget_share is 0"):
        steps_within(config.model_copy(update={"lr_warmup_steps": 40}), 10, None, Spent())


def test_a_budget_that_the_warmup_takes_is_told() -> None:
    config = TrainingConfig(max_train_flops=1e6, lr_warmup_steps=5)
    with pytest.raises(TrainingFailure) as error:
        steps_within(config, 250_000, None)
    assert error.value.reason == "budget_too_small"
    message = str(error.value)
    assert "allows 4 steps (a step takes 2.5e+05 FLOPs of 1e+06)" in message
    assert "lr_warmup_steps is 5" in message


def budget(make_trainer: MakeTrainer, steps: float) -> dict[str, Any]:
    """A FLOPs budget of so many steps of the tiny LoRA."""
    return {"max_train_steps": 10_000, "max_train_flops": steps * count_step_flops(make_trainer("lora"))}


def test_a_budget_of_flops_settles_steps_schedule_and_evaluations(
    make_config: MakeConfig, make_trainer: MakeTrainer, resident: Any
) -> None:
    fields = budget(make_trainer, 6.9)
    config = make_config("lora", lr_scheduler="cosine", at=(0.5,), **fields)
    events = list(execute(config, resident))
    result = result_of(config)
    assert result["state"] == "COMPLETE"
    assert result["cost"]["train_steps"] == 6
    assert 0.8 * fields["max_train_flops"] < result["cost"]["train_flops"] <= fields["max_train_flops"]
    assert events[0].data["steps"] is None, "not settled yet"
    assert {e.data["steps"] for e in events if e.kind == "phase" and e.data["name"] == "train"} == {6}
    progress = {event.step: event.data for event in events if event.kind == "progress"}
    assert max(progress) == 6
    assert progress[6]["learning_rate"] == pytest.approx(0, abs=1e-12), "cosine ends where training ends"
    assert progress[3]["learning_rate"] == pytest.approx(config.training.learning_rate / 2)
    assert [event.step for event in events if event.kind == "evaluation"] == [3, 6]


def test_equal_flops_are_fewer_steps_of_a_dearer_method(
    make_config: MakeConfig, make_trainer: MakeTrainer, resident: Any
) -> None:
    fields = budget(make_trainer, 8)
    costs = {}
    for prior in (False, True):
        config = make_config("lora", f"prior-{prior}", with_prior_preservation=prior, **fields)
        list(execute(config, resident))
        costs[prior] = result_of(config)["cost"]
    assert costs[False]["train_steps"] == 8
    # A step with class images takes twice as much, and their making comes out of the budget, too.
    left = fields["max_train_flops"] - costs[True]["class_image_flops"]
    assert costs[True]["class_image_flops"] > 0
    assert (
        costs[True]["train_steps"]
        == int(left // (costs[True]["train_flops"] / costs[True]["train_steps"]))
        < 4
    )


def test_class_images_are_paid_from_the_budget() -> None:
    config = TrainingConfig(max_train_flops=1000.0, max_train_seconds=50.0, max_train_steps=100)
    assert steps_within(config, 10, 1.0) == 50
    assert steps_within(config, 10, 1.0, Spent(flops=700, seconds=10.0)) == 30
    assert steps_within(config, 10, 1.0, Spent(flops=100, seconds=45.0)) == 5
    with pytest.raises(TrainingFailure, match="of which the class images have taken"):
        steps_within(config, 10, 1.0, Spent(flops=2000))


def test_a_run_with_too_small_a_budget_fails_with_its_reason(
    make_config: MakeConfig, make_trainer: MakeTrainer, resident: Any
) -> None:
    config = make_config("lora", lr_warmup_steps=3, **budget(make_trainer, 2.5))
    list(execute(config, resident))
    result = result_of(config)
    assert (result["state"], result["reason"]) == ("FAIL", "budget_too_small")


@pytest.mark.parametrize("after", ["checkpoint", "phase"])
def test_a_resumed_run_keeps_its_length(
    after: str, make_config: MakeConfig, resident: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it has left a checkpoint or only events; another machine would settle another number."""
    monkeypatch.setattr(length, "_seconds_per_step", lambda trainer: 1.0)
    config = make_config("lora", lr_scheduler="cosine", max_train_seconds=6.5, max_train_steps=10_000)
    run = execute(config, resident)
    for event in run:
        if event.kind == after and (after == "checkpoint" or event.data["name"] == "train"):
            break
    with pytest.raises(KeyboardInterrupt):
        run.throw(KeyboardInterrupt())
    monkeypatch.setattr(length, "_seconds_per_step", lambda trainer: 0.1)
    again: list[Event] = list(execute(config, resident))
    assert again[0].data["steps"] == 6
    assert result_of(config)["cost"]["train_steps"] == 6
    last = [event for event in read_events(Path(config.output_dir)) if event.kind == "progress"][-1]
    assert (last.step, last.data["learning_rate"]) == (6, pytest.approx(0, abs=1e-12))


@pytest.mark.parametrize("method", ["lora", "dreambooth"])
def test_timing_leaves_no_trace(method: str, make_trainer: MakeTrainer) -> None:
    """Weights, streams, position in the data, optimizer, schedule and average are those of a run that never timed."""
    fields: dict[str, Any] = {
        "max_train_seconds": 1e9,
        "max_train_steps": 4,
        "lr_scheduler": "cosine",
        "lr_warmup_steps": 1,
        "use_ema": True,
        "train_text_encoder": True,
        "gradient_accumulation_steps": 2,
        "random_flip": True,
    }
    if method == "lora":
        fields["lora_dropout"] = 0.3

    def trained(timed: bool) -> tuple[Trainer, list[torch.Tensor], list[float]]:
        trainer = make_trainer(method, **fields)
        before = [value.detach().clone() for value in trainer.parameters.values()]
        random = torch.get_rng_state()
        if timed:
            settle_length(trainer)
            assert torch.equal(random, torch.get_rng_state())
            assert trainer.step == 0
            assert not trainer.optimizer.optimizer.state
            now = list(trainer.parameters.values())
            assert all(torch.equal(old, new) for old, new in zip(before, now, strict=True))
        losses = [float(train_step(trainer)[0]) for _ in range(4)]
        weights = [value.detach().clone() for value in trainer.parameters.values()]
        return trainer, [*weights, *(value.clone() for value in trainer.average.shadow_params)], losses

    first, weights, losses = trained(timed=False)
    rates = [group["lr"] for group in first.optimizer.param_groups]
    second, others, again = trained(timed=True)
    assert losses == again
    assert all(torch.equal(one, other) for one, other in zip(weights, others, strict=True))
    assert rates == [group["lr"] for group in second.optimizer.param_groups]


def test_a_budget_of_seconds_is_about_kept(make_config: MakeConfig, resident: Any) -> None:
    config = make_config("lora", max_train_seconds=0.5, max_train_steps=10_000, checkpointing_steps=10_000)
    list(execute(config, resident))
    cost = result_of(config)["cost"]
    assert 0 < cost["train_steps"] < 10_000
    # Generous, because the tests' machine is shared: not ten times more, nor less.
    assert 0.05 < cost["train_seconds"] < 5


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [pytest.param(False, marks=pytest.mark.nightly), True])
def test_a_worker_group_settles_its_length_in_the_leader(
    sharded: bool, make_config: MakeConfig, make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    """The members' own clocks differ; and timing leaves no trace in what they share."""
    common = {"checkpointing_steps": 10_000, "use_ema": True}
    flops = make_config("lora", "flops", **common, **budget(make_trainer, 5.5))
    small = make_config("lora", "small", **common, **budget(make_trainer, 0.5))
    timed = make_config("lora", "timed", max_train_seconds=1.5, max_train_steps=10_000, **common)
    do(tmp_path, [job(config, 2, sharded=sharded) for config in (flops, small, timed)], patience=120)
    assert result_of(flops)["cost"]["train_steps"] == 5
    assert (result_of(small)["state"], result_of(small)["reason"]) == ("FAIL", "budget_too_small")
    steps = result_of(timed)["cost"]["train_steps"]
    assert steps < 10_000
    stated = make_config("lora", "stated", max_train_steps=steps, **common)
    again = tmp_path / "again"  # members meet by a file of their folder
    again.mkdir()
    do(again, [job(stated, 2, sharded=sharded)])
    files = [Path(config.output_dir) / "weights" / WEIGHTS_FILE for config in (timed, stated)]
    assert files[0].read_bytes() == files[1].read_bytes()

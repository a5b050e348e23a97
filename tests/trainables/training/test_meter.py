"""What a run costs."""

from __future__ import annotations

import time

import pytest
import torch

from tests.helpers.training_runs import MakeTrainer
from trainables.methods.adapter_kinds import KINDS
from trainables.training import trainer as trainers
from trainables.training.loop import train_step
from trainables.training.meter import Meter
from trainables.training.trainer import count_bucket_flops, count_step_flops, note_flops
from trainables.util.flops import count_flops

CPU = torch.device("cpu")


def counted(make_trainer: MakeTrainer, method: str, **fields: object) -> int:
    return count_step_flops(make_trainer(method, **fields))


def test_flops_of_a_step_are_proportional_to_its_images(make_trainer: MakeTrainer) -> None:
    one = counted(make_trainer, "lora", train_batch_size=1)
    assert counted(make_trainer, "lora", train_batch_size=3) == 3 * one
    assert counted(make_trainer, "lora", train_batch_size=1, gradient_accumulation_steps=2) == 2 * one
    assert counted(make_trainer, "dreambooth_lora", train_batch_size=1) == 2 * one
    assert counted(make_trainer, "lora", train_batch_size=1, r=8) > one
    assert counted(make_trainer, "lora", train_batch_size=1, gradient_checkpointing=True) > one
    assert counted(make_trainer, "dreambooth", train_batch_size=1, with_prior_preservation=False) > one


@pytest.mark.parametrize("method", ["lora", "dreambooth", "hypernetwork"])
def test_flops_are_those_of_a_real_step(method: str, make_trainer: MakeTrainer) -> None:
    """Also with a text encoder that trains, which encodes each caption once."""
    trains = {} if method == "hypernetwork" else {"train_text_encoder": True}
    trainer = make_trainer(method, train_batch_size=3, **trains)
    assert count_step_flops(trainer) == count_flops(lambda: train_step(trainer))


@pytest.mark.parametrize("batch", [1, 6])
@pytest.mark.parametrize("kind", KINDS)
def test_flops_of_every_kind_of_adapter_are_those_of_a_real_step(
    kind: str, batch: int, make_trainer: MakeTrainer
) -> None:
    """Rotations and norms of weights are computed once a batch: taken for a share of each image, BOFT's were five times
    too many.
    """
    block = {"oft_block_size": 8} if kind == "oft" else {}
    trainer = make_trainer("lora", adapter=kind, train_text_encoder=True, train_batch_size=batch, **block)
    assert count_step_flops(trainer) == count_flops(lambda: train_step(trainer))


def test_a_model_in_memory_counts_each_kind_of_run_once(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In warm processes counting was the longest part of the way to a run's first step."""
    counts = []
    monkeypatch.setattr(
        trainers, "count_bucket_flops", lambda one: (counts.append(1), count_bucket_flops(one))[1]
    )

    def noted(**fields: object) -> tuple[int, int]:
        """How many kinds had to be counted until now, and the operations of a step."""
        trainer = make_trainer("dreambooth_lora", train_batch_size=2, **fields)
        meter = Meter(CPU, 1)
        note_flops(trainer, meter)
        assert meter.flops_by_bucket == count_bucket_flops(trainer)
        return len(counts), meter.flops_per_step

    begun, per_step = noted()
    scaled = {"learning_rate": 7e-4, "prior_loss_weight": 0.7, "lr_scheduler": "cosine", "lr_warmup_steps": 2}
    assert noted(**scaled) == (begun, per_step)
    assert noted(train_text_encoder=True)[0] == begun + 1
    assert noted(train_text_encoder=True, text_encoder_learning_rate=3e-4)[0] == begun + 1
    for further, other in enumerate(
        ({"r": 7}, {"with_prior_preservation": False}, {"gradient_checkpointing": True}), 2
    ):
        known, flops = noted(**other)
        assert known == begun + further
        assert flops != per_step


def test_counting_changes_nothing(make_trainer: MakeTrainer) -> None:
    def weights(count: bool) -> list[torch.Tensor]:
        trainer = make_trainer("lora", lora_dropout=0.5)
        if count:
            count_step_flops(trainer)
        train_step(trainer)
        return [value.detach().clone() for value in trainer.parameters.values()]

    assert all(torch.equal(a, b) for a, b in zip(weights(True), weights(False), strict=True))


def test_phases_add_up_and_survive_a_checkpoint() -> None:
    meter = Meter(CPU, devices=3)
    for phase in ("prepare", "train", "train"):
        with meter.measure(phase):  # type: ignore[arg-type]
            time.sleep(0.02)
    meter.flops_per_step = 10
    cost = meter.cost(5)
    assert 0.04 <= cost["train_seconds"] < 0.2
    assert cost["device_seconds"] == 3 * cost["train_seconds"]
    assert 0.02 <= cost["preparation_seconds"] < cost["train_seconds"]
    assert cost["evaluation_seconds"] == 0
    assert cost["train_flops"] == 50

    resumed = Meter(CPU, devices=3)
    with resumed.measure("train"):
        time.sleep(0.02)
    resumed.load_state_dict(meter.state_dict())
    resumed.account_for_attempts([1.0, 2.0])
    assert resumed.cost(5)["train_seconds"] > cost["train_seconds"] + 0.02
    assert resumed.flops_per_step == 10
    kept = cost["train_seconds"] + cost["preparation_seconds"]
    assert resumed.lost_seconds == pytest.approx(3.0 - kept)


def test_time_is_counted_when_the_block_fails() -> None:
    meter = Meter(CPU, 1)

    def fail() -> None:
        with meter.measure("train"):
            time.sleep(0.01)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert meter.seconds["train"] >= 0.01


def test_peak_memory_is_that_of_training_alone() -> None:
    def megabytes(training: int, between: int) -> float:
        meter = Meter(CPU, 1)
        torch.ones(between * 2**18).sum()
        with meter.measure("train"):
            torch.ones(training * 2**18).sum()
        torch.ones(between * 2**18).sum()
        assert meter.peak_memory
        return meter.peak_memory / 2**20

    small = megabytes(1, 300)
    assert megabytes(200, 1) > small + 150

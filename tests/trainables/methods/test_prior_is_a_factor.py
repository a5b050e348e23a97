"""Prior preservation is switched on and off in any method, and changes nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.helpers.training_runs import MakeTrainer
from trainables.methods.registry import get_method, method_names
from trainables.training.loop import train_step


@pytest.mark.parametrize("prior", [False, True])
@pytest.mark.parametrize("text_encoder", [False, True])
def test_lora_and_dreambooth_lora_are_one_code(
    prior: bool, text_encoder: bool, make_trainer: MakeTrainer
) -> None:
    """They have other defaults; with equal fields they train the same, bit by bit."""
    fields: dict[str, Any] = {"with_prior_preservation": prior, "train_text_encoder": text_encoder}
    trained = []
    for method in ("lora", "dreambooth_lora"):
        trainer = make_trainer(method, learning_rate=1e-2, prior_loss_weight=0.5, **fields)
        losses = [float(train_step(trainer)[0]) for _ in range(2)]
        trained.append((losses, {name: value.detach().clone() for name, value in trainer.parameters.items()}))
    (first, weights), (second, others) = trained
    assert first == second
    assert list(weights) == list(others)
    assert all(torch.equal(weights[name], value) for name, value in others.items())


@pytest.mark.parametrize("method", ["lora", "dreambooth"])
def test_prior_preservation_doubles_the_batch_of_any_method(method: str, make_trainer: MakeTrainer) -> None:
    images = [make_trainer(method, with_prior_preservation=prior).batches.images for prior in (False, True)]
    assert images == [2, 4]


def test_it_is_what_dreambooth_begins_with() -> None:
    begins = {name: get_method(name).config_class().with_prior_preservation for name in method_names()}
    known = {"base": False, "lora": False, "dreambooth": True, "dreambooth_lora": True}
    assert {name: begins[name] for name in known} == known

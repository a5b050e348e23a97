"""Bytes that weights take in memory, against sums made by hand, and that they hang on nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from tests.helpers.training_runs import MakeConfig, MakeTrainer
from trainables.config.fields import ModelConfig
from trainables.evaluation.inference_memory import InferenceMemory, measure_inference_memory
from trainables.methods.registry import get_method
from trainables.models.backbone import Backbone
from trainables.models.loading import load_backbone
from trainables.run.execute import execute
from trainables.run.resident import Resident

FLOAT32 = 4


@pytest.fixture
def backbone(models: Path) -> Backbone:
    """One for each test, which changes it."""
    return load_backbone(ModelConfig(path=str(models / "model")))


def of_base(backbone: Backbone) -> int:
    """Of the denoiser and the text encoder, as their state dictionaries and buffers say."""
    parts = [backbone.modules["unet"], backbone.modules["text_encoder"]]
    return sum(
        value.numel() * value.element_size()
        for part in parts
        for value in [*dict(part.named_parameters()).values(), *dict(part.named_buffers()).values()]
    )


def test_lora_adds_its_two_matrices_and_merged_it_adds_nothing(
    make_trainer: MakeTrainer, backbone: Backbone
) -> None:
    base, rank = of_base(backbone), 2
    sides = [
        layer.in_features + layer.out_features
        for name, layer in backbone.denoiser.named_modules()
        if isinstance(layer, nn.Linear) and name.endswith(("to_q", "to_k"))
    ]
    assert measure_inference_memory(backbone, get_method("base")) == InferenceMemory(base, base)
    make_trainer("lora", r=rank, target_modules=["to_q", "to_k"])
    held = backbone.parameter_digest()
    found = measure_inference_memory(backbone, get_method("lora"))
    assert found == InferenceMemory(base + rank * sum(sides) * FLOAT32, base)
    assert backbone.parameter_digest() == held


def test_all_weights_take_what_the_base_model_takes(make_trainer: MakeTrainer, backbone: Backbone) -> None:
    base = of_base(backbone)
    make_trainer("dreambooth")
    assert measure_inference_memory(backbone, get_method("dreambooth")) == InferenceMemory(base, base)


def test_embeddings_add_their_rows_merged_or_not(make_trainer: MakeTrainer, backbone: Backbone) -> None:
    base, width = of_base(backbone), backbone.text_encoders[0].config.hidden_size
    make_trainer("textual_inversion", num_vectors=3)
    with_rows = base + 3 * width * FLOAT32
    found = measure_inference_memory(backbone, get_method("textual_inversion"))
    assert found == InferenceMemory(with_rows, with_rows)
    trainer = make_trainer("pivotal_tuning", num_vectors=3)
    found = measure_inference_memory(backbone, get_method("pivotal_tuning"))
    added = sum(value.numel() for value in trainer.parameters.values()) * FLOAT32
    assert found == InferenceMemory(base + added, with_rows)


def test_a_hypernetwork_adds_two_networks_for_each_width(
    make_trainer: MakeTrainer, backbone: Backbone
) -> None:
    """Layers 1,2,1: (d x 2d + 2d) + (2d x d + d) numbers each, for keys and for values."""
    base = of_base(backbone)
    make_trainer("hypernetwork", layer_structure="1,2,1", attention_layers="cross")
    width = backbone.denoiser.config.cross_attention_dim
    expected = base + 2 * (4 * width**2 + 3 * width) * FLOAT32
    assert measure_inference_memory(backbone, get_method("hypernetwork")) == InferenceMemory(
        expected, expected
    )


@pytest.mark.parametrize("fields", [{}, {"mixed_precision": "bf16", "use_ema": True}])
def test_a_run_states_what_is_drawn_with_and_not_how_it_trained(
    fields: dict[str, Any], make_config: MakeConfig, resident: Resident, backbone: Backbone
) -> None:
    config = make_config("lora", **fields)
    list(execute(config, resident))
    cost = json.loads((Path(config.output_dir) / "result.json").read_text())["cost"]
    base = of_base(backbone)
    assert cost["inference_fused_bytes"] == base
    assert cost["inference_bytes"] == base + cost["trainable_parameters"] * FLOAT32

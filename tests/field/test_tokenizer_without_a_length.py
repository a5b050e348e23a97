"""A model whose tokenizer does not say how many tokens it takes: transformers then makes that 1e30."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

from benchmarks.support.tiny_models import make_tiny_model
from trainables.config.fields import ModelConfig
from trainables.methods.dreambooth import METHOD, DreamBoothConfig
from trainables.models.folders import check_model
from trainables.models.loading import load_backbone
from trainables.models.prompt_lengths import pipeline_reader

LONG = "a sks cat " * 50


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model without the file that says it."""
    folder = make_tiny_model(tmp_path / "model", resolution=16, width=16)
    (folder / "tokenizer/tokenizer_config.json").unlink()
    return folder


def test_the_text_encoders_positions_are_the_limit(model: Path, tmp_path: Path) -> None:
    assert check_model(ModelConfig(path=str(model))) == []
    backbone = load_backbone(ModelConfig(path=str(model)))
    assert backbone.tokenizers[0].model_max_length == 77
    rows = backbone.encode_prompts([LONG, "a sks cat"])["encoder_hidden_states"]
    assert rows.shape[1] == 77
    stock = backbone.pipeline()  # what `study generate` draws with
    torch.testing.assert_close(stock.encode_prompt([LONG], "cpu", 1, False)[0], rows[:1])
    METHOD.save(backbone, DreamBoothConfig(), tmp_path / "saved")
    saved = StableDiffusionPipeline.from_pretrained(str(tmp_path / "saved"), safety_checker=None)
    assert saved.tokenizer.model_max_length == 77
    torch.testing.assert_close(saved.encode_prompt([LONG], "cpu", 1, False)[0], rows[:1])


@pytest.mark.parametrize(("said", "limit"), [(None, 77), (40, 40), (512, 77), (1e30, 77)])
def test_the_smaller_of_both_is_the_limit(model: Path, said: float | None, limit: int) -> None:
    (model / "tokenizer/tokenizer_config.json").write_text(json.dumps({"model_max_length": said}))
    assert load_backbone(ModelConfig(path=str(model))).tokenizers[0].model_max_length == limit
    reader = pipeline_reader(model)
    assert reader is not None
    assert reader.limit == limit

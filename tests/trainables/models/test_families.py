"""Models: what is checked before loading, what is loaded, and how it is put back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

from trainables.config.fields import ModelConfig
from trainables.errors import UserError
from trainables.models.backbone import Backbone, enable_gradient_checkpointing
from trainables.models.folders import check_model, component_digest, native_resolution, resolve_model
from trainables.models.loading import load_backbone


@pytest.fixture
def copy(models: Path, tmp_path: Path) -> Path:
    """A model folder that a test may damage."""
    return Path(shutil.copytree(models / "model", tmp_path / "copy"))


def problems(path: Path | str, resolution: int | None = None) -> str:
    return "\n".join(check_model(ModelConfig(path=str(path)), resolution))


def test_a_whole_model_has_no_problems(models: Path) -> None:
    assert problems(models / "model", 24) == ""
    assert native_resolution(models / "model") == 16


def test_resolution_must_fit_the_autoencoder(models: Path) -> None:
    assert "resolution 18" in problems(models / "model", 18)
    assert "take 16" in problems(models / "model", 18)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    text = problems(tmp_path / "sd15")
    assert str(tmp_path / "sd15") in text
    assert "model_index.json" in text
    with pytest.raises(UserError, match="sd15"):
        resolve_model(ModelConfig(path=str(tmp_path / "sd15")))


def test_a_hub_id_that_cannot_be_had_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("trainables.models.folders.hub_is_reachable", lambda: False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert "'nobody/nothing'" in problems("nobody/nothing")
    with pytest.raises(UserError, match="nobody/nothing"):
        resolve_model(ModelConfig(path="nobody/nothing"))


def test_a_folder_that_is_no_pipeline(copy: Path) -> None:
    (copy / "model_index.json").write_text("{")
    assert "model_index.json" in problems(copy)
    index = {"_class_name": "KandinskyPipeline"}
    (copy / "model_index.json").write_text(json.dumps(index))
    assert "KandinskyPipeline" in problems(copy)
    with pytest.raises(UserError, match="KandinskyPipeline"):
        load_backbone(ModelConfig(path=str(copy)))


def test_missing_parts_and_pickled_weights_are_named(copy: Path) -> None:
    shutil.rmtree(copy / "scheduler")
    weights = next((copy / "unet").glob("*.safetensors"))
    weights.rename(weights.with_name("diffusion_pytorch_model.bin"))
    text = problems(copy)
    assert "scheduler/" in text
    assert "unet/" in text
    assert "safe_serialization" in text


def test_digest_is_of_content(models: Path, copy: Path) -> None:
    assert component_digest(copy, "vae") == component_digest(models / "model", "vae")
    assert component_digest(copy, "vae") != component_digest(copy, "unet")
    config = copy / "vae" / "config.json"
    config.write_text(config.read_text().replace("0.5", "0.6"))
    assert component_digest(copy, "vae") != component_digest(models / "model", "vae")


def test_backbone_is_frozen_float32_and_in_evaluation_mode(backbone: Backbone) -> None:
    for module in backbone.modules.values():
        assert not module.training
        assert all(p.dtype == torch.float32 and not p.requires_grad for p in module.parameters())
    assert backbone.prediction_type == "epsilon"
    assert len(backbone.alphas_cumprod) == 1000
    assert backbone.resolution == 16
    assert backbone.latent_factor == 4


def test_prediction_type_is_the_models(models: Path) -> None:
    assert load_backbone(ModelConfig(path=str(models / "v_model"))).prediction_type == "v_prediction"


def test_prompts_are_encoded_as_by_the_stock_pipeline(backbone: Backbone, models: Path) -> None:
    stock = StableDiffusionPipeline.from_pretrained(str(models / "model"), safety_checker=None)
    prompts = ["a sks cat", "a cat " * 100]  # the second is too long
    expected, _ = stock.encode_prompt(prompts, "cpu", 1, False)
    torch.testing.assert_close(backbone.encode_prompts(prompts)["encoder_hidden_states"], expected)


def test_restore_puts_every_bit_back(backbone: Backbone) -> None:
    before = backbone.parameter_digest()
    backbone.will_change("unet")
    backbone.denoiser.requires_grad_(True).train()
    backbone.lower_precision(torch.bfloat16)
    assert {p.dtype for p in backbone.vae.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in backbone.denoiser.parameters()} == {torch.float32}
    with torch.no_grad():
        for parameter in backbone.denoiser.parameters():
            parameter.add_(1.0)
            parameter.grad = torch.ones_like(parameter)
    changed = backbone.parameter_digest()
    assert changed != before
    backbone.restore_frozen()
    assert {p.dtype for p in backbone.vae.parameters()} == {torch.float32}
    backbone.restore()
    assert backbone.parameter_digest() == before
    for module in backbone.modules.values():
        assert not module.training
        assert all(p.grad is None and not p.requires_grad for p in module.parameters())


def test_restore_leaves_no_hook_of_gradient_checkpointing(backbone: Backbone) -> None:
    """A later run in the same process would compute, and count, gradients that nobody asked for."""

    def hooks() -> list[int]:
        return [len(part._forward_hooks) for module in backbone.modules.values() for part in module.modules()]

    before = hooks()
    for part in ("unet", "text_encoder"):
        enable_gradient_checkpointing(backbone.modules[part])
    assert hooks() != before
    backbone.restore()
    assert hooks() == before

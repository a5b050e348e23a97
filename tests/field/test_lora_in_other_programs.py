"""A LoRA with alpha 32 and rank 8, loaded by diffusers and by programs that read kohya's `.alpha` keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from trainables.config.fields import ModelConfig
from trainables.methods.registry import get_method, method_config_class
from trainables.models.backbone import Backbone
from trainables.models.loading import load_backbone

Change = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    """The embedded model."""
    return load_backbone(ModelConfig())


def changes(part: Any) -> Change:
    """Module -> what its adapter adds to its weight."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    found = {}
    for name, module in part.named_modules():
        if isinstance(module, BaseTunerLayer):
            (adapter,) = module.active_adapters
            found[name] = module.get_delta_weight(adapter).detach().clone()  # type: ignore[operator]
    return found


def read_by_alpha(path: Path, prefix: str, part: Any) -> Change:
    """Reads a file as loaders of kohya's layout do: alpha of each layer divided by its rank; 1 without alpha."""
    state = load_file(path)
    known = {name.replace(".", "_"): name for name, _ in part.named_modules()}
    if prefix == "lora_te_":
        known = {f"text_model_{key}": name for key, name in known.items()}
    found = {}
    for key in [key for key in state if key.startswith(prefix) and key.endswith(".lora_down.weight")]:
        layer = key.removesuffix(".lora_down.weight")
        down, up = state[key].float(), state[f"{layer}.lora_up.weight"].float()
        scale = float(state[f"{layer}.alpha"]) / len(down)
        product = (up.flatten(1) @ down.flatten(1)).reshape(up.shape[0], *down.shape[1:])
        found[known[layer.removeprefix(prefix)]] = product * scale
    return found


def read_without_metadata(path: Path, prefix: str) -> Change:
    """Reads a file as loaders of diffusers' layout do that take 1 for the scale where no key says otherwise."""
    state = load_file(path)
    found = {}
    for key in [key for key in state if key.startswith(prefix) and key.endswith(".lora_A.weight")]:
        layer = key.removesuffix(".lora_A.weight")
        down, up = state[key], state[f"{layer}.lora_B.weight"]
        found[layer.removeprefix(prefix)] = (up.flatten(1) @ down.flatten(1)).reshape(
            up.shape[0], *down.shape[1:]
        )
    return found


def assert_equal(found: Change, expected: Change) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize(
    "fields",
    [
        {"r": 8, "lora_alpha": 32},
        {"r": 8, "lora_alpha": 3.3, "use_rslora": True},
        {"r": 4, "lora_alpha": 1, "target_modules": ("to_q", "conv1", "proj_in", "time_emb_proj")},
        {"r": 4},
    ],
)
def test_every_program_gives_the_trained_strength(
    fields: dict[str, Any], backbone: Backbone, tmp_path: Path
) -> None:
    method = get_method("lora")
    config = method_config_class("lora").model_validate({"train_text_encoder": True, **fields})
    try:
        for group in method.attach(backbone, config, torch.Generator().manual_seed(0)):
            for value in group["params"]:
                with torch.no_grad():
                    value.normal_(generator=torch.Generator().manual_seed(value.numel()))
        unet, text = changes(backbone.denoiser), changes(backbone.text_encoders[0])
        method.save(backbone, config, tmp_path)
    finally:
        method.detach(backbone)
    ours, kohya = tmp_path / "pytorch_lora_weights.safetensors", tmp_path / "lora_kohya.safetensors"
    assert_equal(read_by_alpha(kohya, "lora_unet_", backbone.denoiser), unet)
    assert_equal(read_by_alpha(kohya, "lora_te_", backbone.text_encoders[0]), text)
    assert_equal(read_without_metadata(ours, "unet."), unet)
    # Other programs, and diffusers beside older transformers, know the CLIP inside `text_model`.
    assert_equal(read_without_metadata(ours, "text_encoder.text_model."), text)

    pipeline = backbone.pipeline()
    for folder, name in ((tmp_path, None), (tmp_path, "pytorch_lora_weights.safetensors")):
        try:
            pipeline.load_lora_weights(str(folder), weight_name=name, use_safetensors=True)
            assert_equal(changes(pipeline.unet), unet)
            assert_equal(changes(pipeline.text_encoder), text)
        finally:
            pipeline.unload_lora_weights()
            method.detach(backbone)


def test_diffusers_reads_the_other_layout_too(backbone: Backbone, tmp_path: Path) -> None:
    method = get_method("lora")
    config = method_config_class("lora").model_validate({"r": 8, "lora_alpha": 32})
    try:
        for group in method.attach(backbone, config, torch.Generator().manual_seed(0)):
            for value in group["params"]:
                torch.nn.init.normal_(value)
        unet = changes(backbone.denoiser)
        method.save(backbone, config, tmp_path)
    finally:
        method.detach(backbone)
    pipeline = backbone.pipeline()
    try:
        pipeline.load_lora_weights(str(tmp_path), weight_name="lora_kohya.safetensors", use_safetensors=True)
        assert_equal(changes(pipeline.unet), unet)
    finally:
        pipeline.unload_lora_weights()
        method.detach(backbone)

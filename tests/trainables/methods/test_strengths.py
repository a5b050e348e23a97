"""Strengths of a training: 0 is the base model bit by bit, 1 what was trained, and between them weights are mixed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from tests.helpers.exported_weights import trained as trained_words
from tests.helpers.tiny_families import make_tiny
from trainables.config.fields import ModelConfig
from trainables.methods.registry import get_method, method_config_class, method_names
from trainables.methods.strengths import strength_obstacle
from trainables.models.backbone import Backbone
from trainables.models.loading import load_backbone
from trainables.models.placeholders import expand, placeholder_tokens

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("lora", {"r": 2, "lora_alpha": 3, "target_modules": ["to_q", "conv1"], "train_text_encoder": True}),
    "dora": ("lora", {"adapter": "dora", "r": 2, "target_modules": ["to_q", "conv1"]}),
    "loha": ("lora", {"adapter": "loha", "r": 2, "train_text_encoder": True}),
    "ia3": ("lora", {"adapter": "ia3", "target_modules": ["to_q", "conv1"]}),
    "dreambooth": ("dreambooth", {"train_text_encoder": True}),
    "text_to_image": ("text_to_image", {"r": 2, "lora_alpha": 3}),
    "text_to_image, full": ("text_to_image", {"trains": "full", "train_text_encoder": True}),
    "hypernetwork": ("hypernetwork", {"activation_func": "relu"}),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny("sd1", tmp_path_factory.mktemp("model") / "sd1")


def load(folder: Path) -> Backbone:
    return load_backbone(ModelConfig(path=str(folder)))


def output(backbone: Backbone, prompt: str = "a sks cat", vectors: int = 1) -> torch.Tensor:
    """Args: vectors: Of a word that stock loaders have put into the tokenizer, of which the backbone knows nothing."""
    prompt = expand(prompt, placeholder_tokens("<sks>", vectors)) if vectors > 1 else prompt
    for module in backbone.modules.values():
        module.eval()
    inputs = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return backbone.denoise(inputs, torch.tensor([500]), backbone.encode_prompts([prompt]))


def trained(backbone: Backbone, case: str, weights: Path) -> torch.Tensor:
    """Trains by drawing numbers, saves, and returns what the model then gives."""
    name, fields = CASES[case]
    method, config = get_method(name), method_config_class(name).model_validate(fields)
    draws = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for group in method.attach(backbone, config, torch.Generator().manual_seed(0)):
            for value in group["params"]:
                value.add_(0.05 * torch.randn(value.shape, generator=draws))
    method.save(backbone, config, weights)
    return output(backbone)


def parameters(backbone: Backbone) -> dict[str, torch.Tensor]:
    return {
        f"{part}.{name}": value.detach().clone()
        for part, module in backbone.modules.items()
        for name, value in module.named_parameters()
    }


@pytest.mark.parametrize("case", CASES)
def test_zero_is_the_base_model_and_one_what_was_trained(case: str, folder: Path, tmp_path: Path) -> None:
    ours = trained(load(folder), case, tmp_path / "weights")
    backbone = load(folder)
    base, before = output(backbone), parameters(backbone)
    turn = get_method(CASES[case][0]).with_strength(backbone, tmp_path / "weights")  # type: ignore[attr-defined]
    turn(0.0)
    assert torch.equal(output(backbone), base)
    found = parameters(backbone)
    assert all(torch.equal(found[name], value) for name, value in before.items())
    turn(1.0)
    torch.testing.assert_close(output(backbone), ours, rtol=0, atol=2e-5)
    assert (ours - base).abs().max() > 1e-3
    after = parameters(backbone)
    for strength in (0.25, 1.5):
        turn(strength)
        now = parameters(backbone)
        for name, value in before.items():
            expected = value + strength * (after[name] - value)
            torch.testing.assert_close(now[name], expected, rtol=1e-5, atol=1e-6, msg=name)
    turn(1.0)
    again = parameters(backbone)
    assert all(torch.equal(again[name], value) for name, value in after.items())


def test_of_lora_it_is_the_strength_of_an_adapter(folder: Path, tmp_path: Path) -> None:
    """As diffusers has it: the scale of the adapter, here in denoiser and text encoder."""
    trained(load(folder), "lora", tmp_path / "weights")
    other = load(folder)
    pipeline = get_method("lora").load(other.pipeline(), tmp_path / "weights")
    (name,) = pipeline.get_active_adapters()
    pipeline.set_adapters([name], [0.4])
    expected = output(other)
    backbone = load(folder)
    get_method("lora").with_strength(backbone, tmp_path / "weights")(0.4)  # type: ignore[attr-defined]
    torch.testing.assert_close(output(backbone), expected, rtol=0, atol=2e-5)


def test_of_a_hypernetwork_it_is_that_of_its_loader(folder: Path, tmp_path: Path) -> None:
    from trainables.methods.hypernetwork_files import load_hypernetwork

    trained(load(folder), "hypernetwork", tmp_path / "weights")
    other, backbone = load(folder), load(folder)
    load_hypernetwork(other.pipeline(), tmp_path / "weights", strength=0.4)
    get_method("hypernetwork").with_strength(backbone, tmp_path / "weights")(0.4)  # type: ignore[attr-defined]
    assert torch.equal(output(backbone), output(other))


def test_what_has_no_strength_says_so() -> None:
    assert "trains nothing" in (strength_obstacle(get_method("base")) or "")
    assert "word" in (strength_obstacle(get_method("textual_inversion")) or "")
    assert strength_obstacle(get_method("dreambooth_lora")) is None


def test_only_what_changes_no_weights_has_no_strength() -> None:
    """A reason is the method's own, and never another one's."""
    without = {name for name in method_names() if strength_obstacle(get_method(name)) is not None}
    assert without == {"base", "textual_inversion"}
    unknown = SimpleNamespace(title="Other", trains=True)
    assert "has no function with_strength" in (strength_obstacle(cast(Any, unknown)) or "")


@pytest.mark.parametrize("name", ["pivotal_tuning", "custom_diffusion"])
def test_a_word_stays_as_it_was_learnt(name: str, folder: Path, tmp_path: Path) -> None:
    """Strength turns what stands beside it: at 0 the base model is asked by the word, at 1 all that was trained."""
    ours, prompt = load(folder), "a <sks> cat"
    fields: dict[str, Any] = {"placeholder_token": "<sks>"}
    if name == "pivotal_tuning":
        fields |= {"r": 2, "lora_alpha": 3}
    method = get_method(name)
    config = trained_words(ours, name, tmp_path / "weights", num_vectors=2, **fields)
    assert config.reword("a sks cat") == prompt
    expected = output(ours, prompt)
    rows = {part: value.detach() for part, value in ours.added_embeddings.items()}

    word = load(folder)
    word.add_tokens(dict.fromkeys(config.added_words, "a"))
    for part, value in word.added_embeddings.items():
        value.data.copy_(rows[part])
    alone = output(word, prompt)
    assert (expected - alone).abs().max() > 1e-3

    backbone = load(folder)
    before = dict(load(folder).denoiser.named_parameters())
    turn = method.with_strength(backbone, tmp_path / "weights")  # type: ignore[attr-defined]
    turn(0.0)
    assert all(torch.equal(value, before[key]) for key, value in backbone.denoiser.named_parameters())
    torch.testing.assert_close(output(backbone, prompt, 2), alone, rtol=0, atol=2e-5)
    turn(1.0)
    torch.testing.assert_close(output(backbone, prompt, 2), expected, rtol=0, atol=2e-5)
    after = {key: value.detach().clone() for key, value in backbone.denoiser.named_parameters()}
    turn(0.5)
    for key, value in backbone.denoiser.named_parameters():
        torch.testing.assert_close(value, torch.lerp(before[key], after[key], 0.5), rtol=1e-5, atol=1e-6)

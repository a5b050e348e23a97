"""Methods beside weights in 8 and 4 bit: which run, that they train as over ordinary weights, and what is left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.helpers.exported_weights import exported, installed, trained
from tests.helpers.plain_torch import Adam
from tests.helpers.quantized_models import (
    BITS,
    dequantized,
    in_8_bit,
    in_nf4,
    load,
    quantized_layers,
    run_of,
    trainer_of,
)
from tests.helpers.stock_images import draw_stock
from tests.helpers.tiny_families import RESOLUTION, make_tiny
from tests.helpers.training_runs import MakeConfig
from trainables.config.fields import ModelConfig
from trainables.errors import UserError
from trainables.methods.adapter_config import AdapterConfig
from trainables.methods.adapter_files import adapted_layers, without_extension
from trainables.methods.adapter_kinds import ALTER_BASE, KINDS
from trainables.methods.adapters import peft_config
from trainables.methods.fit import changed_weights
from trainables.methods.lora import LoraTrainingConfig
from trainables.methods.registry import get_method, method_config_class, method_names
from trainables.methods.targets import layers_of
from trainables.models.backbone import Backbone
from trainables.models.quantization import quantize
from trainables.models.sampling import initial_noise
from trainables.run.execute import execute
from trainables.run.resident import Resident
from trainables.training.loop import batch_loss, train_step
from trainables.training.trainer import count_step_flops

pytest.importorskip("bitsandbytes")

STARTS = (True, "gaussian", "orthogonal")
VARIANTS: dict[str, dict[str, Any]] = {
    **{kind: {"adapter": kind} for kind in KINDS},
    **{f"lora-{start}": {"init_lora_weights": start} for start in STARTS},
    "lokr-lycoris": {"adapter": "lokr", "init_weights": "lycoris", "decompose_factor": 2},
    "oft-cayley": {"adapter": "oft", "use_cayley_neumann": False},
    "dora-rslora": {"adapter": "dora", "use_rslora": True, "lora_alpha": 3},
}
#: Over what no method trains, whatever the adapter: those that change weights of the base model.
CHANGE_WEIGHTS = ("dreambooth", "custom_diffusion")


class Toy(nn.Module):
    """Two layers, one behind the other."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([nn.Linear(64, 32), nn.Linear(32, 48)])

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            inputs = layer(inputs)
        return inputs


def adapted(bits: str | None, config: AdapterConfig) -> Toy:
    from peft import inject_adapter_in_model

    toy = Toy().requires_grad_(False)
    if bits is not None:
        quantize(toy, bits)  # type: ignore[arg-type]
    torch.manual_seed(1)
    with without_extension():
        inject_adapter_in_model(peft_config(config, "target_modules", layers_of(toy)), toy)
    return toy


def config_of(**fields: Any) -> LoraTrainingConfig:
    sizes = {"r": 2, "oft_block_size": 4, "boft_block_size": 4, "target_modules": ["0", "1"]}
    return LoraTrainingConfig.model_validate(sizes | fields)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("families")
    return {name: make_tiny(name, place / name) for name in ("sd1", "sdxl", "sd3", "flux")}


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_kind_begins_as_the_quantised_model_and_its_gradients_are_those_over_ordinary_weights(
    variant: str, bits: str
) -> None:
    config = config_of(**VARIANTS[variant])
    assert changed_weights(get_method("lora"), config) is None
    toy, plain = adapted(bits, config), adapted(None, config)
    bare = Toy()
    quantize(bare, bits)  # type: ignore[arg-type]
    for name, layer in quantized_layers(bare).items():
        plain.get_submodule(name).base_layer.weight.data.copy_(layer.weight)  # type: ignore[union-attr, operator]
    ours, theirs = ({k: v for k, v in each.named_parameters() if v.requires_grad} for each in (toy, plain))
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():  # magnitudes of DoRA are those of the weights
        value.data.copy_(ours[name])
    inputs = torch.randn(5, 64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        torch.testing.assert_close(toy(inputs), bare(inputs), rtol=1e-5, atol=1e-5)
    for _ in range(3):
        gradients = [
            torch.autograd.grad((each(inputs) - 1).square().mean(), list(values.values()))
            for each, values in ((toy, ours), (plain, theirs))
        ]
        for mine, other in zip(*gradients, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)
        for values, found in zip((ours, theirs), gradients, strict=True):
            for value, gradient in zip(values.values(), found, strict=True):
                value.data -= 0.1 * gradient + 0.01 * gradient.sign()
                value.data.copy_(value.data.to(torch.float32))
        for name, value in theirs.items():  # signs of gradients that are rounding alone may differ
            value.data.copy_(ours[name])
    assert all(bool(gradient.abs().max() > 0) for gradient in gradients[0])
    with torch.no_grad():
        assert float((toy(inputs) - bare(inputs)).abs().max()) > 1e-3


@pytest.mark.parametrize("start", ALTER_BASE)
def test_beginnings_that_alter_weights_would_be_lost(start: str) -> None:
    """PEFT changes a weight that is made of codes anew, so that the model would begin as another one."""
    config = config_of(init_lora_weights=start)
    assert changed_weights(get_method("lora"), config) is not None
    toy, bare = adapted("8bit", config), Toy()
    quantize(bare, "8bit")
    inputs = torch.randn(5, 64)
    assert float((toy(inputs) - bare(inputs)).detach().abs().max()) > 1e-3


def test_which_methods_change_weights() -> None:
    defaults = {
        name: changed_weights(get_method(name), method_config_class(name)()) for name in method_names()
    }
    assert {name for name, said in defaults.items() if said is not None} == set(CHANGE_WEIGHTS)
    full = method_config_class("text_to_image").model_validate({"trains": "full"})
    assert "trains: adapter" in str(changed_weights(get_method("text_to_image"), full))
    for name in ("lora", "dreambooth_lora", "text_to_image", "pivotal_tuning"):
        config = method_config_class(name).model_validate({"init_lora_weights": "olora"})
        assert "take gaussian" in str(changed_weights(get_method(name), config))


@pytest.mark.parametrize("bits", BITS)
def test_ten_steps_of_lora_are_those_of_the_equations(bits: str) -> None:
    """y = x W' + s B A x (QLoRA, eq. 5), where W' is the quantised weight, written out with AdamW."""
    config = config_of(r=4, lora_alpha=8)
    toy = adapted(bits, config)
    weights = [(in_nf4 if bits == "4bit" else in_8_bit)(layer.weight) for layer in Toy().layers]  # type: ignore[arg-type]
    offsets = [layer.bias.detach() for layer in Toy().layers]  # type: ignore[union-attr]
    layers = list(adapted_layers(toy).values())
    plain = [
        pair["default"].weight.detach().clone().requires_grad_(True)
        for layer in layers
        for pair in (layer.lora_A, layer.lora_B)
    ]
    ours = [pair["default"].weight for layer in layers for pair in (layer.lora_A, layer.lora_B)]
    for module, weight in zip(layers, weights, strict=True):
        apart = (module.base_layer.weight - weight).detach().abs().max()
        assert float(apart) < 1e-2 * float(weight.detach().abs().max())
    weights = [layer.base_layer.weight for layer in layers]
    adam = Adam(plain, rate=1e-2, decay=0.01, clip=1e9)
    optimizer = torch.optim.AdamW(ours, lr=1e-2, weight_decay=0.01)
    draws = torch.Generator().manual_seed(3)
    losses = []
    for _ in range(10):
        inputs, wanted = torch.randn(6, 64, generator=draws), torch.randn(6, 48, generator=draws)
        hidden = inputs
        for number, (weight, offset) in enumerate(zip(weights, offsets, strict=True)):
            down, up = plain[2 * number], plain[2 * number + 1]
            hidden = hidden @ weight.T + offset + 2.0 * (hidden @ down.T @ up.T)
        expected = (hidden - wanted).square().mean()
        loss = (toy(inputs) - wanted).square().mean()
        losses.append((float(loss.detach()), float(expected.detach())))
        adam.update(torch.autograd.grad(expected, plain))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1][0] != pytest.approx(losses[0][0], rel=1e-3)
    for found, wanted_loss in losses:
        assert found == pytest.approx(wanted_loss, rel=1e-5)
    for value, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(value.detach(), other.detach(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize(
    ("name", "method", "fields"),
    [
        ("sd1", "lora", {"train_text_encoder": True}),
        ("sdxl", "lora", {"gradient_checkpointing": True}),
        ("flux", "lora", {"mixed_precision": "bf16"}),
        ("flux", "textual_inversion", {}),
        ("sd1", "hypernetwork", {}),
        ("sd3", "lora", {"adapter": "dora"}),
    ],
)
def test_a_run_trains_as_over_ordinary_weights_with_as_many_operations(
    name: str,
    method: str,
    fields: dict[str, Any],
    bits: str,
    make_config: MakeConfig,
    folders: dict[str, Path],
) -> None:
    fields = {"learning_rate": 1e-2, "max_train_steps": 10, **fields}
    folder = folders[name]
    configs = [
        run_of(make_config, method, folder, kind, into=into, **fields)
        for kind, into in ((bits, "codes"), (None, "whole"))
    ]
    codes = trainer_of(configs[0], load(folder, bits))
    whole = trainer_of(configs[1], dequantized(folder, bits))
    assert count_step_flops(codes) == count_step_flops(whole) > 0
    low = fields.get("mixed_precision") == "bf16"
    for _ in range(10):
        batch = codes.batches.draw()
        losses = [
            batch_loss(trainer, batch) if not low else lowered_loss(trainer, batch)
            for trainer in (codes, whole)
        ]
        ours, theirs = (
            torch.autograd.grad(loss, list(trainer.parameters.values()), allow_unused=True)
            for loss, trainer in zip(losses, (codes, whole), strict=True)
        )
        assert float(losses[0].detach()) == pytest.approx(float(losses[1].detach()), rel=1e-5)
        pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if a is not None and b is not None]
        assert len(pairs) == sum(each is not None for each in theirs)
        norm = sum(float(b.square().sum()) for _, b in pairs) ** 0.5
        apart = sum(float((a - b).square().sum()) for a, b in pairs) ** 0.5
        assert norm > 0
        assert apart < 1e-4 * norm
        train_step(codes)
        for (_, value), (_, other) in zip(codes.parameters.items(), whole.parameters.items(), strict=True):
            other.data.copy_(value)


def lowered_loss(trainer: Any, batch: Any) -> torch.Tensor:
    with trainer.accelerator.autocast():
        return batch_loss(trainer, batch)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize(
    ("name", "method", "fields"),
    [
        ("sd1", "lora", {"train_text_encoder": True, "text_encoder_learning_rate": 1e-2}),
        ("sd1", "lora", {"adapter": "boft", "boft_block_size": 4}),
        ("sdxl", "lora", {"adapter": "lokr"}),
        ("flux", "lora", {}),
        ("sd3", "lora", {}),
        ("flux", "pivotal_tuning", {}),
        ("sdxl", "hypernetwork", {}),
    ],
)
def test_what_was_saved_draws_the_same_and_nothing_is_left_on_the_model(
    name: str,
    method: str,
    fields: dict[str, Any],
    bits: str,
    make_config: MakeConfig,
    folders: dict[str, Path],
    tmp_path: Path,
) -> None:
    backbone, again = load(folders[name], bits), load(folders[name], bits)
    untouched = backbone.parameter_digest()
    trainer = trainer_of(
        run_of(make_config, method, folders[name], bits, learning_rate=2e-2, **fields), backbone
    )
    for _ in range(max(3, trainer.stretches[-1][0] + 2)):
        train_step(trainer)
    for module in backbone.modules.values():
        module.eval()
    noise, prompts = initial_noise(backbone, [1], RESOLUTION), [trainer.config.reword("a sks cat")]
    ours = draw_stock(backbone.pipeline(), prompts, noise)
    chosen = get_method(method)
    chosen.save(backbone, trainer.config, tmp_path / "weights")
    base = draw_stock(again.pipeline(), prompts, noise)
    assert (ours - base).abs().max() > 0.01
    loaded = chosen.load(again.pipeline(), tmp_path / "weights")
    torch.testing.assert_close(draw_stock(loaded, prompts, noise), ours, rtol=0, atol=2e-3)
    with chosen.fused(backbone) as merged:
        assert merged is (False if method == "hypernetwork" else None)
    chosen.detach(backbone)
    backbone.restore()
    assert backbone.parameter_digest() == untouched
    assert backbone.is_base_model()


@pytest.mark.parametrize(("name", "bits"), [("sd1", "8bit"), ("sdxl", "4bit"), ("flux", "4bit")])
def test_a_run_that_was_stopped_ends_with_the_same_bits(
    name: str, bits: str, make_config: MakeConfig, folders: dict[str, Path], resident: Resident
) -> None:
    fields = {
        "with_prior_preservation": True,
        "prior_preservation_target": "base" if name == "sd1" else "images",
        "mixed_precision": "bf16",
        "gradient_checkpointing": True,
        "max_train_steps": 4,
    }
    whole, broken = (
        run_of(make_config, "lora", folders[name], bits, into=into, **fields) for into in ("whole", "broken")
    )
    list(execute(whole, resident))
    run = execute(broken, resident)
    for event in run:
        if event.kind == "progress" and event.step == 3:
            break
    with pytest.raises(KeyboardInterrupt):
        run.throw(KeyboardInterrupt())
    events = list(execute(broken, resident))
    assert events[0].data["resumed_step"] == 2
    weights = [
        {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.safetensors"))}
        for folder in (Path(config.output_dir) / "weights" for config in (whole, broken))
    ]
    assert weights[0]
    assert weights[0] == weights[1]
    assert resident.backbone(whole.model, torch.device("cpu")).is_base_model()
    cost = json.loads((Path(whole.output_dir) / "result.json").read_text())["cost"]
    assert cost["image_latency_fused_seconds"] is cost["inference_fused_bytes"] is None
    assert cost["inference_bytes"] > 0
    assert cost["switch_seconds"] > 0
    assert cost["image_latency_seconds"] > 0


def test_the_frozen_base_is_the_quantised_model(make_config: MakeConfig, folders: dict[str, Path]) -> None:
    config = run_of(
        make_config,
        "lora",
        folders["flux"],
        "4bit",
        learning_rate=1e-2,
        with_prior_preservation=True,
        prior_preservation_target="base",
    )
    backbone = load(folders["flux"], "4bit")
    latents, text = torch.randn(1, 4, 4, 4), backbone.encode_prompts(["a cat"])

    def predicted() -> torch.Tensor:
        with torch.no_grad():
            return backbone.denoise(latents, torch.tensor([300.0]), text)

    before = predicted()
    trainer = trainer_of(config, backbone)
    for _ in range(3):
        train_step(trainer)
    backbone.denoiser.eval()
    assert not torch.equal(predicted(), before)
    with backbone.as_base():
        assert torch.equal(predicted(), before)


def outputs(backbone: Backbone) -> torch.Tensor:
    for module in backbone.modules.values():
        module.eval()
    inputs = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return backbone.denoise(inputs, torch.tensor([500.0]), backbone.encode_prompts(["a sks cat"]))


@pytest.mark.parametrize("bits", BITS)
def test_strengths_turn_what_was_trained_over_codes(
    bits: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    backbone = load(folders["sd1"], bits)
    base = outputs(backbone)
    trained(backbone, "lora", tmp_path / "weights", r=2)
    whole = outputs(backbone)
    again = load(folders["sd1"], bits)
    turn = get_method("lora").with_strength(again, tmp_path / "weights")  # type: ignore[attr-defined]
    for strength, expected in ((0.0, base), (1.0, whole)):
        turn(strength)
        torch.testing.assert_close(outputs(again), expected, rtol=1e-4, atol=1e-4)
    turn(0.5)
    assert float((outputs(again) - base).abs().max()) > 1e-3


def test_an_export_is_for_the_models_own_weights_and_comes_back_on_codes(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    """kohya's names change weights: those that codes stand for take the change, and the codes come back."""
    backbone = load(folders["sd1"], "4bit")
    config = trained(backbone, "lora", tmp_path / "weights", r=2)
    ours = outputs(backbone)
    exported(folders["sd1"], "lora", config, tmp_path / "weights", "kohya", tmp_path / "out")
    again = load(folders["sd1"], "4bit")
    untouched = again.parameter_digest()
    installed(again, next((tmp_path / "out").glob("*.safetensors")))
    torch.testing.assert_close(outputs(again), ours, rtol=1e-4, atol=1e-4)
    get_method("foreign").detach(again)
    again.restore()
    assert again.parameter_digest() == untouched
    assert again.is_base_model()


def test_a_whole_model_cannot_take_the_place_of_codes(folders: dict[str, Path]) -> None:
    backbone = load(folders["sd1"], "8bit")
    untouched = backbone.parameter_digest()
    with pytest.raises(UserError, match="judge it by a study without quantization"):
        installed(backbone, folders["sd1"])
    assert backbone.parameter_digest() == untouched


def test_a_process_keeps_one_of_the_two_models(folders: dict[str, Path]) -> None:
    resident, device = Resident(), torch.device("cpu")
    models = {
        bits: ModelConfig.model_validate({"path": str(folders["sd1"]), "quantization": bits})
        for bits in (None, "8bit")
    }
    for bits, model in models.items():
        found = resident.backbone(model, device)
        assert bool(found.quantized) == (bits is not None)
        assert resident.backbone(model, device) is found

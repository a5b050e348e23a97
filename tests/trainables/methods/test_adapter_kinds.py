"""Which kinds of adapters go on which layers: what the table says is what the installed PEFT does."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import nn

from trainables.methods.adapter_config import AdapterConfig
from trainables.methods.adapter_files import without_extension
from trainables.methods.adapter_kinds import ALTER_BASE, KINDS, LINEAR_STARTS
from trainables.methods.adapters import adapter_layers, peft_config
from trainables.methods.lora import LoraTrainingConfig
from trainables.methods.targets import Layer, fitting, layers_of, target_problems, targeted

#: Layers of a model by what they are; the sides of their inputs are 6 pixels.
LAYERS = {
    "linear": lambda: nn.Linear(8, 12),
    "conv1x1": lambda: nn.Conv2d(8, 12, 1),
    "conv3x3": lambda: nn.Conv2d(8, 12, 3, padding=1),
    "stride2": lambda: nn.Conv2d(8, 12, 3, stride=2, padding=1),
}
STARTS = (True, "gaussian", "orthogonal", "pissa", "pissa_niter_16", "olora")
VARIANTS = {
    **{kind: {"adapter": kind} for kind in KINDS},
    **{f"lora-{start}": {"init_lora_weights": start} for start in STARTS},
    "loha-tucker": {"adapter": "loha", "use_effective_conv2d": True},
    "lokr-lycoris": {"adapter": "lokr", "init_weights": "lycoris", "decompose_factor": 2},
    "lokr-both": {
        "adapter": "lokr",
        "decompose_both": True,
        "decompose_factor": 4,
        "use_effective_conv2d": True,
    },
    "oft-cayley": {"adapter": "oft", "use_cayley_neumann": False},
    "dora-rslora": {"adapter": "dora", "use_rslora": True, "lora_alpha": 3},
}


class Toy(nn.Module):
    """A model of one layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.layer(inputs)
        return output


def config_of(**fields: Any) -> AdapterConfig:
    sizes = {"r": 2, "oft_block_size": 4, "boft_block_size": 4, "target_modules": ["layer"]}
    return LoraTrainingConfig.model_validate(sizes | fields)


def adapted(layer: str, config: AdapterConfig) -> tuple[Toy, nn.Module, torch.Tensor]:
    """A model with adapters, its layer as it was, and inputs."""
    from peft import inject_adapter_in_model

    torch.manual_seed(0)
    made = LAYERS[layer]()
    original = LAYERS[layer]()
    original.load_state_dict(made.state_dict())
    toy = Toy(made).requires_grad_(False)
    with without_extension():
        inject_adapter_in_model(peft_config(config, "target_modules", layers_of(toy)), toy)
    inputs = torch.randn(2, 8) if layer == "linear" else torch.randn(2, 8, 6, 6)
    return toy, original, inputs


def fits(layer: str, config: AdapterConfig) -> bool:
    most = "linear layers" if config.linear_layers_only else config.kind.fits
    return fitting(layers_of(Toy(LAYERS[layer]()))["layer"], most)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("layer", LAYERS)
def test_it_begins_as_the_base_model_learns_and_merges_where_it_is_allowed(layer: str, variant: str) -> None:
    config = config_of(**VARIANTS[variant])
    if not fits(layer, config):
        pytest.skip("refused: see the test below")
    toy, original, inputs = adapted(layer, config)
    torch.testing.assert_close(toy(inputs), original(inputs), rtol=1e-5, atol=1e-6)

    trained = [value for value in toy.parameters() if value.requires_grad]
    for _ in range(2):  # what stands beside zeros moves in the second step
        loss = (toy(inputs) - 1).square().mean()
        for value, gradient in zip(trained, torch.autograd.grad(loss, trained), strict=True):
            value.data -= 0.1 * gradient + 0.05 * gradient.sign()
    gradients = torch.autograd.grad((toy(inputs) - 1).square().mean(), trained)
    assert all(bool(gradient.abs().max() > 0) for gradient in gradients)

    beside = toy(inputs).detach()
    assert float((beside - original(inputs).detach()).abs().max()) > 1e-3
    (only,) = adapter_layers(toy)
    only.merge()
    torch.testing.assert_close(toy(inputs), beside, rtol=1e-4, atol=1e-5)


def numbers(kind: str, layer: Layer) -> int:
    """How many numbers train beside a layer, by the sizes above: rank 2, blocks of 4."""
    both, blocks = layer.inputs + layer.outputs, layer.inputs // 4
    return {
        "lora": 2 * both,
        "rslora": 2 * both,
        "dora": 2 * both + layer.outputs,
        "loha": 2 * 2 * both,
        "oft": blocks * (4 * 3 // 2),
        "boft": blocks * 4 * 4 + layer.outputs,
        "hra": 2 * layer.inputs,
        "ia3": layer.outputs,
    }[kind]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "lokr"])
@pytest.mark.parametrize("layer", LAYERS)
def test_as_many_numbers_train_as_the_equations_have(layer: str, kind: str) -> None:
    config = config_of(adapter=kind)
    if not fits(layer, config):
        return
    toy, _, _ = adapted(layer, config)
    trained = sum(value.numel() for value in toy.parameters() if value.requires_grad)
    assert trained == numbers(kind, layers_of(Toy(LAYERS[layer]()))["layer"])


def test_oft_is_refused_where_peft_is_wrong() -> None:
    """Its patches overlap: each pixel is added as often as kernels see it, before anything is learnt."""
    for layer in ("conv3x3", "stride2"):
        config = config_of(adapter="oft")
        assert not fits(layer, config)
        toy, original, inputs = adapted(layer, config)
        assert float((toy(inputs) - original(inputs)).detach().abs().max()) > 0.1
    assert fits("conv1x1", config_of(adapter="oft"))


@pytest.mark.parametrize(("start", "layer"), itertools.product(LINEAR_STARTS, list(LAYERS)[1:]))
def test_beginnings_for_linear_layers_are_refused_where_peft_fails(start: str, layer: str) -> None:
    config = config_of(init_lora_weights=start)
    assert not fits(layer, config)
    try:
        toy, original, inputs = adapted(layer, config)
        output = toy(inputs)
    except (ValueError, RuntimeError):
        return
    assert not torch.allclose(output, original(inputs), atol=1e-4)


def test_beginnings_that_alter_the_base_weights_are_named() -> None:
    for start in STARTS:
        toy, original, _ = adapted("linear", config_of(init_lora_weights=start))
        (layer,) = adapter_layers(toy)
        same = torch.equal(layer.get_base_layer().weight, original.weight)  # type: ignore[arg-type]
        assert same == (start not in ALTER_BASE)


def test_boft_asks_for_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a compiled extension PEFT would compute another number of butterfly factors than without."""
    from torch.utils import cpp_extension

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("something is compiled")

    monkeypatch.setattr(cpp_extension, "load", refuse)
    toy, _, _ = adapted("linear", config_of(adapter="boft"))
    (layer,) = adapter_layers(toy)
    assert layer.boft_R["default"].shape == (1, 2, 4, 4)


def test_layers_know_their_widths() -> None:
    model = nn.ModuleDict({**{name: make() for name, make in LAYERS.items()}, "norm": nn.LayerNorm(3)})
    layers = layers_of(model)
    assert layers["linear"] == Layer("Linear", 8, 12)
    assert layers["conv1x1"] == Layer("Conv2d", 8, 12, (1, 1))
    assert layers["conv3x3"] == Layer("Conv2d", 72, 12, (3, 3))
    assert [layers[name].width for name in ("linear", "conv3x3", "norm")] == [8, 12, 0]
    assert str(layers["stride2"]) == "Conv2d 3x3"
    assert list(targeted("all-linear", layers, "convolutions")) == ["linear"]
    assert list(targeted(["conv1x1", "conv3x3"], layers, "1x1 convolutions")) == ["conv1x1"]
    (problem,) = target_problems(["conv1x1", "conv3x3"], layers, "the toy", fits="1x1 convolutions")
    assert "'conv3x3' matches a module of the toy that cannot be adapted" in problem
    assert "(Conv2d 3x3); name linear layers and 1x1 convolutions only" in problem

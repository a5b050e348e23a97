"""What the installed PEFT's kinds can be put on, those among them that cannot be named here (docs/methods.md).

Each is tried on a linear layer and on convolutions of 1x1 and 3x3 pixels: put on it begins as the base model, its
gradients flow, and merged it gives what it gives unmerged; or it is refused.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from trainables.methods.adapter_kinds import KINDS, NOT_OFFERED
from trainables.methods.registry import method_config_class

ALL_LAYERS = ("LORA", "ADALORA", "BOFT", "HIRA", "HRA", "IA3", "LN_TUNING", "LOHA", "LOKR")
LINEAR_ALONE = ("ADAMSS", "BEFT", "DEFT", "DELORA", "FROD", "GLORA", "GRALORA", "MISS", "PEANUT", "PSOFT", "PVERA",
                "RANDLORA", "ROAD", "SHIRA", "SUPERTUNING", "TINYLORA", "VERA", "WAVEFT")  # fmt: skip
#: Linear layers too, and they begin as another model than the base.
NOT_AS_THE_BASE = ("C3A", "FOURIERFT", "UNILORA", "VBLORA")
#: Nothing that a UNet or a text encoder for images has a use for: prompts and soft tokens of language models, mixtures
#: of adapters, rows of embeddings.
NOT_FOR_IMAGES = ("ADAPTION_PROMPT", "CARTRIDGE", "CPT", "MULTITASK_PROMPT_TUNING", "POLY", "PREFIX_TUNING",
                  "PROMPT_TUNING", "P_TUNING", "SHADOW", "TRAINABLE_TOKENS", "XLORA")  # fmt: skip
FIELDS: dict[str, dict[str, Any]] = {
    "ADALORA": {"total_step": 10},
    "IA3": {"feedforward_modules": []},
    "VBLORA": {"vector_length": 16, "num_vectors": 32},
    "C3A": {"block_size": 16},
    "FOURIERFT": {"n_frequency": 50},
}
LAYERS = {
    "linear": lambda: nn.Linear(64, 64),
    "1x1": lambda: nn.Conv2d(16, 16, 1),
    "3x3": lambda: nn.Conv2d(16, 16, 3, padding=1),
}


class Toy(nn.Module):
    """A layer under test, and one after it, so that no layer is an output layer."""

    def __init__(self, layer: str) -> None:
        super().__init__()
        self.layer = LAYERS[layer]()
        self.head = nn.Linear(64, 4) if layer == "linear" else nn.Conv2d(16, 4, 1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.head(torch.tanh(self.layer(inputs)))
        return output


def tried(kind: str, layer: str) -> tuple[float, bool, float]:
    """How far an adapter begins from the base model, whether gradients flow, and how far merging is from it."""
    import peft
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    torch.manual_seed(0)
    toy = Toy(layer)
    inputs = torch.randn(2, 64) if layer == "linear" else torch.randn(2, 16, 8, 8)
    base = toy(inputs).detach()
    config = PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType[kind]](
        target_modules=["layer"], **FIELDS.get(kind, {})
    )
    model = peft.get_peft_model(toy, config)  # type: ignore[arg-type]
    begins = float((model(inputs) - base).abs().max())
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model(inputs).pow(2).sum().backward()
    flows = any(parameter.grad is not None and bool(parameter.grad.any()) for parameter in parameters)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.01 * torch.randn_like(parameter))
    model.eval()
    unmerged = model(inputs).detach()
    merged = model.merge_and_unload()(inputs).detach()  # type: ignore[operator]
    return begins, flows, float((merged - unmerged).abs().max())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("kind", "layer"),
    [*((kind, layer) for kind in ALL_LAYERS for layer in LAYERS), ("OFT", "linear"), ("OFT", "1x1"),
     *((kind, "linear") for kind in LINEAR_ALONE)],
)  # fmt: skip
def test_it_begins_as_the_base_model_and_merges(kind: str, layer: str) -> None:
    begins, flows, merges = tried(kind, layer)
    assert begins < 1e-6
    assert flows
    assert merges < 1e-5


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [*LINEAR_ALONE, *NOT_AS_THE_BASE])
@pytest.mark.parametrize("layer", ["1x1", "3x3"])
def test_convolutions_are_refused(kind: str, layer: str) -> None:
    with pytest.raises((TypeError, ValueError, NotImplementedError, KeyError)):
        tried(kind, layer)


@pytest.mark.filterwarnings("ignore")
def test_oft_is_wrong_on_larger_kernels_and_these_begin_elsewhere() -> None:
    """The day that one of these is right it may be offered."""
    begins, _, merges = tried("OFT", "3x3")
    assert begins > 0.1
    assert merges > 0.1
    for kind in NOT_AS_THE_BASE:
        assert tried(kind, "linear")[0] > 1e-5


@pytest.mark.filterwarnings("ignore")
def test_osf_trains_linear_layers_alone_and_lily_does_not_merge() -> None:
    begins, flows, merges = tried("OSF", "linear")
    assert begins < 1e-5
    assert flows
    assert merges < 1e-5
    for layer in ("1x1", "3x3"):
        with pytest.raises((RuntimeError, TypeError, ValueError, NotImplementedError, KeyError)):
            tried("OSF", layer)
    with pytest.raises((AttributeError, NotImplementedError, TypeError, ValueError)):
        tried("LILY", "linear")


def test_each_kind_of_the_installed_peft_is_in_one_list() -> None:
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    told = [*ALL_LAYERS, *LINEAR_ALONE, *NOT_AS_THE_BASE, *NOT_FOR_IMAGES, "OFT", "OSF", "LILY"]
    assert sorted(told) == sorted(kind.value for kind in PEFT_TYPE_TO_CONFIG_MAPPING)


def test_what_is_not_offered_is_known_by_name() -> None:
    offered = {kind for kind in (*ALL_LAYERS, "OFT") if kind.lower() in KINDS}
    others = {*ALL_LAYERS, *LINEAR_ALONE, *NOT_AS_THE_BASE, "OSF", "LILY"} - offered
    assert sorted(NOT_OFFERED) == sorted(kind.lower() for kind in others)
    with pytest.raises(ValueError, match=r"'hira' is another kind of PEFT's, which is not offered here"):
        method_config_class("lora").model_validate({"adapter": "hira"})


def test_the_document_names_them_all() -> None:
    import peft

    text = Path(__file__).parents[3].joinpath("docs", "methods.md").read_text(encoding="utf-8")
    section = text.split("PEFT has more kinds")[1].split("\n## ")[0]
    plain = re.sub(r"[^a-z0-9]", "", section.lower())
    offered = {KINDS[kind].config_class for kind in KINDS}
    for kind in (*ALL_LAYERS, *LINEAR_ALONE, *NOT_AS_THE_BASE, "OSF", "LILY"):
        config = peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType[kind]]
        assert config.__name__ in offered or kind.lower().replace("_", "") in plain, kind

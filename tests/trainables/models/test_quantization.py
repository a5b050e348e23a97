"""Weights in 8 and 4 bit: what they are, what is computed with them, and that a run gives them back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tests.helpers.quantized_models import BITS, dequantized, in_8_bit, in_nf4, load, quantized_layers
from tests.helpers.tiny_families import TINY, make_tiny
from trainables.models.backbone import Backbone
from trainables.models.families import FAMILIES
from trainables.models.quantization import QuantizedLinear, quantizable, quantize, share_quantized
from trainables.models.sampling import at_rest, generate

pytest.importorskip("bitsandbytes")

ERROR = {"8bit": 0.01, "4bit": 0.1}  # of what a layer gives, in units of its size


def layer(inputs: int = 96, outputs: int = 40, *, bias: bool = True) -> nn.Linear:
    """With normal weights, for which NF4 is made."""
    torch.manual_seed(0)
    made = nn.Linear(inputs, outputs, bias=bias).requires_grad_(False)
    nn.init.normal_(made.weight, std=inputs**-0.5)
    return made


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("families")
    return {name: make_tiny(name, place / name) for name in TINY}


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("inputs", [128, 96, 16])  # whole blocks to a row, one and a half, and a quarter
def test_weights_are_those_of_the_papers(bits: str, inputs: int) -> None:
    plain = layer(inputs)
    made = QuantizedLinear(plain, bits, "cpu").weight  # type: ignore[arg-type]
    # bitsandbytes makes 8 bit of float16.
    expected = in_nf4(plain.weight) if bits == "4bit" else in_8_bit(plain.weight.half())
    assert made.dtype == torch.float32
    apart = (made - expected).abs() > 1e-6
    assert float(apart.float().mean()) < 0.002  # numbers half-way between two values may go to either


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_computes_with_the_weight_that_its_codes_stand_for(
    bits: str, dtype: torch.dtype, bias: bool
) -> None:
    plain = layer(bias=bias)
    made = QuantizedLinear(plain, bits, "cpu")  # type: ignore[arg-type]
    inputs = torch.randn(2, 3, 96).to(dtype).requires_grad_(True)
    weight, offset = made.weight.to(dtype), None if plain.bias is None else plain.bias.to(dtype)
    assert torch.equal(made.dequantized(dtype), weight)
    expected = nn.functional.linear(inputs, weight, offset)
    output = made(inputs)
    assert output.dtype == dtype
    assert torch.equal(output, expected)
    (gradient,) = torch.autograd.grad(output.float().square().sum(), inputs)
    (wanted,) = torch.autograd.grad(expected.float().square().sum(), inputs)
    torch.testing.assert_close(gradient, wanted)
    whole = plain(inputs.detach().float())
    apart = float((output.detach().float() - whole).norm() / whole.norm())
    assert apart < ERROR[bits] + 0.01 * (dtype != torch.float32)


@pytest.mark.parametrize("bits", BITS)
def test_it_works_in_autocasts_precision_and_keeps_no_weight_for_the_gradient(bits: str) -> None:
    made = QuantizedLinear(layer(), bits, "cpu")  # type: ignore[arg-type]
    inputs = torch.randn(5, 96, requires_grad=True)
    kept: list[torch.Tensor] = []

    def keep(value: torch.Tensor) -> torch.Tensor:
        kept.append(value)
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, keep), torch.autocast("cpu", torch.bfloat16):
        output = made(inputs)
    assert output.dtype == torch.bfloat16
    assert all(value.numel() < made.in_features * made.out_features for value in kept)
    output.float().sum().backward()
    assert inputs.grad is not None
    assert made.codes.dtype == (torch.int8 if bits == "8bit" else torch.uint8)
    assert not any(value.requires_grad for value in made.parameters())


@pytest.mark.parametrize("bits", BITS)
def test_as_many_operations_are_counted_as_of_an_ordinary_layer(bits: str) -> None:
    counts = []
    for module in (layer(), QuantizedLinear(layer(), bits, "cpu")):  # type: ignore[arg-type]
        inputs = torch.randn(2, 3, 96, requires_grad=True)
        with FlopCounterMode(display=False) as counter:
            module(inputs).sum().backward()
        counts.append(counter.get_total_flops())
    assert counts == [2 * 2 * (2 * 3 * 96 * 40)] * 2  # forward, and the inputs' gradient


@pytest.mark.parametrize("bits", BITS)
def test_a_layer_takes_its_share_of_the_memory(bits: str) -> None:
    made = QuantizedLinear(layer(256, 256, bias=False), bits, "cpu")  # type: ignore[arg-type]
    scales = 256 if bits == "8bit" else 256 * 256 // 64
    held = sum(value.nbytes for value in made.parameters())
    assert held == 256 * 256 * int(bits[0]) // 8 + 4 * scales


@pytest.mark.parametrize("name", TINY)
def test_layers_of_the_blocks_are_quantised_and_those_around_them_kept(
    name: str, folders: dict[str, Path]
) -> None:
    backbone = load(folders[name], "4bit")
    family = FAMILIES[TINY[name]]
    t5 = {part.name for part in family.text_encoders if part.overflows}
    assert set(backbone.quantized) == {family.denoiser.name, *t5}
    for part, module in backbone.modules.items():
        found = quantized_layers(module)
        assert bool(found) == (part in backbone.quantized)
        kept = {key for key, child in module.named_modules() if type(child) is nn.Linear}
        if part in t5:
            assert {key.rpartition(".")[2] for key in found} == {"q", "k", "v", "o", "wi_0", "wi_1"}
            assert {key.rpartition(".")[2] for key in kept} == {"wo"}
        elif found:
            assert not any("blocks." in key or key.startswith("mid_block.") for key in kept)
            assert {"x_embedder", "context_embedder", "proj_out"} <= kept or name not in ("flux",)
            assert any("time" in key for key in kept)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("name", ["sd1", "sdxl", "flux"])
def test_a_model_predicts_nearly_what_it_does_whole(name: str, bits: str, folders: dict[str, Path]) -> None:
    def predicted(backbone: Backbone) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        latents = torch.randn(2, 4, 4, 4, generator=generator)
        text = backbone.encode_prompts(["a sks cat", "a dog"])
        with torch.no_grad(), at_rest(backbone):
            return backbone.denoise(latents, torch.tensor([500.0, 20.0]), text)

    exact, found = predicted(load(folders[name])), predicted(load(folders[name], bits))
    apart = float((found - exact).norm() / exact.norm())
    assert 0 < apart < ERROR[bits]
    same = predicted(dequantized(folders[name], bits))
    torch.testing.assert_close(found, same, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["sd1", "flux"])
def test_codes_are_the_same_in_every_precision_and_afterwards(
    name: str, bits: str, dtype: torch.dtype, folders: dict[str, Path]
) -> None:
    backbone = load(folders[name], bits)
    untouched, first = backbone.parameter_digest(), images(backbone)
    layers = [each for module in backbone.modules.values() for each in quantized_layers(module).values()]
    codes = [each.codes.clone() for each in layers]
    backbone.lower_precision(dtype)
    assert {each.scales.dtype for each in layers} == {torch.float32}
    assert {value.dtype for value in backbone.vae.parameters()} == {dtype}
    with backbone.in_full_precision():
        assert backbone.parameter_digest() == untouched
        assert images(backbone) == first
    assert all(torch.equal(each.codes, before) for each, before in zip(layers, codes, strict=True))
    backbone.restore()
    assert backbone.parameter_digest() == untouched
    assert backbone.is_base_model()


def images(backbone: Backbone) -> list[bytes]:
    drawn = generate(
        backbone,
        ["a sks cat"],
        seeds=[0],
        num_inference_steps=2,
        guidance_scale=3.0,
        batch_size=1,
        resolution=backbone.resolution,
    )
    return [image.tobytes() for image in drawn]


def test_a_change_of_codes_that_nobody_announced_is_seen(folders: dict[str, Path]) -> None:
    backbone = load(folders["sd1"], "8bit")
    next(iter(quantized_layers(backbone.denoiser).values())).codes.data.zero_()
    assert backbone.is_base_model()  # through `data` autograd does not see it
    next(iter(quantized_layers(backbone.denoiser).values())).codes.zero_()
    assert not backbone.is_base_model()


def test_what_is_made_by_a_quantised_part_has_a_name_of_its_own(folders: dict[str, Path]) -> None:
    models = {bits: load(folders["flux"], bits) for bits in (None, *BITS)}
    texts = models[None].family.texts
    for parts in ((), ("transformer",), texts):
        assert len({model.digest(*parts) for model in models.values()}) == 3
    assert len({model.digest("vae") for model in models.values()}) == 1
    clips = {bits: load(folders["sd1"], bits) for bits in (None, *BITS)}
    assert len({model.digest(*model.family.texts) for model in clips.values()}) == 1  # its CLIP is whole
    assert len({model.digest() for model in clips.values()}) == 3


def test_convolutions_and_a_t5s_second_layers_are_no_part_of_the_share() -> None:
    block = nn.ModuleList([nn.Linear(8, 8, bias=False), nn.Conv2d(2, 4, 3, bias=False)])
    module = nn.ModuleDict({"blocks": block, "out": nn.Linear(8, 7, bias=False)})
    assert list(quantizable(module)) == ["blocks.0"]
    assert share_quantized(module) == 64 / (64 + 72 + 56)
    module._keep_in_fp32_modules = ["0"]  # type: ignore[assignment]
    assert list(quantizable(module)) == []
    quantize(module, "4bit")
    assert type(module["blocks"][0]) is nn.Linear  # type: ignore[index]


@pytest.mark.parametrize("name", ["flux", "sdxl"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_that_are_stored_in_half_precision_are_read_so(
    name: str, dtype: torch.dtype, folders: dict[str, Path], tmp_path: Path
) -> None:
    """The same codes come of them as of float32, and everything else is float32 as ever."""
    family = FAMILIES[TINY[name]]
    pipeline = family.stock_pipeline().from_pretrained(str(folders[name]), dtype=dtype)
    pipeline.save_pretrained(str(tmp_path / "half"))
    family.stock_pipeline().from_pretrained(str(tmp_path / "half"), dtype=torch.float32).save_pretrained(
        str(tmp_path / "full")
    )
    half, full = load(tmp_path / "half", "4bit"), load(tmp_path / "full", "4bit")
    assert half.parameter_digest() == full.parameter_digest()

"""Base weights in 8 or 4 bit: linear layers that keep codes, and compute with the weights that these stand for.

For adapters and words beside a base model that is too large for the device (QLoRA: Dettmers et al. 2023, arXiv
2305.14314, section 3). bitsandbytes makes the codes, as diffusers' and transformers' quantizers have it do. What is
computed with them is the same on every device: a layer's weight is made of its codes, in the precision of its input,
and multiplied as that of any linear layer (QLoRA, eq. 5). So activations are never rounded to 8 bit, nor forced into
float16, which those of a T5 do not fit, as bitsandbytes' own layer for 8 bit does on a GPU (LLM.int8: Dettmers et al.
2022, arXiv 2208.07339); on a CPU that layer rounds them in evaluation alone, and the one for 4 bit rearranges its
weights there.

Quantised are the linear layers inside the repeated blocks of the denoiser and of the text encoders that never train
(`Part.trains`: the T5). Kept are layers that transformers keeps in float32 (the second of a T5's feed-forward layers)
and those before and behind the blocks, through which everything passes: embeddings of image, text, time and guidance,
the last norm and projection. Those hold one in a hundred of a denoiser's weights at most. Convolutions are kept too:
diffusers quantises none. Of these weights there are so many in quantised layers, by `share_quantized` on modules on the
meta device, made from the published configurations; with the gigabytes (1e9 bytes) that a part takes in bfloat16, and
with 8 and 4 bit where all else is bfloat16:

    UNet of Stable Diffusion 1.5                31 %    1.7    1.4    1.3
    UNet of Stable Diffusion 2.1                35 %    1.7    1.4    1.3
    UNet of Stable Diffusion XL                 87 %    5.1    2.9    1.9
    transformer of Stable Diffusion 3 medium    99 %    4.1    2.1    1.2
    transformer of Stable Diffusion 3.5 large   99 %   16.1    8.1    4.6
    transformer of FLUX.1-dev                   99 %   23.8   12.0    6.8
    T5-XXL of the last three                    76 %    9.5    5.9    4.3
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional

from trainables.models.family import Family, Part

Bits = Literal["8bit", "4bit"]

BLOCK = 64  # weights of 4 bit that share a scale, as in QLoRA
_NF4 = "nf4"
_LARGEST = 127  # code of 8 bit, which stands for the scale


class QuantizedLinear(nn.Linear):
    """A linear layer that never trains, and whose weight is kept as codes and scales.

    With 8 bit codes are int8 [outputs, inputs] and scales float32 [outputs], the largest absolute weight of each row
    (vector-wise quantisation, LLM.int8, section 2.1); with 4 bit codes are two to a byte, [weights / 2, 1], of the
    normal-float type NF4, and scales those of blocks of 64 weights in a row (QLoRA, section 3), in float32.

    Args:
        linear: The layer whose place it takes; its bias stays.
        device: Where the codes are made, and where they lie.
    """

    def __init__(self, linear: nn.Linear, bits: Bits, device: torch.device | str) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bits = bits
        weight = linear.weight.detach().to(device, torch.float32)
        codes, scales = _in_8_bit(weight) if bits == "8bit" else _in_4_bit(weight)
        # By this name diffusers' loaders of LoRA look for a layer in a state dictionary; the attribute is the property.
        self._parameters["weight"] = nn.Parameter(codes, requires_grad=False)
        self.scales = nn.Parameter(scales, requires_grad=False)
        self.register_parameter("bias", linear.bias)

    @property
    def codes(self) -> nn.Parameter:
        """What stands for the weights, see the class."""
        codes = self._parameters["weight"]
        assert codes is not None
        return codes

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]
        """The weight that the codes stand for, [outputs, inputs], float32; made anew, so that changes to it are lost.

        Adapters that compute on weights read it (DoRA's magnitudes, the rotations of BOFT and HRA).
        """
        return self.dequantized(torch.float32)

    def dequantized(self, dtype: torch.dtype) -> torch.Tensor:
        """Returns the weight that the codes stand for, [outputs, inputs], in a precision."""
        if self.bits == "8bit":
            # Multiplied in float32 and stored in one go, without the whole weight in float32 between.
            made = torch.empty(self.codes.shape, dtype=dtype, device=self.codes.device)
            return torch.mul(self.codes, (self.scales / _LARGEST).unsqueeze(1), out=made)
        # As one row: of rows that are no multiple of a block bitsandbytes 0.50.2 takes wrong scales on a CPU.
        row: torch.Tensor = torch.ops.bitsandbytes.dequantize_4bit.default(
            self.codes, self.scales, BLOCK, _NF4, [self.out_features * self.in_features], dtype
        )
        return row.view(self.out_features, self.in_features)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Computes in the precision of autocast, or of the inputs."""
        device = inputs.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else inputs.dtype
        bias = None if self.bias is None else self.bias.to(dtype)
        output: torch.Tensor = _Product.apply(inputs.to(dtype), self, bias)
        return output

    def whole(self) -> nn.Linear:
        """Returns an ordinary layer with the weight that the codes stand for, in float32."""
        layer = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        layer.weight = nn.Parameter(self.weight, requires_grad=False)
        layer.bias = self.bias
        return layer


class _Product(torch.autograd.Function):
    """A linear layer's output, of which nothing is kept for the gradient: the weight is made of its codes again."""

    @staticmethod
    def forward(
        ctx: Any, inputs: torch.Tensor, layer: QuantizedLinear, bias: torch.Tensor | None
    ) -> torch.Tensor:
        ctx.layer = layer
        return functional.linear(inputs, layer.dequantized(inputs.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (gradient,) = gradients
        return gradient @ ctx.layer.dequantized(gradient.dtype), None, None


def quantized_parts(family: Family) -> tuple[Part, ...]:
    """Returns the parts of a model that have layers to quantise: the denoiser, and text encoders that never train."""
    return (family.denoiser, *(part for part in family.text_encoders if not part.trains))


def quantizable(module: nn.Module) -> Iterator[str]:
    """Yields the names of the linear layers of a part that are quantised; see the module's text."""
    blocks = tuple(f"{name}." for name, child in module.named_modules() if isinstance(child, nn.ModuleList))
    kept = set(getattr(module, "_keep_in_fp32_modules", None) or ())
    for name, child in module.named_modules():
        if type(child) is nn.Linear and name.startswith(blocks) and not kept & set(name.split(".")):
            yield name


def quantize(module: nn.Module, bits: Bits, device: torch.device | str = "cpu") -> None:
    """Quantises the linear layers of a part, one by one, on a device; all else stays where it is."""
    for name in list(quantizable(module)):
        linear = module.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        module.set_submodule(name, QuantizedLinear(linear, bits, device))


def put_whole(module: nn.Module, names: Collection[str]) -> Callable[[], None]:
    """Puts ordinary layers in the place of those of some names that are quantised; returns what puts these back."""
    chosen = {name: module.get_submodule(name) for name in names}
    held = {name: layer for name, layer in chosen.items() if isinstance(layer, QuantizedLinear)}
    for name, layer in held.items():
        module.set_submodule(name, layer.whole())

    def undo() -> None:
        for name, layer in held.items():
            module.set_submodule(name, layer)

    return undo


def is_quantized(module: nn.Module) -> bool:
    """Whether a module has quantised layers."""
    return any(isinstance(child, QuantizedLinear) for child in module.modules())


def plain_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Returns the parameters of a module but codes and scales: those that another precision can hold, or training
    change.
    """
    layers = [child for child in module.modules() if isinstance(child, QuantizedLinear)]
    held = {id(value) for layer in layers for value in (layer.codes, layer.scales)}
    return [value for value in module.parameters() if id(value) not in held]


def share_quantized(module: nn.Module) -> float:
    """Returns which share of a part's weights, not quantised yet, is in layers that are quantised."""
    chosen = sum(module.get_parameter(f"{name}.weight").numel() for name in quantizable(module))
    return chosen / sum(value.numel() for value in module.parameters())


def _in_8_bit(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes and scales; bitsandbytes makes them of float16."""
    import bitsandbytes

    codes, scales, _ = bitsandbytes.functional.int8_vectorwise_quant(weight.to(torch.float16))
    return codes, scales


def _in_4_bit(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    import bitsandbytes  # noqa: F401 (registers what is called)

    codes, scales = torch.ops.bitsandbytes.quantize_4bit.default(
        weight.contiguous(), BLOCK, _NF4, torch.uint8
    )
    return codes, scales

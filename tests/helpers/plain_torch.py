"""What a run draws and how AdamW steps, written out without any code of the project."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch


def stream(name: str, subject: str = "cat", seed: int = 0) -> torch.Generator:
    """The stream of that name of a run."""

    def number(text: str) -> int:
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1

    return torch.Generator().manual_seed(number(f"{number(f'{seed}/subject/{subject}')}/{name}"))


@dataclass
class Adam:
    """AdamW (Loshchilov & Hutter 2019, algorithm 2) after clipping by the norm of all gradients."""

    parameters: Sequence[torch.Tensor]
    rate: float
    decay: float
    clip: float
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    step: int = 0
    first: list[torch.Tensor] = field(init=False)
    second: list[torch.Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.first = [torch.zeros_like(value) for value in self.parameters]
        self.second = [torch.zeros_like(value) for value in self.parameters]

    @torch.no_grad()
    def update(self, gradients: Sequence[torch.Tensor | None]) -> None:
        """Does one step; a parameter without a gradient, on which nothing of the loss hangs, stays as it is."""
        known = [gradient for gradient in gradients if gradient is not None]
        norm = math.sqrt(sum(float(gradient.double().square().sum()) for gradient in known))
        scale, (one, two) = min(1.0, self.clip / (norm + 1e-6)), self.betas
        self.step += 1
        for value, first, second, gradient in zip(
            self.parameters, self.first, self.second, gradients, strict=True
        ):
            if gradient is None:
                continue
            gradient = gradient * scale
            first.mul_(one).add_(gradient, alpha=1 - one)
            second.mul_(two).add_(gradient.square(), alpha=1 - two)
            value.mul_(1 - self.rate * self.decay)
            mean, square = first / (1 - one**self.step), second / (1 - two**self.step)
            value.sub_(self.rate * mean / (square.sqrt() + self.epsilon))

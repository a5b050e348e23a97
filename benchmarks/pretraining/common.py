"""What the stages of pre-training share: the step loop with progress, resume and EMA."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from benchmarks.pretraining.muon import Muon, split_parameters

Optimizers = list[tuple[torch.optim.Optimizer, float]]
IDENTITIES = 16384
STAGES = ("autoencoder", "judge", "image_encoder", "clip", "unet", "decoder", "grading")


@dataclass(frozen=True)
class Budget:
    """How long and how a stage trains; `work` holds its resume state."""

    work: Path
    steps: int
    batch: int
    seed: int = 0
    identities: int = IDENTITIES
    checkpoint_every: int = 200
    report_every: int = 50
    tiny: bool = False


def stream(seed: int, stage: str, step: int) -> np.random.Generator:
    """The random stream of one step, so that a resumed stage sees the data it would have seen."""
    return np.random.default_rng([seed, 100 + STAGES.index(stage), step])


def cosine(step: int, steps: int, warmup: int = 100) -> float:
    """Learning-rate factor: linear warm-up, cosine to zero."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))


def warmup_stable_decay(step: int, steps: int, warmup: int = 200, decay: float = 0.25) -> float:
    """Learning-rate factor: warm-up, constant, linear to zero; the constant part can be extended."""
    if step < warmup:
        return (step + 1) / warmup
    start = steps * (1 - decay)
    return 1.0 if step < start else max(0.02, (steps - step) / (steps - start))


def to_tensor(images: np.ndarray) -> torch.Tensor:
    """uint8 [n, 64, 64, 3] to float32 [n, 3, 64, 64] in -1..1, channels last."""
    batch = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2)
    return (batch.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def save_atomic(state: dict, path: Path) -> None:
    """Write `state` so that a reader finds the old or the new file, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".part{os.getpid()}")
    torch.save(state, part)
    part.replace(path)


@dataclass
class Stage:
    """A training loop over `modules` that resumes from its own checkpoint.

    `loss(step)` returns the loss and the figures to print. `ema`, if above zero, keeps averaged
    weights, which `use_ema` puts in the modules.
    """

    name: str
    modules: dict[str, torch.nn.Module]
    budget: Budget
    learning_rate: float
    schedule: Callable[[int, int], float] = cosine
    weight_decay: float = 0.01
    ema: float = 0.0
    muon_rate: float = 0.0
    not_matrices: tuple[str, ...] = ()
    averages: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        return self.budget.work / f"{self.name}.pt"

    def parameters(self) -> Iterable[torch.nn.Parameter]:
        return [p for m in self.modules.values() for p in m.parameters() if p.requires_grad]

    def run(self, loss: Callable[[int], tuple[torch.Tensor, dict[str, float]]]) -> None:
        """Train up to `budget.steps` steps in all."""
        optimizers = self._optimizers()
        first = self._resume(optimizers)
        budget, began = self.budget, time.perf_counter()
        sums: dict[str, float] = {}
        for step in range(first, budget.steps):
            factor = self.schedule(step, budget.steps)
            value, figures = loss(step)
            value.backward()
            torch.nn.utils.clip_grad_norm_(self.parameters(), 1.0)
            for optimizer, rate in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = rate * factor
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            self._average(step)
            for key, figure in {"loss": float(value.detach()), **figures}.items():
                sums[key] = sums.get(key, 0.0) + figure
            if (step + 1) % budget.report_every == 0 or step + 1 == budget.steps:
                count = (step - first) % budget.report_every + 1
                each = (time.perf_counter() - began) / (step + 1 - first)
                shown = " ".join(f"{k} {v / count:.4f}" for k, v in sums.items())
                left = each * (budget.steps - step - 1) / 60
                print(
                    f"{self.name} step {step + 1}/{budget.steps} {shown} "
                    f"{each * 1000:.0f} ms/step {left:.1f} min left",
                    flush=True,
                )
                sums = {}
            if (step + 1) % budget.checkpoint_every == 0 or step + 1 == budget.steps:
                self._save(step + 1, optimizers)

    def _optimizers(self) -> Optimizers:
        """AdamW on everything, or on what Muon does not take."""
        matrices, rest = [], []
        for module in self.modules.values():
            some, others = split_parameters(module, self.not_matrices)
            matrices += some
            rest += others
        if not self.muon_rate:
            matrices, rest = [], matrices + rest
        adam = torch.optim.AdamW(
            rest, lr=self.learning_rate, weight_decay=self.weight_decay, betas=(0.9, 0.98),
            foreach=True,
        )  # fmt: skip
        both: Optimizers = [(adam, self.learning_rate)]
        if matrices:
            both.append((Muon(matrices, self.muon_rate), self.muon_rate))
        return both

    def _average(self, step: int) -> None:
        if not self.ema:
            return
        decay = min(self.ema, (step + 1) / (step + 10))
        for name, module in self.modules.items():
            current = dict(module.named_parameters())
            if name not in self.averages:
                self.averages[name] = {k: v.detach().clone() for k, v in current.items()}
            old = self.averages[name]
            torch._foreach_lerp_(list(old.values()), [current[k].detach() for k in old], 1 - decay)

    def use_ema(self) -> None:
        """Replace the modules' weights by their averages."""
        for name, module in self.modules.items():
            module.load_state_dict(self.averages.get(name, {}), strict=False)

    def _save(self, step: int, optimizers: Optimizers) -> None:
        save_atomic(
            {
                "step": step,
                "modules": {name: m.state_dict() for name, m in self.modules.items()},
                "averages": self.averages,
                "optimizers": [optimizer.state_dict() for optimizer, _ in optimizers],
            },
            self.path,
        )

    def _resume(self, optimizers: Optimizers) -> int:
        if not self.path.exists():
            return 0
        state = torch.load(self.path, weights_only=True)
        for name, module in self.modules.items():
            module.load_state_dict(state["modules"][name])
        self.averages = state["averages"]
        for (optimizer, _), saved in zip(optimizers, state["optimizers"], strict=False):
            optimizer.load_state_dict(saved)
        print(f"{self.name} resumes at step {state['step']}", flush=True)
        return int(state["step"])

    def restore(self) -> int:
        """Load the checkpoint's weights for use; the number of steps they have seen."""
        return self._resume([])

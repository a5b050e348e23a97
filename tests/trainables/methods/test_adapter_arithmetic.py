"""Ten steps of each kind of adapter, against what its paper says, computed here in plain torch with AdamW by hand.

The weight of every adapted layer is made from the trained numbers by the kind's equation and put into an unchanged copy
of the UNet; batches, noise and the adapters' first values are those of the trainer.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from tests.helpers.training_runs import MakeTrainer
from trainables.methods import adapter_kinds
from trainables.training.loop import train_step

STEPS = 10
Weights = dict[str, torch.Tensor]  # numbers of one layer, by PEFT's names
RATE, EPSILON, DECAY, LIMIT = 1e-2, 1e-4, 1e-2, 0.05


def rows(weight: torch.Tensor) -> torch.Tensor:
    return weight.reshape(len(weight), -1)


def low_rank(own: Weights) -> torch.Tensor:
    return rows(own["lora_B"]) @ rows(own["lora_A"])


def lora(own: Weights, base: torch.Tensor, scale: float) -> torch.Tensor:
    """W + s BA (arXiv 2106.09685)."""
    return rows(base) + scale * low_rank(own)


def dora(own: Weights, base: torch.Tensor, scale: float) -> torch.Tensor:
    """m (W + s BA) / |W + s BA|, the norm of each output taken as a constant (arXiv 2402.09353, 4.3)."""
    moved = rows(base) + scale * low_rank(own)
    magnitude = own["lora_magnitude_vector"].reshape(-1, 1)
    return magnitude * moved / moved.norm(dim=1, keepdim=True).detach()


def loha(own: Weights, base: torch.Tensor, scale: float) -> torch.Tensor:
    """W + s (A1 B1) * (A2 B2), element by element (arXiv 2108.06098)."""
    first = own["hada_w1_a"] @ own["hada_w1_b"]
    return rows(base) + scale * first * (own["hada_w2_a"] @ own["hada_w2_b"])


def lokr(own: Weights, base: torch.Tensor, scale: float) -> torch.Tensor:
    """W + s (C kron D), D of low rank where that is smaller (arXiv 2309.14859)."""
    second = own["lokr_w2"] if "lokr_w2" in own else own["lokr_w2_a"] @ own["lokr_w2_b"]
    first, pixels = own["lokr_w1"], math.prod(base.shape[2:])
    inner = second.reshape(len(second), -1, pixels)
    product = torch.einsum("ab,cdp->acbdp", first, inner)
    return rows(base) + scale * product.reshape(len(base), -1)


def blocks(matrices: torch.Tensor) -> torch.Tensor:
    return torch.block_diag(*matrices)


def oft(own: Weights, base: torch.Tensor, scale: float) -> torch.Tensor:
    """W R^T, R of blocks (I + Q)(I - Q)^-1 cut after the fourth power of a skew Q (arXiv 2306.07280, 2506.19847)."""
    count, size = len(own["oft_R"]), 4
    skew = torch.zeros(count, size, size)
    above = torch.triu_indices(size, size, 1)
    skew[:, above[0], above[1]] = own["oft_R"]
    skew = skew - skew.transpose(1, 2)
    power = [torch.eye(size).expand(count, size, size), skew]
    for _ in range(3):
        power.append(power[-1] @ skew)
    rotation = power[0] + 2 * power[1] + 2 * power[2] + 2 * power[3] + power[4]
    return rows(base) @ blocks(rotation).T


def boft(own: Weights, base: torch.Tensor, scale: float) -> torch.Tensor:
    """diag(s) W R^T, R of blocks (I - Q)(I + Q)^-1: one butterfly factor of arXiv 2311.06243."""
    numbers = own["boft_R"][0]
    skew = (numbers - numbers.transpose(1, 2)) / 2
    eye = torch.eye(numbers.shape[-1])
    rotation = (eye - skew) @ torch.linalg.inv(eye + skew)
    return own["boft_s"].reshape(-1, 1) * (rows(base) @ blocks(rotation).T)


def hra(own: Weights, base: torch.Tensor, scale: float) -> torch.Tensor:
    """W H_1 ... H_r, each a reflection I - 2 u u^T / |u|^2 (arXiv 2405.17484)."""
    weight = rows(base)
    for vector in own["hra_u"].T:
        weight = weight - 2 * torch.outer(weight @ vector, vector) / vector.square().sum()
    return weight


def ia3(own: Weights, base: torch.Tensor, scale: float) -> torch.Tensor:
    """diag(l) W, a factor for each output; of the last layer of an MLP W diag(l), one for each input (2205.05638)."""
    factors = own["ia3_l"]
    assert 1 in factors.shape
    return base * factors


KINDS: dict[str, tuple[Callable[[Weights, torch.Tensor, float], torch.Tensor], dict[str, Any], float]] = {
    "lora": (lora, {"r": 4, "lora_alpha": 6}, 1.5),
    "rslora": (lora, {"r": 4, "lora_alpha": 6}, 3.0),
    "dora": (dora, {"r": 4, "lora_alpha": 6}, 1.5),
    "loha": (loha, {"r": 4, "lora_alpha": 6}, 1.5),
    "lokr": (lokr, {"r": 2, "lora_alpha": 6, "decompose_factor": 2}, 3.0),
    "oft": (oft, {"oft_block_size": 4}, 1.0),
    "boft": (boft, {"boft_block_size": 4}, 1.0),
    "hra": (hra, {"r": 4}, 1.0),
    "ia3": (ia3, {}, 1.0),
}


def test_every_kind_is_recomputed() -> None:
    assert {*KINDS} == {*adapter_kinds.KINDS}


def split(name: str) -> tuple[str, str]:
    """``module.lora_A.default.weight`` -> module, lora_A."""
    parts = name.removesuffix(".weight").removesuffix(".default").split(".")
    return ".".join(parts[:-1]), parts[-1]


def adamw(value: torch.Tensor, gradient: torch.Tensor, state: dict[str, torch.Tensor], step: int) -> None:
    """Loshchilov and Hutter (arXiv 1711.05101), algorithm 2."""
    state["first"] = 0.9 * state["first"] + 0.1 * gradient
    state["second"] = 0.999 * state["second"] + 0.001 * gradient**2
    first, second = state["first"] / (1 - 0.9**step), state["second"] / (1 - 0.999**step)
    value.data = value.data * (1 - RATE * DECAY) - RATE * first / (second.sqrt() + EPSILON)


@pytest.mark.parametrize("kind", KINDS)
def test_ten_steps_are_those_of_the_equations(kind: str, make_trainer: MakeTrainer) -> None:
    equation, fields, scale = KINDS[kind]
    limit = LIMIT / 100 if kind == "ia3" else LIMIT  # so that clipping has something to do
    # OFT takes no 3x3 convolutions, and (IA)^3 multiplies the biases of convolutions, too.
    targets = ["to_q", "to_v", "ff.net.2", *([] if kind in ("oft", "ia3") else ["conv1", "conv_shortcut"])]
    trainer = make_trainer(
        "lora",
        adapter=kind,
        target_modules=targets,
        learning_rate=RATE,
        adam_epsilon=EPSILON,
        adam_weight_decay=DECAY,
        max_grad_norm=limit,
        max_train_steps=STEPS,
        **fields,
    )
    backbone = trainer.backbone
    batches = [trainer.batches.draw() for _ in range(STEPS)]
    queue = iter(batches)
    trainer.batches.draw = lambda: next(queue)  # type: ignore[method-assign]
    unet = without_adapters(backbone.denoiser)
    base = dict(unet.named_parameters())
    numbers = {
        name.removeprefix("unet."): value.detach().clone().requires_grad_()
        for name, value in trainer.parameters.items()
    }
    began = {name: value.detach().clone() for name, value in numbers.items()}
    moments = {
        name: {key: torch.zeros_like(value) for key in ("first", "second")} for name, value in numbers.items()
    }
    norms, limited = [], []
    for step, batch in enumerate(batches, 1):
        weights = {}
        for module in {split(name)[0] for name in numbers}:
            own = {split(name)[1]: value for name, value in numbers.items() if split(name)[0] == module}
            weight = base[f"{module}.weight"]
            weights[f"{module}.weight"] = equation(own, weight, scale).reshape(weight.shape)
        alphas = backbone.alphas_cumprod[batch.timesteps].reshape(-1, 1, 1, 1)
        noisy = alphas.sqrt() * batch.latents + (1 - alphas).sqrt() * batch.noise
        texts = trainer.texts.rows["encoder_hidden_states"][batch.captions]
        output = torch.func.functional_call(unet, weights, (noisy, batch.timesteps, texts)).sample
        loss = (output - batch.noise).square().mean()
        gradients = torch.autograd.grad(loss, list(numbers.values()))
        norm = torch.cat([gradient.reshape(-1) for gradient in gradients]).norm()
        limited.append(min(1.0, limit / (float(norm) + 1e-6)))
        norms.append(float(norm))
        for (name, value), gradient in zip(numbers.items(), gradients, strict=True):
            adamw(value, gradient * limited[-1], moments[name], step)
    told = [float(train_step(trainer)[1]) for _ in range(STEPS)]

    assert min(limited) < 1  # clipping had something to do
    assert told == pytest.approx(norms, rel=2e-3)
    moved = torch.stack([(numbers[name] - began[name]).detach().abs().max() for name in numbers])
    assert float(moved.min()) > 1e-4
    assert float(moved.max()) > 2 * RATE
    for name, value in trainer.parameters.items():
        torch.testing.assert_close(
            value.detach(), numbers[name.removeprefix("unet.")].detach(), rtol=1e-4, atol=1e-5, msg=name
        )


def without_adapters(unet: nn.Module) -> nn.Module:
    """A copy of the UNet with the layers that stand beside adapters in the adapters' places."""
    plain = copy.deepcopy(unet)
    for name, module in list(plain.named_modules()):
        if hasattr(module, "base_layer"):
            parent, _, last = name.rpartition(".")
            setattr(plain.get_submodule(parent), last, module.base_layer)
    return plain.requires_grad_(False)

"""Optimizers and learning-rate schedules, as the configuration names them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from trainables.errors import UserError
from trainables.training.stages import Window, windows_of

if TYPE_CHECKING:
    import torch

    from trainables.config.fields import TrainingConfig

#: Optimizer -> the package that it needs, and the extra of this project that installs it.
PACKAGES = {"adamw_8bit": ("bitsandbytes", "gpu"), "prodigy": ("prodigyopt", "prodigy")}


def missing_package(name: str) -> tuple[str, str] | None:
    """Returns the package that an optimizer lacks here and the command that installs it; imports none of them."""
    package, extra = PACKAGES.get(name, (None, None))
    if package is None or importlib.util.find_spec(package) is not None:
        return None
    return package, f"pip install 'diffusion-study[{extra}]'"


def check_optimizer(name: str) -> list[str]:
    """Returns what keeps an optimizer from being used here, one message a problem."""
    if (missing := missing_package(name)) is None:
        return []
    package, install = missing
    return [
        f"optimizer {name!r} needs the package {package}, which is not installed; "
        f"install it ({install}) or take optimizer: adamw"
    ]


def build_optimizer(groups: list[dict[str, Any]], config: TrainingConfig) -> torch.optim.Optimizer:
    """Returns the optimizer over parameter groups that carry their own ``lr``.

    Raises:
        UserError: It is not installed.
    """
    import torch

    problems = check_optimizer(config.optimizer)
    if problems:
        raise UserError(*problems)
    common: dict[str, Any] = {
        "lr": config.learning_rate,
        "betas": (config.adam_beta1, config.adam_beta2),
        "eps": config.adam_epsilon,
        "weight_decay": config.adam_weight_decay,
    }
    if config.optimizer == "adamw":
        # The fused kernel skips a step with overflow by itself, which hides the skip from accelerate's
        # scaler.
        fused = config.mixed_precision != "fp16"
        return torch.optim.AdamW(groups, fused=fused, foreach=None if fused else True, **common)
    if config.optimizer == "adamw_8bit":
        from bitsandbytes.optim import AdamW8bit

        return AdamW8bit(groups, **common)
    from prodigyopt import Prodigy

    return Prodigy(groups, safeguard_warmup=True, use_bias_correction=True, **common)


def build_schedule(
    optimizer: torch.optim.Optimizer,
    config: TrainingConfig,
    steps: int | None = None,
    windows: Sequence[Window] | None = None,
) -> Any:
    """Returns diffusers' schedule of the configured name; the warm-up is part of every one of them.

    A comparison of schedules must not be one of warm-ups: diffusers' "constant" has none, so that it is
    replaced by its "constant_with_warmup". Every parameter group follows it as a fraction of its own rate. A group that
    trains in some steps alone has a whole schedule, with its warm-up, in these.

    Args:
        steps: Optimizer steps after which it ends; None: `max_train_steps`.
        windows: In which steps each group trains; None: what the groups' stages come to.
    """
    from torch.optim.lr_scheduler import LambdaLR

    steps = steps or config.max_train_steps
    windows = windows or windows_of(optimizer.param_groups, steps)
    if all(window == (0, steps) for window in windows):
        return _schedule(optimizer, config, steps)
    return LambdaLR(optimizer, [_within(window, optimizer, config) for window in windows])


def _within(
    window: Window, optimizer: torch.optim.Optimizer, config: TrainingConfig
) -> Callable[[int], float]:
    """The share of a group's rate in each step of a run, where the group trains in a window of steps."""
    import torch

    first, end = window
    alone = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=optimizer.defaults["lr"])
    (share,) = _schedule(alone, config, end - first).lr_lambdas
    return lambda step: float(share(min(step, end) - first)) if step >= first else 0.0


def _schedule(optimizer: torch.optim.Optimizer, config: TrainingConfig, steps: int) -> Any:
    from diffusers.optimization import get_polynomial_decay_schedule_with_warmup, get_scheduler

    name = "constant_with_warmup" if config.lr_scheduler == "constant" else config.lr_scheduler
    length = {"num_warmup_steps": config.lr_warmup_steps, "num_training_steps": steps}
    if name == "polynomial":
        # Through get_scheduler it would end at 1e-7, which is another fraction of each rate.
        end = config.lr_end_fraction * optimizer.defaults["lr"]
        return get_polynomial_decay_schedule_with_warmup(
            optimizer, **length, lr_end=end, power=config.lr_power
        )
    return get_scheduler(name, optimizer, **length, num_cycles=config.lr_num_cycles)

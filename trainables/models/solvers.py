"""Solvers that draw images: from noise to latents, in few steps, as the model's own sampler states its noise."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np

from trainables.models.backbone import Backbone


def make_solver(backbone: Backbone, steps: int | None = None, side: int | None = None) -> Any:
    """Returns a solver with the noise schedule and prediction type of the model's own.

    For diffusion it is a DPM-Solver++ (2M, arXiv 2211.01095), for flow matching Euler's method from noise to image,
    with the shift of noise levels that the model's sampler states (by the number of tokens, where it says so).
    Models that predict v begin at the last step of the schedule (trailing spacing, arXiv 2305.08891, sec. 3.3): with no
    signal at the end of it, as Stable Diffusion 2.x may have, any other begin draws grey images.

    Args:
        steps: Makes the solver ready for so many; None leaves that to the caller.
        side: Of the latents; needed with `steps` where the shift follows the resolution.
    """
    solver = _flow_solver(backbone) if backbone.family.flow else _diffusion_solver(backbone)
    if steps is None:
        return solver
    if not backbone.family.flow:
        solver.set_timesteps(steps, device=backbone.device)
        return solver
    options: dict[str, Any] = {}
    if solver.config.use_dynamic_shifting:
        assert side is not None
        options["mu"] = _dynamic_shift(solver.config, (side // backbone.family.patch) ** 2)
    if backbone.family.embedded_guidance:  # as its pipeline does; the other leaves the levels to the sampler
        options["sigmas"] = np.linspace(1.0, 1 / steps, steps)
    solver.set_timesteps(steps, device=backbone.device, **options)
    solver.set_begin_index(0)
    return solver


def _diffusion_solver(backbone: Backbone) -> Any:
    from diffusers import DPMSolverMultistepScheduler

    return DPMSolverMultistepScheduler.from_config(
        backbone.scheduler.config,
        algorithm_type="dpmsolver++",
        solver_order=2,
        **_spacing(backbone.prediction_type),
    )


def as_drawn(backbone: Backbone) -> Any:
    """Returns the sampler that a pipeline of this model should state, so that it draws as runs are judged.

    It is the model's own with the spacing of `make_solver`, the very same where it states that already; and that solver
    where the model's own would pass over what its configuration says of noise.
    """
    own, spacing = backbone.scheduler, _spacing(backbone.prediction_type)
    needed = [*spacing, *(["rescale_betas_zero_snr"] if own.config.get("rescale_betas_zero_snr") else [])]
    read = inspect.signature(type(own).__init__).parameters
    if any(name not in read for name in needed):
        return _diffusion_solver(backbone)
    if all(own.config.get(name) == value for name, value in spacing.items()):
        return own
    return type(own).from_config(own.config, **spacing)


def _spacing(prediction_type: str) -> dict[str, Any]:
    return {"timestep_spacing": "trailing"} if prediction_type == "v_prediction" else {}


def _flow_solver(backbone: Backbone) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler.from_config(backbone.scheduler.config)


def _dynamic_shift(config: Any, tokens: int) -> float:
    """The exponent of the shift, linear in the number of tokens between the two that the sampler states."""
    few, many = config.base_image_seq_len, config.max_image_seq_len
    rise = (config.max_shift - config.base_shift) / (many - few)
    return float(config.base_shift + rise * (tokens - few))

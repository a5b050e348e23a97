"""What can be found wrong with a run before anything is loaded or written."""

from __future__ import annotations

from contextlib import suppress

from trainables.data.subjects import check_subject, prompts_of
from trainables.errors import UserError
from trainables.evaluation.checks import check_evaluation
from trainables.methods.data_set_fit import check_data_set
from trainables.methods.fit import check_fit
from trainables.methods.registry import get_method
from trainables.models.folders import (
    check_model,
    check_quantization,
    local_folder,
    native_resolution,
    resolve_model,
)
from trainables.run.choice_checks import check_choice
from trainables.run.held_out_checks import check_held_out
from trainables.run.prompt_checks import find_cut_prompts_of_run
from trainables.run_config import RunConfig
from trainables.training.optim import check_optimizer


def check_run(config: RunConfig) -> list[str]:
    """Returns everything wrong with a run's model, subject, optimizer and device, one message a problem."""
    training = config.training
    problems = check_model(config.model, training.resolution)
    prompts = [] if problems else find_cut_prompts_of_run(config).problems
    resolution = training.resolution
    if not problems and resolution is None:
        resolution = native_resolution(local_folder(config.model) or resolve_model(config.model))
    problems += check_quantization(config.model)
    problems += check_subject(
        config.subject,
        resolution,
        training.captions,
        masked=training.masked_loss,
        count=training.num_training_images,
    )
    problems += [
        *prompts,
        *check_evaluation(config.evaluation),
        *check_choice(config.evaluation, config.subject),
        *check_held_out(config.subject, config.evaluation),
    ]
    with suppress(UserError):  # told with the subject, or its prompts
        training = training.for_subject(*prompts_of(config.subject))
    problems += check_data_set(config.method, training, config.subject)
    problems += check_fit(get_method(config.method), training, config.model)
    if get_method(config.method).trains:
        problems += check_optimizer(training.optimizer)
        problems += check_device(config.device, training.mixed_precision)
    return problems


def fp16_needs_a_gpu(why: str = "") -> str:
    """Returns the problem of a run in half precision on a CPU; `why` says why it is on one."""
    return f"mixed_precision: fp16 needs a GPU{why}; on the CPU take bf16 or no"


def check_device(device: str, mixed_precision: str) -> list[str]:
    """Returns what keeps a device and precision from being used on this machine."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        return ["device: cuda, but torch sees no CUDA device here; take device: auto or cpu"]
    if mixed_precision == "fp16" and not (device != "cpu" and torch.cuda.is_available()):
        return [fp16_needs_a_gpu()]
    return []

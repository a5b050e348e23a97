"""The installed torch and accelerate have the private names that training uses; where: tests/test_architecture.py."""

import inspect

import pytest
import torch
from diffusers.loaders.unet import UNet2DConditionLoadersMixin

from tests.helpers.private_names import has


@pytest.mark.parametrize(
    "name",
    [
        "torch.distributed.distributed_c10d:_abort_process_group",
        "torch.distributed.distributed_c10d:_get_default_store",
        "torch:_foreach_mul_",
        "torch:_foreach_lerp_",
        "torch:Tensor._version",
        "torch:Tensor._backward_hooks",
        "torch.optim.lr_scheduler:LRScheduler._last_lr",
        "accelerate.state:AcceleratorState._reset_state",
        "accelerate.state:GradientState._reset_state",
        "transformers:PreTrainedModel._no_split_modules",
        "transformers:PreTrainedModel._keep_in_fp32_modules",
        "transformers:PreTrainedModel._hf_peft_config_loaded",
        "diffusers.loaders.peft:PeftAdapterMixin._hf_peft_config_loaded",
        "diffusers:ModelMixin._keep_in_fp32_modules",
        "peft.tuners.boft.layer:_FBD_CUDA",
        "peft.tuners.tuners_utils:BaseTunerLayer._disable_adapters",
    ],
)
def test_the_installed_package_has_it(name: str) -> None:
    assert has(name)


def test_private_arguments_are_taken() -> None:
    assert "_weight" in inspect.signature(torch.nn.Embedding).parameters
    assert 'kwargs.pop("_pipeline"' in inspect.getsource(UNet2DConditionLoadersMixin.load_attn_procs)


def test_a_name_that_is_asked_for_with_a_default_is_there() -> None:
    """It would be missed silently."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    parameter.register_post_accumulate_grad_hook(lambda given: None)
    assert len(parameter._post_accumulate_grad_hooks) == 1


def test_a_module_keeps_parameters_and_buffers_by_name() -> None:
    norm = torch.nn.BatchNorm1d(2)
    assert list(norm._parameters) == ["weight", "bias"]
    assert "running_mean" in norm._buffers

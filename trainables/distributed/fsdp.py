"""FSDP: the processes of a worker group train one copy of the model, of which each holds a part (torch's fully_shard).

Steps run on the copy. The ordinary model stays whole in every process, in the host's memory, so that the leader can
evaluate and save alone, with the code of any other run: whenever it needs them, all members put the trained weights
together, and the leader takes the model to its device for as long as that lasts. Rows of a tensor (its first
dimension) are dealt out in equal blocks, the last ones short or empty.

All exchanges go through the worker group, which can break them when one of its members fails.
"""

from __future__ import annotations

import copy
import gc
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DeviceMesh, DTensor

from trainables.distributed.worker_group import ProcessWorkerGroup
from trainables.models.backbone import Backbone


class Shards:
    """A model that the members of a worker group share.

    Attributes:
        backbone: The model with the shared copies of some of its modules; for steps, and nothing else.

    Args:
        whole: The ordinary model, ready to train; it leaves the device.
        parts: Names of the modules that a step needs.
        worker_group: All of its processes do the same.
    """

    def __init__(self, whole: Backbone, parts: Iterable[str], worker_group: ProcessWorkerGroup) -> None:
        self._whole = whole
        self._worker_group = worker_group
        self.park()
        mesh = worker_group.mesh(whole.device.type)
        copies = {name: _shard(_same_structure(whole.modules[name]), mesh) for name in parts}
        self.backbone = replace(whole, modules=whole.modules | copies)

    def share(self, loss: nn.Module) -> nn.Module:
        """Makes a module around the copies the root of their exchanges, which go through the worker group."""
        fully_shard(loss, mesh=self._worker_group.mesh(self._whole.device.type))
        for module in loss.modules():
            if isinstance(module, FSDPModule):
                module.set_custom_all_gather(_Gather(self._worker_group))  # type: ignore[arg-type]
                module.set_custom_reduce_scatter(_AddUp(self._worker_group))  # type: ignore[arg-type]
        return loss

    @torch.no_grad()
    def together(self, tensor: torch.Tensor) -> torch.Tensor:
        """Returns a tensor of the copy as a whole, on the device; all members call it."""
        if not isinstance(tensor, DTensor):
            return tensor
        own, size = tensor.to_local(), self._worker_group.size
        block = own.new_zeros(-(-tensor.shape[0] // size), *tensor.shape[1:])
        block[: len(own)] = own
        blocks = own.new_empty(size * len(block), *tensor.shape[1:])
        self._worker_group.all_gather(blocks, block)
        return blocks[: tensor.shape[0]]

    def part(self, tensor: torch.Tensor) -> torch.Tensor:
        """Returns this process's part of a whole tensor, in memory of its own."""
        rows = -(-tensor.shape[0] // self._worker_group.size)
        return tensor[self._worker_group.rank * rows : (self._worker_group.rank + 1) * rows].clone()

    @torch.no_grad()
    def clip_gradients(self, parameters: Iterable[nn.Parameter], largest: float) -> torch.Tensor:
        """Scales gradients so that their norm, over all members, is at most `largest`; returns the norm before."""
        gradients = [value.grad.to_local() for value in parameters if isinstance(value.grad, DTensor)]
        square = nn.utils.get_total_norm(gradients).square().to(self._whole.device)
        self._worker_group.all_reduce(square)
        norm = square.sqrt()
        torch._foreach_mul_(gradients, (largest / (norm + 1e-6)).clamp(max=1.0))
        return norm

    @torch.no_grad()
    def fill(self, values: Mapping[str, torch.Tensor]) -> None:
        """Puts tensors of the copy, by name of parameter, into the leader's ordinary model, on the device again.

        All members call it; ranks above 0 only hand their parts over.
        """
        if self._worker_group.is_main_process:
            unpark(self._whole)
        parameters = parameters_of(self._whole)
        for name, value in values.items():
            whole = self.together(value)
            if self._worker_group.is_main_process:
                parameters[name].copy_(whole)

    def park(self) -> None:
        """Takes the ordinary model to the host's memory."""
        for module in self._whole.modules.values():
            module.to("cpu")
        if self._whole.device.type == "cuda":
            torch.cuda.empty_cache()


def parameters_of(backbone: Backbone) -> dict[str, nn.Parameter]:
    """Returns all parameters of a model by part and name; those of its shared copy bear the same names."""
    return {
        f"{part}.{name}": parameter
        for part, module in backbone.modules.items()
        for name, parameter in module.named_parameters()
    }


def unpark(backbone: Backbone) -> None:
    """Takes a model to its device again; nothing if it is there."""
    gc.collect()  # sharded modules refer to themselves
    if backbone.device.type == "cuda":
        torch.cuda.empty_cache()
    for module in backbone.modules.values():
        module.to(backbone.device)


def like_part(parameter: DTensor, value: torch.Tensor) -> DTensor:
    """Returns this process's part of a tensor as the like of a shared parameter."""
    own = torch.empty_like(parameter.to_local(), dtype=value.dtype).copy_(value)
    return DTensor.from_local(
        own,
        parameter.device_mesh,
        parameter.placements,
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    )


def _same_structure(module: nn.Module) -> nn.Module:
    """Returns a copy of a module whose parameters are others, in the same memory."""
    memo: dict[int, Any] = {
        id(value): nn.Parameter(value.detach(), value.requires_grad) for value in module.parameters()
    }
    return copy.deepcopy(module, memo)


def _shard(module: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Deals a module out, on the mesh's devices, in the units that its library says are not to be split.

    A unit is put together for its own forward and backward pass, then dropped.
    """
    units = set(getattr(module, "_no_split_modules", None) or ())
    if any(not value.is_contiguous() for value in module.parameters() if value.dim() == 4):
        module.register_forward_pre_hook(_channels_last)
    for unit in reversed(list(module.modules())):  # what is inside comes first
        if type(unit).__name__ in units or unit is module:
            for value in unit.parameters():
                if not isinstance(value, DTensor):
                    value.data = value.data.contiguous()  # torch deals out no others
            fully_shard(unit, mesh=mesh)
    return module


def _channels_last(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Gives images the memory layout that the weights had: convolutions then compute as those of the whole model do."""
    return tuple(
        value.contiguous(memory_format=torch.channels_last)
        if isinstance(value, torch.Tensor) and value.dim() == 4
        else value
        for value in inputs
    )


class _ThroughWorkerGroup:
    """An exchange of torch's FSDP: allocates like torch's own, and leaves the rest to the worker group."""

    def __init__(self, worker_group: ProcessWorkerGroup) -> None:
        self._worker_group = worker_group

    def allocate(self, size: Any, *, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        return torch.empty(*size, dtype=dtype, device=device)


class _Gather(_ThroughWorkerGroup):
    """Puts the parameters of a unit together."""

    def __call__(
        self, output_tensor: torch.Tensor, input_tensor: torch.Tensor, group: Any, async_op: bool = False
    ) -> None:
        self._worker_group.all_gather(output_tensor, input_tensor)


class _AddUp(_ThroughWorkerGroup):
    """Adds gradients up, and leaves each member its part of the sum; torch would divide by the number of members."""

    def __call__(
        self,
        output_tensor: torch.Tensor,
        input_tensor: torch.Tensor,
        group: Any,
        op: Any,
        async_op: bool = False,
    ) -> None:
        self._worker_group.reduce_scatter(output_tensor, input_tensor)

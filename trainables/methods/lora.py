"""LoRA (Hu et al. 2021, arXiv:2106.09685): low-rank adapters, without prior preservation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from pydantic import model_validator

from trainables.config import TrainingConfig
from trainables.methods import adapters

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from trainables.families import Backbone


class LoraTrainingConfig(adapters.AdapterConfig):
    """LoRA's fields; see `AdapterConfig`."""

    @model_validator(mode="after")
    def _without_prior(self) -> Self:
        if self.with_prior_preservation:
            raise ValueError(
                "lora has no prior preservation (with_prior_preservation: true); take method "
                "dreambooth_lora, which is LoRA with it"
            )
        return self


@dataclass(frozen=True)
class Lora:
    """Trains adapters on the UNet's attention and, if asked for, the text encoder's."""

    name: str = "lora"
    title: str = "LoRA"
    config_class: type[TrainingConfig] = LoraTrainingConfig
    trains: bool = True
    artifact: str = "adapter"

    def attach(self, backbone: Backbone, config: Any, generator: torch.Generator) -> list[dict[str, Any]]:
        """Injects the adapters."""
        return adapters.attach_adapters(backbone, config, generator)

    def detach(self, backbone: Backbone) -> None:
        """Removes the adapters."""
        adapters.detach_adapters(backbone)

    def save(self, backbone: Backbone, config: Any, folder: Path) -> None:
        """Writes ``pytorch_lora_weights.safetensors``."""
        adapters.save_adapters(backbone, folder)

    def load(self, pipeline: Any, folder: Path) -> Any:
        """Loads the adapters by ``load_lora_weights``."""
        return adapters.load_adapters(pipeline, folder)


METHOD = Lora()

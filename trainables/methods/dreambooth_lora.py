"""DreamBooth+LoRA: DreamBooth's loss, with its prior preservation, on low-rank adapters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from trainables.config import TrainingConfig
from trainables.methods import adapters

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from trainables.families import Backbone


class DreamBoothLoraConfig(adapters.AdapterConfig):
    """The adapters' fields, with prior preservation on."""

    EMBEDDED_DEFAULTS: ClassVar[dict[str, Any]] = {"learning_rate": 2e-3, "prior_loss_weight": 0.3}

    with_prior_preservation: bool = True


@dataclass(frozen=True)
class DreamBoothLora:
    """Trains the same adapters as LoRA, beside class images made by the base model."""

    name: str = "dreambooth_lora"
    title: str = "DreamBooth+LoRA"
    config_class: type[TrainingConfig] = DreamBoothLoraConfig
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


METHOD = DreamBoothLora()

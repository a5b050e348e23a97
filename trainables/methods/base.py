"""The base model as it is: trains nothing, and shows in every table what fine-tuning starts from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainables.config import TrainingConfig

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from trainables.families import Backbone


@dataclass(frozen=True)
class Base:
    """Trains nothing and saves nothing."""

    name: str = "base"
    title: str = "Base model"
    config_class: type[TrainingConfig] = TrainingConfig
    trains: bool = False
    artifact: str = "none"

    def attach(self, backbone: Backbone, config: Any, generator: torch.Generator) -> list[dict[str, Any]]:
        """Returns no parameter groups."""
        return []

    def detach(self, backbone: Backbone) -> None:
        """Has nothing to remove."""

    def save(self, backbone: Backbone, config: Any, folder: Path) -> None:
        """Has nothing to save."""

    def load(self, pipeline: Any, folder: Path) -> Any:
        """Returns the pipeline as it is."""
        return pipeline


METHOD = Base()

"""The base model as it is: trains nothing, and shows in every table what fine-tuning starts from."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from trainables.config.fields import TrainingConfig

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from trainables.config.fields import ModelConfig
    from trainables.models.backbone import Backbone
    from trainables.models.families import Family


class BaseConfig(TrainingConfig):
    """The fields of the other methods, so that all may share a study's `training`; but one they say nothing here."""

    READ: ClassVar[tuple[str, ...] | None] = ("resolution",)  # of the images that are judged


@dataclass(frozen=True)
class Base:
    """Trains nothing and saves nothing."""

    name: str = "base"
    title: str = "Base model"
    config_class: type[TrainingConfig] = BaseConfig
    trains: bool = False
    what_trains: str = "nothing"
    papers: tuple[str, ...] = ("rombach2022latent",)
    artifact: str = "none"
    copies: tuple[str, ...] = ()
    stock_loader: bool = True

    def check(self, config: Any, model: ModelConfig) -> list[str]:
        """Fits every model."""
        return []

    def trained_parts(self, family: Family, config: Any) -> tuple[str, ...]:
        """Trains nothing."""
        return ()

    def prepare(self, backbone: Backbone, config: Any) -> None:
        """Adds no words."""

    def attach(self, backbone: Backbone, config: Any, generator: torch.Generator) -> list[dict[str, Any]]:
        """Returns no parameter groups."""
        return []

    def detach(self, backbone: Backbone) -> None:
        """Has nothing to remove."""

    def fused(self, backbone: Backbone) -> AbstractContextManager[bool | None]:
        """Has nothing to merge."""
        return nullcontext(False)

    def save(self, backbone: Backbone, config: Any, folder: Path) -> None:
        """Has nothing to save."""

    def load(self, pipeline: Any, folder: Path) -> Any:
        """Returns the pipeline as it is."""
        return pipeline


METHOD = Base()

"""DreamBooth (Ruiz et al. 2022, arXiv:2208.12242): all weights of the denoiser, beside class images that keep
the class.

The text encoders train too if asked for. The result is a complete pipeline folder.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from trainables.config.fields import TrainingConfig
from trainables.methods.exporting import (
    ONE_FILE,
    Exported,
    copy_pipeline,
    pipeline_usage,
    save_pipeline,
)
from trainables.methods.model_exports import export_merged, export_model_file, model_file_obstacle
from trainables.methods.strengths import Dial, between
from trainables.models.families import family_of

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from trainables.config.fields import ModelConfig
    from trainables.methods.exporting import Format, Request
    from trainables.models.backbone import Backbone
    from trainables.models.families import Family


class DreamBoothConfig(TrainingConfig):
    """No fields of its own: all weights train, with prior preservation unless it is switched off."""

    # The embedded text encoder reads over unknown words, so it must learn the rare token too; and in a few hundred
    # steps a prior of full weight holds back the subject as well as the class.
    EMBEDDED_DEFAULTS: ClassVar[dict[str, Any]] = {
        "learning_rate": 3e-4,
        "train_text_encoder": True,
        "text_encoder_learning_rate": 3e-4,
        "prior_loss_weight": 0.3,
        "max_train_steps": 130,
    }
    EMBEDDED_WITHOUT_PRIOR: ClassVar[dict[str, Any]] = {"learning_rate": 3e-5}

    learning_rate: float = Field(default=5e-6, gt=0, le=10)
    with_prior_preservation: bool = True


@dataclass(frozen=True)
class DreamBooth:
    """Trains every weight of the denoiser and, if asked for, of the text encoders."""

    name: str = "dreambooth"
    title: str = "DreamBooth"
    config_class: type[TrainingConfig] = DreamBoothConfig
    trains: bool = True
    what_trains: str = "all weights"
    papers: tuple[str, ...] = ("ruiz2023dreambooth",)
    artifact: str = "pipeline"
    copies: tuple[str, ...] = ()
    stock_loader: bool = True

    def check(self, config: Any, model: ModelConfig) -> list[str]:
        """Fits every model."""
        return []

    def changes_weights(self, config: Any) -> str | None:
        """All that train do."""
        return f"{self.name} trains all of them; take a method that trains adapters, such as dreambooth_lora"

    def trained_parts(self, family: Family, config: Any) -> tuple[str, ...]:
        """The denoiser and, if asked for, the text encoders."""
        return tuple(part.name for part in family.trainable(text_encoders=config.train_text_encoder))

    def prepare(self, backbone: Backbone, config: Any) -> None:
        """Adds no words."""

    def attach(self, backbone: Backbone, config: Any, generator: torch.Generator) -> list[dict[str, Any]]:
        """Makes all weights trainable, in float32; nothing is drawn."""
        backbone.freeze()
        denoiser, *text_encoders = self.trained_parts(backbone.family, config)
        rate = config.text_encoder_learning_rate or config.learning_rate
        return [
            _train_all(backbone, denoiser, config.learning_rate),
            *(_train_all(backbone, part, rate) for part in text_encoders),
        ]

    def detach(self, backbone: Backbone) -> None:
        """Has added nothing to the modules; the core restores the weights."""

    def fused(self, backbone: Backbone) -> AbstractContextManager[bool]:
        """Has nothing to merge."""
        return nullcontext(False)

    def save(self, backbone: Backbone, config: Any, folder: Path) -> None:
        """Writes the whole pipeline, which ``from_pretrained`` loads."""
        save_pipeline(backbone, backbone.pipeline(), folder)

    def load(self, pipeline: Any, folder: Path) -> Any:
        """Returns the pipeline of `folder`; the given one only says of which class and where."""
        loaded = type(pipeline).from_pretrained(
            str(folder), use_safetensors=True, **family_of(pipeline).load_options
        )
        return loaded.to(pipeline.device)

    def export_obstacle(self, family: Family, config: Any, form: Format) -> str | None:
        """A whole model has no adapter, and is not of every family one file."""
        if form == "peft":
            return f"{self.title} trains whole weights and has no adapter for PEFT; take --format merged"
        return model_file_obstacle(family) if form in ONE_FILE else None

    def export(self, backbone: Backbone, config: Any, weights: Path, request: Request, out: Path) -> Exported:
        """Copies the pipeline, writes it as one file in its publisher's layout, or both."""
        if request.form == "diffusers":
            copy_pipeline(weights, out)
            return Exported(pipeline_usage(backbone.family, out.name))
        trained = self.load(backbone.pipeline(), weights)
        if request.form == "merged":
            return export_merged(backbone, trained, request, out)
        return export_model_file(backbone, trained, request, out)

    def with_strength(self, backbone: Backbone, weights: Path) -> Dial:
        """Loads the trained weights beside the base model's and returns what turns between them."""
        trained = self.load(backbone.pipeline(), weights)
        parts = [part.name for part in backbone.family.trainable(text_encoders=True)]
        pairs = [
            (parameter, parameter.detach(), value.detach())
            for name in parts
            for parameter, value in zip(
                backbone.modules[name].parameters(), getattr(trained, name).parameters(), strict=True
            )
        ]
        return between((held, base, value) for held, base, value in pairs if not base.equal(value))


def _train_all(backbone: Backbone, component: str, rate: float) -> dict[str, Any]:
    import torch

    backbone.will_change(component)
    parameters = list(backbone.modules[component].parameters())
    for parameter in parameters:
        parameter.data = parameter.data.to(torch.float32)
        parameter.requires_grad_(True)
    return {"name": component, "params": parameters, "lr": rate}


METHOD = DreamBooth()

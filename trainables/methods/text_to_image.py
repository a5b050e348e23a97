"""Captioned fine-tuning: adapters, or all weights of the denoiser, on images that each have a caption.

The procedure of diffusers' ``train_text_to_image.py`` and ``train_text_to_image_lora.py``: the loss of the base model's
own training (Ho et al. 2020; Rombach et al. 2022, arXiv:2112.10752, eq. 3) on a set of captioned images, without a rare
word and without prior preservation. What trains, and how it is saved and loaded, is that of `lora` or of `dreambooth`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import field_validator

from trainables.config.fields import TrainingConfig
from trainables.methods.adapters import KOHYA_FILE, AdapterConfig, AdapterMethod
from trainables.methods.dreambooth import DreamBooth
from trainables.methods.protocol import AN_ADAPTER

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from trainables.config.fields import ModelConfig
    from trainables.methods.exporting import Exported, Format, Request
    from trainables.methods.strengths import Dial
    from trainables.models.backbone import Backbone
    from trainables.models.families import Family

_INDEX = "model_index.json"  # of a pipeline's folder
_OF_ADAPTERS = sorted(set(AdapterConfig.model_fields) - set(TrainingConfig.model_fields))


class TextToImageConfig(AdapterConfig):
    """The adapters' fields, which are read where an adapter trains, and the choice between it and all weights.

    Attributes:
        trains: "adapter": as `lora`, by the fields of `AdapterConfig`. "full": every weight of the denoiser; then the
            rate is lower, and what is kept is a moving average, as in diffusers' README, unless stated otherwise.
    """

    EMBEDDED_DEFAULTS: ClassVar[dict[str, Any]] = {"learning_rate": 2e-3, "text_encoder_learning_rate": 2e-3}
    EMBEDDED_WITHOUT_PRIOR: ClassVar[dict[str, Any]] = {}
    FULL_DEFAULTS: ClassVar[dict[str, Any]] = {"learning_rate": 1e-5, "use_ema": True, "ema_decay": 0.9999}
    EMBEDDED_FULL_DEFAULTS: ClassVar[dict[str, Any]] = {
        "learning_rate": 1e-4,
        "text_encoder_learning_rate": 3e-4,
    }
    NEEDS: ClassVar[dict[str, dict[str, tuple[Any, ...]]]] = {
        **AdapterConfig.NEEDS,
        **{name: {"trains": ("adapter",), **AdapterConfig.NEEDS.get(name, {})} for name in _OF_ADAPTERS},
    }
    # A data set shows no single class that could be held: captions say what each shows. Of a subject the same with a
    # prior is `lora` or `dreambooth` with `captions: files`.
    UNREAD: ClassVar[tuple[str, ...]] = (
        "with_prior_preservation",
        "prior_preservation_target",
        "prior_loss_weight",
        "num_class_images",
        "class_num_inference_steps",
        "class_guidance_scale",
    )

    trains: Literal["adapter", "full"] = "adapter"
    captions: Literal["instance_prompt", "files"] = "files"

    @field_validator("with_prior_preservation")
    @classmethod
    def _has_no_effect(cls, value: bool) -> bool:
        """What is not read stands in the records as what it comes to: nothing."""
        return False

    @classmethod
    def defaults_beside(cls, stated: Mapping[str, Any], *, embedded: bool) -> dict[str, Any]:
        """See `TrainingConfig`; all weights have rates of their own, and an average."""
        if stated.get("trains") == "full":
            return {**cls.FULL_DEFAULTS, **(cls.EMBEDDED_FULL_DEFAULTS if embedded else {})}
        return super().defaults_beside(stated, embedded=embedded)

    def effective(self, varied: Collection[str] = ()) -> dict[str, Any]:
        """See `TrainingConfig`; where all weights train, nothing of an adapter counts."""
        content = super().effective(varied)
        if self.trains == "adapter" or "trains" in varied:
            return content
        return {name: value for name, value in content.items() if name not in (*_OF_ADAPTERS, "scaling")}


_TITLE = "Captioned fine-tuning"
_ADAPTER = AdapterMethod("text_to_image", _TITLE, TextToImageConfig)
_FULL = DreamBooth("text_to_image", _TITLE, TextToImageConfig)


def _of(config: TextToImageConfig) -> AdapterMethod | DreamBooth:
    return _FULL if config.trains == "full" else _ADAPTER


def _of_weights(folder: Path) -> AdapterMethod | DreamBooth:
    return _FULL if (folder / _INDEX).exists() else _ADAPTER


@dataclass(frozen=True)
class TextToImage:
    """Trains adapters or all weights of the denoiser, and of the text encoders if asked for."""

    name: str = _ADAPTER.name
    title: str = _TITLE
    config_class: type[TrainingConfig] = TextToImageConfig
    trains: bool = True
    what_trains: str = AN_ADAPTER
    papers: tuple[str, ...] = ("rombach2022latent",)
    artifact: str = "adapter"
    copies: tuple[str, ...] = (KOHYA_FILE,)
    stock_loader: bool = True

    def what_trains_by(self, trains: str) -> str:
        """All weights, or an adapter."""
        return _FULL.what_trains if trains == "full" else _ADAPTER.what_trains

    def artifact_of(self, config: Any) -> str:
        """A whole model where all its weights train."""
        return _of(config).artifact

    def check(self, config: Any, model: ModelConfig) -> list[str]:
        """Names target modules that the model does not have; all weights fit every model."""
        return _of(config).check(config, model)

    def changes_weights(self, config: Any) -> str | None:
        """All weights that train do, and some beginnings of adapters."""
        if config.trains == "full":
            return "text_to_image with trains: full trains all of them; take trains: adapter"
        return _ADAPTER.changes_weights(config)

    def trained_parts(self, family: Family, config: Any) -> tuple[str, ...]:
        """The denoiser and, if asked for, the text encoders."""
        return _of(config).trained_parts(family, config)

    def prepare(self, backbone: Backbone, config: Any) -> None:
        """Adds no words."""

    def attach(self, backbone: Backbone, config: Any, generator: torch.Generator) -> list[dict[str, Any]]:
        """Injects the adapters, or makes all weights trainable."""
        return _of(config).attach(backbone, config, generator)

    def detach(self, backbone: Backbone) -> None:
        """Removes adapters, if there are any; the core restores the weights."""
        _ADAPTER.detach(backbone)

    def fused(self, backbone: Backbone) -> AbstractContextManager[bool | None]:
        """Merges adapters, if there are any, into the weights that they stand beside."""
        adapted = any(getattr(module, "peft_config", None) for module in backbone.modules.values())
        return _ADAPTER.fused(backbone) if adapted else nullcontext(False)

    def save(self, backbone: Backbone, config: Any, folder: Path) -> None:
        """Writes the adapters as `lora` does, or the whole pipeline."""
        _of(config).save(backbone, config, folder)

    def load(self, pipeline: Any, folder: Path) -> Any:
        """Loads what lies in the folder: adapters into the pipeline, or another pipeline of its class."""
        return _of_weights(folder).load(pipeline, folder)

    def export_obstacle(self, family: Family, config: Any, form: Format) -> str | None:
        """Says what the kind of adapter, or a whole model, cannot be written as."""
        return _of(config).export_obstacle(family, config, form)

    def export(self, backbone: Backbone, config: Any, weights: Path, request: Request, out: Path) -> Exported:
        """Writes the adapters for another program, or copies the pipeline."""
        return _of(config).export(backbone, config, weights, request, out)

    def with_strength(self, backbone: Backbone, weights: Path) -> Dial:
        """Loads what was trained and returns what turns its strength."""
        return _of_weights(weights).with_strength(backbone, weights)


METHOD = TextToImage()

"""Pivotal tuning: textual inversion first, then LoRA on the denoiser around the words that were found.

Roich et al. 2021 (arXiv:2106.05744) invert an image into a GAN's latents, the pivot, and then tune the generator around
it. For diffusion models, as in cloneofsimo/lora and in diffusers' advanced scripts, the pivot is the embedding of a new
word: the first stage trains it alone, then it is frozen and the adapters train.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from trainables.config.fields import TrainingConfig
from trainables.methods import textual_inversion
from trainables.methods.adapter_exports import export_adapters
from trainables.methods.adapter_merging import adapters_with_strength, merge_adapters
from trainables.methods.adapters import KOHYA_FILE, AdapterConfig, AdapterMethod
from trainables.methods.model_exports import export_merged
from trainables.methods.placeholder_config import WordAndWeightsConfig
from trainables.methods.strengths import Dial
from trainables.methods.word_exports import export_with_word

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from trainables.config.fields import ModelConfig
    from trainables.methods.exporting import Exported, Format, Request
    from trainables.models.backbone import Backbone
    from trainables.models.families import Family


class PivotalTuningConfig(WordAndWeightsConfig, AdapterConfig):
    """The placeholder's fields and those of adapters; `learning_rate` is the adapters'.

    Attributes:
        train_text_encoder_ti_frac: Share of the run's steps that the first stage takes (diffusers' name).
        max_train_steps_ti: The same as a number of steps (cloneofsimo's name); None: the share counts.
        preserve_norm: As of textual inversion, in the first stage.
    """

    EMBEDDED_DEFAULTS: ClassVar[dict[str, Any]] = {
        "learning_rate": 3e-3,
        "embedding_learning_rate": 3e-2,
        "num_vectors": 4,
        "prior_loss_weight": 0.3,
        "max_train_steps": 200,
    }
    EMBEDDED_WITHOUT_PRIOR: ClassVar[dict[str, Any]] = {"learning_rate": 1e-3}
    UNREAD: ClassVar[tuple[str, ...]] = (*WordAndWeightsConfig.UNREAD, "text_encoder_target_modules")
    NEEDS: ClassVar[dict[str, dict[str, tuple[Any, ...]]]] = {
        **AdapterConfig.NEEDS,
        **WordAndWeightsConfig.NEEDS,
        "train_text_encoder_ti_frac": {"max_train_steps_ti": (None,)},
    }

    # Rates, steps, vectors and the share of cloneofsimo/lora's example; one pair of stages of 1000 steps.
    adapter: Literal["lora", "rslora", "dora"] = "lora"
    embedding_learning_rate: float | None = Field(default=5e-4, gt=0, le=10)
    max_train_steps: int = Field(default=2000, ge=2)
    num_vectors: int = Field(default=2, ge=1, le=512)
    train_text_encoder_ti_frac: float = Field(default=0.5, gt=0, lt=1)
    max_train_steps_ti: int | None = Field(default=None, ge=1)
    preserve_norm: bool = False

    @model_validator(mode="after")
    def _one_rate_for_prodigy(self) -> Self:  # in the place of what its bases say of two rates
        if self.optimizer == "prodigy":
            raise ValueError(
                "optimizer: prodigy estimates one rate from all that trains, and here embeddings train first and "
                "adapters afterwards; take optimizer: adamw"
            )
        return self

    @model_validator(mode="after")
    def _two_stages(self) -> Self:
        if self.max_train_steps_ti is not None and self.stated_steps is None:
            raise ValueError(
                f"max_train_steps_ti ({self.max_train_steps_ti}) is a number of steps, and with max_train_flops or "
                "max_train_seconds the run's own is not known yet; state train_text_encoder_ti_frac, a share of it"
            )
        if self.max_train_steps_ti is not None and self.max_train_steps_ti >= self.max_train_steps:
            raise ValueError(
                f"max_train_steps_ti ({self.max_train_steps_ti}) must be below max_train_steps "
                f"({self.max_train_steps}), which both stages share"
            )
        if self.stated_steps is not None:
            first = round(self.share_of_first_stage * self.max_train_steps)
            shorter = min(first, self.max_train_steps - first)
            if self.lr_warmup_steps and self.lr_warmup_steps >= shorter:
                raise ValueError(
                    f"lr_warmup_steps ({self.lr_warmup_steps}) must be below the steps of each stage, which each have "
                    f"a schedule of their own, and the shorter one has {shorter}"
                )
        return self

    @property
    def share_of_first_stage(self) -> float:
        """Share of the run's steps in which the embeddings train."""
        if self.max_train_steps_ti is not None:
            return self.max_train_steps_ti / self.max_train_steps
        return self.train_text_encoder_ti_frac

    def effective(self, varied: Collection[str] = ()) -> dict[str, Any]:
        """See `TrainingConfig`; where the steps are known, the first stage is a number of them."""
        content = super().effective(varied)
        steps, share = "max_train_steps_ti", "train_text_encoder_ti_frac"
        if self.stated_steps is not None and not {steps, share, "max_train_steps"} & set(varied):
            content.pop(share, None)
            content[steps] = round(self.share_of_first_stage * self.max_train_steps)
        return content


_WORD = textual_inversion.METHOD
_ADAPTER = AdapterMethod("pivotal_tuning", "Pivotal tuning", PivotalTuningConfig)


@dataclass(frozen=True)
class PivotalTuning:
    """Trains the placeholder's embeddings in every text encoder, and then adapters on the denoiser."""

    name: str = _ADAPTER.name
    title: str = _ADAPTER.title
    config_class: type[TrainingConfig] = PivotalTuningConfig
    trains: bool = True
    what_trains: str = "embeddings of a new word, then an adapter"
    papers: tuple[str, ...] = ("roich2022pivotal", "gal2023textual")
    artifact: str = "adapter"
    copies: tuple[str, ...] = (KOHYA_FILE,)
    stock_loader: bool = True
    needs: tuple[str, ...] = ("textual_inversion",)

    def check(self, config: Any, model: ModelConfig) -> list[str]:
        """Names what the model's tokenizers do not take of the placeholder, and its layers of the adapters."""
        return [*_WORD.check(config, model), *_ADAPTER.check(config, model)]

    def changes_weights(self, config: Any) -> str | None:
        """Some beginnings of adapters do."""
        return _ADAPTER.changes_weights(config)

    def trained_parts(self, family: Family, config: Any) -> tuple[str, ...]:
        """The denoiser, which gets adapters, and the text encoders, which hold the embeddings."""
        return (*_ADAPTER.trained_parts(family, config), *_WORD.trained_parts(family, config))

    def prepare(self, backbone: Backbone, config: Any) -> None:
        """Adds the placeholder's tokens."""
        _WORD.prepare(backbone, config)

    def attach(self, backbone: Backbone, config: Any, generator: torch.Generator) -> list[dict[str, Any]]:
        """Injects the adapters and lets the embeddings train, each in the steps of its stage."""
        pivot = config.share_of_first_stage
        adapters = _ADAPTER.attach(backbone, config, generator)
        words = textual_inversion.train_words(backbone, config, config.rate_of_embeddings, generator)
        if config.preserve_norm:
            textual_inversion.keep_norms(backbone, with_gradient=True)
        second = [{**group, "stage": (pivot, 1.0)} for group in adapters]
        return second + [{**group, "stage": (0.0, pivot)} for group in words]

    def detach(self, backbone: Backbone) -> None:
        """Removes the adapters; `Backbone.restore` takes the words out."""
        _ADAPTER.detach(backbone)

    def fused(self, backbone: Backbone) -> AbstractContextManager[bool | None]:
        """Merges the adapters into the weights that they stand beside."""
        return _ADAPTER.fused(backbone)

    def save(self, backbone: Backbone, config: Any, folder: Path) -> None:
        """Writes the adapters as `lora` does, and ``learned_embeds.safetensors`` as textual inversion does."""
        _ADAPTER.save(backbone, config, folder)
        _WORD.save(backbone, config, folder)

    def load(self, pipeline: Any, folder: Path) -> Any:
        """Loads both by the stock loaders."""
        return _WORD.load(_ADAPTER.load(pipeline, folder), folder)

    def export_obstacle(self, family: Family, config: Any, form: Format) -> str | None:
        """What holds of the adapters: every program that reads them reads embeddings beside them."""
        return _ADAPTER.export_obstacle(family, config, form)

    def export(self, backbone: Backbone, config: Any, weights: Path, request: Request, out: Path) -> Exported:
        """Writes adapters and embeddings, or a pipeline with both in its weights.

        A1111 and ComfyUI read both of one file; for the others the embeddings are files of their own.
        """
        if request.form == "merged":
            pipeline = self.load(backbone.pipeline(), weights)
            merge_adapters(backbone)
            return export_merged(backbone, pipeline, request, out, words=True)
        write = partial(export_adapters, backbone, config, weights)
        return export_with_word(backbone, config.placeholder_token, weights, request, out, write)

    def with_strength(self, backbone: Backbone, weights: Path) -> Dial:
        """Loads the word, and returns what turns the strength of the adapters (see ``strengths.py``)."""
        _WORD.load(backbone.pipeline(), weights)
        return adapters_with_strength(backbone, weights)


METHOD = PivotalTuning()

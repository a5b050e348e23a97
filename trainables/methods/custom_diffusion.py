"""Custom Diffusion (Kumari et al. 2022, arXiv:2212.04488): keys and values of the text, and a new word's embedding.

Of the denoiser only the projections to keys and values of cross-attention train, beside class images that keep the
class; a new word (the paper's modifier token V*) stands before the class's noun. Both are saved as diffusers' example
script saves them, but as safetensors.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from trainables.config.fields import TrainingConfig
from trainables.errors import UserError
from trainables.methods import textual_inversion
from trainables.methods.adapter_files import sort_header
from trainables.methods.exporting import ONE_FILE
from trainables.methods.model_exports import export_merged
from trainables.methods.placeholder_config import WordAndWeightsConfig
from trainables.methods.projection_exports import (
    PROJECTIONS_FILE,
    export_projections,
    trained_projections,
)
from trainables.methods.strengths import Dial, between
from trainables.methods.word_exports import export_with_word
from trainables.models.families import family_of

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from trainables.config.fields import ModelConfig
    from trainables.methods.exporting import Exported, Format, Request
    from trainables.models.backbone import Backbone
    from trainables.models.families import Family

WEIGHTS_FILE = PROJECTIONS_FILE
_WORD = textual_inversion.METHOD


class CustomDiffusionConfig(WordAndWeightsConfig):
    """The choices of the authors' and diffusers' scripts, under diffusers' names where it has them.

    Attributes:
        freeze_model: "crossattn_kv": the projections to keys and values train, and the rest of the denoiser stays as it
            is. "crossattn": those to queries and the output train too, which the authors advise for faces.
    """

    # As for DreamBooth: in a few hundred steps a prior of full weight holds back the subject as well as the class.
    EMBEDDED_DEFAULTS: ClassVar[dict[str, Any]] = {
        "learning_rate": 1e-3,
        "embedding_learning_rate": 3e-2,
        "num_vectors": 4,
        "prior_loss_weight": 0.3,
        "max_train_steps": 200,
    }
    # Found by a search, which had no class images: trainables/embedded/README.md.
    EMBEDDED_WITHOUT_PRIOR: ClassVar[dict[str, Any]] = {
        "learning_rate": 2e-3,
        "embedding_learning_rate": 2e-1,
    }

    # The authors' 1e-5, which their script multiplies by the batch size of 2 (``--scale_lr``), on one device; there the
    # embedding has the same rate.
    learning_rate: float = Field(default=2e-5, gt=0, le=10)
    embedding_learning_rate: float | None = Field(default=2e-5, gt=0, le=10)
    max_train_steps: int = Field(default=500, ge=1)
    placeholder_token: str = Field(default="<new1>", max_length=64)
    with_prior_preservation: bool = True
    freeze_model: Literal["crossattn_kv", "crossattn"] = "crossattn_kv"


@dataclass(frozen=True)
class CustomDiffusion:
    """Trains what cross-attention makes of the text, and the placeholder's embeddings in every text encoder."""

    name: str = "custom_diffusion"
    title: str = "Custom Diffusion"
    config_class: type[TrainingConfig] = CustomDiffusionConfig
    trains: bool = True
    what_trains: str = "keys and values of the text, and embeddings of a new word"
    papers: tuple[str, ...] = ("kumari2023custom",)
    artifact: str = "adapter"
    copies: tuple[str, ...] = ()
    stock_loader: bool = True
    needs: tuple[str, ...] = ("cross_attention", "textual_inversion")

    def check(self, config: Any, model: ModelConfig) -> list[str]:
        """Names a placeholder or initializer that the model's tokenizers do not take, and too many vectors."""
        return _WORD.check(config, model)

    def changes_weights(self, config: Any) -> str | None:
        """The projections that train do."""
        return "custom_diffusion trains those of cross-attention; take pivotal_tuning, which trains a word and adapters"

    def trained_parts(self, family: Family, config: Any) -> tuple[str, ...]:
        """The denoiser, and the text encoders, which hold the embeddings."""
        return (family.denoiser.name, *_WORD.trained_parts(family, config))

    def prepare(self, backbone: Backbone, config: Any) -> None:
        """Adds the placeholder's tokens."""
        _WORD.prepare(backbone, config)

    def attach(self, backbone: Backbone, config: Any, generator: torch.Generator) -> list[dict[str, Any]]:
        """Lets the projections train, in float32, and the placeholder's embeddings.

        The first token, which marks the beginning of every prompt, gives the projections to keys and values no
        gradient, as in the authors' code and in diffusers': what all prompts share is not to learn the subject.
        """
        import torch

        from trainables.models.cross_attention import KEY, VALUE, cross_attention_layers, hold_first_token

        part = backbone.family.denoiser
        layers = cross_attention_layers(backbone.denoiser)
        if not layers:
            raise UserError(
                f"custom_diffusion: {part.title or part.name} has no cross-attention, and no keys and values of the "
                "text alone; take a method that trains adapters, such as lora"
            )
        backbone.freeze()
        backbone.will_change(part.name)
        parameters = []
        for layer in layers.values():
            for projection in _projections(config.freeze_model):
                for parameter in layer.get_submodule(projection).parameters():
                    parameter.data = parameter.data.to(torch.float32)
                    parameters.append(parameter.requires_grad_(True))
            for projection in (KEY, VALUE):
                hook = layer.get_submodule(projection).register_forward_hook(hold_first_token)
                backbone.on_restore(hook.remove)
        weights = {"name": part.name, "params": parameters, "lr": config.learning_rate}
        words = textual_inversion.train_words(backbone, config, config.rate_of_embeddings, generator)
        return [weights, *words]

    def detach(self, backbone: Backbone) -> None:
        """Leaves it to `Backbone.restore`."""

    def fused(self, backbone: Backbone) -> AbstractContextManager[bool]:
        """Has nothing to merge: the weights of the base model are what trains."""
        return nullcontext(False)

    def save(self, backbone: Backbone, config: Any, folder: Path) -> None:
        """Writes ``pytorch_custom_diffusion_weights.safetensors`` and ``learned_embeds.safetensors``.

        The first has the layout of diffusers' ``save_attn_procs``. There a layer of which nothing trained is an empty
        dictionary, which only a pickle can hold; here it is an empty tensor, which ``load_attn_procs`` takes likewise.
        """
        import torch
        from safetensors.torch import save_file

        from trainables.models.cross_attention import attention_layers

        _WORD.save(backbone, config, folder)
        tensors: dict[str, torch.Tensor] = {}
        for name, layer in attention_layers(backbone.denoiser):
            processor = f"{name}.processor"
            if not layer.is_cross_attention:
                tensors[processor] = torch.zeros(0)
                continue
            for projection in _projections(config.freeze_model):
                first, *rest = projection.split(".")
                stem = ".".join([processor, f"{first}_custom_diffusion", *rest])
                for key, value in layer.get_submodule(projection).named_parameters():
                    tensors[f"{stem}.{key}"] = value.detach().to("cpu", copy=True).contiguous()
        save_file(tensors, folder / WEIGHTS_FILE, {"format": "pt"})
        sort_header(folder / WEIGHTS_FILE)

    def load(self, pipeline: Any, folder: Path) -> Any:
        """Loads the projections by the denoiser's ``load_attn_procs``, and the embeddings as textual inversion does.

        diffusers 0.42 puts the loaded processors on the model only where it is told the pipeline, by an argument that
        its documentation does not have.
        """
        denoiser = getattr(pipeline, family_of(pipeline).denoiser.name)
        denoiser.load_attn_procs(
            str(folder), weight_name=WEIGHTS_FILE, use_safetensors=True, _pipeline=pipeline
        )
        return _WORD.load(pipeline, folder)

    def export_obstacle(self, family: Family, config: Any, form: Format) -> str | None:
        """LoRA has no place for the biases that train with all four projections."""
        if form in ONE_FILE and not family.denoiser.kohya:
            return f"kohya's names of {family.title} are not written; take --format diffusers or merged"
        if form == "peft" and config.freeze_model != "crossattn_kv":
            return (
                f"with freeze_model: {config.freeze_model} biases train too, which a LoRA for PEFT cannot hold; take "
                "--format merged, diffusers or, for other programs, kohya, a1111 or comfyui"
            )
        return None

    def export(self, backbone: Backbone, config: Any, weights: Path, request: Request, out: Path) -> Exported:
        """Writes projections and embeddings, or a pipeline with both in its weights.

        diffusers gets them as they are, PEFT a LoRA of full rank, which is exact, and other programs dense differences.
        """
        word = config.placeholder_token
        if request.form == "merged":
            for name, value in trained_projections(weights / WEIGHTS_FILE).items():
                backbone.denoiser.get_parameter(name).data.copy_(value)
            pipeline = _WORD.load(backbone.pipeline(), weights)
            return export_merged(backbone, pipeline, request, out, words=True)
        write = partial(export_projections, backbone, weights / WEIGHTS_FILE)
        return export_with_word(backbone, word, weights, request, out, write)

    def with_strength(self, backbone: Backbone, weights: Path) -> Dial:
        """Loads the word, and returns what turns the strength of the projections (see ``strengths.py``)."""
        _WORD.load(backbone.pipeline(), weights)
        ours = backbone.denoiser.get_parameter
        return between(
            (ours(name), ours(name).detach(), value.to(ours(name).device))
            for name, value in trained_projections(weights / WEIGHTS_FILE).items()
        )


def _projections(freeze_model: str) -> tuple[str, ...]:
    """The projections of a layer that train, by name."""
    from trainables.models.cross_attention import KEY, OUTPUT, QUERY, VALUE

    return (KEY, VALUE) if freeze_model == "crossattn_kv" else (KEY, VALUE, QUERY, OUTPUT)


METHOD = CustomDiffusion()

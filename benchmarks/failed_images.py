"""How well the thresholds of failed images tell: `python -m benchmarks.failed_images`.

On pictures of the sprite world whose truth is known. Perfect pictures of a subject in the evaluation's prompts must
not fail; pictures of other identities of its class, and pictures held against prompts that they do not show, must.
Drawing the anchors takes half a minute a class on one core; they are kept in `--cache`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from trainables import embedded
from trainables.config.fields import EvaluationConfig, ModelConfig, SubjectConfig
from trainables.data.cache import Cache
from trainables.data.subjects import resolve_subject
from trainables.embedded.subjects import RENDERS_A_TEMPLATE
from trainables.evaluation import metrics
from trainables.evaluation.encoders import MetricModels, load_metric_models
from trainables.evaluation.evaluator import make_scale
from trainables.evaluation.protocol import make_protocol
from trainables.evaluation.quality import FAILED_PROMPT, FAILED_SUBJECT, Anchors, has_failed
from trainables.models.loading import load_backbone

PERFECT_BAR, OTHER_BAR = 0.05, 0.9  # at most, at least


@dataclass(frozen=True)
class Shares:
    """Which share of pictures is called failed.

    Attributes:
        perfect: Of pictures of the subject in the prompts.
        other_identity: Of pictures of others of its class, by the subject scale alone.
        other_prompt: Of perfect pictures, held against prompts that they do not show, by the prompt scale alone.
        near_prompt: Of those of them that have the prompt's scene, and miss its accessory; NaN where there are none.
        pictures: Numbers of pictures, or pairs, in this order.
    """

    perfect: float
    other_identity: float
    other_prompt: float
    near_prompt: float
    pictures: tuple[int, int, int, int]


def measure(
    names: Sequence[str], settings: EvaluationConfig, backbone: Any, models: MetricModels, cache: Cache
) -> Shares:
    """Returns the shares over subjects of the embedded world."""
    failed: dict[str, list[bool]] = {"perfect": [], "identity": [], "prompt": [], "near": []}
    for name in names:
        subject = resolve_subject(SubjectConfig(name=name), backbone.resolution)
        protocol = make_protocol(subject, settings, subject.resolution, seed=0)
        scale = make_scale(backbone, subject, protocol, models, cache, settings.batch_size)
        templates, reality = protocol.templates, scale.reality
        groups = np.repeat(np.arange(len(templates)), RENDERS_A_TEMPLATE)
        anchors = scale.anchors.of(list(groups), [0])

        images = embedded.load_subject(name).perfect_images(templates) or []
        table = metrics.cosines(models.clip.embed_images(images), reality.texts)
        own = _subject_scale(images, models, reality.references, anchors)
        for row, group in enumerate(groups):
            failed["perfect"].append(
                bool(has_failed(own[row], anchors.scaled_prompt(float(table[row, group]))))
            )
            shown = embedded.attributes(templates[group])
            for number, template in enumerate(templates):
                asked = embedded.attributes(template)
                if not _contradicts(shown, asked):
                    continue
                value = anchors.scaled_prompt(float(table[row, number]))
                failed["prompt"].append(value is not None and value < FAILED_PROMPT)
                if asked.get("scene") == shown.get("scene"):
                    failed["near"].append(failed["prompt"][-1])
        for other in embedded.subject_names():
            if other != name and other.split("-")[0] == name.split("-")[0]:
                pictures = embedded.load_subject(other).perfect_images(templates[:4]) or []
                values = _subject_scale(pictures, models, reality.references, anchors)
                failed["identity"] += [value is not None and value < FAILED_SUBJECT for value in values]
    shares = [float(np.mean(found)) if found else float("nan") for found in failed.values()]
    return Shares(*shares, pictures=tuple(len(found) for found in failed.values()))  # type: ignore[arg-type]


def _subject_scale(
    images: Sequence[Image.Image], models: MetricModels, references: metrics.Array, anchors: Anchors
) -> list[float | None]:
    """S of each image."""
    similarity = metrics.cosines(models.image_encoder.embed(images), references).mean(axis=1)
    return [anchors.scaled_subject(float(value)) for value in similarity]


def _contradicts(shown: dict[str, str], asked: dict[str, str]) -> bool:
    """Whether a picture drawn for one prompt cannot show another: a scene that it certainly lacks, or an accessory."""
    scene = "scene" in asked and "scene" in shown and asked["scene"] != shown["scene"]
    return scene or ("accessory" in asked and asked["accessory"] != shown.get("accessory"))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--subjects", type=int, default=4, help="of each class")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "failed-images")
    options = parser.parse_args()
    backbone, models = load_backbone(ModelConfig()), load_metric_models()
    names = embedded.subject_names()[: 8 * options.subjects]
    reached = True
    print(f"S < {FAILED_SUBJECT:g} or P < {FAILED_PROMPT:g}; {len(names)} subjects")
    for prompt_set in ("confirm", "search"):
        settings = EvaluationConfig(prompt_set=prompt_set, images_per_prompt=1, num_class_images=2)
        found = measure(names, settings, backbone, models, Cache(options.cache))
        print(
            f"{prompt_set:8} perfect {found.perfect:.3f}  other identity {found.other_identity:.3f}  "
            f"other prompt {found.other_prompt:.3f}  same scene, other accessory {found.near_prompt:.3f}  "
            f"of {found.pictures}",
            flush=True,
        )
        others = min(found.other_identity, found.other_prompt)
        reached &= found.perfect <= PERFECT_BAR and others >= OTHER_BAR
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())

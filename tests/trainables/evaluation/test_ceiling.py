"""What perfect pictures score: nearly everything in the sprite world, and of photographs what can be known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from trainables.config.fields import SubjectConfig
from trainables.data.subjects import Subject, resolve_subject
from trainables.embedded import evaluation_prompts
from trainables.evaluation import metrics
from trainables.evaluation.anchors import AnchorTable
from trainables.evaluation.ceiling import ceiling
from trainables.evaluation.encoders import load_metric_models
from trainables.evaluation.prompts import PHOTO_TEMPLATES, fill


def table(templates: Sequence[str], real: float | None) -> AnchorTable:
    """Anchors about where those of the embedded model are (`python -m benchmarks.failed_images`)."""
    count = len(templates)
    return AnchorTable((0.2,) * (count + 1), (0.62,) * count, (0.04,) * count, real, 0.01, 64)


@pytest.mark.parametrize("name", ["frog-7", "dog-12"])
def test_perfect_pictures_of_the_sprite_world_reach_the_end_of_every_scale(name: str) -> None:
    models = load_metric_models()
    subject, templates = resolve_subject(SubjectConfig(name=name), 64), evaluation_prompts()
    references = models.image_encoder.embed(subject.references)
    texts = models.clip.embed_texts([fill(template, subject.class_prompt) for template in templates])
    anchors = table(templates, metrics.real_similarity(references, references))
    arguments = references, texts, anchors, models.image_encoder.embed, models.clip.embed_images
    found = ceiling(subject, templates, *arguments)
    assert found["ceiling_subject"] == pytest.approx(1, abs=0.1)
    assert found["ceiling_prompt"] == pytest.approx(1, abs=0.2)
    product = min(1, found["ceiling_subject"]) * min(1, found["ceiling_prompt"])
    assert found["ceiling_quality"] == pytest.approx(product)


def test_of_photographs_only_the_subject_has_a_ceiling(subject: Subject) -> None:
    rng = np.random.default_rng(0)
    centre = rng.normal(size=8)

    def found(references: int, training: int) -> dict[str, float | None]:
        rows = centre + 0.3 * rng.normal(size=(references + training, 8))
        kept, real = rows[:references], metrics.real_similarity(rows[:references], rows[references:])
        anchors = table(PHOTO_TEMPLATES, real)
        return ceiling(subject, PHOTO_TEMPLATES, kept, np.zeros((16, 4)), anchors, _refused, _refused)

    by_construction = found(5, 3)
    assert by_construction["ceiling_subject"] == pytest.approx(1)
    assert by_construction["ceiling_prompt"] is by_construction["ceiling_quality"] is None
    few = found(3, 3)  # then the scale's one rests on training photographs as well
    assert few["ceiling_subject"] != pytest.approx(1, abs=1e-6)
    assert found(1, 3)["ceiling_subject"] is None


def _refused(images: Sequence[Image.Image]) -> metrics.Array:
    raise AssertionError(f"photographs have no perfect pictures, yet {len(images)} were embedded")

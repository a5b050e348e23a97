"""What the generated images of one class are like: how varied, how many are copies, and whether they show the class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image

from trainables.embedded.canvas import SIZE
from trainables.embedded.class_sets import animal_of
from trainables.embedded.lesion_judge import read_lesions
from trainables.embedded.lesions import SCORES
from trainables.evaluation.copies import copied
from trainables.evaluation.encoders import ImageEncoder
from trainables.evaluation.vendi import vendi_score


def measure_class(
    label: str,
    images: Sequence[Image.Image],
    real: Sequence[Image.Image],
    encoder: ImageEncoder,
    source: str | None = None,
) -> dict[str, Any]:
    """Returns the measures of a class's generated images as JSON values; none without images.

    Args:
        images: Generated ones.
        real: Training images of the class, in an order that says nothing of them; may be empty.
        source: The data set, if it is one that comes with the project, of whose pictures the grade can be read.

    Returns:
        ``vendi``: Vendi score of all images. With real images also ``vendi_real`` and ``vendi_alike``: of as many real
        and generated ones, `vendi_images`, the first of each, since the score grows with the number; and
        ``memorisation``: share of all images that nearly show a training image. Of graded lesions ``grade_seen``: how
        many show the scores 1 to 4, and how many none; and ``grade_agreement``: share that shows the class's.
    """
    if not images:
        return {}
    embedded = encoder.embed(images)
    found: dict[str, Any] = {"vendi": vendi_score(embedded)}
    if real:
        count = min(len(images), len(real))
        found |= {
            "vendi_real": vendi_score(encoder.embed(real[:count])),
            "vendi_alike": vendi_score(embedded[:count]),
            "vendi_images": count,
            "memorisation": float(copied(images, real).mean()),
        }
    if (animal := animal_of(source)) is not None:
        found |= _grades(label, images, animal)
    return found


def _grades(label: str, images: Sequence[Image.Image], class_name: str) -> dict[str, Any]:
    shown = [
        image if image.size == (SIZE, SIZE) else image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)
        for image in images
    ]
    scores = [reading.score for reading in read_lesions(shown, class_name)]
    seen = [scores.count(score) for score in (*SCORES, None)]
    agreeing = sum(score is not None and label == f"score-{score}" for score in scores)
    return {"grade_agreement": agreeing / len(scores), "grade_seen": seen}

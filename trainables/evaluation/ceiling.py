"""What perfect pictures of a subject would score: how far its scales reach.

In the embedded world the renderer draws the subject as each prompt says, and those pictures are scored as a run's are.
Of a photographed subject nobody has perfect pictures of the prompts; its held-out photographs against each other, each
left out in turn, give the ceiling of the subject scale alone. With four references or more that is how the scale's
one is made, so the ceiling then is 1 by construction and says nothing new; with two or three the scale's one also
rests on the training photographs, and the ceiling may differ from it. Of a data set the held-out images are perfect
pictures of their own captions, and both scales have their one there: ceilings would be 1 by construction, and are None.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from PIL import Image

from trainables.data.images import square
from trainables.data.subjects import Subject
from trainables.evaluation import metrics
from trainables.evaluation.anchors import AnchorTable
from trainables.evaluation.metrics import Array
from trainables.evaluation.quality import clipped_product

Embed = Callable[[Sequence[Image.Image]], Array]


def ceiling(
    subject: Subject,
    templates: Sequence[str],
    references: Array,
    texts: Array,
    table: AnchorTable,
    embed: Embed,
    embed_clip: Embed,
) -> dict[str, float | None]:
    """Returns the metrics ``ceiling_subject``, ``ceiling_prompt`` and ``ceiling_quality``.

    ``ceiling_quality`` takes the class as kept whole: perfect pictures of a subject change no other picture.

    Args:
        templates: With ``{subject}``.
        references: Of the image encoder, of the held-out references.
        texts: CLIP's embeddings of the templates with the class, one row a template.
        embed: Of the image encoder.
        embed_clip: Of CLIP.
    """
    images = perfect_images(subject, templates)
    if images is None:
        anchors = table.of(range(len(templates)), [0])
        similarity = metrics.real_similarity(references, references[:0])
        return _named(anchors.scaled_subject(similarity), None)
    groups = [number * len(templates) // len(images) for number in range(len(images))]
    anchors = table.of(groups, [0])
    similarity = metrics.subject_fidelity(embed(images), references)
    fidelity = metrics.paired_cosine(embed_clip(images), texts[groups])
    return _named(anchors.scaled_subject(similarity), anchors.scaled_prompt(fidelity))


def no_ceiling() -> dict[str, float | None]:
    """Returns the same metrics of a data set, which are unknown."""
    return _named(None, None)


def perfect_images(subject: Subject, templates: Sequence[str]) -> list[Image.Image] | None:
    """Returns perfect pictures of a subject of the embedded world, as many of each template, grouped by template; None
    for photographs, and for prompts that the world does not know.
    """
    if not subject.embedded:
        return None
    from trainables.embedded import load_subject

    images = load_subject(subject.name).perfect_images(templates)
    return None if images is None else [square(image, subject.resolution) for image in images]


def _named(subject: float | None, prompt: float | None) -> dict[str, float | None]:
    return {
        "ceiling_subject": subject,
        "ceiling_prompt": prompt,
        "ceiling_quality": clipped_product(subject, prompt),
    }

"""Scores image by image: one row for each image of a run's last evaluation, so that prompts and images can be levels of
an analysis.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

from trainables.util.files import replacing


@dataclass(frozen=True)
class ImageScore:
    """What one image scores; a field that does not apply to it, or that the data cannot give, is None.

    Attributes:
        kind: ``instance``: of the subject's prompts; ``class``: of class prompts.
        prompt: Number of the template; None for the class prompt alone. General prompts of a data set follow them.
        template: With ``{subject}``, but for general prompts; of a data set it stands before a held-out caption.
        image: Number within its prompt.
        noise_seed: Of its noise.
        subject_similarity: Mean cosine with the held-out references.
        prompt_similarity: Cosine with its prompt.
        subject_scaled: The image's own S; as `prompt_scaled`, linear in the similarity, so that the mean over a run's
            images is the run's. Of a data set with characters it is on the scale of the image's character, so that the
            mean over a character's images is the character's.
        prompt_scaled: The image's own P.
        failed: Whether it shows another subject or another prompt.
        copy: Whether it is a near copy of a training image.
        character: Of a data set: whom its caption is about, where images of that character judge it.
    """

    kind: Literal["instance", "class"]
    prompt: int | None
    template: str
    image: int
    noise_seed: int
    subject_similarity: float
    prompt_similarity: float | None = None
    subject_scaled: float | None = None
    prompt_scaled: float | None = None
    failed: bool | None = None
    copy: bool | None = None
    character: str | None = None


def write_image_scores(scores: Sequence[ImageScore], path: Path) -> int:
    """Writes one row an image as CSV, in one step, and returns the file's size in bytes.

    Missing fields are empty; yes and no are 1 and 0.
    """
    with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(ImageScore)])
        writer.writeheader()
        for score in scores:
            writer.writerow({name: _cell(value) for name, value in asdict(score).items()})
    return path.stat().st_size


def _cell(value: object) -> object:
    return int(value) if isinstance(value, bool) else value

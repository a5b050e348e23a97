"""The embedded model: a small text-to-image model of the sprite world, with its encoders and subjects.

`GENERATOR` is a Stable Diffusion folder for `StableDiffusionPipeline.from_pretrained`; `CLIP`,
`IMAGE_ENCODER` and `JUDGE` are transformers folders for the Auto classes. Importing this package
loads neither torch nor numpy.
"""

from pathlib import Path

from trainables.embedded.captions import attributes
from trainables.embedded.data_sets import DATA_SETS, load_data_set
from trainables.embedded.subjects import (
    MOST_TRAINING_IMAGES,
    TRAINING_IMAGES,
    EmbeddedSubject,
    evaluation_prompts,
    is_subject,
    load_subject,
    subject_names,
    subject_ranges,
)

WEIGHTS = Path(__file__).parent / "weights"
GENERATOR = WEIGHTS / "generator"
CLIP = WEIGHTS / "clip"
IMAGE_ENCODER = WEIGHTS / "image_encoder"
JUDGE = WEIGHTS / "judge"

__all__ = [
    "CLIP",
    "DATA_SETS",
    "GENERATOR",
    "IMAGE_ENCODER",
    "JUDGE",
    "MOST_TRAINING_IMAGES",
    "TRAINING_IMAGES",
    "WEIGHTS",
    "EmbeddedSubject",
    "attributes",
    "evaluation_prompts",
    "is_subject",
    "load_data_set",
    "load_subject",
    "subject_names",
    "subject_ranges",
]

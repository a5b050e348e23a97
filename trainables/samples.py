"""Sample images of an evaluation as PNG files: a strip a prompt, class images, held-out references."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from trainables.evaluation.evaluator import Evaluation, Evaluator

_PROMPTS = 8  # strips that are kept; the scores are over all prompts
_CLASS_IMAGES = 4
_REFERENCES = 4


def save_samples(evaluator: Evaluator, result: Evaluation, folder: Path, step: int) -> dict[str, Path]:
    """Writes the pictures of one evaluation; returns their files by key.

    Keys are the same for every run under one protocol, so that arms can be laid beside each other: a prompt's
        number
    and text, "class" and "references".
    """
    folder.mkdir(parents=True, exist_ok=True)
    protocol = evaluator.protocol
    strips: dict[str, Sequence[Image.Image]] = {}
    for number, template in enumerate(protocol.templates[:_PROMPTS]):
        chosen = [
            image
            for image, group in zip(result.images, protocol.instance.groups, strict=True)
            if group == number
        ]
        strips[f"{number:02d} {_plain(template)}"] = chosen
    strips["class"] = result.class_images[:_CLASS_IMAGES]
    strips["references"] = evaluator.subject.references[:_REFERENCES]
    files = {}
    for number, (key, images) in enumerate(strips.items()):
        if images:
            files[key] = folder / f"step-{step:06d}-{number:02d}.png"
            side_by_side(images).save(files[key])
    return files


def side_by_side(images: Sequence[Image.Image]) -> Image.Image:
    """Returns images of one size in one row."""
    width, height = images[0].size
    row = Image.new("RGB", (width * len(images), height))
    for number, image in enumerate(images):
        row.paste(image, (number * width, 0))
    return row


def _plain(template: str) -> str:
    """Returns a template as a key of letters, digits, spaces and dashes, which every tracking store takes."""
    return re.sub(r"[^A-Za-z0-9 -]+", "", template.replace("{subject}", "subject"))[:60].strip()

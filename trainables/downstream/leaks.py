"""Whether held-out images reach a classifier, asked before it trains; each set of images is compared once a process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trainables.data.labelled_images import LabelledImage
from trainables.errors import UserError
from trainables.evaluation.checked_classes import pixels_key, require_no_leak
from trainables.evaluation.held_out_leaks import leak_problems, leaks

_SHOWN = 10
_compared: dict[str, list[str]] = {}  # sets without a leak -> names of what nearly shows a held-out image


def check_leaks(
    real: Sequence[LabelledImage],
    generated: Sequence[LabelledImage],
    held_out: Sequence[LabelledImage],
    *,
    near: bool,
) -> dict[str, Any]:
    """Raises where an image that is held out is learnt from, and returns what was checked, as JSON values.

    A generated image with the pixels of a held-out one is a leak. One that nearly shows it may be chance, or what the
    generator has made of a training image that looks like it: these are counted.

    Args:
        real: That may be learnt from.
        held_out: To validate and to test with.
        near: Look for nearly equal pictures too, which is senseless where all images of a class look alike.

    Raises:
        UserError: Naming the images.
    """
    require_no_leak(real, held_out, near=near)
    nearly = _check_generated(generated, held_out, near) if generated else []
    return {
        "real_images": len(real),
        "generated_images": len(generated),
        "held_out_images": len(held_out),
        "near_copies": near,
        "generated_near_held_out": len(nearly) if near else None,
        "generated_near_held_out_names": nearly[:_SHOWN],
    }


def _check_generated(
    generated: Sequence[LabelledImage], held_out: Sequence[LabelledImage], near: bool
) -> list[str]:
    key = pixels_key("generated", generated, held_out, near)
    if key not in _compared:
        found = leaks(generated, held_out, near=near)
        exact = [leak for leak in found if leak.is_exact]
        if exact:
            raise UserError(*leak_problems(exact, "among the generated images and held out"))
        _compared[key] = sorted({leak.trained.name for leak in found})
    return _compared[key]

"""Images that a run has drawn for classifiers, as entries of the cache: ``generated/<sha256>.safetensors``.

An entry holds for each image ``png_<k>``, the bytes of a PNG (uint8), beside what drawing them took: ``seconds``
(float64) and ``flops`` (int64).
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file

from trainables.data.cache import Cache, Tensors
from trainables.data.cache_backend import backend_of
from trainables.errors import UserError

_PNG = "png_"


def pack_pictures(pictures: Sequence[Image.Image]) -> Tensors:
    """Returns the tensors of an entry that hold its images, without loss."""
    packed = {}
    for number, picture in enumerate(pictures):
        content = io.BytesIO()
        picture.convert("RGB").save(content, format="PNG", compress_level=6)
        packed[f"{_PNG}{number}"] = torch.from_numpy(np.frombuffer(content.getvalue(), dtype=np.uint8).copy())
    return packed


def read_entry(cache: Cache, name: str) -> list[Image.Image]:
    """Returns the images of an entry, RGB, in order.

    Args:
        name: Below the cache's folder.

    Raises:
        UserError: It is not there, or damaged.
    """
    path = cache.folder / name
    backend = backend_of(cache.folder)
    if not path.exists() and backend is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        backend.fetch(name, path)
    try:
        tensors = load_file(path)
        count = sum(key.startswith(_PNG) for key in tensors)
        pictures = []
        for number in range(count):
            with Image.open(io.BytesIO(tensors[f"{_PNG}{number}"].numpy().tobytes())) as picture:
                pictures.append(picture.convert("RGB"))
    except (OSError, SafetensorError, KeyError) as error:
        raise UserError(
            f"{path}: generated images cannot be read ({error}); run the generator's run again, which draws them"
        ) from None
    return pictures

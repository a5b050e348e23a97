"""Images through the frozen autoencoder and texts through the frozen text encoders, once: kept in the cache."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy
import torch
from PIL import Image

from trainables.data.cache import Cache, Tensors
from trainables.data.images import image_digest
from trainables.data.packs import packed
from trainables.models.backbone import Backbone
from trainables.models.conditioning import Conditioning
from trainables.models.sampling import images_at_once
from trainables.training.batches import Texts

_ENCODE_AT_ONCE = 16  # images through the autoencoder at most; large ones are fewer
_TEXTS_AT_ONCE = 64  # prompts through the text encoders, and in one entry of the cache


def encode_images(
    backbone: Backbone, cache: Cache, images: Sequence[Image.Image], flip: bool, *, each_alone: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns mean and deviation of the images' latents, [images, orientations, c, h, w], float32, on the
    device.

    Args:
        images: RGB, of one size, whose sides are multiples of the autoencoder's factor.
        flip: Encode the mirrored image as a second orientation.
        each_alone: As a data set's: each image is encoded by itself, and kept by its own pixels, so that an added one
            costs one pass of the autoencoder, and splits and data sets share what they have in common; no more than
            one is there as a tensor at a time. A subject's few are encoded, and kept, together. The two differ by
            rounding.
    """
    identity = {
        "vae": backbone.digest(backbone.family.autoencoder.name),
        "device": backbone.device.type,
    }
    orientations = (False, True) if flip else (False,)
    encode = _kept_alone if each_alone else _kept_together
    mean, std = encode(backbone, cache, identity, images, orientations)
    return mean.to(backbone.device), std.to(backbone.device)


def _kept_together(
    backbone: Backbone,
    cache: Cache,
    identity: dict[str, Any],
    images: Sequence[Image.Image],
    orientations: Sequence[bool],
) -> tuple[torch.Tensor, torch.Tensor]:
    pixels = numpy.stack([numpy.asarray(image.convert("RGB")) for image in images])
    identity |= {
        "pixels": hashlib.sha256(pixels.tobytes()).hexdigest(),
        "shape": list(pixels.shape),
        "flip": len(orientations) > 1,
    }

    def compute() -> Tensors:
        moments = [_encode(backbone, pixels, mirrored) for mirrored in orientations]
        return {
            "mean": torch.stack([mean for mean, _ in moments], 1),
            "std": torch.stack([std for _, std in moments], 1),
        }

    found = cache.tensors("latents", identity, compute)
    return found["mean"], found["std"]


def _kept_alone(
    backbone: Backbone,
    cache: Cache,
    identity: dict[str, Any],
    images: Sequence[Image.Image],
    orientations: Sequence[bool],
) -> tuple[torch.Tensor, torch.Tensor]:
    keys = [image_digest(image.convert("RGB")) for image in images]
    identity |= {"size": list(images[0].size)}

    def encoded(mirrored: bool) -> list[Tensors]:
        def compute(number: int) -> Tensors:
            pixels = numpy.array(images[number].convert("RGB"))[None]
            mean, std = _encode(backbone, pixels, mirrored)
            return {"mean": mean[0], "std": std[0]}

        return packed(cache, "latents", {**identity, "mirrored": mirrored}, keys, compute)

    entries = [encoded(mirrored) for mirrored in orientations]
    mean, std = (
        torch.stack([torch.stack([entry[name] for entry in oriented]) for oriented in entries], 1)
        for name in ("mean", "std")
    )
    return mean, std


def embed_texts(
    backbone: Backbone, cache: Cache, captions: Sequence[str], as_tokens: bool, *, each_alone: bool = False
) -> Texts:
    """Returns the distinct captions as conditioning, the empty one last, or as tokens where what encodes them trains.

    Args:
        each_alone: As `encode_images`. The empty prompt has an entry of its own in any case, so that runs with and
            without it share those of the captions.
    """
    distinct = tuple(dict.fromkeys(captions))
    if as_tokens:
        return Texts(distinct, backbone.tokenize(distinct), are_tokens=True)
    named = [text for text in distinct if text]
    empty: list[str] = [""] if "" in distinct else []
    if each_alone:
        identity = {"text": backbone.digest(*backbone.family.texts), "device": backbone.device.type}
        texts = [*named, *empty]
        keys = [_digest({"caption": text, "words": backbone.words_in([text])}) for text in texts]
        found = packed(
            cache, "texts", identity, keys, lambda number: backbone.encode_prompts([texts[number]])
        )
    else:
        parts = [named[begin : begin + _TEXTS_AT_ONCE] for begin in range(0, len(named), _TEXTS_AT_ONCE)]
        parts += [empty] if empty else []
        found = [_embedded(backbone, cache, part) for part in parts]
    rows = {name: torch.cat([part[name] for part in found]).to(backbone.device) for name in found[0]}
    return Texts((*named, *empty), rows, are_tokens=False)


def _embedded(backbone: Backbone, cache: Cache, captions: Sequence[str]) -> Conditioning:
    identity = {
        "text": backbone.digest(*backbone.family.texts, prompts=captions),
        "captions": list(captions),
        "device": backbone.device.type,
    }
    return cache.tensors("texts", identity, lambda: backbone.encode_prompts(captions))


@torch.no_grad()
def _encode(backbone: Backbone, pixels: numpy.ndarray, mirrored: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns mean and deviation of latents of 8-bit pixels [images, h, w, 3], as many at once as memory is made for.

    The autoencoder works on whole images: tiles of one, as diffusers has them, would give other latents at their seams.
    """
    tensor = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    moments = []
    for chunk in tensor.split(min(_ENCODE_AT_ONCE, images_at_once(max(tensor.shape[-2:])))):
        values = chunk.float() / 127.5 - 1
        values = values.flip(3) if mirrored else values
        values = values.to(backbone.device, memory_format=torch.channels_last)
        posterior = backbone.vae.encode(values).latent_dist
        moments.append((posterior.mean.float().cpu(), posterior.std.float().cpu()))
    means, stds = zip(*moments, strict=True)
    return torch.cat(means), torch.cat(stds)


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

"""The metric models: what turns images and prompts into embeddings.

They are named in the study file: the embedded ones, a folder, or a hub id such as ``facebook/dino-vits16`` or
``openai/clip-vit-base-patch32``. Images pass through the model's own image processor in its PIL
implementation, so that a number does not depend on whether torchvision is installed. Everything is float32,
in batches, without gradients.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from trainables.config.fields import EMBEDDED
from trainables.data.path_map import folder_of
from trainables.errors import UserError
from trainables.evaluation.checks import check_metric_models
from trainables.util.files import sha256_of

_BATCH = 32


@dataclass(frozen=True)
class ImageEncoder:
    """A self-supervised or contrastive vision transformer in DINO's place; the embedding is the last CLS
    token.
    """

    name: str
    model: Any
    processor: Any
    digest: str

    def embed(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """Returns shape (images, features), as the model gives them, not normalised."""
        return _in_batches(images, self._embed)

    def _embed(self, images: Sequence[Image.Image]) -> torch.Tensor:
        pixels = self.processor(images=list(images), return_tensors="pt")["pixel_values"]
        return self.model(pixel_values=pixels.to(self.model.device, torch.float32)).last_hidden_state[:, 0]

    def provenance(self) -> dict[str, Any]:
        """What a number of this encoder needs beside it to be compared with another."""
        return {"embedding": "last hidden state of the CLS token", **_provenance(self)}


@dataclass(frozen=True)
class Clip:
    """A CLIP with both towers, for image-prompt and image-image similarity; embeddings are the projected
    ones.
    """

    name: str
    model: Any
    processor: Any
    tokenizer: Any
    digest: str

    def embed_images(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """Returns shape (images, features), not normalised."""
        return _in_batches(images, self._embed_images)

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Returns shape (texts, features), not normalised; texts beyond the model's length are cut off."""
        return _in_batches(texts, self._embed_texts)

    def _embed_images(self, images: Sequence[Image.Image]) -> torch.Tensor:
        pixels = self.processor(images=list(images), return_tensors="pt")["pixel_values"]
        return _pooled(
            self.model.get_image_features(pixel_values=pixels.to(self.model.device, torch.float32))
        )

    def _embed_texts(self, texts: Sequence[str]) -> torch.Tensor:
        tokens = self.tokenizer(
            list(texts),
            padding="max_length",
            truncation=True,
            max_length=self.model.config.text_config.max_position_embeddings,
            return_tensors="pt",
        )
        tokens = {name: tokens[name].to(self.model.device) for name in ("input_ids", "attention_mask")}
        return _pooled(self.model.get_text_features(**tokens))

    def provenance(self) -> dict[str, Any]:
        """What a number of this model needs beside it to be compared with another."""
        return {"embedding": "projected image and text features", **_provenance(self)}


@dataclass(frozen=True)
class MetricModels:
    """The two metric models of a study."""

    image_encoder: ImageEncoder
    clip: Clip

    @property
    def digest(self) -> str:
        """Hex SHA-256 of both models' files."""
        return hashlib.sha256((self.image_encoder.digest + self.clip.digest).encode()).hexdigest()

    def provenance(self) -> dict[str, Any]:
        """Provenance of both, for the report."""
        return {"image_encoder": self.image_encoder.provenance(), "clip": self.clip.provenance()}


def load_metric_models(
    image_encoder: str = EMBEDDED, clip: str = EMBEDDED, device: torch.device | str = "cpu"
) -> MetricModels:
    """Loads the metric models that an evaluation names.

    Raises:
        UserError: With a message for each model that cannot be had.
    """
    problems = check_metric_models(image_encoder, clip)
    if problems:
        raise UserError(*problems)
    return MetricModels(load_image_encoder(image_encoder, device), load_clip(clip, device))


def load_image_encoder(name: str, device: torch.device | str = "cpu") -> ImageEncoder:
    """Loads an image encoder (ViT, DINO, DINOv2, ...) by folder or hub id; ``embedded`` for the project's
    own.
    """
    from transformers import AutoImageProcessor, AutoModel

    source = _source(name, "IMAGE_ENCODER")
    with _loading("image_encoder", name):
        model = AutoModel.from_pretrained(
            source, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
        )
        processor = AutoImageProcessor.from_pretrained(source, backend="pil", trust_remote_code=False)
    return ImageEncoder(name, model.to(device).eval().requires_grad_(False), processor, _digest(source))


def load_clip(name: str, device: torch.device | str = "cpu") -> Clip:
    """Loads a CLIP with image and text towers by folder or hub id; ``embedded`` for the project's own."""
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    source = _source(name, "CLIP")
    with _loading("clip", name):
        model = AutoModel.from_pretrained(
            source, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
        )
        processor = AutoImageProcessor.from_pretrained(source, backend="pil", trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    if not hasattr(model, "get_text_features"):
        raise UserError(
            f"evaluation.clip {name!r} is a {type(model).__name__}, which has no text tower; name a CLIP"
        )
    return Clip(name, model.to(device).eval().requires_grad_(False), processor, tokenizer, _digest(source))


def _source(name: str, attribute: str) -> str:
    if name != EMBEDDED:
        folder = folder_of(name)
        return str(folder) if folder.is_dir() else name
    from trainables import embedded

    return str(getattr(embedded, attribute))


@contextmanager
def _loading(field: str, name: str) -> Iterator[None]:
    """Names the model in errors, says nothing otherwise, and keeps the random state.

    A file may lack weights that the embedding does not use (a ViT's pooler): transformers draws them at
    random and reports them at length.
    """
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    except (OSError, ValueError, KeyError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"evaluation.{field} {name!r} cannot be loaded ({first}); name {EMBEDDED!r}, a folder in "
            "transformers' layout, or a hub id that can be had from here"
        ) from error
    finally:
        logging.set_verbosity(verbosity)


def commit_of(name: str) -> str | None:
    """Returns the commit of a hub's model in this machine's cache; None for a folder, and what is not there.

    transformers no longer notes it in the configuration.
    """
    from huggingface_hub import try_to_load_from_cache

    if name == EMBEDDED or folder_of(name).is_dir():
        return None
    found = try_to_load_from_cache(name, "config.json")
    return Path(found).parent.name if isinstance(found, str) else None


def _digest(source: str) -> str:
    """Hex SHA-256 of a folder's files, or of the hub id with its commit."""
    folder = Path(source)
    if not folder.is_dir():
        return hashlib.sha256(f"{source}@{commit_of(source)}".encode()).hexdigest()
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".json", ".safetensors", ".bin", ".txt"):
            digest.update(path.name.encode())
            digest.update(bytes.fromhex(sha256_of(path)))
    return digest.hexdigest()


def _pooled(features: Any) -> torch.Tensor:
    """transformers 5 returns an output object where version 4 returned the tensor."""
    return features if isinstance(features, torch.Tensor) else features.pooler_output


def _in_batches(items: Sequence[Any], embed: Callable[[Sequence[Any]], torch.Tensor]) -> NDArray[np.float32]:
    if not items:
        raise ValueError("nothing to embed")
    with torch.no_grad():
        parts = [embed(items[start : start + _BATCH]).float().cpu() for start in range(0, len(items), _BATCH)]
    return torch.cat(parts).numpy()


def _provenance(encoder: ImageEncoder | Clip) -> dict[str, Any]:
    import transformers

    keys = (
        "do_resize",
        "size",
        "resample",
        "do_center_crop",
        "crop_size",
        "do_normalize",
        "image_mean",
        "image_std",
    )
    settings = encoder.processor.to_dict()
    return {
        "model": encoder.name,
        "class": type(encoder.model).__name__,
        "commit": commit_of(encoder.name),
        "digest": encoder.digest,
        "preprocessing": {key: settings[key] for key in keys if key in settings},
        "transformers": transformers.__version__,
        "torch": torch.__version__,
    }

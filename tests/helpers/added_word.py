"""A method that trains no weight of the base model: one word of its own, as textual inversion does.

It is here for the tests of what such a method needs of the training core, and in no catalogue.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from trainables.config.fields import ModelConfig, TrainingConfig
from trainables.models.backbone import Backbone
from trainables.models.families import Family

FILE = "learned_embeds.safetensors"


class AddedWordConfig(TrainingConfig):
    """The word, and the text that it begins as."""

    word: str = "sks"
    begins_as: str = "cat"


@dataclass(frozen=True)
class AddedWord:
    """Trains the word's embedding."""

    name: str = "added_word"
    title: str = "Added word"
    config_class: type[TrainingConfig] = AddedWordConfig
    trains: bool = True
    what_trains: str = "the embedding of a word"
    artifact: str = "adapter"
    copies: tuple[str, ...] = ()
    stock_loader: bool = True

    def check(self, config: Any, model: ModelConfig) -> list[str]:
        """Fits every model of this test suite."""
        return []

    def trained_parts(self, family: Family, config: Any) -> tuple[str, ...]:
        """The text encoders."""
        return tuple(part.name for part in family.text_encoders)

    def prepare(self, backbone: Backbone, config: Any) -> None:
        """Adds the word."""
        backbone.add_tokens({config.word: config.begins_as})

    def attach(self, backbone: Backbone, config: Any, generator: torch.Generator) -> list[dict[str, Any]]:
        """Lets its embedding train."""
        backbone.freeze()
        return [
            {"name": part, "params": [rows.requires_grad_(True)], "lr": config.learning_rate}
            for part, rows in backbone.added_embeddings.items()
        ]

    def detach(self, backbone: Backbone) -> None:
        """Leaves it to `Backbone.restore`."""

    @contextmanager
    def fused(self, backbone: Backbone) -> Iterator[bool]:
        """Has nothing to merge."""
        yield False

    def save(self, backbone: Backbone, config: Any, folder: Path) -> None:
        """Writes the embedding as ``pipe.load_textual_inversion`` reads it."""
        folder.mkdir(parents=True)
        (rows,) = backbone.added_embeddings.values()
        save_file({config.word: rows.detach().cpu()[0].contiguous()}, folder / FILE)

    def load(self, pipeline: Any, folder: Path) -> Any:
        """Loads it by ``load_textual_inversion``."""
        pipeline.load_textual_inversion(str(folder), weight_name=FILE)
        return pipeline


METHOD = AddedWord()

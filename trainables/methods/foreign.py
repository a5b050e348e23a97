"""Weights that were trained elsewhere: put on the base model to be judged, and never trained.

No study file names this method: `study evaluate` makes its runs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field, PrivateAttr, model_validator

from trainables.config.fields import TrainingConfig
from trainables.data.path_map import folder_of
from trainables.errors import UserError
from trainables.methods.adapter_files import (
    PEFT_CONFIG,
    WEIGHTS_FILE,
    adapted_layers,
    load_with_diffusers,
    load_with_peft,
    number_of_tensors,
)
from trainables.methods.adapters import detach_adapters, merged
from trainables.methods.base import Base
from trainables.methods.foreign_files import Layout, embedding_rows, inspect, kohya_changes
from trainables.methods.foreign_pipelines import first_line, put_model_file, put_pipeline
from trainables.models.placeholders import placeholder_tokens

if TYPE_CHECKING:
    import torch

    from trainables.models.backbone import Backbone
    from trainables.models.families import Part

NAME = "foreign"


class ForeignConfig(TrainingConfig):
    """Which file is judged, and by which words.

    Attributes:
        file: Its name; where it lies is said by `RunConfig.path_map`, and is no part of the run's identity.
        sha256: Of its content, see `ForeignFile`.
        layout: What it was found to be.
        prompt: What it calls the subject, or the trigger by which it asks for a data set; None: the study's own
            instance prompt or trigger.
        word: Of an embedding that the file is or holds: as prompts say it; `vectors` is the number of its vectors.
    """

    READ: ClassVar[tuple[str, ...] | None] = (
        "resolution", "sha256", "layout", "prompt", "word", "vectors",
    )  # fmt: skip

    file: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    layout: Layout
    prompt: str | None = None
    word: str = ""
    vectors: int = Field(default=0, ge=0)

    _trigger: str | None = PrivateAttr(None)  # of a data set, with its comma; None: of a subject

    @model_validator(mode="after")
    def _embedding_is_said(self) -> Self:
        if self.vectors and self.prompt is not None and not self.word_pattern(self.word).search(self.prompt):
            raise ValueError(f"prompt {self.prompt!r} does not hold the embedding's word, {self.word!r}")
        return self

    @property
    def token(self) -> str:
        """The embedding's first token: one that no tokenizer has by itself."""
        return f"<{self.word.strip('<>')}>"

    @staticmethod
    def word_pattern(word: str) -> re.Pattern[str]:
        """Returns what finds an embedding's word in a prompt, with and without angle brackets."""
        bare = re.escape(word.strip("<>"))
        return re.compile(rf"<{bare}>|(?<!\w){bare}(?!\w)")

    def for_subject(self, instance_prompt: str, class_prompt: str) -> Self:
        """See `TrainingConfig`; a data set has no class prompt, and its instance prompt is its trigger."""
        settled = self.model_copy()
        settled._trigger = None if class_prompt else instance_prompt
        return settled

    def reword(self, text: str) -> str:
        """Returns what the file calls the subject, with an embedding's token in the place of its word.

        Of a data set's captions it is the trigger alone that the file calls otherwise; a comma follows it.
        """
        said = self.prompt or text
        said = self.word_pattern(self.word).sub(lambda _: self.token, said) if self.vectors else said
        if not self.prompt or self._trigger is None:
            return said
        return f"{said.rstrip(', ')}, {text.removeprefix(self._trigger)}"

    @property
    def added_words(self) -> tuple[str, ...]:
        """The tokens of an embedding."""
        return placeholder_tokens(self.token, self.vectors) if self.vectors else ()


@dataclass(frozen=True)
class Foreign(Base):
    """Judges weights of a file: like the base model it trains and saves nothing, but for what it puts on it."""

    name: str = NAME
    title: str = "Trained elsewhere"
    config_class: type[TrainingConfig] = ForeignConfig

    def install(self, backbone: Backbone, config: Any) -> None:
        """Puts the weights on the base model, until `detach` and `Backbone.restore`.

        Raises:
            UserError: The file is another one by now, is of another kind of model, or holds what is no number.
        """
        path = folder_of(config.file)
        found = inspect(path, backbone.folder)
        if found.sha256 != config.sha256:
            raise UserError(f"{path} is not the file that this run was begun with; put it back")
        _INSTALL[found.layout](backbone, path, config)
        _require_finite(backbone, path)

    def detach(self, backbone: Backbone) -> None:
        """Takes adapters off; `Backbone.restore` puts weights back."""
        detach_adapters(backbone)

    def fused(self, backbone: Backbone) -> AbstractContextManager[bool | None]:
        """Merges adapters, where there are some."""
        adapted = any(adapted_layers(module) for module in backbone.modules.values())
        return merged(backbone) if adapted else nullcontext(False)


def _require_finite(backbone: Backbone, path: Path) -> None:
    """Refuses weights with which every image would fail: a run of them would look like one of a bad training."""
    import torch

    for part, module in backbone.modules.items():
        bad = [
            name
            for name, value in module.named_parameters()
            if value.is_floating_point() and not bool(torch.isfinite(value).all())
        ]
        if bad:
            raise UserError(
                f"{path} gives {len(bad)} weights of {backbone.family.part(part).title or part} values that are not "
                f"finite (NaN or infinite), such as {bad[0]}: its training diverged, or it is damaged; fetch it again, "
                "or take weights of an earlier step"
            )


def _by_diffusers(backbone: Backbone, path: Path, config: ForeignConfig) -> None:
    """Puts a file in diffusers' names on the model, all of it or none."""
    from safetensors import safe_open

    family = backbone.family
    with safe_open(path, "pt") as opened:
        keys = list(opened.keys())
    ours = tuple(f"{part.name}." for part in family.trainable(text_encoders=True))
    if foreign := sorted(key for key in keys if not key.startswith(ours)):
        raise UserError(f"{path} has tensors of parts that {family.title} has not, such as {foreign[0]}")
    magnitudes = [key for key in keys if "lora_magnitude" in key and not key.startswith(ours[0])]
    if magnitudes:
        raise UserError(
            f"{path} has DoRA of a text encoder, whose magnitudes diffusers does not load; name a folder of PEFT"
        )
    if alphas := [key for key in keys if key.endswith(".alpha")]:
        raise UserError(
            f"{path} has {len(alphas)} tensors of alpha under diffusers' names, such as {alphas[0]}, which diffusers "
            "does not read: multiply alpha / rank into lora_B and leave them out, or take the file in kohya's names"
        )
    if lokr := [key for key in keys if ".lokr_" in key and not key.startswith(ours[0])]:
        raise UserError(
            f"{path} has LoKr of a text encoder, such as {lokr[0]}, which diffusers does not load; name a folder of "
            "PEFT"
        )
    try:
        load_with_diffusers(backbone.pipeline(), path)
    except Exception as error:  # diffusers and PEFT raise of many kinds for a file that does not fit
        raise UserError(f"diffusers cannot load {path} into this model: {first_line(error)}") from None
    found = sum(number_of_tensors(module) for module in backbone.modules.values())
    if len(keys) != found:  # diffusers passes over what it does not find, and leaves as drawn what is missing
        layers = sum(len(adapted_layers(module)) for module in backbone.modules.values())
        raise UserError(
            f"{path} has {len(keys)} tensors of adapters, and diffusers took them for {layers} layers of this model, "
            f"which have {found}: it is of another kind of model, or tensors are missing"
        )


def _by_kohyas_names(backbone: Backbone, path: Path, config: ForeignConfig) -> None:
    from trainables.models.quantization import put_whole

    changes = kohya_changes(path, backbone)
    for part in {part for part, _ in changes}:
        backbone.will_change(part)
        names = {name.rpartition(".")[0] for other, name in changes if other == part}
        backbone.on_restore(put_whole(backbone.modules[part], names))
    for (part, name), value in changes.items():
        parameter = backbone.modules[part].get_parameter(name)
        parameter.data.copy_(value.to(parameter.device, parameter.dtype))
    if config.vectors:
        _as_embedding(backbone, path, config)


def _by_peft(backbone: Backbone, path: Path, config: ForeignConfig) -> None:
    _put_on_by_peft(backbone, backbone.family.denoiser, path)
    if config.vectors:
        _as_embedding(backbone, path, config)


def _put_on_by_peft(backbone: Backbone, part: Part, path: Path) -> None:
    _keep_layout(backbone, part.name)
    try:
        load_with_peft(backbone.modules[part.name], path)
    except (ValueError, RuntimeError, KeyError) as error:
        raise UserError(f"PEFT cannot put {path} on {part.title or part.name}: {first_line(error)}") from None


def _keep_layout(backbone: Backbone, part: str) -> None:
    """States how to undo that PEFT's loader lays weights of convolutions out by rows."""
    import torch

    backbone.will_change(part)
    weights = [value for value in backbone.modules[part].parameters() if value.dim() == 4]
    last = [weight for weight in weights if weight.is_contiguous(memory_format=torch.channels_last)]

    def undo() -> None:
        for weight in last:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)

    backbone.on_restore(undo)


def _by_our_loaders(backbone: Backbone, path: Path, config: ForeignConfig) -> None:
    """Puts a folder on the model that has a file in diffusers' names, folders of PEFT, or both."""
    family = backbone.family
    parts = {part.name: part for part in family.trainable(text_encoders=True)}
    for_peft = sorted(place.parent.name for place in path.glob(f"*/{PEFT_CONFIG}"))
    if foreign := [name for name in for_peft if name not in parts]:
        raise UserError(
            f"{path} has adapters for {foreign[0]}, which {family.title} has not, or never trains"
        )
    if (path / WEIGHTS_FILE).is_file():
        _by_diffusers(backbone, path / WEIGHTS_FILE, config)
    for name in for_peft:
        _put_on_by_peft(backbone, parts[name], path / name)
    if config.vectors:
        _as_embedding(backbone, path, config)


def _as_embedding(backbone: Backbone, path: Path, config: ForeignConfig) -> None:
    """Adds the word that a file is, or that lies in it or beside it."""
    parts = backbone.family.text_encoders
    rows = embedding_rows(path, [part.embeddings for part in parts])
    _add_word(backbone, path, {part.name: rows[part.embeddings] for part in parts}, config)


def _as_pipeline(backbone: Backbone, path: Path, config: ForeignConfig) -> None:
    words = put_pipeline(backbone, path)
    if config.vectors:
        _add_word(backbone, path, words, config)


def _add_word(
    backbone: Backbone, path: Path, rows: Mapping[str, torch.Tensor], config: ForeignConfig
) -> None:
    """Adds the word of a configuration, given its vectors by text encoder."""
    import torch

    parts = backbone.family.text_encoders
    modules: dict[str, Any] = backbone.modules
    widths = {part.name: modules[part.name].get_input_embeddings().embedding_dim for part in parts}
    for part in parts:
        if rows[part.name].shape[1] != widths[part.name]:
            raise UserError(
                f"{path} has vectors of {rows[part.name].shape[1]} numbers, and {part.title or part.name} takes "
                f"{widths[part.name]}: it was trained on another kind of model"
            )
    # They begin as some word and are overwritten.
    backbone.add_tokens(dict.fromkeys(config.added_words, "a"))
    with torch.no_grad():
        for part in parts:
            added = backbone.added_embeddings[part.name]
            added.copy_(rows[part.name].to(added.device))


def _as_hypernetwork(backbone: Backbone, path: Path, config: ForeignConfig) -> None:
    from functools import partial

    from trainables.methods.hypernetwork_files import load_hypernetwork
    from trainables.models.hypernetworks import remove

    load_hypernetwork(backbone.pipeline(), path)
    backbone.on_restore(partial(remove, backbone.denoiser))


_INSTALL = {
    "diffusers": _by_diffusers,
    "kohya": _by_kohyas_names,
    "peft": _by_peft,
    "folders": _by_our_loaders,
    "projections": _by_kohyas_names,
    "embedding": _as_embedding,
    "hypernetwork": _as_hypernetwork,
    "pipeline": _as_pipeline,
    "checkpoint": lambda backbone, path, config: put_model_file(backbone, path),
}

METHOD = Foreign()

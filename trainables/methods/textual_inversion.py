"""Textual inversion (Gal et al. 2022, arXiv:2208.01618): one or a few embeddings of a new word, and nothing else.

They are a parameter of their own beside the text encoder's table, in float32 and without weight decay, so that neither
the table nor a moment of it is touched.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, field_validator

from trainables.config.fields import TrainingConfig
from trainables.errors import UserError
from trainables.methods.exporting import Exported, pipeline_usage
from trainables.methods.model_exports import export_merged
from trainables.methods.placeholder_config import PlaceholderConfig, word_problems
from trainables.methods.word_exports import (
    EMBEDDINGS_FILE,
    embedding_keys,
    file_word,
    pooling_note,
    said_in,
    word_vectors,
    write_word_file,
    write_words_for_diffusers,
)
from trainables.models.families import family_in, family_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import torch

    from trainables.config.fields import ModelConfig
    from trainables.methods.exporting import Format, Request
    from trainables.models.backbone import Backbone
    from trainables.models.families import Family

WEIGHTS_FILE = EMBEDDINGS_FILE
PLACEHOLDER = "placeholder_token"  # in the file's metadata
NOISE = 0.1  # of the deviation of the table's entries, for vectors that begin as the same word


class TextualInversionConfig(PlaceholderConfig):
    """The placeholder's fields.

    Attributes:
        preserve_norm: Whether each vector gets, after every step, the median norm of the table's rows (OneTrainer's
            ``preserve_embedding_norm``): without it vectors grow out of the shell in which words lie.
    """

    EMBEDDED_DEFAULTS: ClassVar[dict[str, Any]] = {
        "learning_rate": 2e-1,
        "num_vectors": 4,
        "keep_class_noun": True,
        # The embedded text encoder knows the words of its world alone; the paper's templates are noise to it.
        "learnable_property": None,
        "max_train_steps": 200,
    }

    # The base model's own weights stay as they are, so that its class is kept: class images hold no placeholder, and
    # their loss would not depend on what trains.
    UNREAD: ClassVar[tuple[str, ...]] = (
        *PlaceholderConfig.UNREAD,
        "adam_weight_decay",
        "with_prior_preservation",
        "prior_preservation_target",
        "prior_loss_weight",
        "num_class_images",
        "class_num_inference_steps",
        "class_guidance_scale",
    )

    learning_rate: float = Field(default=5e-4, gt=0, le=10)
    adam_weight_decay: float = Field(default=0.0, ge=0)
    max_train_steps: int = Field(default=3000, ge=1)
    preserve_norm: bool = False

    @field_validator("adam_weight_decay", "with_prior_preservation")
    @classmethod
    def _has_no_effect(cls, value: Any) -> Any:
        """What is not read stands in the records as what it comes to: nothing."""
        return type(value)(0)


@dataclass(frozen=True)
class TextualInversion:
    """Trains the embeddings of the placeholder in every text encoder."""

    name: str = "textual_inversion"
    title: str = "Textual inversion"
    config_class: type[TrainingConfig] = TextualInversionConfig
    trains: bool = True
    what_trains: str = "embeddings of a new word"
    papers: tuple[str, ...] = ("gal2023textual",)
    artifact: str = "adapter"
    copies: tuple[str, ...] = ()
    stock_loader: bool = True
    needs: tuple[str, ...] = ("textual_inversion",)
    no_strength: str = "it changes no weights, and a prompt has its word or has not"

    def check(self, config: Any, model: ModelConfig) -> list[str]:
        """Names a placeholder or initializer that the model's tokenizers do not take, and too many vectors."""
        from trainables.models.folders import local_folder
        from trainables.models.prompt_lengths import pipeline_reader

        folder = local_folder(model)
        if folder is None:
            return []
        numbers = range(len(family_in(folder).tokenizers))
        readers = [reader for number in numbers if (reader := pipeline_reader(folder, number)) is not None]
        return word_problems(config, readers, model.path)

    def trained_parts(self, family: Family, config: Any) -> tuple[str, ...]:
        """The text encoders, which hold the embeddings."""
        return tuple(part.name for part in family.text_encoders)

    def prepare(self, backbone: Backbone, config: Any) -> None:
        """Adds the placeholder's tokens; each begins as the embedding of its word."""
        from trainables.models.prompt_lengths import memory_reader

        readers = [memory_reader(tokenizer) for tokenizer in backbone.tokenizers]
        problems = word_problems(config, readers, str(backbone.folder))
        if problems:
            raise UserError(*problems)
        backbone.add_tokens(dict(zip(config.added_words, config.initial_texts, strict=True)))

    def attach(self, backbone: Backbone, config: Any, generator: torch.Generator) -> list[dict[str, Any]]:
        """Lets the placeholder's embeddings train; those that begin as the same word are told apart by some noise."""
        backbone.freeze()
        if config.preserve_norm:
            keep_norms(backbone)
        return train_words(backbone, config, config.learning_rate, generator)

    def detach(self, backbone: Backbone) -> None:
        """Leaves it to `Backbone.restore`, which takes the words out."""

    def fused(self, backbone: Backbone) -> AbstractContextManager[bool]:
        """Has nothing to merge."""
        return nullcontext(False)

    def save(self, backbone: Backbone, config: Any, folder: Path) -> None:
        """Writes ``learned_embeds.safetensors``.

        For one text encoder it holds the placeholder's vectors [vectors, width] under the placeholder's name, as
        diffusers' script writes them; for several under the encoders' names (``clip_l``, ``clip_g``), as kohya's and
        other programs have them.
        """
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        keys = embedding_keys(backbone.family.text_encoders, config.placeholder_token)
        rows = backbone.added_embeddings
        tensors = {
            keys[part]: value.detach().to("cpu", copy=True).contiguous() for part, value in rows.items()
        }
        save_file(tensors, folder / WEIGHTS_FILE, {PLACEHOLDER: config.placeholder_token})

    def load(self, pipeline: Any, folder: Path) -> Any:
        """Loads the vectors by ``load_textual_inversion``, for each text encoder its own.

        The encoders then pool at the end token, which stock pipelines with a second encoder do not do by themselves.
        """
        import torch
        from safetensors import safe_open
        from safetensors.torch import load_file

        from trainables.models.added_tokens import pool_at_end

        family = family_of(pipeline)
        file = folder / WEIGHTS_FILE
        with safe_open(file, "pt") as opened:
            placeholder = opened.metadata()[PLACEHOLDER]
        tensors = load_file(file)
        keys = embedding_keys(family.text_encoders, placeholder)
        devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
        for part, name in zip(family.text_encoders, family.tokenizers, strict=True):
            with torch.random.fork_rng(devices=devices):  # it draws rows before it fills them
                family.load_embeddings(pipeline, part, placeholder, tensors[keys[part.name]])
            pool_at_end(getattr(pipeline, part.name), getattr(pipeline, name).eos_token_id)
        return pipeline

    def export_obstacle(self, family: Family, config: Any, form: Format) -> str | None:
        """An embedding is no adapter, and not all programs run all families."""
        if form == "peft":
            return (
                "PEFT has no file of embeddings that other programs read; take --format diffusers or merged"
            )
        programs = {"kohya": "kohya's scripts", "a1111": "A1111 and its descendants"}
        if form in programs and not family.denoiser.kohya:
            return f"{programs[form]} read no embeddings of {family.title}; take --format diffusers, comfyui or merged"
        return None

    def export(self, backbone: Backbone, config: Any, weights: Path, request: Request, out: Path) -> Exported:
        """Writes the embeddings: one file a text encoder for diffusers, one of all for the others, or a pipeline."""
        family, word = backbone.family, config.placeholder_token
        if request.form == "merged":
            return export_merged(backbone, self.load(backbone.pipeline(), weights), request, out, words=True)
        vectors = word_vectors(family, weights, word)
        if request.form == "diffusers":
            loaded = write_words_for_diffusers(backbone, vectors, word, request, out)
            lines = [pipeline_usage(family, "BASE MODEL"), *loaded]
            return Exported("\n".join(lines), notes=pooling_note(family))
        name = file_word(word)
        said = f"embedding:{name}" if request.form == "comfyui" else name
        request = said_in(request, word, said)
        write_word_file(backbone, vectors, word, request, out)
        usage = {
            "kohya": f"For sd-scripts: --textual_inversion_embeddings {name}.safetensors; the prompt says {name}.",
            "a1111": f"Put {name}.safetensors into embeddings; the prompt says {name}.",
            "comfyui": f"Put {name}.safetensors into models/embeddings; the prompt says embedding:{name}.",
        }[request.form]
        note = f"the file's name is the word that prompts say: {name}, where the run was taught {word}"
        notes = (note,) if name != word else ()
        return Exported(usage, code=False, notes=notes, trigger=request.about.trigger)


def train_words(
    backbone: Backbone, config: PlaceholderConfig, rate: float, generator: torch.Generator
) -> list[dict[str, Any]]:
    """Lets the placeholder's embeddings train; returns a parameter group without weight decay for each text encoder.

    Args:
        backbone: After `TextualInversion.prepare` and `Backbone.freeze`.
        rate: Learning rate of the embeddings.
    """
    groups = []
    for part, table in backbone.added_tables.items():
        _tell_apart(table.added, config.initial_texts, NOISE * table.deviation, generator)
        table.added.requires_grad_(True)
        groups.append({"name": part, "params": [table.added], "lr": rate, "weight_decay": 0.0})
    return groups


def keep_norms(backbone: Backbone, *, with_gradient: bool = False) -> None:
    """States that each vector gets the median norm of the table's rows after every step.

    Args:
        with_gradient: Only after steps that gave it a gradient: where it is frozen it is not to change by a bit.
    """
    norms = {part: table.median_norm for part, table in backbone.added_tables.items()}

    def rescale(model: Backbone) -> None:
        for part, table in model.added_tables.items():
            if not with_gradient or table.added.grad is not None:
                table.rescale(norms[part])

    backbone.after_step(rescale)


def _tell_apart(
    rows: torch.nn.Parameter, texts: Sequence[str], deviation: float, generator: torch.Generator
) -> None:
    """Adds normal noise to each row that begins as an earlier one does: equal rows have almost equal gradients.

    Noise is drawn for all rows, so that what a row gets depends on its place alone.
    """
    import torch

    noise = torch.randn(rows.shape, generator=generator) * deviation
    for number, text in enumerate(texts):
        if text in texts[:number]:
            rows.data[number] += noise[number].to(rows.device)


METHOD = TextualInversion()

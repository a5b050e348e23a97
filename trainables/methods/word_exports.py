"""Embeddings of a new word as files for other programs: by themselves, and inside a file of adapters.

Inside adapters they are "bundled", as OneTrainer writes them and A1111 and ComfyUI read them: a tensor
``bundle_emb.<word>.<encoder>`` for each text encoder.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from trainables.methods.exporting import Exported, Request, metadata_of, write_file

if TYPE_CHECKING:
    import torch

    from trainables.models.backbone import Backbone
    from trainables.models.families import Family, Part

Tensors = dict[str, "torch.Tensor"]

EMBEDDINGS_FILE = "learned_embeds.safetensors"
BUNDLED = "bundle_emb"
_ONE_ENCODER = "emb_params"  # key of embeddings in files of kohya's scripts for models with one text encoder
_ONE_BUNDLED = (
    "string_to_param.*"  # likewise inside a file of adapters, as A1111 names the tensor of an embedding
)
_USAGE_OF_BUNDLED = {
    "a1111": "With it the prompt says {word}, whose embedding is in the file.",
    "comfyui": "Put it, or a link to it, into models/embeddings too; the prompt says {word}.",
}


def embedding_keys(text_encoders: Sequence[Part], placeholder: str) -> dict[str, str]:
    """Returns text encoder -> key of its vectors in the file that a run keeps."""
    if len(text_encoders) == 1:
        return {text_encoders[0].name: placeholder}
    return {part.name: part.embeddings or part.name for part in text_encoders}


def word_vectors(family: Family, weights: Path, word: str) -> Tensors:
    """Returns text encoder -> the vectors of a word [vectors, width] that a run has saved.

    Args:
        weights: The run's folder of weights.
    """
    from safetensors.torch import load_file

    stored = load_file(weights / EMBEDDINGS_FILE)
    keys = embedding_keys(family.text_encoders, word)
    return {part: stored[key] for part, key in keys.items()}


def write_words_for_diffusers(
    backbone: Backbone, vectors: Mapping[str, torch.Tensor], word: str, request: Request, out: Path
) -> list[str]:
    """Writes a file for each text encoder and returns the code that loads them into ``pipeline``."""
    family, lines = backbone.family, []
    metadata = metadata_of(request, backbone, "textual-inversion")
    for number, part in enumerate(family.text_encoders):
        file = EMBEDDINGS_FILE if number == 0 else EMBEDDINGS_FILE.replace(".", f"_{number + 1}.")
        write_file(out / file, {word: vectors[part.name]}, metadata)
        beside = f"text_encoder=pipeline.{part.name}, tokenizer=pipeline.{family.tokenizers[number]}"
        lines.append(f'pipeline.load_textual_inversion("{out.name}", weight_name="{file}", {beside})')
    return lines


def write_word_file(
    backbone: Backbone, vectors: Mapping[str, torch.Tensor], word: str, request: Request, out: Path
) -> str:
    """Writes one file with the vectors of all text encoders, called like the word; returns its name without suffix.

    It has ``emb_params`` for one text encoder, and ``clip_l``, ``clip_g`` and ``t5xxl`` for several.

    Args:
        request: As `said_in` gives it.
    """
    name, metadata = file_word(word), metadata_of(request, backbone, "textual-inversion")
    tensors = {part.embeddings or _ONE_ENCODER: vectors[part.name] for part in backbone.family.text_encoders}
    key = "modelspec.trigger_phrase"
    named = {key: name, **({"ss_output_name": name} if "ss_output_name" in metadata else {})}
    write_file(out / f"{name}.safetensors", tensors, {**metadata, **named})
    return name


def bundled_words(family: Family, vectors: Mapping[str, torch.Tensor], word: str) -> Tensors:
    """Returns the vectors of a word by their keys inside a file of adapters, for A1111 and ComfyUI.

    A1111 reads the word up to the next point of the key, so that it has none.
    """
    name = bundled_word(word)
    return {
        f"{BUNDLED}.{name}.{part.embeddings or _ONE_BUNDLED}": vectors[part.name]
        for part in family.text_encoders
    }


def bundled_word(word: str) -> str:
    """Returns a placeholder as prompts say it where it is inside a file of adapters."""
    return file_word(word).replace(".", "-")


def file_word(word: str) -> str:
    """Returns a placeholder as the name of a file, which programs take for the word: without angle brackets."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", word.strip("<>")).strip("-.") or "word"


def said_in(request: Request, word: str, said: str) -> Request:
    """Returns a request whose metadata speak to users of the program: with its own name for a word.

    Args:
        word: As the run was taught it.
        said: As prompts of the program say it.
    """
    trigger = re.sub(rf"(?<!\w){re.escape(word)}(?!\w)", lambda _: said, request.about.trigger)
    return replace(request, about=replace(request.about, trigger=trigger))


def export_with_word(
    backbone: Backbone,
    word: str,
    weights: Path,
    request: Request,
    out: Path,
    write: Callable[[Request, Path, Tensors], Exported],
) -> Exported:
    """Writes weights and the word that was trained with them: in one file where the program reads both of it.

    Args:
        write: Writes the weights for a request into a folder; it is given tensors to put into the file beside them.
    """
    family, vectors = backbone.family, word_vectors(backbone.family, weights, word)
    if request.form in _USAGE_OF_BUNDLED:
        said = bundled_word(word) if request.form == "a1111" else f"embedding:{request.name}"
        request = said_in(request, word, said)
        done = write(request, out, bundled_words(family, vectors, word))
        usage = f"{done.usage} {_USAGE_OF_BUNDLED[request.form].format(word=said)}"
    elif request.form == "kohya":
        said = file_word(word)
        request = said_in(request, word, said)
        done = write(request, out, {})
        option = f"--textual_inversion_embeddings {write_word_file(backbone, vectors, word, request, out)}.safetensors"
        usage = f"{done.usage} gen_img.py takes {option} beside it; the prompt says {said}."
    else:
        return _for_diffusers(write(request, out, {}), backbone, vectors, word, request, out)
    notes = (*done.notes, *_word_note(said, word))
    return replace(done, usage=usage, notes=notes, trigger=request.about.trigger)


def _for_diffusers(
    done: Exported,
    backbone: Backbone,
    vectors: Mapping[str, torch.Tensor],
    word: str,
    request: Request,
    out: Path,
) -> Exported:
    lines = write_words_for_diffusers(backbone, vectors, word, request, out)
    return replace(
        done, usage="\n".join([done.usage, *lines]), notes=(*done.notes, *pooling_note(backbone.family))
    )


def _word_note(said: str, taught: str) -> tuple[str, ...]:
    """A note that prompts say another word than the run was taught, where they do."""
    return () if said == taught else (f"prompts say {said}, where the run was taught {taught}",)


def pooling_note(family: Family) -> tuple[str, ...]:
    """What stock pipelines do with a pooled embedding, where the family reads one."""
    if len(family.text_encoders) == 1:
        return ()
    return (
        "with the configuration of most CLIP files transformers pools at the highest token of a prompt, and added "
        "words are higher than the end token: see `Known failures` of textual inversion in docs/methods.md",
    )

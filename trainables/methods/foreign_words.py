"""Words that files from elsewhere hold: which one a file has, and its vectors for each text encoder.

A word is an embedding by itself, lies beside weights in a folder, as diffusers' scripts, `study export` and the runs of
this project leave it (``learned_embeds.safetensors``), or is one of a pipeline's tokenizers.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables.errors import UserError
from trainables.methods.adapter_files import WEIGHTS_FILE
from trainables.methods.projection_exports import PROJECTIONS_FILE
from trainables.methods.textual_inversion import PLACEHOLDER
from trainables.models.families import family_in
from trainables.models.placeholders import placeholder_tokens
from trainables.models.prompt_lengths import vocabulary

if TYPE_CHECKING:
    import torch

    from trainables.models.backbone import Backbone

#: Keys of an embedding's vectors that name a text encoder; another one is the word itself.
ENCODERS = ("emb_params", "clip_l", "clip_g", "t5xxl")
_FILES = re.compile(r"learned_embeds(_\d+)?\.safetensors")
_MOST_NAMED = 3


def shapes_in(path: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """Returns the shapes of a safetensors file's tensors, and its metadata.

    Raises:
        UserError: It is damaged, or none.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as opened:
            shapes = {key: tuple(opened.get_slice(key).get_shape()) for key in opened.keys()}  # noqa: SIM118
            return shapes, dict(opened.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged, or no safetensors file ({error}); fetch it again") from None


def word_of(path: Path, keys: Collection[str], metadata: Mapping[str, str]) -> str:
    """Returns how prompts say an embedding in a file, without angle brackets.

    It is what the metadata or the one key call it, as in files of diffusers and of ours, or else the file's name, as in
    those of A1111 and ComfyUI.
    """
    stated = metadata.get(PLACEHOLDER, "")
    if not stated and len(keys) == 1:
        (key,) = keys
        stated = "" if key in ENCODERS or key.startswith("string_to_param") else key
    said = stated.strip("<>")
    return said if re.search(r"\w", said) else path.stem


def number_of_vectors(path: Path, shapes: Iterable[tuple[int, ...]]) -> int:
    """Returns the number of vectors of a word, by the shapes of its tensors; 0: there are none.

    Raises:
        UserError: Text encoders have different numbers.
    """
    found = {shape[0] if len(shape) == 2 else 1 for shape in shapes} or {0}
    if len(found) > 1:
        raise UserError(f"{path}: its text encoders have {sorted(found)} vectors, and not the same number")
    return found.pop()


def word_files(folder: Path) -> list[Path]:
    """Returns the files of a word beside weights, in the order of the text encoders."""
    return sorted(path for path in folder.glob("learned_embeds*") if _FILES.fullmatch(path.name))


def require_no_word_beside(path: Path) -> None:
    """Refuses a file of weights by itself where the word that was trained with it lies in its folder.

    Raises:
        UserError: With what to name instead.
    """
    if path.name in (WEIGHTS_FILE, PROJECTIONS_FILE) and (words := word_files(path.parent)):
        raise UserError(
            f"{path} would be judged without the word in {words[0].name} beside it; name their folder, {path.parent}, "
            "or move one of them away"
        )


def word_beside(folder: Path) -> tuple[str, int]:
    """Returns the word that lies in a folder, and its number of vectors; nothing and 0 where none does.

    Raises:
        UserError: There are several words, or a file is damaged.
    """
    words: list[str] = []
    shapes: list[tuple[int, ...]] = []
    for file in word_files(folder):
        inside, metadata = shapes_in(file)
        if len(inside) != 1 and not set(inside) <= set(ENCODERS):
            raise UserError(
                f"{file} holds the vectors of {len(inside)} words ({', '.join(sorted(inside)[:_MOST_NAMED])}), and one "
                "is read; take a file with one"
            )
        words.append(word_of(file, inside, metadata))
        shapes += inside.values()
    if len(set(words)) > 1:
        raise UserError(
            f"{folder} holds the vectors of the words {', '.join(sorted(set(words)))}, and one is read; move the "
            "others away"
        )
    return (words[0] if words else ""), number_of_vectors(folder, shapes)


def state_beside(folder: Path, encoders: Sequence[str]) -> dict[str, torch.Tensor]:
    """Returns the vectors of the word in a folder by the keys of the model's text encoders.

    Raises:
        UserError: There are vectors for more, or fewer, text encoders.
    """
    from safetensors.torch import load_file

    files = word_files(folder)
    states = [load_file(file) for file in files]
    if len(states) == 1 and set(states[0]) <= set(ENCODERS):
        return states[0]
    if len(states) != len(encoders):
        raise UserError(
            f"{folder} has the word's vectors for {len(states)} text encoders "
            f"({', '.join(file.name for file in files)}), and the base model has {len(encoders)}: it was "
            "trained on another kind of model, or files are missing (learned_embeds.safetensors is of the first, "
            "learned_embeds_2.safetensors of the second)"
        )
    return {key: next(iter(state.values())) for key, state in zip(encoders, states, strict=True)}


def added_tokens(path: Path, base: Path) -> list[dict[str, int]]:
    """Returns what each tokenizer of a pipeline knows beyond the base model's: token -> its number, in order.

    Raises:
        UserError: A tokenizer cannot be loaded, or gives words of the base model other numbers.
    """
    family = family_in(base)
    found: list[dict[str, int]] = []
    if family_in(path) is not family:  # told where its weights are compared
        return []
    for number, name in enumerate(family.tokenizers):
        ours, theirs = (vocabulary(folder, number) for folder in (base, path))
        moved = [token for token, place in ours.items() if theirs.get(token) != place]
        if moved:
            raise UserError(
                f"{path}: its {name} reads words otherwise than that of the study's base model, such as {moved[0]!r}: "
                "prompts would mean something else to it; judge it by a study on its own kind of model"
            )
        added = {token: place for token, place in theirs.items() if token not in ours}
        found.append(dict(sorted(added.items(), key=lambda entry: entry[1])))
    return found


def word_of_pipeline(path: Path, base: Path) -> tuple[str, int]:
    """Returns the word that a pipeline's tokenizers know beyond the base model's, and its number of vectors.

    Raises:
        UserError: There are several, or a tokenizer does not fit.
    """
    lists = [tuple(tokens) for tokens in added_tokens(path, base)]
    if not any(lists):
        return "", 0
    tokens = max(lists, key=len)
    if set(lists) != {tokens} or tokens != placeholder_tokens(tokens[0], len(tokens)):
        known = list(dict.fromkeys(token for each in lists for token in each))
        raise UserError(
            f"{path} has {len(known)} added tokens ({', '.join(known[:_MOST_NAMED])}), and one word is read, known "
            f"to all tokenizers, whose further vectors are called like {tokens[0]}_1; save the pipeline with one such "
            "word"
        )
    said = tokens[0].strip("<>")
    return (said or path.name), len(tokens)


def take_words(backbone: Backbone, path: Path, loaded: Any) -> dict[str, torch.Tensor]:
    """Returns the vectors of a loaded pipeline's added tokens by text encoder, and takes them out of its tables.

    The tables are left with as many rows as the base model's, so that the pipeline's weights can be compared with it.

    Raises:
        UserError: A table has no row for a token.
    """
    family, modules = backbone.family, dict[str, Any](backbone.modules)
    found: dict[str, torch.Tensor] = {}
    for part, tokens in zip(family.text_encoders, added_tokens(path, backbone.folder), strict=True):
        places = list(tokens.values())
        table = getattr(loaded, part.name).get_input_embeddings().weight
        kept = modules[part.name].get_input_embeddings().weight.detach().to("cpu", table.dtype, copy=True)
        if not places or kept.shape[1] != table.shape[1]:  # another width is told where weights are compared
            continue
        if places[-1] >= len(table):
            raise UserError(
                f"{path}: its {part.name} has {len(table)} embeddings, and its tokenizer calls for number "
                f"{places[-1]}; save text encoder and tokenizer of one training"
            )
        found[part.name] = table.detach()[places].float().cpu()
        known = sorted({*range(min(len(kept), len(table)))} - {*places})
        kept[known] = table.detach().cpu()[known]
        table.data = kept
    return found

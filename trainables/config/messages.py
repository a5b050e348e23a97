"""Pydantic's complaints in plain words: the rule, the value, and what to write instead."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

Loc = tuple[str | int, ...]

SUBJECT_PLACEHOLDER = "{subject}"  # of templates of prompts, and the only one

_IN_BRACES = re.compile(r"\{\s*([^\W\d]\w*)\s*\}")
_MAX_VALUE = 60
_MAX_KEYS = 15

# What a field of a type wants, by pydantic's error type without its suffix (int_parsing, int_type, ...).
_WANTED = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "list": "a list, such as [a, b]",
    "tuple": "a list, such as [a, b]",
    "dict": "a mapping of keys to values",
    "model": "a mapping of keys to values",
}
_BOUNDS = {
    "greater_than": ("gt", "above"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "below"),
    "less_than_equal": ("le", "at most"),
}
# What other trainers call our fields.
_OTHER_NAMES = {
    "rank": "r",
    "lora_r": "r",
    "network_dim": "r",
    "network_alpha": "lora_alpha",
    "alpha": "lora_alpha",
    "dropout": "lora_dropout",
    "use_dora": "adapter",
    "algo": "adapter",
    "factor": "decompose_factor",
    "loraplus_ratio": "loraplus_lr_ratio",
    "lr": "learning_rate",
    "text_encoder_lr": "text_encoder_learning_rate",
    "scheduler": "lr_scheduler",
    "schedule": "lr_scheduler",
    "warmup_steps": "lr_warmup_steps",
    "batch_size": "train_batch_size",
    "steps": "max_train_steps",
    "max_steps": "max_train_steps",
    "weight_decay": "adam_weight_decay",
    "min_snr_gamma": "snr_gamma",
    "prior_loss": "prior_loss_weight",
    "n_trials": "trials",
    "num_trials": "trials",
    "metric": "objective",
    "metrics": "objectives",
    "min": "low",
    "max": "high",
    "values": "choices",
}


def shorten(value: Any) -> str:
    """Returns ``repr(value)``, cut to a length that fits in a message."""
    text = repr(value)
    return text if len(text) <= _MAX_VALUE else text[: _MAX_VALUE - 3] + "..."


def nearest(word: object, candidates: Iterable[str]) -> str | None:
    """Returns the candidate that `word` most likely was meant to be, or None."""
    candidates = list(candidates)
    if _OTHER_NAMES.get(str(word)) in candidates:
        return _OTHER_NAMES[str(word)]
    near = difflib.get_close_matches(str(word), candidates, n=1, cutoff=0.6)
    return near[0] if near else None


def did_you_mean(word: object, candidates: Iterable[str]) -> str:
    """Returns ``did you mean 'x'? `` for the nearest candidate, or an empty string."""
    near = nearest(word, candidates)
    return f"did you mean {near!r}? " if near else ""


def unknown_key(key: object, candidates: Sequence[str]) -> str:
    """Returns the message for a key that does not exist among `candidates`."""
    near = did_you_mean(key, candidates)
    known = f"Keys here: {', '.join(sorted(candidates))}" if candidates else "no keys are expected here"
    if near and len(candidates) > _MAX_KEYS:
        known = ""
    return f"unknown key {str(key)!r}; {near}{known}".rstrip()


def placeholders_in(prompt: str) -> list[str]:
    """Returns the placeholders of a prompt, known or not: words in braces."""
    return [match[0] for match in _IN_BRACES.finditer(prompt)]


def unknown_placeholders(prompt: str, meaning: str, others: Sequence[str] = ()) -> list[str]:
    """Returns what is wrong with a template's placeholders: a misspelt one would be a word of the prompt.

    A placeholder is one word in braces; other braces are the prompt's own.

    Args:
        meaning: What ``{subject}`` stands for.
        others: Placeholders that may stand there, too.
    """
    known = {place.strip("{}"): place for place in (SUBJECT_PLACEHOLDER, *others)}
    beside = f" (of data sets {' and '.join(others)} too)" if others else ""
    found = []
    for match in _IN_BRACES.finditer(prompt):
        if match[0] not in known.values():
            word = nearest(match[1].lower(), known)
            near = "" if word is None else f"did you mean {known[word]}? "
            found.append(
                f"{prompt!r} has the unknown placeholder {match[0]}; {near}{SUBJECT_PLACEHOLDER}, {meaning}, is the "
                f"only one{beside}: for the word itself leave the braces out"
            )
    return found


def describe(error: Any, model: type[BaseModel] | None) -> str:
    """Returns the message for one entry of ``ValidationError.errors()``.

    Args:
        error: The entry: `type`, `loc`, `msg`, `input`, `ctx`.
        model: The model in which the error is, if known: its fields are the valid keys. It may say more
            about keys that are often tried, in a class variable ``hints``.
    """
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    if kind == "extra_forbidden":
        key = str(error["loc"][-1])
        hint = getattr(model, "hints", {}).get(key)
        return (
            f"unknown key {key!r}; {hint}"
            if hint
            else unknown_key(key, list(model.model_fields) if model else [])
        )
    if kind == "missing":
        return "is required, but missing"
    if kind in ("literal_error", "enum"):
        allowed = _literals(context.get("expected", ""))
        hint = did_you_mean(value, allowed)
        return f"must be one of {', '.join(allowed)}; got {shorten(value)}; {hint}".rstrip("; ")
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        return f"must be {words} {context[name]:g}, got {shorten(value)}"
    if kind in ("value_error", "assertion_error"):
        return str(context.get("error") or error["msg"])
    if kind == "int_from_float":
        return f"must be a whole number, got {shorten(value)}"
    if kind == "too_short":
        return f"needs at least {context['min_length']}, got {context['actual_length']}"
    if kind == "finite_number":
        return f"must be a finite number, got {shorten(value)}"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        tags = _literals(context.get("expected_tags", "float, int, categorical"))
        given = context.get("tag")
        said = f"got {given!r}; {did_you_mean(given, tags)}" if given else "it is missing"
        return f"`type` must be one of {', '.join(tags)}; {said}".rstrip("; ")
    wanted = _WANTED.get(kind.split("_")[0])
    if wanted:
        return f"must be {wanted}, got {shorten(value)}"
    return f"{error['msg']}, got {shorten(value)}"


def model_at(kind: Any, loc: Loc) -> type[BaseModel] | None:
    """Returns the model found by following `loc` from the type `kind`, or None if there is none."""
    kind = _plain(kind)
    for part in loc:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            field = kind.model_fields.get(str(part))
            kind = _plain(field.annotation) if field else None
        elif get_origin(kind) is dict:
            kind = _plain(get_args(kind)[1])
        elif get_origin(kind) in (list, tuple):
            kind = _plain(get_args(kind)[0])
        else:
            return None
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _plain(annotation: Any) -> Any:
    """Strips Annotated and Optional; of other unions the first model is taken."""
    if get_origin(annotation) is Annotated:
        return _plain(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        members = [_plain(member) for member in get_args(annotation) if member is not type(None)]
        models = [m for m in members if isinstance(m, type) and issubclass(m, BaseModel)]
        return (models or members)[0]
    return annotation


def _literals(expected: str) -> list[str]:
    """Parses pydantic's "'a', 'b' or 'c'"."""
    return [word.strip(" '\"") for word in expected.replace(" or ", ", ").split(",") if word.strip()]

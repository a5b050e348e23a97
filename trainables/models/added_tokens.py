"""Words that a method adds to a base model: tokens of its tokenizers, and embeddings beside the base model's own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn import functional as F

from trainables.errors import UserError


class ExtendedEmbedding(nn.Embedding):
    """A table of embeddings with further rows, which can train while the table stays as it is.

    Attributes:
        weight: The base model's own parameter.
        added: The further rows, [words, width], float32.

    Args:
        table: Of the base model.
        rows: The first values of the further rows.
        first: Token of the first of them.
    """

    def __init__(self, table: nn.Embedding, rows: torch.Tensor, first: int) -> None:
        super().__init__(
            table.num_embeddings, table.embedding_dim, table.padding_idx, _weight=table.weight.detach()
        )
        self.weight = table.weight
        self.added = nn.Parameter(rows.to(torch.float32), requires_grad=False)
        self.first = first
        self.train(table.training)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Returns the embeddings of tokens, in the table's type.

        A tokenizer may know more tokens than the table has rows: one of those is refused, as by the base model.

        Raises:
            IndexError: A token that was not added has no row (on a GPU: whatever torch raises there).
        """
        is_added = input >= self.first
        known = super().forward(input.masked_fill(is_added, 0))
        added = F.embedding((input - self.first).clamp(min=0), self.added)
        return torch.where(is_added[..., None], added.to(known.dtype), known)

    @torch.no_grad()
    def rescale(self, norm: float) -> None:
        """Gives the further rows a norm; where processes share them, each does so with its own."""
        rows = self.added.to_local() if isinstance(self.added, DTensor) else self.added
        rows.mul_(norm / rows.norm(dim=1, keepdim=True).clamp(min=torch.finfo(rows.dtype).tiny))

    @property
    def median_norm(self) -> float:
        """Median norm of the table's rows."""
        return float(self.weight.detach().float().norm(dim=1).median())

    @property
    def deviation(self) -> float:
        """Standard deviation of the table's entries."""
        return float(self.weight.detach().float().std())


def extended(tokenizer: Any, table: nn.Embedding, words: Mapping[str, str]) -> tuple[Any, ExtendedEmbedding]:
    """Returns a tokenizer that knows further words, and the table with their embeddings; changes neither.

    Args:
        words: Each with a text whose tokens it begins as the mean of.

    Raises:
        UserError: A word is a token already, or its text has no token.
    """
    first = len(tokenizer)
    known = [word for word in words if word in tokenizer.get_vocab()]
    if known:
        raise UserError(
            f"{', '.join(map(repr, known))}: a token of the base model already; take another word"
        )
    rows = [_mean_of(text, tokenizer, table) for text in words.values()]
    longer = copy.deepcopy(tokenizer)
    longer.add_tokens(list(words))
    return longer, ExtendedEmbedding(table, torch.stack(rows), first)


def tables_in_place(text_encoder: nn.Module) -> Callable[[], None]:
    """Returns how to put a text encoder's tables of embeddings where they are now.

    A T5 has two modules with one weight, of which ``set_input_embeddings`` makes one.
    """
    weight = text_encoder.get_input_embeddings().weight  # type: ignore[operator]
    places = [
        (module, name, child)
        for module in text_encoder.modules()
        for name, child in module.named_children()
        if isinstance(child, nn.Embedding) and child.weight is weight
    ]

    def undo() -> None:
        for module, name, child in places:
            setattr(module, name, child)

    return undo


def _mean_of(text: str, tokenizer: Any, table: nn.Embedding) -> torch.Tensor:
    tokens = tokenizer(text, add_special_tokens=False).input_ids
    if not tokens:
        raise UserError(
            f"{text!r} has no token that a word could begin as; write a word that the model knows"
        )
    if max(tokens) >= table.num_embeddings:
        raise UserError(
            f"{text!r} is token {max(tokens)} of the tokenizer, and the text encoder has {table.num_embeddings} "
            "embeddings, so that no word can begin as it; write another word"
        )
    return table.weight.detach()[tokens].float().mean(0)


def pool_at_end(text_encoder: Any, end: int) -> Callable[[], None]:
    """Lets a CLIP text encoder pool at the end token, and returns how to undo it.

    With the configuration of most CLIP files (``eos_token_id`` 2) transformers pools at the highest token of a prompt:
    the end token, until words are added, whose tokens are higher (transformers issues 21029 and 24650). An encoder of
    another kind, which knows no end token, is left alone.

    Args:
        end: The tokenizer's end token.
    """
    places = [vars(module) for module in text_encoder.modules() if "eos_token_id" in vars(module)]
    before = [place["eos_token_id"] for place in places]
    config, of_config = text_encoder.config, getattr(text_encoder.config, "eos_token_id", None)

    def undo() -> None:
        for place, value in zip(places, before, strict=True):
            place["eos_token_id"] = value
        if places:
            config.eos_token_id = of_config

    for place in places:
        place["eos_token_id"] = end
    if places:
        config.eos_token_id = end
    return undo

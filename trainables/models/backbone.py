"""A base model in memory: trained by a run, and given back as it was, bit by bit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainables.models.added_tokens import ExtendedEmbedding, extended, pool_at_end, tables_in_place
from trainables.models.base_view import base_copies, copy_back, evaluating, holding, without_cached_casts
from trainables.models.conditioning import Aside, Conditioning
from trainables.models.family import Family
from trainables.models.folders import component_digest, latent_factor
from trainables.models.placeholders import expand
from trainables.models.structure import Structure, versions_of


@dataclass(eq=False)
class Backbone:
    """A base model in memory, which a run trains and gives back as it was.

    Attributes:
        family: What the table of families says of it.
        modules: Parts with weights, by diffusers' names.
        others: The remaining arguments of the pipeline's class (tokenizer, scheduler, ...).
        alphas_cumprod: Noise schedule of training, [steps], float32, on the device; empty for flow matching.
        prediction_type: "epsilon", "v_prediction", "sample", or "flow" (noise minus image, of flow matching).
        resolution: The model's own image side in pixels.
        quantized: Parts with layers whose weights are kept in few bits (``quantization.py``), and in how many. These
            keep their codes in every precision, and no run changes them.
    """

    family: Family
    folder: Path
    modules: dict[str, nn.Module]
    others: dict[str, Any]
    device: torch.device
    alphas_cumprod: torch.Tensor
    prediction_type: str
    resolution: int
    quantized: Mapping[str, str] = field(default_factory=dict)
    _parameters: dict[str, list[nn.Parameter]] = field(default_factory=dict)
    _originals: dict[str, list[torch.Tensor]] = field(default_factory=dict)
    _changed: set[str] = field(default_factory=set)
    _frozen: dict[nn.Parameter, torch.Tensor] = field(default_factory=dict)
    _loaded: Structure | None = None
    _versions: dict[str, list[int]] = field(default_factory=dict)
    _vocabularies: list[tuple[int, int]] = field(default_factory=list)
    _undo: list[Callable[[], Any]] = field(default_factory=list)
    _after_step: list[Callable[[Backbone], None]] = field(default_factory=list)
    _set_aside: list[Callable[[], AbstractContextManager[Any]]] = field(default_factory=list)
    _kept: list[tuple[nn.Parameter, torch.Tensor]] | None = None
    _words: dict[str, str] = field(default_factory=dict)
    _pipeline: Any = field(default=None, init=False)  # so that a copy with other modules gets its own

    @property
    def denoiser(self) -> Any:
        """What every step calls."""
        return self.modules[self.family.denoiser.name]

    @property
    def vae(self) -> Any:
        """The autoencoder."""
        return self.modules[self.family.autoencoder.name]

    @property
    def text_encoders(self) -> list[Any]:
        """All text encoders."""
        return [self.modules[part.name] for part in self.family.text_encoders]

    @property
    def tokenizers(self) -> list[Any]:
        """The tokenizer of each text encoder."""
        return [self.others[name] for name in self.family.tokenizers]

    @property
    def scheduler(self) -> Any:
        """The sampler that the model's folder names."""
        return self.others["scheduler"]

    @property
    def prompt_tokenizer(self) -> Any:
        """The tokenizer of the text encoder that reads most of a prompt."""
        return self.tokenizers[self.family.reader]

    @property
    def latent_shift(self) -> float:
        """What is taken from the autoencoder's latents before they are scaled."""
        return float(getattr(self.vae.config, "shift_factor", None) or 0.0)

    @property
    def latent_scale(self) -> float:
        """By what the autoencoder's latents, shifted, are multiplied."""
        return float(self.vae.config.scaling_factor)

    @property
    def sigma_shift(self) -> float:
        """Shift of noise levels that the sampler of a flow-matching model states; 1 where it follows the resolution."""
        config = self.scheduler.config
        return 1.0 if config.get("use_dynamic_shifting") else float(config.get("shift") or 1.0)

    @property
    def zero_unconditional(self) -> bool:
        """Whether guidance starts from zeros, as the model itself says or else its family."""
        family = self.family
        return bool(self.others.get(family.zero_option, family.zero_unconditional))

    @cached_property
    def latent_factor(self) -> int:
        """By how much the autoencoder shrinks an image's sides."""
        return latent_factor(self.folder)

    def digest(self, *parts: str, prompts: Iterable[str] = ()) -> str:
        """Hex SHA-256 of the files of some parts of the base model, all of them by default.

        Args:
            prompts: What they read: words that have been added since (`add_tokens`) make a difference where a prompt
                holds one.
        """
        names = parts or self.family.parts
        content = "".join(
            component_digest(self.folder, name) + self.quantized.get(name, "") for name in names
        )
        words = self.words_in(prompts)
        content += json.dumps(words, sort_keys=True) if words else ""
        if self.family.zero_option and not parts:  # it is in no part's files
            content += f" {self.family.zero_option}: {self.zero_unconditional}"
        return hashlib.sha256(content.encode()).hexdigest()

    def words_in(self, prompts: Iterable[str]) -> dict[str, str]:
        """Returns those of the added words that prompts hold, each with the text that it begins as."""
        read = [expand(prompt, self._words) for prompt in prompts]
        return {word: text for word, text in self._words.items() if any(word in prompt for prompt in read)}

    def parameter_digest(self) -> str:
        """Hex SHA-256 of all parameters and buffers in memory with their names and types."""
        digest = hashlib.sha256()
        for part, module in self.modules.items():
            for name, tensor in module.state_dict().items():
                digest.update(f"{part}.{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
                values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
                digest.update(values.numpy().tobytes())
        return digest.hexdigest()

    def pipeline(self) -> Any:
        """Returns the stock pipeline around the modules in memory, whatever they hold at the moment."""
        if self._pipeline is None:
            self._pipeline = self.family.stock_pipeline()(**self.modules, **self.others)
            self._pipeline.set_progress_bar_config(disable=True)
        return self._pipeline

    def tokenize(self, prompts: Sequence[str]) -> Conditioning:
        """Returns the tokens of prompts, one row a prompt, on the device.

        A placeholder of several vectors (see ``trainables/models/placeholders.py``) stands there as all its tokens.
        """
        whole = [expand(prompt, self._words) for prompt in prompts]
        tokens = self.family.tokenize(self.tokenizers, whole)
        return {name: rows.to(self.device) for name, rows in tokens.items()}

    def encode(self, tokens: Conditioning) -> Conditioning:
        """Returns the conditioning of tokens, differentiable in the text encoders' weights."""
        return self.family.encode(self.text_encoders, tokens)

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Returns the conditioning of prompts, one row a prompt."""
        return self.encode(self.tokenize(prompts))

    def denoise(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Conditioning,
        geometry: torch.Tensor | None = None,
        guidance: float = 1.0,
    ) -> torch.Tensor:
        """Returns what the denoiser predicts for noisy latents, given as many rows of conditioning.

        Args:
            timesteps: Noise levels from 0 to 1000, one for all or one a row.
            geometry: See `Aside`; likewise `guidance`.
        """
        aside = Aside(latents.shape[-1] * self.latent_factor, geometry, guidance)
        return self.family.denoise(self.denoiser, latents, timesteps, conditioning, aside)

    def freeze(self) -> None:
        """Makes no parameter trainable."""
        for module in self.modules.values():
            module.requires_grad_(False)

    def will_change(self, part: str) -> None:
        """Keeps a copy of a part's base weights, in the CPU's memory, before something changes them."""
        if part not in self._originals:
            self._originals[part] = [
                parameter.detach().to("cpu", copy=True) for parameter in self._parameters[part]
            ]
        self._changed.add(part)

    def keep_as_frozen(self, part: str, parameters: Iterable[nn.Parameter]) -> None:
        """Takes what parameters of a part hold now for what `restore_frozen` gives again, until `restore`.

        For a method that alters weights which then do not train, after `will_change`.
        """
        if part not in self._changed:
            raise ValueError(f"{part} is altered without a copy of its base weights; call will_change first")
        self._frozen |= {parameter: parameter.detach().to("cpu", copy=True) for parameter in parameters}

    def on_restore(self, undo: Callable[[], Any]) -> None:
        """States how to undo what is about to be done to the model, such as the ``remove`` of a hook.

        `restore` makes these calls, the last one first.
        """
        self._undo.append(undo)

    def after_step(self, change: Callable[[Backbone], None]) -> None:
        """States what is done to what trains after each step of the optimizer, until `restore`.

        Args:
            change: Called with the model that trains: this one, or the copy that a worker group shares.
        """
        self._after_step.append(change)

    def finish_step(self) -> None:
        """Does what `after_step` stated."""
        for change in self._after_step:
            change(self)

    def set_aside(self, suspended: Callable[[], AbstractContextManager[Any]]) -> None:
        """States how what has been added to the denoiser is without effect for a while, until `restore`.

        Args:
            suspended: Gives a context in which the denoiser computes as if nothing had been added. It may not change
                which parameters train.
        """
        self._set_aside.append(suspended)

    def keep_base(self) -> int:
        """Makes ready for `as_base`, once everything is attached and in its precision; returns the bytes that it takes.

        They are those of base weights that train, or were altered: of all the denoiser where a method trains all of
        it, and 0 beside adapters.

        Raises:
            ValueError: Something trains in the denoiser that is none of its own weights, and no `set_aside` says how to
                do without it.
        """
        part = self.family.denoiser.name
        own = {id(parameter) for parameter in self._parameters[part]}
        added = [
            value for value in self.denoiser.parameters() if value.requires_grad and id(value) not in own
        ]
        if added and not self._set_aside:
            raise ValueError(
                f"{len(added)} parameters were added to {part} and no Backbone.set_aside says how the base model "
                "computes without them"
            )
        originals = self._originals[part] if part in self._changed else ()
        self._kept = base_copies(self._parameters[part], originals, self._frozen)
        return sum(value.nbytes for _, value in self._kept)

    @contextmanager
    def as_base(self) -> Iterator[None]:
        """Lets the denoiser predict as the base model's does, without gradients and dropout, for as long as it lasts.

        It comes after `keep_base`. Afterwards every bit is as before.
        """
        if self._kept is None:
            raise ValueError(
                "the base model's weights have not been kept beside what trains; call keep_base first"
            )
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            stack.enter_context(without_cached_casts())
            stack.enter_context(evaluating(self.denoiser))
            stack.enter_context(holding(self._kept))
            for suspended in self._set_aside:
                stack.enter_context(suspended())
            yield

    def add_tokens(self, words: Mapping[str, str]) -> None:
        """Adds words to the tokenizers, with embeddings beside those of the base model (`added_embeddings`).

        Text encoders pool at the end token from then on, not at a word that was added.

        Args:
            words: Each with a text that the model knows, whose tokens it begins as the mean of.

        Raises:
            UserError: A word is a token already, or its text has no token; nothing has been changed then.
        """
        if self._words:
            raise ValueError("words have been added already; all of them must be added at once")
        tables = [text_encoder.get_input_embeddings() for text_encoder in self.text_encoders]
        longer = [
            extended(tokenizer, table, words)
            for tokenizer, table in zip(self.tokenizers, tables, strict=True)
        ]
        for text_encoder in self.text_encoders:
            self.on_restore(tables_in_place(text_encoder))
        self.on_restore(partial(self._read_with, self.tokenizers, tables, {}))
        for text_encoder, tokenizer in zip(self.text_encoders, self.tokenizers, strict=True):
            self.on_restore(pool_at_end(text_encoder, tokenizer.eos_token_id))
        self._read_with([tokenizer for tokenizer, _ in longer], [table for _, table in longer], words)

    def _read_with(
        self, tokenizers: Sequence[Any], tables: Sequence[nn.Embedding], words: Mapping[str, str]
    ) -> None:
        self.others.update(zip(self.family.tokenizers, tokenizers, strict=True))
        for text_encoder, table in zip(self.text_encoders, tables, strict=True):
            text_encoder.set_input_embeddings(table)
        self._words = dict(words)
        self._pipeline = None  # it holds the tokenizers

    @property
    def added_embeddings(self) -> dict[str, nn.Parameter]:
        """Embeddings of the words that were added, [words, width], by the text encoder that has them."""
        return {part: table.added for part, table in self.added_tables.items()}

    @property
    def added_tables(self) -> dict[str, ExtendedEmbedding]:
        """The tables that hold them, by the text encoder."""
        parts = zip(self.family.text_encoders, self.text_encoders, strict=True)
        tables = {part.name: text_encoder.get_input_embeddings() for part, text_encoder in parts}
        return {part: table for part, table in tables.items() if isinstance(table, ExtendedEmbedding)}

    def lower_precision(self, dtype: torch.dtype) -> None:
        """Converts all that does not train, but codes; in float16 not parameters of parts that overflow (`Part`)."""
        for part, parameters in self._parameters.items():
            stays = dtype is torch.float16 and self.family.part(part).overflows
            frozen = [] if stays else [value for value in parameters if not value.requires_grad]
            if frozen:
                self.will_change(part)
            for parameter in frozen:
                parameter.data = parameter.data.to(dtype)

    def restore_frozen(self) -> None:
        """Gives the parameters that do not train their base weights and precision again (see `keep_as_frozen`)."""
        for part in self._changed:
            copy_back(
                (parameter, self._frozen.get(parameter, original))
                for parameter, original in zip(self._parameters[part], self._originals[part], strict=True)
                if not parameter.requires_grad
            )

    @contextmanager
    def in_full_precision(self) -> Iterator[None]:
        """Gives parameters that do not train their base precision for as long as it lasts, and then that of now.

        Afterwards every bit is as before: lowering the same base weights gives the same again.
        """
        lowered = [
            (parameter, parameter.dtype)
            for parameters in self._parameters.values()
            for parameter in parameters
            if not parameter.requires_grad and parameter.dtype in (torch.float16, torch.bfloat16)
        ]
        if lowered:
            self.restore_frozen()
        try:
            yield
        finally:
            for parameter, dtype in lowered:
                parameter.data = parameter.data.to(dtype)

    def restore(self) -> None:
        """Makes the model the base model again, bit by bit, once what `on_restore` does not know of is removed."""
        while self._undo:
            self._undo.pop()()
        self._frozen.clear()
        self._after_step.clear()
        self._set_aside.clear()
        self._kept = None
        for part in self._changed:
            copy_back(zip(self._parameters[part], self._originals[part], strict=True))
            self._versions[part] = versions_of(self.modules[part])
        self._changed.clear()
        self.freeze()
        for module in self.modules.values():
            module.eval()
            for parameter in module.parameters():
                parameter.grad = None
            disable_gradient_checkpointing(module)

    def note_loaded(self) -> None:
        """Takes the modules as they are for those of the base model."""
        self._loaded = Structure(self.modules)
        self._versions = {part: versions_of(module) for part, module in self.modules.items()}
        self._vocabularies = _vocabularies(self.tokenizers)

    def is_base_model(self) -> bool:
        """Whether the modules are what was loaded, once `restore` has put back what `will_change` announced.

        Looks at submodules, parameters, hooks, modes and sizes of vocabularies, and for changes in place that nobody
        has announced; it compares no values.
        """
        return (
            self._loaded is not None
            and not self._changed
            and self._loaded.holds_for(self.modules)
            and self._vocabularies == _vocabularies(self.tokenizers)
            and all(versions_of(module) == self._versions[part] for part, module in self.modules.items())
        )


def disable_gradient_checkpointing(module: Any) -> None:
    """Switches recomputation off, whether the module is diffusers' or transformers'."""
    _call_first(module, "disable_gradient_checkpointing", "activation_checkpointing_disable")
    # With it transformers hooks the embeddings, so that they ask for gradients, and leaves the hook there.
    remove_hook = getattr(module, "disable_input_require_grads", None)
    if remove_hook is not None:
        remove_hook()


def enable_gradient_checkpointing(module: Any) -> None:
    """Makes a module recompute its activations in the backward pass instead of keeping them."""
    _call_first(module, "enable_gradient_checkpointing", "activation_checkpointing_enable")


def stop_dropout(module: nn.Module) -> None:
    """Puts a module into evaluation mode, but for the layers that recompute their activations.

    transformers recomputes in training mode alone, of the layer itself; what draws dropout lies inside such a layer.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    module.eval()
    for layer in module.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            layer.training = True


def _call_first(module: Any, *methods: str) -> None:
    """Calls the first of some methods that a module has."""
    getattr(module, next(name for name in methods if hasattr(module, name)))()


def _vocabularies(tokenizers: Iterable[Any]) -> list[tuple[int, int]]:
    return [(id(tokenizer), len(tokenizer)) for tokenizer in tokenizers]

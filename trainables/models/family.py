"""What a family of models is: what differs between the layouts of pipelines (the table is in `families.py`).

An entry names the parts of a pipeline, how it is loaded, how prompts become conditioning, how the denoiser takes it,
what noise it knows, and how adapters are written. Nothing here needs torch to be imported: model folders are checked
by the entries too, before a weight is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables.models.conditioning import Aside, Conditioning
from trainables.models.model_files import DIFFUSERS

if TYPE_CHECKING:
    import torch


#: How the publishers of Stable Diffusion name the tensors of a part (see ``publisher_names.py``).
SGM_UNET, SGM_VAE, SGM_CLIP, SGM_OPEN_CLIP = "UNet", "autoencoder", "CLIP", "OpenCLIP"


@dataclass(frozen=True)
class Part:
    """A part of a pipeline that has weights.

    Attributes:
        name: The argument of the pipeline's class, and the folder.
        weights: Stem of the weights' file; says which library loads it.
        title: For messages; this and all that follows is of parts that can be trained.
        model_class: In that library.
        kohya: What the names of its layers begin with in kohya's layout of adapters; empty: it is not written.
        nested: Module in which files of adapters nest the layers. There transformers before 5.6 had those of a CLIP,
            and other programs look for them.
        reads: Of a text encoder: tokens that the stock pipeline gives it; 0: as many as it has positions.
        trains: Of a text encoder: methods that train text encoders train it too. A T5 stays as it is, as in diffusers'
            scripts: it has more weights than most denoisers.
        overflows: What it computes is beyond float16 (65504), as the feed-forward layers of a T5 are: in a run with
            that precision it keeps float32, as it was loaded, and works in it.
        embeddings: Of a text encoder: the key of learned embeddings in files for models that have several of them
            (``clip_l``, ``clip_g``, ``t5xxl``).
    """

    name: str
    weights: str
    title: str = ""
    model_class: str = ""
    kohya: str = ""
    nested: str = ""
    reads: int = 0
    trains: bool = True
    overflows: bool = False
    embeddings: str = ""

    def name_in_files(self, module: str) -> str:
        """Returns the name that a module has in files of adapters."""
        return (
            f"{self.nested}.{module}" if self.nested and not module.startswith(f"{self.nested}.") else module
        )

    def make(self, config: Mapping[str, Any]) -> Any:
        """Returns the part with weights of its own, from the content of its ``config.json``."""
        if self.weights == DIFFUSERS:
            import diffusers

            return getattr(diffusers, self.model_class).from_config(config)
        import transformers

        model = getattr(transformers, self.model_class)
        return model(model.config_class(**config))


@dataclass(frozen=True)
class Fit:
    """Values of configurations that must agree: a value is `times` the sum of values of other parts.

    Attributes:
        others: Parts and their keys.
    """

    part: str
    key: str
    others: tuple[tuple[str, str], ...]
    times: int = 1


@dataclass(frozen=True)
class SingleFile:
    """How a model of a family lies in one file, in the layout of those who published it.

    Attributes:
        title: Of the kind of model, for messages.
        keys: Tensors of the denoiser by which it is known; each entry is a choice of names, one of which must be there.
        configs: Model of the hub with the configurations and tokenizers; a mirror where the original is gone. Empty:
            the tensors do not tell `choices` apart, so that the user must name one.
        choices: Such models of the hub -> what a file is whose configurations they have.
        width: Tensor of the denoiser whose second dimension is the width of text embeddings; empty: none is.
        guidance: What the names of the denoiser's layers that take guidance begin with; empty: it has no such layers.
        unguided: Like `configs`, for a model without these layers.
        prefixes: Part to what the names of its tensors begin with; parts that are not in the file come from the folder
            with the configurations.
        layouts: Part to how its tensors are named (`SGM_UNET` and others), for files that are written too; empty: such
            files are read alone.
        text_width: Width of text embeddings by which a model of the family is written as this kind; 0: any other.
    """

    title: str
    keys: tuple[tuple[str, ...], ...]
    configs: str
    prefixes: Mapping[str, tuple[str, ...]]
    width: str = ""
    choices: Mapping[str, str] = field(default_factory=dict)
    guidance: str = ""
    unguided: str = ""
    layouts: Mapping[str, str] = field(default_factory=dict)
    text_width: int = 0

    @property
    def remedy(self) -> str:
        """What to write for configurations of this kind of model."""
        if not self.choices:
            return f"model: {{path: ..., config: {self.configs}}}"
        named = [f"config: {name} where it {what}" for name, what in self.choices.items()]
        return f"model: {{path: ..., config: ...}} with {', '.join(named)}"


@dataclass(frozen=True)
class Family:
    """One layout of models.

    Attributes:
        pipeline_class: Of ``model_index.json``, and the stock class that loads and runs the model.
        denoiser: What every step calls.
        autoencoder: What makes latents of images, and images of latents.
        text_encoders: In the order in which `encode` takes them.
        tokenizers: Of each of them, by the pipeline's names.
        title: For tables and messages.
        optional: Further parts with weights, which a model may have.
        not_loaded: Parts that no run needs.
        options: Further arguments of the pipeline's class.
        fitting: Values of configurations that must agree.
        tokenize: Tokenizers and prompts to integer tensors, one row a prompt.
        encode: Text encoders and those tensors to conditioning, differentiable in the encoders' weights.
        denoise: Denoiser, noisy latents, noise levels as the solver counts them (0 to 1000), rows of conditioning, and
            what else it may be told, to what the denoiser predicts.
        kohya_metadata: The denoiser's configuration to what kohya's layout says of the base model.
        zero_unconditional: Guidance starts from zeros, and not from the conditioning of an empty prompt; where the
            pipeline's class has an option `zero_option`, the model's own value of that counts.
        flow: The model is trained by flow matching: it predicts noise minus image on the straight line between them.
        embedded_guidance: Guidance is an input of the denoiser (or distilled away), and samplers run it once a step.
        patch: Latents in a row that the denoiser takes as one: latents' sides are multiples of it.
        sample_size: Latents' side, where the denoiser's configuration states none.
        features: What a method may need and not every family has: "cross_attention" (attention from image to text, with
            the text's keys and values in layers of their own), "textual_inversion" (the stock pipeline loads
            embeddings).
        single_files: The kinds of single files that are read.
        model_spec: From the denoiser's configuration and what it predicts: architecture and implementation as in model
            spec 1.0.1 (Stability AI), with which files of adapters and embeddings begin their metadata.
        kohya_module: From a module of the denoiser and its configuration: the name that kohya's scripts train it by.
    """

    pipeline_class: str
    denoiser: Part
    autoencoder: Part
    text_encoders: tuple[Part, ...]
    tokenizers: tuple[str, ...]
    tokenize: Callable[[Sequence[Any], Sequence[str]], Conditioning]
    encode: Callable[[Sequence[Any], Conditioning], Conditioning]
    denoise: Callable[[Any, torch.Tensor, torch.Tensor, Conditioning, Aside], torch.Tensor]
    kohya_metadata: Callable[[Mapping[str, Any]], dict[str, str]]
    title: str = ""
    optional: tuple[Part, ...] = ()
    not_loaded: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    fitting: tuple[Fit, ...] = ()
    zero_unconditional: bool = False
    zero_option: str = ""
    flow: bool = False
    embedded_guidance: bool = False
    patch: int = 1
    sample_size: int = 64
    features: tuple[str, ...] = ()
    single_files: tuple[SingleFile, ...] = ()
    model_spec: Callable[[Mapping[str, Any], str], tuple[str, str]] = lambda config, predicts: ("", "")
    kohya_module: Callable[[str, Mapping[str, Any]], str] = lambda module, config: module

    @property
    def modules(self) -> tuple[Part, ...]:
        """The parts with weights that every model has; the denoiser comes first."""
        return (self.denoiser, self.autoencoder, *self.text_encoders)

    def trainable(self, *, text_encoders: bool) -> tuple[Part, ...]:
        """Returns the parts that training can change: the denoiser and, if asked for, the text encoders that train."""
        trained = tuple(part for part in self.text_encoders if part.trains)
        return (self.denoiser, *trained) if text_encoders else (self.denoiser,)

    @property
    def texts(self) -> tuple[str, ...]:
        """Names of the parts on which prompts' conditioning depends."""
        return (*(part.name for part in self.text_encoders), *self.tokenizers)

    @property
    def reader(self) -> int:
        """Number of the text encoder that reads most of a prompt; what it does not read is lost."""
        lengths = [part.reads for part in self.text_encoders]
        return lengths.index(max(lengths))

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of all parts that a model must have."""
        return (*(part.name for part in self.modules), *self.tokenizers, "scheduler")

    @property
    def load_options(self) -> dict[str, Any]:
        """Arguments of the pipeline's ``from_pretrained``."""
        return {**dict.fromkeys(self.not_loaded), **self.options}

    def part(self, name: str) -> Part:
        """Returns a part with weights by its name."""
        return next(part for part in self.modules if part.name == name)

    def stock_pipeline(self) -> Any:
        """Returns the pipeline's class."""
        import diffusers

        return getattr(diffusers, self.pipeline_class)

    def save_lora(
        self,
        folder: Path,
        file: str,
        states: Mapping[str, Mapping[str, torch.Tensor]],
        metadata: Mapping[str, Mapping[str, Any]],
    ) -> None:
        """Writes adapters as the pipeline's class does.

        Args:
            states: Part to its adapters' tensors; `metadata` likewise to PEFT's configuration.
        """
        arguments: dict[str, Any] = {}
        for name, state in states.items():
            arguments[f"{name}_lora_layers"] = state
            arguments[f"{name}_lora_adapter_metadata"] = metadata[name]
        self.stock_pipeline().save_lora_weights(
            str(folder), weight_name=file, safe_serialization=True, **arguments
        )

    def load_lora(self, pipeline: Any, folder: Path, file: str) -> None:
        """Loads what `save_lora` wrote into a stock pipeline, by its own loader."""
        pipeline.load_lora_weights(str(folder), weight_name=file, use_safetensors=True)

    def load_embeddings(self, pipeline: Any, text_encoder: Part, word: str, rows: torch.Tensor) -> None:
        """Loads a word's embeddings [vectors, width] of one text encoder into a stock pipeline, by its own loader."""
        tokenizer = self.tokenizers[self.text_encoders.index(text_encoder)]
        pipeline.load_textual_inversion(
            {word: rows},
            text_encoder=getattr(pipeline, text_encoder.name),
            tokenizer=getattr(pipeline, tokenizer),
        )

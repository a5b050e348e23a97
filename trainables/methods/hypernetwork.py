"""Hypernetwork (AUTOMATIC1111's kind): residual networks on the context from which attention makes keys and values.

The base model's weights stay as they are. There is no paper; the procedure is that of A1111's
``modules/hypernetworks/hypernetwork.py``, whose names the fields bear, with a start that changes nothing by default.
"""

from __future__ import annotations

import json
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from trainables.config.fields import TrainingConfig
from trainables.errors import UserError
from trainables.methods.exporting import Exported, metadata_of
from trainables.methods.hypernetwork_files import (
    WEIGHTS_FILE,
    load_hypernetwork,
    read_hypernetwork,
    stored_of,
    write_a1111,
    write_hypernetwork,
)
from trainables.models.hypernetwork_layers import SHARED_ACTIVATIONS, LayerPlan, multipliers_of, text_of

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from trainables.config.fields import ModelConfig
    from trainables.methods.exporting import Format, Request
    from trainables.methods.strengths import Dial
    from trainables.models.backbone import Backbone
    from trainables.models.families import Family

_TEXT_WIDTH = "cross_attention_dim"  # of a denoiser's configuration, where it has cross-attention
_NO_CROSS_ATTENTION = (
    "has no cross-attention, and no context of text alone for a hypernetwork to change; take a method that trains "
    "adapters, such as lora"
)


class HypernetworkConfig(TrainingConfig):
    """A1111's choices, under its names where it has them.

    Attributes:
        layer_structure: Widths of the layers as multiples of the context's, as text or a list; begins and ends with 1.
        activation_func: After each hidden layer. Those that A1111 and ComfyUI both read; "linear" is none, "swish" is
            Hardswish as there.
        add_layer_norm: After each linear layer. A1111's maintainers found training unstable with it.
        dropout: Probability with which outputs of hidden layers are zeroed in training.
        strength: Factor on what the networks add to the context, in training and in use; it is saved in the weights.
        weight_initialization: "zero_last" starts as the base model: torch's own draws, the last layer zero. "normal"
            is A1111's default: deviation 0.01 throughout, which changes the images before the first step.
        attention_layers: "all": contexts of cross-attention and self-attention, as A1111 by default. "cross": of the
            text alone.
    """

    # Text encoders do not train: a file of this method could not hold them.
    _NOT_READ: ClassVar[dict[str, tuple[Any, ...]]] = {"method": ()}
    NEEDS: ClassVar[dict[str, dict[str, tuple[Any, ...]]]] = {
        **TrainingConfig.NEEDS,
        "train_text_encoder": _NOT_READ,
        "text_encoder_learning_rate": _NOT_READ,
    }
    EMBEDDED_DEFAULTS: ClassVar[dict[str, Any]] = {"learning_rate": 1e-3, "prior_loss_weight": 0.3}

    learning_rate: float = Field(default=1e-5, gt=0, le=10)
    layer_structure: str = "1,2,1"
    activation_func: Literal[
        "linear", "relu", "leakyrelu", "elu", "swish", "tanh", "sigmoid", "softsign", "mish"
    ] = "linear"
    add_layer_norm: bool = False
    dropout: float = Field(default=0.0, ge=0, lt=1)
    strength: float = Field(default=1.0, gt=0, le=10)
    weight_initialization: Literal["zero_last", "normal"] = "zero_last"
    attention_layers: Literal["all", "cross"] = "all"

    @field_validator("layer_structure", mode="before")
    @classmethod
    def _in_one_spelling(cls, value: object) -> str:
        return text_of(multipliers_of(value))

    @model_validator(mode="after")
    def _hidden_layers_where_they_are_needed(self) -> Self:
        if len(self.plan.multipliers) > 2:
            return self
        for name, none in (("activation_func", "linear"), ("dropout", 0.0)):
            if getattr(self, name) != none:
                raise ValueError(
                    f"{name} {getattr(self, name)!r} has no effect with layer_structure {self.layer_structure}: it "
                    f"follows hidden layers, and there is none; add a layer (1,2,1), or take {name}: {none}"
                )
        return self

    @property
    def plan(self) -> LayerPlan:
        """The layers of each network."""
        return LayerPlan(multipliers_of(self.layer_structure), self.activation_func, self.add_layer_norm)


@dataclass(frozen=True)
class HypernetworkMethod:
    """Trains two small networks for each width of context; see `trainables.models.hypernetworks`."""

    name: str = "hypernetwork"
    title: str = "Hypernetwork"
    config_class: type[TrainingConfig] = HypernetworkConfig
    trains: bool = True
    what_trains: str = "networks before keys and values"
    papers: tuple[str, ...] = ("ha2017hypernetworks",)
    artifact: str = "adapter"
    copies: tuple[str, ...] = ()
    stock_loader: bool = False
    needs: tuple[str, ...] = ("cross_attention",)

    def check(self, config: Any, model: ModelConfig) -> list[str]:
        """Says of a base model on this machine whether its cross-attention is wide enough for the layers."""
        from trainables.models.families import family_in
        from trainables.models.folders import local_folder
        from trainables.models.model_files import read_json

        folder = None
        with suppress(UserError, OSError):  # what is wrong with the folder is told elsewhere
            folder = local_folder(model)
        if folder is None:
            return []
        content = read_json(folder / family_in(folder).denoiser.name / "config.json")
        widths = content.get(_TEXT_WIDTH) if content is not None else None
        found = {
            width for width in (widths if isinstance(widths, list) else [widths]) if isinstance(width, int)
        }
        return [f"hypernetwork: {problem}" for problem in config.plan.problems(sorted(found))]

    def trained_parts(self, family: Family, config: Any) -> tuple[str, ...]:
        """The denoiser, which holds the networks."""
        return (family.denoiser.name,)

    def prepare(self, backbone: Backbone, config: Any) -> None:
        """Adds no words."""

    def attach(self, backbone: Backbone, config: Any, generator: torch.Generator) -> list[dict[str, Any]]:
        """Puts the networks in front of the projections to keys and values."""
        from trainables.models.hypernetworks import Hypernetwork, attention_widths, insert, remove
        from trainables.randomness import global_seed

        found = attention_widths(backbone.denoiser)
        widths = found["cross"] if config.attention_layers == "cross" else found["cross"] + found["self"]
        part = backbone.family.denoiser
        problems = [] if found["cross"] else [f"{part.title or part.name} {_NO_CROSS_ATTENTION}"]
        problems += config.plan.problems(sorted(set(widths)))
        if problems:
            raise UserError(*(f"hypernetwork: {problem}" for problem in problems))
        with global_seed(generator):
            hypernetwork = Hypernetwork(
                widths,
                config.plan,
                cross_only=config.attention_layers == "cross",
                dropout=config.dropout,
                strength=config.strength,
            )
            if config.weight_initialization == "normal":
                hypernetwork.start_as_a1111()
            else:
                hypernetwork.start_at_zero()
        backbone.freeze()
        backbone.on_restore(partial(remove, backbone.denoiser))
        insert(backbone.denoiser, hypernetwork.to(backbone.device))
        backbone.set_aside(hypernetwork.idle)
        parameters = list(hypernetwork.parameters())
        return [{"name": part.name, "params": parameters, "lr": config.learning_rate}]

    def detach(self, backbone: Backbone) -> None:
        """Leaves it to `Backbone.restore`."""

    def fused(self, backbone: Backbone) -> AbstractContextManager[bool]:
        """Cannot be merged: projections of the base model have no bias, and their context is not linear in general."""
        return nullcontext(False)

    def save(self, backbone: Backbone, config: Any, folder: Path) -> None:
        """Writes ``hypernetwork.safetensors``, with `strength` multiplied into the last layers."""
        folder.mkdir(parents=True, exist_ok=True)
        write_hypernetwork(folder / WEIGHTS_FILE, stored_of(backbone.denoiser))

    def load(self, pipeline: Any, folder: Path) -> Any:
        """Loads it by `load_hypernetwork`, since no stock tool can."""
        return load_hypernetwork(pipeline, folder / WEIGHTS_FILE)

    def export_obstacle(self, family: Family, config: Any, form: Format) -> str | None:
        """Only A1111 and ComfyUI know hypernetworks, and ComfyUI not all of them."""
        if form == "comfyui":
            activation = config.activation_func
            if activation not in SHARED_ACTIVATIONS:
                return f"ComfyUI refuses hypernetworks with the activation {activation}; take --format a1111"
            if config.add_layer_norm and activation != "linear":
                return (
                    f"ComfyUI lets the activation ({activation}) follow the last linear layer too where there are "
                    "layer norms, and would draw other images; take --format a1111"
                )
        if form in ("a1111", "comfyui"):
            return None
        reason = {
            "diffusers": "diffusers reads no hypernetworks",
            "kohya": "kohya's scripts train no hypernetworks",
            "peft": "PEFT has no such networks",
            "merged": "a hypernetwork cannot be merged: projections to keys and values have no bias, and its "
            "activations are not linear",
        }[form]
        return f"{reason}; take --format a1111 or comfyui, or study.load_hypernetwork with the run's own file"

    def export(self, backbone: Backbone, config: Any, weights: Path, request: Request, out: Path) -> Exported:
        """Writes A1111's file, which ComfyUI reads too; what safetensors have as metadata is a text in it."""
        stored = read_hypernetwork(weights / WEIGHTS_FILE)
        metadata = metadata_of(request, backbone, self.name)
        info = {
            key: value for key, value in metadata.items() if not key.startswith("ss_")
        }  # those are of adapters
        notes = write_a1111(
            out / f"{request.name}.pt",
            stored,
            name=request.name,
            step=int(float(request.about.own.get("train_steps", 0))),
            info=json.dumps(info, indent=1, sort_keys=True, ensure_ascii=False),
        )
        usage = {
            "a1111": f"Put {request.name}.pt into models/hypernetworks and write <hypernet:{request.name}:1>.",
            "comfyui": f"Put {request.name}.pt into models/hypernetworks; the node HypernetworkLoader loads it.",
        }[request.form]
        return Exported(usage, code=False, notes=tuple(notes) if request.form == "comfyui" else ())

    def with_strength(self, backbone: Backbone, weights: Path) -> Dial:
        """Loads the networks and returns what turns their strength: the factor on what they add to contexts."""
        from trainables.models.hypernetworks import NAME

        self.load(backbone.pipeline(), weights)
        networks = getattr(backbone.denoiser, NAME)
        return lambda strength: setattr(networks, "strength", strength)


METHOD = HypernetworkMethod()

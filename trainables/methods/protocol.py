"""What a fine-tuning method is: which parameters train, and how the result is saved and loaded.

The loop, the objective, data, precision, checkpoints, evaluation and cost are the core's and the same for
all. Functions that may be missing: ``export_obstacle`` and ``export`` write weights for other programs
(``exporting.py``), ``with_strength`` draws at other strengths than that of the training (``strengths.py``),
``changes_weights`` says that weights of the base model change (`fit.changed_weights`). A method's module is importable
without torch (it imports torch, diffusers and peft inside its functions), because its configuration class is needed to
validate a study file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    import torch

    from trainables.config.fields import ModelConfig, TrainingConfig
    from trainables.models.backbone import Backbone
    from trainables.models.families import Family

#: What trains in methods on adapters; which kind their configuration says (`adapter`).
AN_ADAPTER = "an adapter"


class Method(Protocol):
    """A fine-tuning method; ``METHOD`` of each module in this folder.

    Attributes:
        name: As in the catalogue.
        title: For tables and figures, e.g. "DreamBooth+LoRA".
        config_class: Subclass of `TrainingConfig` with the method's own fields and defaults.
        trains: False only for the base model, which is evaluated as it is.
        what_trains: What of a model trains, in words ("all weights"), or `AN_ADAPTER`: a level of a factor of studies.
            Where the field `trains` decides, a function ``what_trains_by(trains)`` says so, and this is the default's.
        papers: Where it comes from: keys of ``study/report/templates/references.bib``; those of a kind of adapter are
            added to them.
        variant_of (may be missing): The method from which this one differs in its defaults alone, so that the two
            count as one.
        artifact: "adapter" (small, logged to MLflow) or "pipeline" (a whole model, logged by reference). Where it
            depends on the configuration, a function ``artifact_of(config)`` says so, and this is that of the defaults.
        copies: Files of the saved folder that hold the same weights again, in a layout for other tools. They do
            not count as the weights' size.
        needs (may be missing): Features of a family (`Family.features`) without which it cannot carry the method.
        stock_loader: diffusers loads what `save` writes, into modules of its own and its libraries. False where no
            stock tool can: then `load` is the only loader that there is.
    """

    name: str
    title: str
    config_class: type[TrainingConfig]
    trains: bool
    what_trains: str
    papers: tuple[str, ...]
    artifact: str
    copies: tuple[str, ...]
    stock_loader: bool

    def check(self, config: Any, model: ModelConfig) -> list[str]:
        """Returns what keeps a configuration from being trained on a base model, one message a problem.

        Reads no weights and fetches nothing; what cannot be told before the model is there, `attach` refuses.
        """
        ...

    def trained_parts(self, family: Family, config: Any) -> tuple[str, ...]:
        """Returns the names of the parts of a model that hold what trains, one for each parameter group.

        Where a text encoder is among them, captions are encoded anew in every step.
        """
        ...

    def prepare(self, backbone: Backbone, config: Any) -> None:
        """Adds to the base model what captions need to be encoded: words of the method's own (`Backbone.add_tokens`).

        It comes before captions are encoded and class images are made; a prompt without those words must give what it
        has always given. Everything else is added by `attach`. `Backbone.restore` undoes both.

        Raises:
            UserError: The configuration does not fit the model; nothing has been changed then.
        """
        ...

    def attach(self, backbone: Backbone, config: Any, generator: torch.Generator) -> list[dict[str, Any]]:
        """Makes the method's parameters trainable and returns the optimizer's parameter groups.

        Every other parameter has ``requires_grad`` False afterwards; what trains is float32. Each group has ``params``
        (a list), ``lr`` and ``name``, one of `trained_parts`, whose module holds the parameters: weights of the base
        model, or of modules that the method has added to it. A group may have ``stage``, the shares of the run's steps
        between which it trains (``trainables/training/stages.py``). A method that changes parameters of the base model
        calls `Backbone.will_change` on their part first; one that registers a hook or puts a module in another's place
        says how to undo it by `Backbone.on_restore`, or undoes it in `detach`. `generator` is the initialisation
        stream.

        Raises:
            UserError: The configuration does not fit the model; nothing has been changed then.
        """
        ...

    def detach(self, backbone: Backbone) -> None:
        """Removes what `attach` added to the modules, as far as `Backbone.on_restore` does not know of it.

        The core puts the base model's weights back.
        """
        ...

    def fused(self, backbone: Backbone) -> AbstractContextManager[bool | None]:
        """Lets the model compute with what `attach` added merged into the base weights, for as long as it lasts.

        Gives whether there was anything to merge; None: there is, and the weights cannot take it (codes of quantised
        ones). Afterwards weights and modules are what they were, bit by bit.
        """
        ...

    def save(self, backbone: Backbone, config: Any, folder: Path) -> None:
        """Writes the weights, as safetensors only: in the format that stock tools load, where there is one."""
        ...

    def load(self, pipeline: Any, folder: Path) -> Any:
        """Returns a pipeline with the weights of `folder`, by diffusers' own loaders unless `stock_loader` is False."""
        ...


def artifact_of(method: Method, config: TrainingConfig) -> str:
    """Returns what a method leaves with a configuration; see `Method.artifact`."""
    asked = getattr(method, "artifact_of", None)
    found: str = method.artifact if asked is None else asked(config)
    return found

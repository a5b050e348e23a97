"""Which methods, and which training fields, fit which families of models: told before anything is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trainables.methods.registry import get_method, method_names
from trainables.models.families import FAMILIES, family_in
from trainables.models.folders import local_folder

if TYPE_CHECKING:
    from trainables.config.fields import ModelConfig, TrainingConfig
    from trainables.methods.protocol import Method
    from trainables.models.family import Family

#: What a method can need of a family (`Family.features`) -> why a family without it cannot carry the method.
REASONS = {
    "cross_attention": "its denoiser has no cross-attention: text and image attend to each other in the same layers",
    "textual_inversion": "diffusers' pipeline of it loads no embeddings",
}

# Fields that say something of the noise of one kind of models alone, with the value that says nothing.
_OF_DIFFUSION = {"snr_gamma": None}
_OF_FLOW = {"shift": None, "timestep_sampling": "logit_normal", "logit_mean": 0.0, "logit_std": 1.0}


def obstacle(method: Method, family: Family) -> str | None:
    """Returns why a family cannot carry a method, or None if it can.

    A method names what it needs in an attribute `needs`; one that has none runs on every family.
    """
    lacking = [need for need in getattr(method, "needs", ()) if need not in family.features]
    if not lacking:
        return None
    return f"{method.title} does not run on {family.title}: {'; '.join(REASONS[need] for need in lacking)}"


def families_of(method: Method) -> dict[str, str | None]:
    """Returns for each family, by its title, why it cannot carry a method, or None if it can."""
    return {family.title: obstacle(method, family) for family in FAMILIES.values()}


def matrix() -> dict[str, dict[str, str | None]]:
    """Returns `families_of` each method, by its name."""
    return {name: families_of(get_method(name)) for name in method_names()}


def check_fit(method: Method, config: Any, model: ModelConfig) -> list[str]:
    """Returns what keeps a configuration of a method from being trained on a base model, one message a problem.

    Of a model that is not on this machine the family is not known, and only the method itself is asked.
    """
    folder, problems = local_folder(model), _quantization_problems(method, config, model)
    if folder is not None:
        family = family_in(folder)
        against = obstacle(method, family)
        if against is not None:
            return [against]
        if method.trains:
            problems += _noise_problems(config, family)
    return [*problems, *method.check(config, model)]


def changed_weights(method: Method, config: TrainingConfig) -> str | None:
    """Returns what a method does to the base model's weights, and what to take instead; None: it changes none.

    A method says so in a function ``changes_weights(config)``; one that has none changes none.
    """
    asked = getattr(method, "changes_weights", None)
    found: str | None = None if asked is None else asked(config)
    return found


def _quantization_problems(method: Method, config: TrainingConfig, model: ModelConfig) -> list[str]:
    if model.quantization is None or (changed := changed_weights(method, config)) is None:
        return []
    return [
        f"model.quantization: {model.quantization} keeps the base model's weights as codes, which cannot change, and "
        f"{changed}, or leave quantization out"
    ]


def _noise_problems(config: TrainingConfig, family: Family) -> list[str]:
    """Names fields of the other kind of noise: they would do nothing, and arms that differ in them would be one."""
    fields = _OF_DIFFUSION if family.flow else _OF_FLOW
    trained = "flow matching, where all noise levels weigh the same" if family.flow else "diffusion in steps"
    return [
        f"{name} has no effect on {family.title}, which is trained by {trained}; leave it out"
        for name, nothing in fields.items()
        if getattr(config, name) != nothing
    ]

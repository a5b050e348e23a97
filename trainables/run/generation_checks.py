"""Whether a run can draw what it is to draw for classifiers: asked of a study before its launch, without a model in
memory, and of each run before it trains.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from trainables.config.fields import TrainingConfig
from trainables.config.generation import GenerationConfig
from trainables.errors import UserError
from trainables.methods.registry import get_method
from trainables.models.placeholders import expand
from trainables.models.prompt_lengths import PromptReader
from trainables.run.prompt_checks import find_cut

if TYPE_CHECKING:
    from trainables.models.family import Family


def prompts_drawn(
    settings: GenerationConfig, method: str, training: TrainingConfig, instance_prompt: str, class_prompt: str
) -> tuple[dict[str, str], list[str]]:
    """Returns the prompt of each class in the words that the method has taught, and why others have none.

    The base model has not been taught the subject's rare token, and is asked for the class.

    Args:
        training: Settled for the subject (`TrainingConfig.for_subject`), whose prompts are given.
    """
    found = get_method(method)
    untaught = not found.trains and getattr(found, "install", None) is None
    prompts: dict[str, str] = {}
    problems: list[str] = []
    for label, prompt in settings.prompts.items():
        try:
            is_own = untaught and prompt == instance_prompt
            prompts[label] = class_prompt if is_own else training.reword(prompt)
        except UserError as error:
            problems += error.problems
    return prompts, problems


def negative_prompt_problems(
    negative: str | None, guidance: float, family: Family | None, section: str
) -> list[str]:
    """Returns why a negative prompt has no effect.

    Args:
        guidance: The guidance scale.
        family: Of the model; None: not known, the model is not here.
        section: In which it is stated: ``generation`` of a run, ``downstream`` of a study.
    """
    if negative is None:
        return []
    if family is not None and family.embedded_guidance:
        return [
            f"{section}.negative_prompt has no effect on a model that takes guidance as an input, or has none: it "
            "never runs without the prompt; leave it out"
        ]
    if guidance <= 1:
        return [
            f"{section}.negative_prompt has no effect at guidance_scale {guidance:g}; leave it out, or "
            "set guidance_scale above 1"
        ]
    return []


def cut_prompts(
    prompts: Iterable[str], training: TrainingConfig, reader: PromptReader, model: str
) -> list[str]:
    """Returns which prompts, in the words of a method, the model `model` does not read to the end."""
    words = training.added_words
    return find_cut([expand(prompt, words) for prompt in prompts], reader.knowing(words), model)

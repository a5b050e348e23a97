"""The prompts that a subject is judged by: the study's own, the embedded world's, or the lists below.

The built-in lists come in two sets, for search and confirm, which share no prompt. Data sets are judged by their
held-out captions instead (``held_out_captions.py``).
"""

from __future__ import annotations

from collections.abc import Sequence

from trainables.config.fields import EMBEDDED, EvaluationConfig
from trainables.data.subjects import Subject
from trainables.evaluation.held_out_captions import asked_of

# Places, surfaces, light, company, properties and styles, in the spirit of the DreamBooth paper's list. They
# fit objects and living things alike, and the first ones are the most telling, because num_prompts takes from
# the front.
PHOTO_TEMPLATES: tuple[str, ...] = (
    "{subject} on a sandy beach beside the sea",
    "{subject} in deep snow in front of fir trees",
    "{subject} on a wooden kitchen table",
    "{subject} in a busy street at night",
    "{subject} in a meadow full of yellow flowers",
    "{subject} next to a big red balloon",
    "{subject} in front of a blue brick wall",
    "{subject} on a rock in a mountain stream",
    "{subject} on a soft purple carpet",
    "{subject} under an umbrella in the rain",
    "{subject} in the desert at sunset",
    "{subject} surrounded by old books",
    "{subject} covered in colourful paint",
    "{subject} made of polished gold",
    "an oil painting of {subject}",
    "a black and white pencil drawing of {subject}",
)

# What a search is judged by: the same kinds of demand, and none of the prompts above.
PHOTO_SEARCH_TEMPLATES: tuple[str, ...] = (
    "{subject} on a green lawn in the sun",
    "{subject} on a grey sofa",
    "{subject} next to a stack of white plates",
    "{subject} in front of a lake and mountains",
    "{subject} in a dark forest with fog",
    "{subject} on a cobblestone square in autumn leaves",
    "{subject} carved out of wood",
    "a clay figure of {subject}",
)

# What general prompts speak of, with the templates above.
_NOUNS = ("a dog", "a cup", "a backpack", "a car", "a teapot", "a bird", "a chair", "a woman")


def evaluation_templates(subject: Subject, config: EvaluationConfig) -> tuple[str, ...]:
    """Returns the templates, each with ``{subject}``, that a subject or a data set is evaluated on.

    Raises:
        UserError: A data set has too few held-out captions, or prompts that do not fit it.
    """
    if subject.is_data_set:
        return tuple(asked.template for asked in asked_of(subject, config))
    return templates_of(subject.embedded, config)


def templates_of(embedded: bool, config: EvaluationConfig) -> tuple[str, ...]:
    """Returns the templates for a subject of the embedded world, or for one of photographs."""
    templates = config.prompts
    if templates is None:
        if embedded:
            from trainables.embedded import evaluation_prompts

            templates = evaluation_prompts(config.prompt_set)
        else:
            templates = PHOTO_TEMPLATES if config.prompt_set == "confirm" else PHOTO_SEARCH_TEMPLATES
    return templates[: config.num_prompts] if config.num_prompts else templates


def general_prompts(subject: Subject, config: EvaluationConfig) -> tuple[str, ...]:
    """Returns the prompts that tell what a data set without a trigger has left of the model's other abilities.

    They speak of the sprite world for a data set of that world, and for the embedded CLIP, which knows no other.
    """
    in_world = subject.embedded or config.clip == EMBEDDED
    nouns: Sequence[str] = _NOUNS
    if in_world:
        from trainables.embedded.captions import article
        from trainables.embedded.world import CLASSES

        nouns = [article(name) for name in CLASSES]
    built_in = config.model_copy(update={"prompts": None, "num_prompts": None})
    templates = templates_of(in_world, built_in)
    return tuple(fill(template, nouns[number % len(nouns)]) for number, template in enumerate(templates))


def spans_of(template: str, phrase: str) -> list[tuple[int, int]]:
    """Returns where `phrase` stands in the filled template, as (start, end) in characters."""
    spans, filled = [], ""
    for piece in template.split("{subject}")[:-1]:
        filled += piece + phrase
        spans.append((len(filled) - len(phrase), len(filled)))
    return spans


def fill(template: str, phrase: str) -> str:
    """Puts `phrase` in the template's placeholder; other braces in the template are left as they are."""
    return template.replace("{subject}", phrase)

"""What a fine-tuned model draws for classifiers at the end of its run, and which of it they may learn from.

Nothing in this module imports torch.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from trainables.config.frozen import Frozen
from trainables.util.text import is_blank

BALANCE: Literal["balance"] = "balance"

MOST = 100  # generated images for each real one


def _ratio(value: Any) -> Any:
    if value == BALANCE or (
        isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= MOST
    ):
        return value
    raise ValueError(
        f"{value!r} is no ratio: generated images for each real one, above 0 and at most {MOST}, or {BALANCE}"
    )


#: Generated images for each real one of a class; ``balance``: as many as the largest class has more.
Ratio = Annotated[float | Literal["balance"], BeforeValidator(_ratio)]

#: Images that are drawn together, and lie in one entry of the cache.
IMAGES_AT_ONCE = 16


def images_of_class(ratio: Ratio, real: int, largest: int) -> int:
    """Returns how many generated images of a class a ratio is: the nearest number, the larger of two.

    Args:
        real: Training images of the class; `largest`: of the class that has most.
    """
    return largest - real if ratio == BALANCE else int(float(ratio) * real + 0.5)


class GenerationConfig(Frozen):
    """Images of classes that a run draws when it has been judged. Noise follows from the run's seed, the class and the
    image's number alone, so that arms draw from the same noise, and more images begin with those of fewer.

    Attributes:
        prompts: Of each class that the run draws, by the class's name.
        images: How many of each of them.
        negative_prompt: For models with classifier-free guidance; None: the empty one.
        classes: Folder of the prepared data set (`trainables/evaluation/prepared_classes.py`) whose training images the
            drawn ones are compared with; no part of the run's identity.
    """

    prompts: dict[str, str] = Field(min_length=1)
    images: dict[str, Annotated[int, Field(ge=0, le=1_000_000)]]
    guidance_scale: float = Field(default=7.5, ge=0)
    num_inference_steps: int = Field(default=30, ge=1, le=1000)
    negative_prompt: str | None = None
    classes: str | None = None

    @field_validator("prompts")
    @classmethod
    def _prompts_say_something(cls, value: dict[str, str]) -> dict[str, str]:
        blank = [label for label, prompt in value.items() if is_blank(prompt)]
        if blank:
            raise ValueError(
                f"blank prompts of {', '.join(map(repr, blank))}; say what images of a class show"
            )
        return value

    @model_validator(mode="after")
    def _of_the_same_classes(self) -> Self:
        if set(self.images) != set(self.prompts):
            raise ValueError(
                f"images are counted of {sorted(self.images)}, and prompts are given of {sorted(self.prompts)}; "
                "name the same classes in both"
            )
        return self


class ImageFilter(Frozen):
    """Which generated images classifiers do not learn from.

    Attributes:
        kind: ``confidence``: those to whose class a classifier that learnt from the same real images alone gives less
            than `threshold`; ``near_copies``: those that nearly show a training image.
        threshold: Of ``confidence``.
    """

    kind: Literal["confidence", "near_copies"]
    threshold: float = Field(default=0.5, gt=0, lt=1)

    @model_validator(mode="before")
    @classmethod
    def _by_its_name(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _threshold_has_an_effect(self) -> Self:
        if self.kind != "confidence" and "threshold" in self.model_fields_set and self.threshold != 0.5:
            raise ValueError("threshold has no effect but with kind: confidence; leave it out")
        return self

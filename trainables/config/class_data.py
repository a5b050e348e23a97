"""Where images with classes come from, how they are split, and what prompts call the classes.

Nothing in this module imports torch.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from trainables.config.frozen import Frozen
from trainables.util.text import is_blank


class ClassDataConfig(Frozen):
    """A data set of a classifier.

    Attributes:
        path: A folder (docs/class-data-sets.md), or the name of a set that comes with the project.
        class_column, group_column, split_column: Of its metadata file; None: ``class``, ``group`` and ``split``.
        classes: In the order of their numbers; None: as people sort their names.
        train, validation, test: Shares of the images, where the folder gives no split.
        split_seed: Of the split and of what an imbalance keeps.
        imbalance: Fewer images to train on of a class: a number, or a share.
        near_copies: What is done about nearly the same picture in two parts; None: ``refuse``, but ``allow`` for sets
            that come with the project and need it.
        template: Of instance prompts, with ``{token}`` and ``{class}``; `class_template`: of class prompts.
        token: The rare word of instance prompts, of all classes or of each.
        words: What classes are called in prompts in place of their names.
    """

    path: str
    class_column: str | None = None
    group_column: str | None = None
    split_column: str | None = None
    classes: tuple[str, ...] | None = None
    train: float = 0.7
    validation: float = 0.15
    test: float = 0.15
    split_seed: int = Field(default=0, ge=0, lt=2**31)
    imbalance: dict[str, Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, le=1)]] = Field(
        default_factory=dict
    )
    near_copies: Literal["refuse", "together", "allow"] | None = None
    template: str = "photo of {token} {class}"
    class_template: str | None = None
    token: str | dict[str, str] = "sks"
    words: dict[str, str] = Field(default_factory=dict)

    @field_validator("path")
    @classmethod
    def _is_not_blank(cls, value: str) -> str:
        if is_blank(value):
            raise ValueError(
                f"{value!r} is blank; name a folder of images with classes, or a set that comes with the project"
            )
        return value

    @model_validator(mode="after")
    def _two_classes(self) -> Self:
        if self.classes is not None and (len(self.classes) < 2 or len(set(self.classes)) < len(self.classes)):
            raise ValueError(f"classes: at least 2 of different names, got {list(self.classes)}")
        return self

"""What methods with a placeholder token share: its fields, and the words by which they speak of a subject.

A subject's instance prompt names it by a rare word of the base model's ("a sks cat"), as DreamBooth needs it. Here a
word of the method's own takes its place in every prompt: in training, in evaluation, and where images are generated.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, PrivateAttr, field_validator, model_validator

from trainables.config.fields import TrainingConfig
from trainables.errors import UserError
from trainables.methods.prompt_templates import TEMPLATES
from trainables.methods.subject_words import SubjectWords, subject_words
from trainables.models.placeholders import placeholder_tokens, spread
from trainables.models.prompt_lengths import PromptReader
from trainables.util.text import is_blank

_MARKS = 2  # begin and end, which count among what a model reads


class PlaceholderConfig(TrainingConfig):
    """Fields of the placeholder, under the names of diffusers' scripts.

    Attributes:
        placeholder_token: The new word; must not be one of the base model's.
        num_vectors: Embeddings that stand for the subject, of which each takes a token of the prompt.
        initializer_token: Words whose embeddings they begin as, each a single token of the base model, spread over the
            vectors in their order (`trainables.models.placeholders.spread`). None: the last word of the class's noun
            (`trainables.methods.subject_words`).
        learnable_property: "object" and "style" train with the paper's sets of prompts (``prompt_templates.py``), from
            which every step draws one for each image; None with the instance prompt alone. Captions
            from files are what trains, so that there "style" alone makes a difference: the placeholder is then the
            name of a style, "a cartoon in the style of <sks>" for "a sks cartoon".
        keep_class_noun: Whether the noun stays beside the placeholder. False, as in the paper: "a <sks>" stands for "a
            sks cat"; True: "a <sks> cat".
    """

    TEACHES_A_WORD: ClassVar[bool] = True
    # Of the text encoders the placeholder's embeddings train and nothing else.
    UNREAD: ClassVar[tuple[str, ...]] = ("train_text_encoder", "text_encoder_learning_rate")
    NEEDS: ClassVar[dict[str, dict[str, tuple[Any, ...]]]] = {
        **TrainingConfig.NEEDS,
        "keep_class_noun": {"learnable_property": ("object", None)},
    }

    placeholder_token: str = Field(default="<sks>", max_length=64)
    num_vectors: int = Field(default=1, ge=1, le=512)
    initializer_token: str | None = None
    learnable_property: Literal["object", "style"] | None = "object"
    keep_class_noun: bool = False

    _instance: str = PrivateAttr("")  # the subject's instance prompt
    _replaced: str = PrivateAttr("")  # the words of it that stand for the subject
    _spoken: str = PrivateAttr("")  # what takes their place
    _noun: tuple[str, ...] = PrivateAttr(
        ()
    )  # of the class; where nothing is said, vectors begin as its last word
    _assumed: str = PrivateAttr("")  # the noun, where some of its words might be another thing's

    @field_validator("placeholder_token")
    @classmethod
    def _is_one_word(cls, value: str) -> str:
        if is_blank(value) or re.search(r"\s", value):
            raise ValueError(f"{value!r} must be one word without spaces, for example <my-cat>")
        if re.search(r"_\d+$", value):
            raise ValueError(f"{value!r} must not end with '_' and a number, which name further vectors")
        return value

    @field_validator("initializer_token")
    @classmethod
    def _has_words(cls, value: str | None) -> str | None:
        if value is not None and is_blank(value):
            raise ValueError(f"{value!r} has no word; write what the placeholder begins as, for example toy")
        return value

    @field_validator("train_text_encoder")
    @classmethod
    def _trains_no_text_encoder(cls, value: bool) -> bool:
        """What is not read stands in the records as what it comes to: nothing."""
        return False

    @property
    def added_words(self) -> tuple[str, ...]:
        """The tokens of the placeholder."""
        return placeholder_tokens(self.placeholder_token, self.num_vectors)

    @property
    def initial_texts(self) -> tuple[str, ...]:
        """What each vector begins as; after `for_subject`."""
        words = self.initializer_token.split() if self.initializer_token else self._noun[-1:]
        return spread(words, self.num_vectors)

    def for_subject(self, instance_prompt: str, class_prompt: str) -> Self:
        """See `TrainingConfig`: finds the words of the instance prompt in whose place the placeholder stands.

        Raises:
            UserError: They cannot be told, or what the vectors begin as cannot.
        """
        settled = self.model_copy()
        settled._instance = instance_prompt
        holds = self._holds_placeholder(instance_prompt)
        found = subject_words(instance_prompt, class_prompt, self.placeholder_token if holds else None)
        if not found.rare:
            raise UserError(
                f"instance_prompt {instance_prompt!r} and class_prompt {class_prompt!r}: the placeholder "
                f"{self.placeholder_token} takes the place of what the instance prompt alone has, which must stand in "
                f"one place, as in 'a sks cat' and 'a cat'; or write {self.placeholder_token} in the instance prompt"
            )
        style = self.learnable_property == "style"
        goes = found.follows and not holds and (style or not self.keep_class_noun)
        self._require_noun(found, goes, instance_prompt, class_prompt)
        settled._noun = found.noun or ()
        noun = settled._noun if goes else ()
        if holds:
            settled._replaced = settled._spoken = self.placeholder_token
        else:
            settled._replaced = " ".join([*found.rare, *noun])
            settled._spoken = self.placeholder_token
            if style:
                settled._spoken = " ".join([*noun, "in the style of", self.placeholder_token])
        read = goes or self.initializer_token is None
        settled._assumed = " ".join(settled._noun) if read and len(settled._noun) > 1 else ""
        return settled

    def _require_noun(self, found: SubjectWords, goes: bool, instance_prompt: str, class_prompt: str) -> None:
        """Refuses prompts that do not tell the class's noun, if it is asked for.

        Args:
            goes: The placeholder takes its place.
        """
        begins = self.initializer_token is None
        if found.noun is not None or not (goes or begins):
            return
        wanted = ["takes the place of"] * goes + ["begins as the last word of"] * begins
        remedy = ["keep_class_noun: true"] * goes + ["initializer_token (the class in one word)"] * begins
        if goes and self.learnable_property == "style":
            remedy[0] = f"{self.placeholder_token} in the instance prompt"
        raise UserError(
            f"instance_prompt {instance_prompt!r} and class_prompt {class_prompt!r}: which words name the class cannot "
            f"be told, and the placeholder {self.placeholder_token} {' and '.join(wanted)} them; let one word follow "
            f"the rare one, or several that end the prompt, as in 'a sks dog on grass' and 'a sks stuffed animal', or "
            f"write {' and '.join(remedy)}"
        )

    def reword(self, text: str) -> str:
        """See `TrainingConfig`; a text that holds the placeholder is left as it is."""
        if not self._replaced:
            raise ValueError("the words of the subject are not known; call for_subject first")
        if self._holds_placeholder(text):
            return text
        words = r"\s+".join(map(re.escape, self._replaced.split()))
        pattern = rf"(?<!\w){words}(?!\w)"
        if not re.search(pattern, text):
            raise UserError(
                f"{text!r} does not hold {self._replaced!r}, in whose place {self.placeholder_token} would stand; "
                f"write these words, or {self.placeholder_token}, in it"
            )
        return re.sub(pattern, lambda _: self._spoken, text)

    @property
    def subject_notes(self) -> tuple[str, ...]:
        """See `TrainingConfig`: the noun, where it has several words, of which some may be no part of it."""
        if not self._assumed:
            return ()
        said = [f"{self._assumed!r} is taken for the noun of the class"]
        if self._replaced.endswith(self._assumed):
            said.append(f"{self.placeholder_token} takes its place")
        if self.initializer_token is None:
            said.append(f"the placeholder begins as {self._noun[-1]!r}")
        return (
            f"{', '.join(said)}; if some of these words are no part of it, leave them out of the prompts",
        )

    def training_prompts(self, caption: str) -> tuple[str, ...]:
        """See `TrainingConfig`: all templates, or the caption."""
        text = self.reword(caption)
        if self.captions == "files" or self.learnable_property is None:
            return (text,)
        # Templates have an article, and words of their own for what stands before the placeholder.
        match = self._match(text)
        noun = text[match.start() :] if match else text
        if self.learnable_property == "style":
            noun = self.placeholder_token
        return tuple(template.replace("{}", noun) for template in TEMPLATES[self.learnable_property])

    def effective(self, varied: Collection[str] = ()) -> dict[str, Any]:
        """See `TrainingConfig`; where captions are files, no template of an object is read."""
        content = super().effective(varied)
        known = not {"captions", "learnable_property"} & set(varied)
        if known and self.captions == "files" and self.learnable_property != "style":
            content["learnable_property"] = None
        return content

    def _holds_placeholder(self, text: str) -> bool:
        return self._match(text) is not None

    def _match(self, text: str) -> re.Match[str] | None:
        return re.search(rf"(?<!\w){re.escape(self.placeholder_token)}(?!\w)", text)


class WordAndWeightsConfig(PlaceholderConfig):
    """Fields of methods that train weights of the denoiser, or adapters on it, beside a placeholder.

    The noun stays beside the placeholder by default, as a rare word stands before it in other methods; and the instance
    prompt alone is what trains, as there.

    Attributes:
        embedding_learning_rate: Of the placeholder's embeddings; None: `learning_rate`. They have no weight decay.
    """

    placeholder_token: str = Field(default="<sks>", max_length=64)
    learnable_property: Literal["object", "style"] | None = None
    keep_class_noun: bool = True
    embedding_learning_rate: float | None = Field(default=None, gt=0, le=10)

    @model_validator(mode="after")
    def _one_rate_for_prodigy(self) -> Self:
        own = self.embedding_learning_rate
        if self.optimizer == "prodigy" and own not in (None, self.learning_rate):
            raise ValueError(
                f"embedding_learning_rate ({own:g}) differs from learning_rate ({self.learning_rate:g}), and "
                "optimizer: prodigy estimates one rate for all; take optimizer: adamw, or embedding_learning_rate: null"
            )
        return self

    @property
    def rate_of_embeddings(self) -> float:
        """`embedding_learning_rate`, or `learning_rate` where it is None."""
        return self.embedding_learning_rate or self.learning_rate

    def effective(self, varied: Collection[str] = ()) -> dict[str, Any]:
        """See `TrainingConfig`; a rate of the embeddings that is not stated is that of the weights."""
        content = super().effective(varied)
        rate = "embedding_learning_rate"
        if rate in content and content[rate] is None and "learning_rate" not in varied:
            content[rate] = self.learning_rate
        return content


def word_problems(config: PlaceholderConfig, readers: Iterable[PromptReader], model: str) -> list[str]:
    """Returns what keeps a model from taking a placeholder, one message a problem.

    Args:
        config: After `for_subject` its training prompts are looked at too.
        readers: Of each of the model's tokenizers.
        model: As the user names it.
    """
    problems: list[str] = []
    for reader in readers:
        known = [word for word in config.added_words if len(reader.ids(word)) == 1]
        if known:
            problems.append(
                f"placeholder_token: {', '.join(map(repr, known))} is a token of {model!r} already; take a word that "
                "is none, for example <my-cat>"
            )
        small = config.placeholder_token.lower()
        if (
            config.num_vectors > 1
            and small != config.placeholder_token
            and reader.ids("A") == reader.ids("a")
        ):
            problems.append(
                f"placeholder_token: {config.placeholder_token!r} has capital letters, which {model!r} reads as small "
                f"ones, so that other programs would draw with the first of its {config.num_vectors} vectors alone; "
                f"take {small!r}"
            )
        for word in (config.initializer_token or "").split():
            count = len(reader.ids(word))
            if count != 1:
                problems.append(
                    f"initializer_token: {word!r} is {count} tokens of {model!r}, and a vector begins as one; take "
                    "another word, or several words that are one token each"
                )
        problems += _length_problems(config, reader, model)
    return list(dict.fromkeys(problems))


def _length_problems(config: PlaceholderConfig, reader: PromptReader, model: str) -> list[str]:
    most = reader.limit - _MARKS
    if config.num_vectors > most:
        return [
            f"num_vectors: {config.num_vectors} vectors are as many tokens, and {model!r} reads {reader.limit}, begin "
            f"and end among them; take {most} at most, and fewer for the other words of the prompts"
        ]
    if not config._instance or config.captions == "files":  # captions are looked at by themselves
        return []
    instead = ", or learnable_property: null, which trains with the instance prompt alone"
    for prompt in config.training_prompts(config._instance):
        rest = len(reader.ids(prompt.replace(config.placeholder_token, " ")))
        if rest + config.num_vectors > most:
            return [
                f"num_vectors: the training prompt {prompt!r} has {rest + config.num_vectors + _MARKS} tokens with "
                f"{config.num_vectors} vectors, and {model!r} reads {reader.limit}, begin and end among them; take "
                f"fewer vectors{instead if config.learnable_property else ''}"
            ]
    return []

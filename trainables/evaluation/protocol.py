"""Which images an evaluation draws: prompts, noise and solver, fixed by the study, the subject and the run's seed.

Nothing here depends on the run's method, so that all arms on a subject with a seed are judged on the same prompts
with the same noise. Another seed or another subject has other noise: a lucky draw that they shared would be taken for
an effect, and a search would tune on the noise that the verdict is reached with. What the scales are anchored at has
noise of its own, fixed by the study and the set of prompts, so that it is drawn once for all subjects of a class, and
so that search and confirm share none of it, not even for the class prompt alone, which both of them draw.

Of a data set the prompts are held-out captions. With the trigger in front they ask for the data set; without it they
are its class prompts, which tell what the model has kept. A data set without a trigger has no such words: then class
prompts are a general list. The class prompt alone, which is empty, is never drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from trainables.config.fields import IMAGES_AT_OTHER_STEPS, EvaluationConfig, images_on_the_way
from trainables.data.subjects import Subject
from trainables.evaluation.held_out_captions import asked_of
from trainables.evaluation.prompts import evaluation_templates, fill, general_prompts
from trainables.models.sampling import image_seed
from trainables.randomness import stream_seed


@dataclass(frozen=True)
class Draw:
    """Images to draw; the four tuples have one entry an image.

    Attributes:
        prompts: What is drawn.
        groups: Number of the prompt, so that images of one prompt can be found.
        numbers: Of the image within its prompt: 0, 1, ...
        seeds: Of the noise.
    """

    prompts: tuple[str, ...]
    groups: tuple[int, ...]
    numbers: tuple[int, ...]
    seeds: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompts)

    def __add__(self, other: Draw) -> Draw:
        return Draw(
            self.prompts + other.prompts,
            self.groups + other.groups,
            self.numbers + other.numbers,
            self.seeds + other.seeds,
        )

    def chosen(self, indices: Sequence[int]) -> Draw:
        """Returns some of the images, in the order of `indices`."""
        return Draw(
            tuple(self.prompts[index] for index in indices),
            tuple(self.groups[index] for index in indices),
            tuple(self.numbers[index] for index in indices),
            tuple(self.seeds[index] for index in indices),
        )

    def first(self, count: int) -> tuple[int, ...]:
        """Returns where `count` images stand: the first of each prompt before second ones, in this draw's order.

        Fewer images than prompts are of prompts at equal distances in the list, whose neighbours are alike.
        """
        ranked = sorted(range(len(self)), key=lambda index: (self.numbers[index], self.groups[index]))
        prompts = len(set(self.groups))
        if count < prompts:
            ranked = [ranked[index * prompts // count] for index in range(count)]
        return tuple(sorted(ranked[:count]))


@dataclass(frozen=True)
class Part:
    """What one evaluation draws of a protocol: where its images stand in `Protocol.instance` and `Protocol.classes`."""

    instance: tuple[int, ...]
    classes: tuple[int, ...]


@dataclass(frozen=True)
class Protocol:
    """Everything that fixes the images of an evaluation.

    Attributes:
        templates: With ``{subject}``.
        texts: Templates with the class in the subject's place, which images are compared with: the rare token
            means nothing to a CLIP that has never seen it.
        instance: The templates with the subject, several images each.
        classes: The class prompt alone (group 0), then the templates with the class (group 1 for template 0), in turn:
            for what the class has kept, for drift, and for distances of distributions.
        anchors: The same prompts as `classes`, at least `anchor_images` of the templates and as many of the class
            prompt alone as of each, with noise of the study and the set of prompts alone. The base model's images
            of them are where the scales begin, and the reference of distances of distributions, because images that
            share their noise are not independent samples.
        num_inference_steps: Solver steps.
        guidance_scale: Of classifier-free guidance.
        resolution: Side in pixels.
        images_between: Of `instance`, at evaluations on the way; None: all.
        characters: Of a data set: whom each template is about, empty where nobody is named. No entry for a subject.
        general: Of a data set without a trigger: its class prompts, groups len(templates) + 1 and on of `classes`.
            `anchors` then has the captions, which are the templates' groups, and these.
    """

    templates: tuple[str, ...]
    texts: tuple[str, ...]
    instance: Draw
    classes: Draw
    anchors: Draw
    num_inference_steps: int
    guidance_scale: float
    resolution: int
    images_between: int | None = None
    characters: tuple[str, ...] = ()
    general: tuple[str, ...] = ()

    @property
    def class_templates(self) -> tuple[str, ...]:
        """What class images are of, by the number of their group: 0, the class prompt alone, and on."""
        return ("{subject}", *self.templates, *self.general)

    @property
    def class_groups(self) -> tuple[int, ...]:
        """Groups of which class images can be."""
        if not self.characters:
            return tuple(range(len(self.class_templates)))
        first = len(self.templates) + 1 if self.general else 1
        return tuple(range(first, len(self.class_templates)))

    @property
    def beside(self) -> Draw:
        """The first image of each prompt, which grids show of the base model beside the tuned one's."""
        return self.instance.chosen(self.instance.first(len(self.templates)))

    @property
    def at_other_steps(self) -> Draw:
        """The first images of each prompt, as many of each, which are drawn at other numbers of solver steps too."""
        numbers = enumerate(self.instance.numbers)
        return self.instance.chosen([index for index, number in numbers if number < IMAGES_AT_OTHER_STEPS])

    def part(self, *, final: bool) -> Part:
        """Returns what an evaluation draws: everything at the end, on the way as many as `images_on_the_way` says.

        Both take the first image of every prompt before any second one. With fewer images than prompts they are of some
        prompts, one each, and the scales are those of these prompts (`AnchorTable.of`).
        """
        count, classes = len(self.instance), len(self.classes)
        if not final:
            count, classes = images_on_the_way(count, classes, self.images_between)
        return Part(self.instance.first(count), self.classes.first(classes))

    def spoken_of(self, instance_prompt: str) -> Protocol:
        """Returns the protocol with other words for the subject: those by which a method has taught it."""
        prompts = tuple(fill(self.templates[group], instance_prompt) for group in self.instance.groups)
        return replace(self, instance=replace(self.instance, prompts=prompts))

    def identity(self, draw: Draw) -> dict[str, Any]:
        """Everything that determines a draw, beside the model, as JSON values."""
        return {
            "prompts": list(draw.prompts),
            "seeds": list(draw.seeds),
            "num_inference_steps": self.num_inference_steps,
            "guidance_scale": self.guidance_scale,
            "resolution": self.resolution,
        }

    def provenance(self) -> dict[str, Any]:
        """What a report says about the protocol."""
        return {
            "templates": list(self.templates),
            "images": len(self.instance),
            "images_between": len(self.part(final=False).instance),
            "class_images": len(self.classes),
            "anchor_images": len(self.anchors),
            "solver": "DPM-Solver++(2M)",
            "num_inference_steps": self.num_inference_steps,
            "guidance_scale": self.guidance_scale,
            "resolution": self.resolution,
            **(
                {"characters": list(self.characters), "general": list(self.general)}
                if self.characters
                else {}
            ),
        }


def make_protocol(
    subject: Subject, config: EvaluationConfig, resolution: int, seed: int, stream: str = "evaluation"
) -> Protocol:
    """Returns the protocol of a run on a subject under a study's evaluation settings.

    Args:
        resolution: Side of the images in pixels.
        seed: Of the run.
        stream: Of the noise of its images; that of anchors hangs on the set of prompts alone.
    """
    if subject.is_data_set:
        return _of_data_set(subject, config, resolution, seed, stream)
    templates = evaluation_templates(subject, config)
    texts = tuple(fill(template, subject.class_prompt) for template in templates)
    class_prompts = (subject.class_prompt, *texts)
    noise = _noise(subject, config, seed, stream)
    anchors_each = _each(config, templates)
    return Protocol(
        templates=templates,
        texts=texts,
        instance=_instance(subject, templates, config, noise),
        classes=_draw(class_prompts, config.num_class_images, noise, "class"),
        anchors=_draw(class_prompts, anchors_each * len(class_prompts), _anchor_noise(config), "anchor"),
        **_settings(config, resolution),
    )


def _of_data_set(
    subject: Subject, config: EvaluationConfig, resolution: int, seed: int, stream: str
) -> Protocol:
    asked = asked_of(subject, config)
    templates, captions = tuple(one.template for one in asked), tuple(one.caption for one in asked)
    noise, anchor_noise = _noise(subject, config, seed, stream), _anchor_noise(config)
    anchors = _draw(captions, _each(config, captions) * len(captions), anchor_noise, "anchor", first=1)
    general: tuple[str, ...] = ()
    of_class, first = captions, 1
    if not subject.instance_prompt:
        of_class, first = general_prompts(subject, config), len(captions) + 1
        general = of_class
        anchors += _draw(general, _each(config, general) * len(general), anchor_noise, "anchor", first=first)
    classes = _draw(of_class, max(config.num_class_images, len(of_class)), noise, "class", first=first)
    return Protocol(
        templates=templates,
        texts=captions,
        instance=_instance(subject, templates, config, noise),
        classes=classes.chosen(classes.first(config.num_class_images)),  # few are of captions far apart
        anchors=anchors,
        characters=tuple(one.character for one in asked),
        general=general,
        **_settings(config, resolution),
    )


def _settings(config: EvaluationConfig, resolution: int) -> dict[str, Any]:
    return {
        "num_inference_steps": config.num_inference_steps,
        "guidance_scale": config.guidance_scale,
        "resolution": resolution,
        "images_between": config.images_between,
    }


def _noise(subject: Subject, config: EvaluationConfig, seed: int, stream: str) -> int:
    return stream_seed(config.seed, f"{stream}/{subject.name}/{seed}")


def _anchor_noise(config: EvaluationConfig) -> int:
    return stream_seed(config.seed, f"anchors/{config.prompt_set}")


def _each(config: EvaluationConfig, prompts: Sequence[str]) -> int:
    """Anchor images of each prompt."""
    return -(-config.anchor_images // len(prompts))


def _instance(subject: Subject, templates: Sequence[str], config: EvaluationConfig, noise: int) -> Draw:
    prompts = tuple(fill(template, subject.instance_prompt) for template in templates)
    return _draw(prompts, config.images_per_prompt * len(prompts), noise, "instance")


def _draw(prompts: tuple[str, ...], count: int, seed: int, purpose: str, first: int = 0) -> Draw:
    """`count` images of the prompts in turn, grouped by prompt, so that a prefix of prompts keeps its
    noise.

    Args:
        first: Number of the first prompt's group.
    """
    pairs = sorted((number % len(prompts), number // len(prompts)) for number in range(count))
    return Draw(
        prompts=tuple(prompts[prompt] for prompt, _ in pairs),
        groups=tuple(first + prompt for prompt, _ in pairs),
        numbers=tuple(number for _, number in pairs),
        seeds=tuple(image_seed(seed, purpose, first + prompt, image) for prompt, image in pairs),
    )

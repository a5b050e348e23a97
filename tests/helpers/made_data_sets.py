"""A captioned cast of the sprite world as a data set, and a model that draws it by looking its pictures up."""

from __future__ import annotations

from typing import ClassVar

from PIL import Image

from trainables.data.subjects import Subject
from trainables.embedded import load_subject
from trainables.embedded.subjects import evaluation_prompts
from trainables.embedded.world import CLASSES
from trainables.evaluation.prompts import fill
from trainables.models.backbone import Backbone

TRIGGER = "ink style, "
CAST = {"momo": "cat-1", "bibi": "frog-2", "tutu": "dog-3"}  # identities that pre-training never drew
SCENES = [
    template.removeprefix("{subject} ") for template in (*evaluation_prompts(), *evaluation_prompts("search"))
]


def data_set(trigger: str = TRIGGER, characters: bool = True, each: int = 24) -> Subject:
    """A cast whose held-out pictures are the renderer's own, one for each caption."""
    captions, who, pictures = [], [], []
    for name, identity in CAST.items():
        found = load_subject(identity)
        templates = [*evaluation_prompts(), *evaluation_prompts("search")][:each]
        drawn = found.perfect_images(templates)
        assert drawn is not None
        pictures += drawn[::2]
        captions += [fill(template, f"{name} the {found.class_name}") for template in templates]
        who += [name] * len(templates)
    training = [image for identity in CAST.values() for image in load_subject(identity).training_images()]
    return Subject(
        name="cast",
        instance_prompt=trigger,
        class_prompt="",
        images=tuple(training),
        captions=tuple(f"{trigger}a picture" for _ in training),
        references=tuple(pictures),
        is_data_set=True,
        reference_captions=tuple(trigger + caption for caption in captions),
        characters=tuple(name for name in CAST for _ in range(5)) if characters else (),
        reference_characters=tuple(who) if characters else (),
    )


class Pictures:
    """What a model draws, in the place of sampling: a picture for each prompt, by its words."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.real = dict(zip(subject.reference_captions, subject.references, strict=True))
        self.shift: dict[str, str] = {}  # whose picture is drawn in the place of whose
        self.learnt = False
        self.calls = 0

    def __call__(self, backbone: Backbone, prompts: tuple[str, ...], **_: object) -> list[Image.Image]:
        return [self.draw(prompt) for prompt in prompts]

    def draw(self, prompt: str) -> Image.Image:
        trigger = self.subject.instance_prompt
        asked = bool(trigger) and prompt.startswith(trigger)
        if self.learnt and (asked or (not trigger and prompt in self.real)):
            who = prompt.removeprefix(trigger).split()[0]
            other = self.shift.get(who, who)
            return self.real[self._renamed(prompt, who, other)]
        return self.other(prompt.removeprefix(trigger))

    def _renamed(self, prompt: str, who: str, other: str) -> str:
        words = {name: f"{name} the {load_subject(own).class_name}" for name, own in CAST.items()}
        return prompt.replace(words[who], words[other])

    def other(self, caption: str) -> Image.Image:
        """A creature of the class, and none of the cast: another one at every call, as from other noise."""
        self.calls += 1
        kind = next(word for word in caption.split() if word in CLASSES)
        scene = caption.partition(f" {kind}")[2].strip()
        template = f"{{subject}} {scene}".strip()
        number = 4 + self.calls % 8
        drawn = load_subject(f"{kind}-{number}").perfect_images([template])
        assert drawn is not None
        return drawn[self.calls % 2]


class FakeBackbone:
    """What an evaluation asks of a model beside its pictures."""

    modules: ClassVar[dict[str, object]] = {}
    device = type("Device", (), {"type": "cpu"})

    def digest(self) -> str:
        return "none"

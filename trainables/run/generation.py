"""The images that a run draws for classifiers when it has been judged: class by class, in entries of the cache.

An image depends on the weights, the prompt, the run's seed, its class and its own number alone, so that more images
begin with those of fewer. As of class images, what drawing took is kept beside them, and whoever finds them is charged
as much as whoever drew them.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from trainables.config.fields import TrainingConfig
from trainables.config.generation import IMAGES_AT_ONCE, GenerationConfig
from trainables.data.cache import Cache, Tensors
from trainables.data.generated_images import pack_pictures, read_entry
from trainables.data.images import list_images, read_image, square
from trainables.data.subjects import Subject
from trainables.errors import UserError
from trainables.evaluation.checked_classes import check_classes, training_files
from trainables.evaluation.encoders import ImageEncoder, MetricModels
from trainables.evaluation.generated_classes import measure_class
from trainables.evaluation.grids import GridRow, draw_grid
from trainables.evaluation.prepared_classes import PreparedClasses, folder_names, prepared_at
from trainables.events import GENERATED, SAMPLES, WEIGHTS, Event, EventLog, read_events
from trainables.methods.registry import get_method
from trainables.models.backbone import Backbone
from trainables.models.prompt_lengths import memory_reader
from trainables.models.sampling import generate
from trainables.randomness import stream_seed
from trainables.run.generation_checks import cut_prompts, negative_prompt_problems, prompts_drawn
from trainables.run_config import RunConfig
from trainables.training.class_images import count_drawing
from trainables.training.meter import Meter, device_name
from trainables.util.files import sha256_of

_VERSION = 1  # of the entries
_KIND = "generated"  # folder of the cache, and phase
_COLUMNS = 8  # images in a row of a picture


@dataclass(frozen=True)
class Drawn:
    """Images of a class.

    Attributes:
        entries: Names of the entries below the cache's folder.
        seconds: Of drawing them, by whoever did; likewise `flops`. Of an entry of which not all are taken, the part.
    """

    entries: tuple[str, ...] = ()
    images: tuple[Image.Image, ...] = ()
    seconds: float = 0.0
    flops: int = 0

    def __add__(self, other: Drawn) -> Drawn:
        return Drawn(
            self.entries + other.entries,
            self.images + other.images,
            self.seconds + other.seconds,
            self.flops + other.flops,
        )


@dataclass(frozen=True)
class Generation:
    """Draws the images of a run; made by `prepare_generation`.

    Attributes:
        settings: What is drawn.
        prompts: Of each class, in the words that the method has taught.
        prepared: The data set whose training images they are compared with; None: they are compared with none.
        batch_size: Images at a time.
    """

    settings: GenerationConfig
    config: RunConfig
    prompts: Mapping[str, str]
    backbone: Backbone
    encoder: ImageEncoder
    cache: Cache
    prepared: PreparedClasses | None
    resolution: int
    batch_size: int

    def draw(self, log: EventLog, step: int, meter: Meter, facts: dict[str, Any]) -> Iterator[Event]:
        """Draws and measures each class with the model as it is now, whose weights have been saved.

        What an earlier attempt has recorded of the same images is not measured again.

        Args:
            facts: Are given ``generate_seconds`` and ``generate_flops``.
        """
        folder = Path(self.config.output_dir)
        told = {event.data["label"]: event.data for event in read_events(folder) if event.kind == _KIND}
        yield log.append("phase", step, name="generate")
        with meter.measure("generate"):
            weights = weights_digest(self.config)
        seconds, flops = 0.0, 0
        for label in self.prompts:
            drawn = Drawn()
            for start in range(0, self.settings.images[label], IMAGES_AT_ONCE):
                with meter.measure("generate"):
                    drawn += self._drawn(label, weights, start)
                # Whoever waits for the run hears of it, and may stop it here.
                yield log.append("phase", step, name="generate", label=label, images=len(drawn.images))
            seconds, flops = seconds + drawn.seconds, flops + drawn.flops
            before = told.get(label, {})
            if before.get("entries") == list(drawn.entries) and before.get("images") == len(drawn.images):
                continue
            with meter.measure("evaluate"):
                real = self._real_images(label)
                measures = measure_class(
                    label, drawn.images, real, self.encoder, self.prepared.source if self.prepared else None
                )
                picture = self._picture(label, drawn.images, real, folder, step)
            if picture is not None:
                yield log.append("image", step, key=f"{GENERATED}{self._name(label)}", path=picture)
            yield log.append(
                "generated",
                step,
                label=label,
                name=self._name(label),
                prompt=self.prompts[label],
                entries=list(drawn.entries),
                images=len(drawn.images),
                seconds=drawn.seconds,
                flops=drawn.flops,
                **measures,
            )
        facts |= {"generate_seconds": seconds, "generate_flops": flops}

    def _drawn(self, label: str, weights: str, start: int) -> Drawn:
        """Returns the images of one entry that are asked for, from the cache where they have been drawn.

        Entries are always whole, so that asking for more images reuses those that are there.

        Args:
            weights: Names those of the model, see `weights_digest`.
            start: Number of the entry's first image.
        """
        identity = self._identity(label, weights, start)
        found = self.cache.tensors(_KIND, identity, partial(self._entry, label, start))
        name = str(self.cache.path(_KIND, identity).relative_to(self.cache.folder))
        taken = min(IMAGES_AT_ONCE, self.settings.images[label] - start)
        return Drawn(
            (name,),
            tuple(read_entry(self.cache, name)[:taken]),
            float(found["seconds"]) * taken / IMAGES_AT_ONCE,
            int(found["flops"]) * taken // IMAGES_AT_ONCE,
        )

    def _identity(self, label: str, weights: str, start: int) -> dict[str, Any]:
        prompt, negative = self.prompts[label], self.settings.negative_prompt
        return {
            "version": _VERSION,
            "weights": weights,
            "model": self.backbone.digest(prompts=[prompt, negative or ""]),
            "prompt": prompt,
            "negative_prompt": negative,
            "steps": self.settings.num_inference_steps,
            "guidance": self.settings.guidance_scale,
            "resolution": self.resolution,
            "seed": self.config.seed,
            "label": label,
            "start": start,
            "count": IMAGES_AT_ONCE,
            "batch": self.batch_size,  # by which images differ by rounding
            # Their seconds are charged, and are those of this device.
            "device": device_name(self.backbone.device),
        }

    def _entry(self, label: str, start: int) -> Tensors:
        prompt, steps = self.prompts[label], self.settings.num_inference_steps
        stream = f"generated/{self.config.seed}/{label}"

        def draw(count: int, steps: int) -> list[Image.Image]:
            return generate(
                self.backbone,
                [prompt] * count,
                seeds=[stream_seed(index, stream) for index in range(start, start + count)],
                num_inference_steps=steps,
                guidance_scale=self.settings.guidance_scale,
                batch_size=self.batch_size,
                resolution=self.resolution,
                negative_prompt=self.settings.negative_prompt,
            )

        begin = time.perf_counter()
        made = draw(IMAGES_AT_ONCE, steps)
        seconds = time.perf_counter() - begin
        texts = list(dict.fromkeys([self.settings.negative_prompt or "", prompt]))
        flops = count_drawing(self.backbone, texts, draw, steps, IMAGES_AT_ONCE)
        return {
            **pack_pictures(made),
            "seconds": torch.tensor(seconds, dtype=torch.float64),
            "flops": torch.tensor(flops, dtype=torch.int64),
        }

    def _real_images(self, label: str) -> list[Image.Image]:
        """The training images of a class, and no others: held-out ones are opened by `check_classes` alone."""
        if self.prepared is None:
            return []
        return [read_image(path) for path in list_images(self.prepared.images_of("train", label))[0]]

    def _name(self, label: str) -> str:
        """A class as file names and keys of pictures say it."""
        names = self.prepared.names if self.prepared is not None else folder_names(tuple(self.prompts))
        return names[label]

    def _picture(
        self, label: str, images: Sequence[Image.Image], real: Sequence[Image.Image], folder: Path, step: int
    ) -> str | None:
        """Draws real training images above generated ones; returns the file below the run's folder."""
        if not images:
            return None
        rows = [
            GridRow(caption, tuple(square(image, self.resolution) for image in shown[:_COLUMNS]))
            for caption, shown in (("real, trained on", real), ("generated", images))
            if shown
        ]
        path = folder / SAMPLES / f"generated-{self._name(label)}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        draw_grid(rows, f"{label}, step {step}").save(path)
        return f"{SAMPLES}/{path.name}"


def prepare_generation(
    config: RunConfig,
    training: TrainingConfig,
    subject: Subject,
    backbone: Backbone,
    models: MetricModels,
    cache: Cache,
) -> Generation | None:
    """Returns what draws a run's images for classifiers; None if it is to draw none.

    Args:
        training: Settled for the subject: it says by which words the method asks for it (`prompts_drawn`).

    Raises:
        UserError: Prompts do not name the subject or are too long for the model, the negative prompt has no effect, or
            the prepared data set is not there, has other classes or other files than when it was split, or has
            held-out images that are trained on. Nothing has been trained yet.
    """
    settings = config.generation
    if settings is None:
        return None
    negative = settings.negative_prompt
    problems = negative_prompt_problems(negative, settings.guidance_scale, backbone.family, "generation")
    prepared = None
    if settings.classes is not None:
        prepared, wrong = _checked_classes(settings, config)
        problems += wrong
    prompts, wrong = prompts_drawn(
        settings, config.method, training, subject.instance_prompt, subject.class_prompt
    )
    reader = memory_reader(backbone.prompt_tokenizer)
    read = [*prompts.values(), negative or ""]
    problems += [*wrong, *cut_prompts(read, training, reader, config.model.path)]
    if problems:
        raise UserError(*problems)
    return Generation(
        settings,
        config,
        prompts,
        backbone,
        models.image_encoder,
        cache,
        prepared,
        config.training.resolution or backbone.resolution,
        min(IMAGES_AT_ONCE, config.evaluation.batch_size),
    )


def _checked_classes(
    settings: GenerationConfig, config: RunConfig
) -> tuple[PreparedClasses | None, list[str]]:
    """The data set whose classes are drawn, and what is wrong with it, or with what is trained on of it."""
    try:
        prepared = prepared_at(Path(settings.classes or ""))
        check_classes(prepared, training_files(config.subject.folders))
    except UserError as error:
        return None, list(error.problems)
    unknown = sorted(set(settings.prompts) - set(prepared.classes))
    if not unknown:
        return prepared, []
    return prepared, [
        f"generation: {prepared.folder} has no class {', '.join(map(repr, unknown))}; there are "
        f"{', '.join(prepared.classes)}"
    ]


def weights_digest(config: RunConfig) -> str:
    """Returns the hex SHA-256 of what a run has saved, or put on the base model; of that itself it is a constant."""
    digest = hashlib.sha256()
    if not get_method(config.method).trains:
        installed = getattr(get_method(config.method), "install", None) is not None
        said = config.training.effective() if installed else {}
        digest.update(json.dumps(said, sort_keys=True, default=str).encode())
        return digest.hexdigest()
    folder = Path(config.output_dir) / WEIGHTS
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()} {sha256_of(path)}\n".encode())
    return digest.hexdigest()

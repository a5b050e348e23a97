"""What one run of a classifier is: data set, generated images, training and seed, and the digest that tells runs apart.

It has the fields that every run has (`trainables.run_config.RunConfig`), so that whoever places, resumes and records
runs need not know which kind one is.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal, Self, TypeVar

from pydantic import Field, model_validator

from trainables.config.classifiers import ClassifierConfig
from trainables.config.fields import REVISION
from trainables.config.frozen import Frozen
from trainables.config.generation import ImageFilter, Ratio
from trainables.run_config import WITHOUT_EFFECT, RunConfig

CLASSIFIER: Literal["classifier"] = "classifier"


class GeneratedEntries(Frozen):
    """Images of one class that a run has drawn.

    Attributes:
        run: The generator's run, e.g. ``confirm/lora/0000-score-1-s0``.
        label: The class.
        entries: Names of entries in the cache, below its folder, in order (`trainables/run/generation.py`).
        images: How many of their images were asked for: an entry may hold more.
        missing: Why there are none, where the generator's run has failed: then the classifier's run fails too.
    """

    run: str
    label: str
    entries: tuple[str, ...] = ()
    images: int = Field(default=0, ge=0)
    missing: str | None = None


class ClassifierRunConfig(Frozen):
    """One training of one classifier on one set of images with one seed.

    Attributes:
        method: Always ``classifier``; tells it from a run that fine-tunes a model.
        data: A prepared data set (`trainables/evaluation/prepared_classes.py`): a folder with ``train``,
            ``validation``, ``test`` and ``left_out``.
        resolution: Side in pixels of what the classifier sees.
        source: What it learns from, in words: ``real``, ``augmented``, ``repeated``, ``real-50pct``,
            ``lora-x1``, ``lora-only``, ...
        real_share: Share of the real images for training that it may learn from, `left_out` ones included if it is
            above 1 (a learning curve of real images); 0: none, for generated images alone.
        generator: The arm that drew the generated images; None without any. Likewise `generator_seed`.
        generated: Where they lie.
        ratio: How many of them are taken of each class.
        filter: Which of them are left out.
        judged: Whether test images are looked at: not in runs of a search.
        training: With `generated_probability` as it is drawn by, unless it is `proportional`.
        proportional: The chance of each draw to be a generated image is the share of these among all images, which is
            known when filters have left some out.
        cpu_threads, gpu_share, output_dir, cache_dir, path_map: As of `RunConfig`.
        contents: ``data`` -> hex SHA-256 of what lies in the prepared folder, ``weights`` -> of the files that training
            starts from (`trainables/downstream/contents.py`).
    """

    method: Literal["classifier"] = CLASSIFIER
    data: str
    resolution: int = Field(ge=8)
    source: str
    real_share: float = Field(default=1.0, ge=0)
    generator: str | None = None
    generator_seed: int | None = None
    generated: tuple[GeneratedEntries, ...] = ()
    ratio: Ratio | None = None
    filter: ImageFilter | None = None
    proportional: bool = False
    judged: bool = True
    training: ClassifierConfig
    seed: int = Field(default=0, ge=0)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    cpu_threads: int = Field(default=1, ge=1)
    gpu_share: float = Field(default=1.0, gt=0, le=1)
    output_dir: str
    cache_dir: str
    path_map: dict[str, str] = Field(default_factory=dict)
    contents: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _generated_images_are_told(self) -> Self:
        if bool(self.generated) != (self.ratio is not None):
            raise ValueError("a ratio and generated images go together: give both, or neither")
        if self.filter is not None and not self.generated:
            raise ValueError("a filter has no effect without generated images; leave it out")
        if self.proportional and not self.generated:
            raise ValueError("proportional has no effect without generated images; leave it out")
        if not self.real_share and not self.generated:
            raise ValueError("real_share: 0 leaves nothing to learn from; name generated images too")
        if not self.real_share and self.training.generated_probability < 1 and not self.proportional:
            raise ValueError("real_share: 0 learns from generated images alone; set generated_probability: 1")
        return self

    def digest(self) -> str:
        """Returns the hex SHA-256 of everything in it that can change the result.

        Folders, threads and devices are left out; of data set and weights their content counts, not their paths.
        """
        content: dict[str, Any] = self.model_dump(mode="json", exclude=set(WITHOUT_EFFECT))
        if "data" in self.contents:
            content["data"] = None
        if not self.contents.get("weights", REVISION).startswith(REVISION):
            content["training"]["weights"] = None  # a hub's id means the same everywhere
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def comes_to(self) -> str:
        """As `RunConfig.comes_to`: the digest."""
        return self.digest()


AnyRunConfig = RunConfig | ClassifierRunConfig
Config = TypeVar("Config", RunConfig, ClassifierRunConfig)


def parse_run_config(text: str) -> AnyRunConfig:
    """Returns the configuration of a run of either kind from its JSON, as in ``run.json``.

    Raises:
        ValueError: It is none.
    """
    content = json.loads(text)
    is_classifier = isinstance(content, dict) and content.get("method") == CLASSIFIER
    kind = ClassifierRunConfig if is_classifier else RunConfig
    return kind.model_validate_json(text)

"""What one run is: method, model, subject, training, evaluation and seed, and the digest that tells runs apart."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import (
    AliasChoices,
    Field,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
)

from trainables.config.fields import (
    EMBEDDED,
    REVISION,
    EvaluationConfig,
    Frozen,
    ModelConfig,
    SubjectConfig,
    TrainingConfig,
)
from trainables.config.frozen import without
from trainables.config.generation import GenerationConfig
from trainables.config.training import AS_BEFORE
from trainables.errors import UserError
from trainables.evaluation.metrics_table import unfit_choice
from trainables.methods.registry import method_config_class

_PATH_MAP_BEFORE = "located"  # what earlier versions called `RunConfig.path_map` in the records of runs


class RunConfig(Frozen):
    """One training of one configuration on one subject with one seed.

    Attributes:
        method: A name of ``trainables.methods.registry``.
        training: The method's configuration; validated by the method's own class.
        generation: Images for classifiers that it draws when it has been judged; None: none.
        seed: From which every random stream of the run is derived (``trainables/randomness.py``).
        device: ``auto`` takes CUDA where there is one.
        cpu_threads: Threads of torch on the CPU.
        gpu_share: Of its GPU that the run holds; energy is that of a whole one, or not known.
        output_dir: The run's folder: events, checkpoint, weights, samples, result.
        cache_dir: Content-addressed cache shared by runs.
        path_map: Named folder (of images, of a model) -> where it lies, if not under that name. No part of the run's
            identity.
        contents: What lies in the folders that it names: field -> hex SHA-256 (see ``trainables/run/contents.py``). It
            takes their paths' place in the identity.
    """

    method: str
    model: ModelConfig = ModelConfig()
    subject: SubjectConfig
    training: SerializeAsAny[TrainingConfig] = Field(default_factory=TrainingConfig, validate_default=True)
    evaluation: EvaluationConfig = EvaluationConfig()
    generation: GenerationConfig | None = None
    seed: int = Field(default=0, ge=0)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    cpu_threads: int = Field(default=1, ge=1)
    gpu_share: float = Field(default=1.0, gt=0, le=1)
    output_dir: str
    cache_dir: str
    path_map: dict[str, str] = Field(
        default_factory=dict, validation_alias=AliasChoices("path_map", _PATH_MAP_BEFORE)
    )
    contents: dict[str, str] = Field(default_factory=dict)

    @field_validator("method")
    @classmethod
    def _method_exists(cls, value: str) -> str:
        try:
            method_config_class(value)
        except UserError as error:
            raise ValueError(str(error)) from None
        return value

    @field_validator("evaluation")
    @classmethod
    def _best_by_a_metric(cls, value: EvaluationConfig) -> EvaluationConfig:
        if value.restore_best is not None and (problem := unfit_choice(value.restore_best)):
            raise ValueError(f"restore_best: {problem}")
        return value

    @field_validator("training", mode="before")
    @classmethod
    def _training_of_the_method(cls, value: Any, info: ValidationInfo) -> Any:
        if "method" not in info.data:  # it is wrong, and has been reported
            return TrainingConfig()
        config_class = method_config_class(info.data["method"])
        if isinstance(value, TrainingConfig) and not isinstance(value, config_class):
            value = value.model_dump(exclude_unset=True)
        model = info.data.get("model")
        if isinstance(value, dict) and isinstance(model, ModelConfig):
            value = {**config_class.defaults_beside(value, embedded=model.path == EMBEDDED), **value}
        return config_class.model_validate(value)

    @model_serializer(mode="wrap")
    def _as_before_generation(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leaves out a generation that is not there, so that records and digests stay what they were."""
        content: dict[str, Any] = dump(self)
        return content if content.get("generation") is not None else without(content, "generation")

    def digest(self) -> str:
        """Returns `config_digest` of this configuration."""
        return config_digest(self.model_dump(mode="json"))

    def comes_to(self) -> str:
        """Returns the digest of what this configuration comes to.

        Fields of training without an effect are left out, and with them their defaults, which may change from version
        to version.
        """
        effective = self.training.effective()
        return config_digest({**self.model_dump(mode="json"), "training": json.loads(json.dumps(effective))})


#: Fields of a run's configuration that cannot change its result.
WITHOUT_EFFECT = (
    "output_dir",
    "cache_dir",
    "cpu_threads",
    "gpu_share",
    "device",
    "path_map",
    _PATH_MAP_BEFORE,
)

# Fields of the evaluation that came later, with the value that says what runs did before; of training see `AS_BEFORE`.
_EVALUATED_AS_BEFORE: dict[str, Any] = {
    "restore_best": None,
    "restore_best_prompts": None,
    "inference_steps": [],
}

#: Field of `RunConfig.contents` -> where the path stands that it is the content of.
_PATHS: dict[str, tuple[str, ...]] = {
    "subject.dataset.path": ("subject", "dataset", "path"),
    "subject.dataset.references": ("subject", "dataset", "references"),
    "subject.dataset.masks": ("subject", "dataset", "masks"),
    "subject.images": ("subject", "images"),
    "subject.references": ("subject", "references"),
    "subject.masks": ("subject", "masks"),
    "model": ("model", "path"),
    "evaluation.image_encoder": ("evaluation", "image_encoder"),
    "evaluation.clip": ("evaluation", "clip"),
}


def config_digest(document: Mapping[str, Any]) -> str:
    """Returns the hex SHA-256 of everything in a run's configuration that can change the result.

    Folders, threads and devices are left out; of what the run reads the content counts, not the path.

    Args:
        document: A `RunConfig` as JSON values, as in ``run.json``.
    """
    content = copy.deepcopy({name: value for name, value in document.items() if name not in WITHOUT_EFFECT})
    if not content.get("contents"):
        content.pop("contents", None)
    if content.get("generation") is None:
        content.pop("generation", None)
    else:
        content["generation"].pop("classes", None)
    for part, as_before in (("training", AS_BEFORE), ("evaluation", _EVALUATED_AS_BEFORE)):
        fields = content.get(part) or {}
        for field in [name for name, value in as_before.items() if name in fields and fields[name] == value]:
            del fields[field]
    for field, held in (document.get("contents") or {}).items():
        *sections, key = _PATHS.get(field, ("",))
        if sections and sections[0] in content and not held.startswith(REVISION):
            # Not of a hub's id, which means the same everywhere.
            place = functools.reduce(lambda part, name: part[name], sections, content)
            place[key] = None
            place.pop("config", None)  # of a single file: its content is among that of the model
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

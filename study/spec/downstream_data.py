"""The data set of the downstream phase in a study: split when the study file is read, its classes made subjects.

What fine-tuning is given are folders of training images of one class each (or of all, with captions), as of any other
subject; validation images are its held-out references. Test images lie in a folder that no subject names.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from study.spec.downstream import DownstreamSpec, cell_problems
from study.spec.phases import ConfirmSpec
from study.spec.sections import Arm, method_defaults
from trainables.config.class_data import ClassDataConfig
from trainables.config.generation import GenerationConfig, images_of_class
from trainables.config.messages import Loc
from trainables.data.class_prompts import class_prompts
from trainables.data.path_map import folder_of
from trainables.embedded.class_sets import CLASS_SETS
from trainables.errors import UserError
from trainables.evaluation.prepared_classes import (
    PreparedClasses,
    SplitClasses,
    folder_names,
    prepared_at,
    split_classes,
)
from trainables.methods.registry import BASE

ALL_CLASSES = "all-classes"  # the data set of `models: one`
DATA = "downstream.data"  # of the contents of a study: the prepared data set

Problems = list[tuple[Loc, str]]


def with_class_data(data: Mapping[str, Any]) -> tuple[dict[str, Any], Problems, SplitClasses | None]:
    """Returns a study's raw data with the subjects, seeds and prepared folder that its section `downstream` implies,
    what is wrong with the data set, and the data set, to be written once the whole study is sound.

    A section that is malformed is left for its own messages.
    """
    data = dict(data)
    section = data.get("downstream")
    if section is None:
        return data, [], None
    try:
        downstream = DownstreamSpec.model_validate(section)
    except ValidationError:
        data.setdefault("subjects", [{"name": "cat-1"}])  # of which nothing is to be said beside
        return data, _of_data_alone(section), None
    problems = _seeds(data, downstream)
    if (later := _not_here(downstream)) is not None:
        data.setdefault("subjects", later)
        return data, problems, None
    try:
        split = split_classes(downstream.dataset, downstream.resolution)
    except UserError as error:
        data.setdefault("subjects", [{"name": "cat-1"}])
        return data, problems + [(("downstream", "dataset"), problem) for problem in error.problems], None
    prepared = split.prepared
    problems += _nothing_to_draw(downstream, prepared)
    subjects = subjects_of_classes(prepared, downstream) or [{"name": "cat-1"}]
    if data.get("subjects", subjects) != subjects:
        problems.append(
            (
                ("subjects",),
                "with a section downstream the classes of its data set are the subjects; remove it",
            )
        )
    data["subjects"] = subjects
    data["downstream"] = {**section, "prepared": str(prepared.folder)}
    if isinstance(data["confirm"], dict):
        data["confirm"] = {"subjects": [subject["name"] for subject in subjects], **data["confirm"]}
    return data, problems, split


def _of_data_alone(section: Any) -> Problems:
    """What is wrong with the data set of a section of which something else is wrong."""
    dataset = section.get("dataset") if isinstance(section, Mapping) else None
    try:
        config = ClassDataConfig.model_validate({"path": dataset} if isinstance(dataset, str) else dataset)
        split_classes(config)
    except ValidationError:
        return []
    except UserError as error:
        return [(("downstream", "dataset"), problem) for problem in error.problems]
    return []


def _nothing_to_draw(downstream: DownstreamSpec, prepared: PreparedClasses) -> Problems:
    """Ratios by which no image would be generated, and classes that there are not."""
    problems: Problems = []
    unknown = [label for label in downstream.generated_classes or () if label not in prepared.classes]
    if unknown:
        problems.append(
            (
                ("downstream", "generated_classes"),
                f"no class {', '.join(map(repr, unknown))}; there are {', '.join(prepared.classes)}",
            )
        )
    counts = prepared.counts["train"]
    for number, ratio in enumerate(downstream.ratios):
        drawn = [
            images_of_class(ratio, counts[label], max(counts.values()))
            for label in prepared.classes
            if downstream.generates(label)
        ]
        if not unknown and not any(drawn):
            told = ", ".join(f"{label} {count}" for label, count in counts.items())
            problems.append(
                (
                    ("downstream", "ratios", number),
                    f"{ratio} generates no image of any class, whose training images are {told}; leave it out, or "
                    "take a larger one",
                )
            )
    return problems


def _not_here(downstream: DownstreamSpec) -> list[dict[str, Any]] | None:
    """Returns the subjects of a data set whose classes are stated and whose folder is not there; None of any other.

    Such a study can be read, as one of subjects whose photographs are elsewhere can; checks before a launch tell what
    is missing.
    """
    dataset = downstream.dataset
    if dataset.classes is None or dataset.path in CLASS_SETS or folder_of(dataset.path).exists():
        return None
    prompts, problems = class_prompts(
        dataset.classes, dataset.template, dataset.token, dataset.class_template, dataset.words
    )
    names = folder_names(dataset.classes)
    return (
        None
        if problems
        else [
            {
                "name": names[label],
                "images": str(Path(dataset.path) / label),
                "instance_prompt": prompts[label].instance_prompt,
                "class_prompt": prompts[label].class_prompt,
            }
            for label in dataset.classes
        ]
    )


def _seeds(data: dict[str, Any], downstream: DownstreamSpec) -> Problems:
    """Makes the seeds of the generators those of the confirm phase; says where others are stated."""
    confirm, seeds = data.get("confirm") or {}, list(downstream.generator_seeds)
    if not isinstance(confirm, Mapping):  # which is told by itself
        return []
    stated = confirm.get("seeds", seeds)
    data["confirm"] = {**confirm, "seeds": seeds}
    if stated == seeds or list(stated) == seeds:
        return []
    said = (
        f"{stated}, but downstream.generator_seeds is {seeds}; each fine-tuned model draws for the classifiers, so "
        "that the seeds are the same: remove one"
    )
    return [(("confirm", "seeds"), said)]


def subjects_of_classes(prepared: PreparedClasses, downstream: DownstreamSpec) -> list[dict[str, Any]]:
    """Returns the subjects of a study: each class that is generated, or all classes as one data set with captions."""
    if downstream.models == "one":
        folder = prepared.folder
        dataset = {"path": str(folder / "train"), "references": str(folder / "validation")}
        if prepared.grouped:
            dataset["group_column"] = "group"
        return [{"name": ALL_CLASSES, "dataset": dataset}]
    return [
        {
            "name": prepared.names[label],
            "images": str(prepared.images_of("train", label)),
            "references": str(prepared.references_of(label)),
            "instance_prompt": prepared.prompts[label].instance_prompt,
            "class_prompt": prepared.prompts[label].class_prompt,
        }
        for label in prepared.classes
        if images_needed(downstream, prepared, label)
    ]


def generation_of(downstream: DownstreamSpec, subject: str, *, untrained: bool) -> GenerationConfig:
    """Returns what the runs of a subject draw for classifiers: as many images of each class as any cell needs.

    Args:
        untrained: The model knows no rare word: it is asked for the class.
    """
    assert downstream.prepared is not None
    prepared = prepared_at(Path(downstream.prepared))
    labels = (
        prepared.classes
        if downstream.models == "one"
        else [label for label in prepared.classes if prepared.names[label] == subject]
    )
    plain = untrained or downstream.models == "one"
    prompts = {
        label: prepared.prompts[label].class_prompt if plain else prepared.prompts[label].instance_prompt
        for label in labels
    }
    return GenerationConfig(
        prompts=prompts,
        images={label: images_needed(downstream, prepared, label) for label in labels},
        guidance_scale=downstream.guidance_scale,
        num_inference_steps=downstream.num_inference_steps,
        negative_prompt=downstream.negative_prompt,
        classes=str(prepared.folder),
    )


def images_needed(downstream: DownstreamSpec, prepared: PreparedClasses, label: str) -> int:
    """Returns how many generated images of a class the cell takes that takes most."""
    if not downstream.generates(label):
        return 0
    counts = prepared.counts["train"]
    ratios = {*downstream.ratios, *([downstream.largest_ratio] if downstream.generated_only else [])}
    return max(images_of_class(ratio, counts[label], max(counts.values())) for ratio in ratios)


def downstream_problems(
    downstream: DownstreamSpec, arms: Mapping[str, Arm], confirm: ConfirmSpec
) -> Problems:
    """Returns what is wrong with a downstream phase beside the other sections of a study."""
    problems: Problems = list(cell_problems(downstream, tuple(arms)))
    for name, arm in arms.items():
        captions = arm.fixed.get("captions", method_defaults(arm.method).get("captions"))
        if downstream.models == "per_class" and captions == "files" and arm.method != BASE:
            problems.append(
                (
                    ("arms", name),
                    f"{arm.method} learns captions, and a model of one class has none; set downstream.models: one, or "
                    "take a method that learns an instance prompt",
                )
            )
    if tuple(confirm.seeds) != downstream.generator_seeds:
        problems.append(
            (("confirm", "seeds"), f"must be downstream.generator_seeds ({list(downstream.generator_seeds)})")
        )
    return problems


def identity_of(downstream: DownstreamSpec) -> dict[str, Any]:
    """Returns what of the section decides which runs there are; of the data set its content counts (`DATA`)."""
    content = downstream.model_dump(mode="json", exclude={"prepared", "margin", "claims"})
    content["dataset"].pop("path")
    return content

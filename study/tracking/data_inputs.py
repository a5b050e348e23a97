"""The images that a run trains on and is judged by, as data sets of MLflow: pure functions, no MLflow and no files.

A digest is that of the files' names and contents, as the run's record has it (`RunConfig.contents`), with what else
decides which images are taken. What comes with the project is known by its name, and class images, which the base
model draws, by what they follow from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from study.storage.run_key import FOREIGN, RunKey
from trainables.classifier_run_config import CLASSIFIER
from trainables.methods.registry import BASE

Context = Literal["training", "evaluation"]

_DIGEST_LENGTH = 16  # hexadecimal digits: MLflow takes 36 at most, and shows them beside the name
# Of the training, what class images follow from beside the model and the prompt.
_OF_CLASS_IMAGES = ("num_class_images", "class_num_inference_steps", "class_guidance_scale", "resolution")


@dataclass(frozen=True)
class DataInput:
    """A data set of a run.

    Attributes:
        digest: The first digits of a SHA-256.
        source_type: As MLflow's page knows them: ``local`` (a folder), ``code``.
        source: JSON, of the form that belongs to the type.
    """

    name: str
    digest: str
    context: Context
    source_type: str
    source: str


def data_inputs(key: RunKey, document: Mapping[str, Any]) -> tuple[DataInput, ...]:
    """Returns the data sets of a run: what it trains on, unless it trains nothing here, and what judges it.

    Args:
        document: A `RunConfig` as JSON values, as in ``run.json``.
    """
    if document["method"] == CLASSIFIER:
        return _of_classifier(document)
    trains = key.phase != FOREIGN and document["method"] != BASE
    found = [_training(document)] if trains else []
    training = document.get("training") or {}
    drawn = training.get("prior_preservation_target", "images") == "images"
    if trains and training.get("with_prior_preservation") and drawn:
        found.append(_class_images(document))
    return (*found, judging(document))


def judging(document: Mapping[str, Any]) -> DataInput:
    """Returns the held-out images of a run."""
    if document["method"] == CLASSIFIER:
        return _of_classifier(document)[-1]
    name, folders, held_out = _subject(document)
    known = _content(document, folders, ("references",))
    if not known and (whole := _content(document, folders, ("images", "path"))):
        known = {**whole, **held_out, "part": "held out"}
    return _input(f"{name} held-out", known, "evaluation", folders.get("references") or _main(folders))


def _of_classifier(document: Mapping[str, Any]) -> tuple[DataInput, ...]:
    """Real and generated images that a classifier learns from, and those that it is judged by."""
    folder = str(document["data"])
    content = (document.get("contents") or {}).get("data") or folder
    found = []
    if document["real_share"]:
        known = {"data": content, "part": "train", "share": document["real_share"]}
        found.append(_input("real images", known, "training", folder))
    if document["generated"]:
        drawn = {"entries": [one["entries"] for one in document["generated"]], "ratio": document["ratio"]}
        about = f"images of arm {document['generator']}, seed {document['generator_seed']}"
        found.append(_input(document["source"], drawn, "training", None, about))
    part = "test" if document["judged"] else "validation"
    return (*found, _input(f"{part} images", {"data": content, "part": part}, "evaluation", folder))


def _training(document: Mapping[str, Any]) -> DataInput:
    name, folders, held_out = _subject(document)
    known = _content(document, folders, ("images", "path", "captions", "masks"))
    if known and "references" not in folders:  # some of the images are held out
        known = {**known, **held_out, "part": "trained on"}
    number = document["training"].get("num_training_images")
    if number is not None:  # of them so many are trained on
        known = {**(known or {"embedded": name}), "num_training_images": number}
    return _input(name, known, "training", _main(folders))


def _class_images(document: Mapping[str, Any]) -> DataInput:
    name, _, _ = _subject(document)
    training, model = document["training"], document.get("model") or {}
    prompt = (document.get("subject") or {}).get("class_prompt")
    known = {field: training[field] for field in _OF_CLASS_IMAGES if field in training}
    known |= {"prompt": prompt or name, "model": (document.get("contents") or {}).get("model") or model}
    about = f"class images of the base model {model.get('path')}" + (f": {prompt}" if prompt else "")
    return _input(f"{name} class images", known, "training", None, about)


def _subject(document: Mapping[str, Any]) -> tuple[str, dict[str, str], dict[str, Any]]:
    """Name and folders of a subject or data set, and how much of its images is held out."""
    subject = document["subject"]
    fields = subject.get("dataset") or subject
    folders = {name: fields.get(name) for name in ("images", "path", "references", "masks")}
    return (
        subject["name"],
        {name: path for name, path in folders.items() if path},
        {"holdout": fields.get("holdout")},
    )


def _main(folders: Mapping[str, str]) -> str | None:
    return folders.get("images") or folders.get("path")


def _content(
    document: Mapping[str, Any], folders: Mapping[str, str], fields: tuple[str, ...]
) -> dict[str, Any]:
    """What lies in folders, by field; of one whose content the record does not have, its path."""
    part = "subject.dataset." if document["subject"].get("dataset") else "subject."
    contents = document.get("contents") or {}
    found = {field: contents.get(part + field) or folders.get(field) for field in fields}
    return {field: content for field, content in found.items() if content}


def _input(
    name: str, known: Mapping[str, Any], context: Context, folder: str | None, about: str = ""
) -> DataInput:
    """A data set of what is known of it; nothing: it comes with the project."""
    values = list(known.values())
    if len(values) == 1 and isinstance(values[0], str) and len(values[0]) == 64:
        digest = values[0]  # of one folder, as everywhere else
    else:
        text = json.dumps(known or {"embedded": name}, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()
    if folder is not None:
        kind, source = "local", json.dumps({"uri": folder})
    else:
        kind = "code"
        source = json.dumps({"tags": {"mlflow.source.name": about or "comes with the project"}})
    return DataInput(name, digest[:_DIGEST_LENGTH], context, kind, source)

"""Files of trained weights for other programs: the formats, what a method says of each, and what every file carries.

A method that can be exported has two functions beside those of the protocol (``protocol.py``):
``export_obstacle(family, config, form)``, which loads nothing, and ``export(backbone, config, weights, request, out)``.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from trainables.methods.adapter_files import sort_header

if TYPE_CHECKING:
    import torch

    from trainables.methods.protocol import Method
    from trainables.models.backbone import Backbone
    from trainables.models.families import Family

Format = Literal["diffusers", "kohya", "a1111", "comfyui", "peft", "merged"]
#: Format -> who reads it.
FORMATS: dict[Format, str] = {
    "diffusers": "diffusers' own loaders",
    "kohya": "kohya's sd-scripts, with LyCORIS for other kinds than LoRA",
    "a1111": "AUTOMATIC1111's web UI and its descendants",
    "comfyui": "ComfyUI",
    "peft": "PEFT",
    "merged": "diffusers as a complete pipeline with the training in its weights, and of Stable Diffusion 1.x, 2.x "
    "and XL for A1111, ComfyUI and kohya's scripts as one file",
}
#: Formats of one file in kohya's names.
ONE_FILE = ("kohya", "a1111", "comfyui")

_PIPELINE = "model_index.json"
_HASH, _HASH_OF_KOHYA, _DIGITS = "modelspec.hash_sha256", "sshs_model_hash", 64
_SPEC = "1.0.1"  # of Stability AI's metadata of models
# What kohya's scripts state for embeddings and whole models of Stability AI (sd-scripts, library/sai_model_spec.py).
_OF_STABILITY_AI = "https://github.com/Stability-AI/generative-models"


@dataclass(frozen=True)
class About:
    """What the metadata of a file say of the run that made it; the same run says the same at any time.

    Attributes:
        title: Of the weights, for people.
        description: One or two sentences.
        date: When the run ended, ISO 8601 in UTC.
        resolution: Pixels.
        trigger: What a prompt must hold for the training to show; empty where captions alone were taught.
        base: Name of the base model.
        author: Empty: not stated; likewise the licence.
        own: Further entries, written under ``study.*``.
        captioned: A data set was trained on, whose captions begin with the trigger and a comma.
    """

    title: str
    description: str
    date: str
    resolution: int
    trigger: str
    base: str
    author: str = ""
    license: str = ""
    own: Mapping[str, str] = field(default_factory=dict)
    captioned: bool = False


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        name: Of the file, without suffix, where the format does not prescribe one.
    """

    form: Format
    name: str
    about: About


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        usage: Python code, or a sentence, that says how the files are loaded.
        code: `usage` is Python code.
        notes: What a user should know of how they are read, one note each.
        trigger: What a prompt must hold in the program that reads them, if it is not `About.trigger`.
    """

    usage: str
    code: bool = True
    notes: tuple[str, ...] = ()
    trigger: str | None = None


def obstacle(method: Method, family: Family, config: Any, form: Format) -> str | None:
    """Returns why the weights of a method cannot be had in a format, with what to take instead; None if they can.

    Args:
        config: The method's configuration.
    """
    if not method.trains:
        return f"{method.title} trains nothing, so that there are no weights to export; name another run"
    asked = getattr(method, "export_obstacle", None)
    if asked is None:
        return f"{method.title} has no export; take its weights from the run's folder, weights/ (docs/methods.md)"
    found: str | None = asked(family, config, form)
    return found


def export(
    method: Method, backbone: Backbone, config: Any, weights: Path, request: Request, out: Path
) -> Exported:
    """Writes the weights of a method in a format; a pipeline's sampler draws as the run's images were drawn.

    Args:
        config: The method's configuration, after `for_subject`.
        weights: Folder of the run's weights.
        out: An empty folder.
    """
    written: Exported = method.export(backbone, config, weights, request, out)  # type: ignore[attr-defined]
    whole = (out / _PIPELINE).is_file()
    if whole:
        state_sampler(backbone, out)
    return replace(written, notes=(*written.notes, *_sampler_notes(backbone, request.form, whole)))


def _sampler_notes(backbone: Backbone, form: Format, whole: bool) -> Iterator[str]:
    """Yields how a pipeline's sampler differs from the base model's, where users would draw with it."""
    from trainables.models.solvers import as_drawn

    drawn, own = as_drawn(backbone), backbone.scheduler
    if drawn is own:
        return
    states = (
        f"the base model's own sampler states {own.config.get('timestep_spacing', 'no timestep_spacing')}"
    )
    if whole:
        yield (
            f"the pipeline's sampler is {type(drawn).__name__} with timestep_spacing: trailing, as images of the run "
            f"were drawn; {states}"
        )
    elif form in ("diffusers", "peft"):
        yield (
            f"images of the run were drawn with timestep_spacing: trailing, and {states}; draw with pipeline.scheduler "
            f'= {type(drawn).__name__}.from_config(pipeline.scheduler.config, timestep_spacing="trailing")'
        )


def metadata_of(
    request: Request, backbone: Backbone, kind: str, network: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Returns a file's metadata: kohya's ``ss_*`` that readers ask for, model spec 1.0.1, and ours under ``study.*``.

    Args:
        kind: End of the architecture in model spec: ``lora``, ``textual-inversion`` or a method's name; empty: it is a
            whole model.
        network: ``ss_network_*`` of an adapter.
    """
    about, denoiser = request.about, backbone.denoiser.config
    architecture, implementation = backbone.family.model_spec(denoiser, backbone.prediction_type)
    if kind in ("", "textual-inversion") and implementation == "diffusers":
        implementation = _OF_STABILITY_AI
    spec = {
        "sai_model_spec": _SPEC,
        "architecture": f"{architecture}/{kind}" if kind else architecture,
        "implementation": implementation,
        "title": about.title,
        "resolution": f"{about.resolution}x{about.resolution}",
        "description": about.description,
        "date": about.date,
        "author": about.author,
        "license": about.license,
        "trigger_phrase": about.trigger,
        "prediction_type": {"epsilon": "epsilon", "v_prediction": "v"}.get(backbone.prediction_type, ""),
    }
    kohya = dict(backbone.family.kohya_metadata(denoiser))
    version = "ss_base_model_version"
    if backbone.prediction_type == "v_prediction" and kohya.get(version, "").startswith("sd_v"):
        kohya[version] += "_v"
    words = {about.trigger: 1} if about.trigger else {}
    if kohya:
        kohya |= {
            **(network or {}),
            "ss_output_name": request.name,
            "ss_sd_model_name": about.base,
            "ss_resolution": f"({about.resolution}, {about.resolution})",
            "ss_tag_frequency": json.dumps({about.title: words}),  # readers show the words
        }
    return {
        **kohya,
        **{f"modelspec.{key}": value for key, value in spec.items() if value},
        **{f"study.{key}": value for key, value in about.own.items()},
    }


def write_file(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    """Writes a safetensors file with the hash of its tensors in its metadata; equal content is equal bytes."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    hashes = {_HASH: f"0x{'0' * _DIGITS}"}
    if any(key.startswith("ss_") for key in metadata):
        hashes[_HASH_OF_KOHYA] = "0" * _DIGITS
    content = {key: value.detach().to("cpu").contiguous() for key, value in tensors.items()}
    save_file(content, path, {**metadata, **hashes})
    digest = _hash_of_tensors(path)
    found = {_HASH: f"0x{digest}", _HASH_OF_KOHYA: digest}
    sort_header(path, {key: found[key] for key in hashes})


def _hash_of_tensors(path: Path) -> str:
    """Hex SHA-256 of a safetensors file without its header."""
    with path.open("rb") as file:
        file.seek(8 + int.from_bytes(file.read(8), "little"))
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_pipeline(backbone: Backbone, pipeline: Any, folder: Path) -> None:
    """Writes a whole pipeline, which ``from_pretrained`` loads; equal weights are equal files.

    Args:
        backbone: Of its base model; as images of it are drawn here, so does the pipeline's sampler (`state_sampler`).
    """
    for part in pipeline.components.values():
        tokenizer = getattr(part, "backend_tokenizer", None)
        if (
            tokenizer is not None
        ):  # it would write down how it was called last: a resumed run's files would differ
            tokenizer.no_truncation()
            tokenizer.no_padding()
    pipeline.save_pretrained(str(folder), safe_serialization=True)
    state_sampler(backbone, folder)


def state_sampler(backbone: Backbone, folder: Path) -> None:
    """Lets a pipeline's folder name the sampler that draws as runs of its base model are judged (`as_drawn`)."""
    from trainables.models.solvers import as_drawn

    drawn = as_drawn(backbone)
    if drawn is backbone.scheduler:
        return
    drawn.save_pretrained(str(folder / "scheduler"))
    index = folder / _PIPELINE
    content = json.loads(index.read_text(encoding="utf-8"))
    content["scheduler"] = ["diffusers", type(drawn).__name__]
    index.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def copy_pipeline(source: Path, folder: Path) -> None:
    """Copies a pipeline's folder, without the names of folders on this machine."""
    shutil.copytree(source, folder, dirs_exist_ok=True)
    forget_paths(folder)


def forget_paths(folder: Path) -> None:
    """Takes out of a pipeline's configurations where its parts were loaded from: a path of this machine."""
    for path in folder.rglob("*.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict) and "_name_or_path" in content:
            del content["_name_or_path"]
            path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def files_in(folder: Path) -> Iterator[Path]:
    """Yields the files below a folder in order, relative to it."""
    yield from sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def pipeline_usage(family: Family, folder: str) -> str:
    """Returns the code that loads a complete pipeline."""
    return (
        f"from diffusers import {family.pipeline_class}\n\n"
        f'pipeline = {family.pipeline_class}.from_pretrained("{folder}")'
    )

"""Whole models for other programs: a pipeline's folder for diffusers, and one file in the layout of its publisher.

The file is what A1111, ComfyUI and kohya's scripts load as a base model. It is written for Stable Diffusion 1.x, 2.x
and XL, in the precision of the weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables.errors import UserError
from trainables.methods.exporting import (
    Exported,
    Request,
    forget_paths,
    metadata_of,
    pipeline_usage,
    save_pipeline,
    write_file,
)
from trainables.models.publisher_names import PREDICTS_V, file_kind, noise_marks, single_file_tensors

if TYPE_CHECKING:
    from trainables.models.backbone import Backbone
    from trainables.models.families import Family

_USAGE = {
    "kohya": "For sd-scripts: --pretrained_model_name_or_path {name}.safetensors.",
    "a1111": "Put {name}.safetensors into models/Stable-diffusion and choose it as the checkpoint.",
    "comfyui": "Put {name}.safetensors into models/checkpoints and load it by the node Load Checkpoint.",
}
_REMEDY = "take its folder in diffusers' layout (--format merged)"


def model_file_obstacle(family: Family) -> str | None:
    """Returns why models of a family cannot be had as one file, with what to take instead; None if they can."""
    if any(kind.layouts for kind in family.single_files):
        return None
    return (
        f"the program reads a whole model as one file, and of {family.title} none is written: its publisher's file "
        "joins layers that diffusers has apart; take --format merged, a pipeline in diffusers' layout"
    )


def export_model_file(backbone: Backbone, pipeline: Any, request: Request, out: Path) -> Exported:
    """Writes a pipeline as one file for a program that takes it as a base model.

    Args:
        backbone: Of the base model; what it says of noise holds for the pipeline too.
        pipeline: With the trained weights, and without added words.

    Raises:
        UserError: The publisher's code has no such model.
    """
    notes = _write_model_file(backbone, pipeline, request, out)
    return Exported(_USAGE[request.form].format(name=request.name), code=False, notes=notes)


def export_merged(
    backbone: Backbone, pipeline: Any, request: Request, out: Path, *, words: bool = False
) -> Exported:
    """Writes a pipeline's folder and, beside its parts, the same model as one file where its family has such files.

    Args:
        words: The pipeline has words of its own, which no such file can hold.
    """
    save_pipeline(backbone, pipeline, out)
    forget_paths(out)
    notes: tuple[str, ...] = ()
    if words:
        notes = (
            "the model is not written as one file too: programs that read such files have the published table of "
            "words, and take added ones as embeddings",
        )
    elif model_file_obstacle(backbone.family) is None:
        file = f"{request.name}.safetensors"
        try:
            notes = _write_model_file(backbone, pipeline, request, out)
        except UserError as error:  # the pipeline is what was asked for, and is whole
            return Exported(pipeline_usage(backbone.family, out.name), notes=error.problems)
        notes = (f"{file} is the same model as one file, for A1111, ComfyUI and kohya's scripts", *notes)
    return Exported(pipeline_usage(backbone.family, out.name), notes=notes)


def _write_model_file(backbone: Backbone, pipeline: Any, request: Request, out: Path) -> tuple[str, ...]:
    """Writes ``NAME.safetensors`` and returns what a user should know of it.

    What was written is read by its header, as a base model is before a run, so that no tensor is one that diffusers
    would have no place for.
    """
    from diffusers import DDPMScheduler

    from trainables.models.single_file_checks import misfits

    family = backbone.family
    kind = file_kind(family, backbone.denoiser.config)
    scheduler = DDPMScheduler.from_config(backbone.scheduler.config).config
    if kind is None:
        raise UserError(
            model_file_obstacle(family) or f"{family.title} of this width is not written as one file"
        )
    try:
        tensors = single_file_tensors(family, kind, pipeline)
    except ValueError as error:
        raise UserError(f"this {family.title} cannot be written as one file ({error}); {_REMEDY}") from None
    marks = noise_marks(kind, scheduler)
    metadata = {
        key: value
        for key, value in metadata_of(request, backbone, "").items()
        if not key.startswith("ss_")  # of adapters
    }
    path = out / f"{request.name}.safetensors"
    write_file(path, tensors | marks, metadata)
    if problems := misfits(path, backbone.folder):
        path.unlink()
        found = [
            problem.partition(";")[0] for problem in problems
        ]  # their remedies are those of a base model
        raise UserError(
            *(
                f"this {family.title} cannot be written as one file: it {problem}; {_REMEDY}"
                for problem in found
            )
        )
    if backbone.prediction_type != "v_prediction" or PREDICTS_V in marks:
        return ()
    return ("the model predicts velocity, which this kind of file does not say: most programs find it out",)

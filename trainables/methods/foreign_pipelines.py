"""Whole models that were trained elsewhere: their weights on the study's base model, if all else is the same.

They are drawn and judged with the study's own noise schedule, autoencoder's scale and layers. Where a pipeline's own
are others, it would be judged by images that it never draws.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables.errors import UserError
from trainables.methods.foreign_words import take_words

if TYPE_CHECKING:
    import torch

    from trainables.models.backbone import Backbone
    from trainables.models.families import Family

#: Of a scheduler's configuration: what a diffusion model was trained with.
_DIFFUSION = ("prediction_type", "num_train_timesteps", "beta_schedule", "beta_start", "beta_end", "trained_betas",
              "rescale_betas_zero_snr")  # fmt: skip
#: Likewise of a flow-matching model, whose shift is one number or follows the resolution.
_FIXED_SHIFT = ("num_train_timesteps", "use_dynamic_shifting", "shift")
_DYNAMIC_SHIFT = ("num_train_timesteps", "use_dynamic_shifting", "base_shift", "max_shift", "base_image_seq_len",
                  "max_image_seq_len")  # fmt: skip
#: Of parts: what gives other numbers with weights of the same shapes.
_LAYERS = ("scaling_factor", "shift_factor", "latents_mean", "latents_std", "attention_head_dim", "num_attention_heads",
           "norm_num_groups", "norm_eps", "layer_norm_eps", "layer_norm_epsilon", "act_fn", "hidden_act",
           "flip_sin_to_cos", "freq_shift", "center_input_sample", "resnet_time_scale_shift")  # fmt: skip


#: Layouts of files that are whole models (`foreign_files.inspect`).
WHOLE = ("pipeline", "checkpoint")


def no_replacement(path: Path, bits: str) -> str:
    """Says why a whole model cannot be judged by a study whose base model's weights are quantised."""
    return (
        f"{path} is a whole model, and the study's base model keeps weights as codes (model.quantization: {bits}), "
        "which others cannot take the place of; judge it by a study without quantization"
    )


def put_pipeline(backbone: Backbone, path: Path) -> dict[str, torch.Tensor]:
    """Copies the weights of a pipeline in diffusers' layout into the base model's.

    Returns:
        Text encoder -> vectors of the word that the pipeline knows beyond the base model's; empty where there is none.

    Raises:
        UserError: It is of another family, has other shapes, or states another noise schedule, scale of latents or
            kind of layer than the study's base model.
    """
    from trainables.models.families import family_in

    family = backbone.family
    if family_in(path) is not family:
        raise UserError(f"{path} is a {family_in(path).title}, and the study's base model a {family.title}")
    try:
        loaded = family.stock_pipeline().from_pretrained(
            str(path), use_safetensors=True, local_files_only=True, **family.load_options
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"diffusers cannot load the pipeline {path}: {first_line(error)}") from None
    words = take_words(backbone, path, loaded)
    _put(backbone, path, loaded, [part.name for part in family.modules])
    return words


def put_model_file(backbone: Backbone, path: Path) -> None:
    """Copies the weights of a whole model in one file into the base model's; parts that it lacks stay the base's.

    What a file does not say is the base model's own: noise schedule, scale of latents, tokenizers.

    Raises:
        UserError: It is of another family, has other tensors, or is marked as trained on other noise than the study's
            base model.
    """
    from trainables.models.model_files import tensor_headers
    from trainables.models.single_file_checks import lacking, misfits
    from trainables.models.single_files import file_faults, kind_of, load_single_file, parts_in

    family, found = backbone.family, kind_of(tensor_headers(path))
    if found is None or found[0] is not family:
        kind = found[1].title if found else "file of no known kind of model"
        raise UserError(f"{path} is a {kind}, and the study's base model a {family.title}")
    faults = [
        *file_faults(path),
        *(misfits(path, backbone.folder) or lacking(path, backbone.folder)),
    ]
    if faults:
        raise UserError(*(f"{path} {fault}" for fault in faults))
    _put(backbone, path, load_single_file(path, backbone.folder), sorted(parts_in(path)))


def _put(backbone: Backbone, path: Path, loaded: Any, parts: Sequence[str]) -> None:
    """Copies the weights of some parts of a pipeline into the base model's, if all else is the same."""
    import torch

    for bits in backbone.quantized.values():
        raise UserError(no_replacement(path, bits))
    if problems := list(_other_settings(backbone, loaded)):
        raise UserError(
            *(
                f"{path}: {problem}; it would be drawn otherwise than it was trained: judge it by a study on its own "
                "kind of model"
                for problem in problems
            )
        )
    for part in parts:
        theirs: dict[str, torch.Tensor] = dict(getattr(loaded, part).named_parameters())
        ours: dict[str, torch.Tensor] = dict(backbone.modules[part].named_parameters())
        shapes = {name: value.shape for name, value in ours.items()}
        if shapes != {name: value.shape for name, value in theirs.items()}:
            raise UserError(f"{path}: its {part} has other weights than the study's base model has there")
        if any(not torch.equal(ours[name], value.to(ours[name])) for name, value in theirs.items()):
            backbone.will_change(part)
            for name, value in theirs.items():
                ours[name].data.copy_(value)


def first_line(error: Exception) -> str:
    """Returns an error's kind and the first line of what it says."""
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"


def _other_settings(backbone: Backbone, loaded: Any) -> Iterator[str]:
    """Yields what a pipeline states otherwise than the study's base model, each with both values."""
    family = backbone.family
    named = [("scheduler", _noise(family, loaded.scheduler), _noise(family, backbone.scheduler))]
    for part in family.modules:
        configs = (getattr(loaded, part.name).config, backbone.modules[part.name].config)
        theirs, ours = (_layers(config) for config in configs)
        named.append((part.name, theirs, ours))
    if family.zero_option:
        option = loaded.config.get(family.zero_option, family.zero_unconditional)
        named.append(
            ("pipeline", {family.zero_option: option}, {family.zero_option: backbone.zero_unconditional})
        )
    for file, theirs, ours in named:
        for key in {**ours, **theirs}:
            if theirs.get(key) != ours.get(key):
                said = f"its {file} states {key} {theirs.get(key)!r}"
                yield f"{said}, and that of the study's base model {ours.get(key)!r}"


def _noise(family: Family, scheduler: Any) -> dict[str, Any]:
    """What a sampler states of the noise of training, with its library's defaults for what it does not state."""
    import diffusers

    if not family.flow:
        config = diffusers.DDPMScheduler.from_config(scheduler.config).config
        return {key: config[key] for key in _DIFFUSION}
    config = diffusers.FlowMatchEulerDiscreteScheduler.from_config(scheduler.config).config
    return {key: config[key] for key in (_DYNAMIC_SHIFT if config["use_dynamic_shifting"] else _FIXED_SHIFT)}


def _layers(config: Any) -> dict[str, Any]:
    stated: Mapping[str, Any] = config if isinstance(config, Mapping) else config.to_dict()
    return {key: _same(stated[key]) for key in _LAYERS if key in stated}


def _same(value: Any) -> Any:
    """A value for every block: one number, where it is the same for all."""
    values = list(value) if isinstance(value, list | tuple) else [value]
    return values[0] if len({*map(str, values)}) == 1 else values

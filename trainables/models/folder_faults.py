"""What is wrong with a folder in diffusers' layout: its parts, whether they fit each other, its noise, its weights.

Faults are predicates of the model, as in `model_files.py`.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from trainables.models.family import Family, Part
from trainables.models.model_files import (
    applied_variant,
    has_weights,
    json_fault,
    read_json,
    tokenizer_faults,
    undotted,
    variants_of,
    weight_faults,
)

_LIBRARIES = ("diffusers", "transformers")
_PREDICTIONS = ("epsilon", "v_prediction", "sample")


def folder_faults(
    folder: Path, family: Family, index: dict[str, Any], variant: str | None, elsewhere: Collection[str]
) -> list[str]:
    """Returns what is wrong with the parts of a pipeline, as predicates of the model.

    Args:
        index: Content of its ``model_index.json``.
        elsewhere: Parts that need no weights in the folder.
    """
    optional = [part for part in family.optional if _is_loaded(index, part.name)]
    parts = [*family.parts, *(part.name for part in optional)]
    faults = [
        f"names no class for its part {part} in model_index.json; fetch it again"
        for part in parts
        if not _is_loaded(index, part)
    ]
    faults += _foreign_parts(index, family.not_loaded)
    there = [part for part in parts if (folder / part).is_dir()]
    faults += [
        f"lacks the part {part}/; the folder is incomplete, fetch it again"
        for part in parts
        if part not in there
    ]
    weighted = [part for part in (*family.modules, *optional) if part.name in there]
    configs = [f"{part.name}/config.json" for part in weighted]
    configs += ["scheduler/scheduler_config.json"] if "scheduler" in there else []
    faults += [fault for fault in (json_fault(folder, name) for name in configs) if fault]
    for tokenizer, encoder in zip(family.tokenizers, family.text_encoders, strict=True):
        if tokenizer in there:  # one whose length is stated is no CLIP
            faults += tokenizer_faults(folder, tokenizer, any_kind=bool(encoder.reads))
    if not faults:
        faults += _misfits(folder, family) + noise_faults(folder, family)
    weighted = [part for part in weighted if part.name not in elsewhere]
    return faults + _weight_faults(folder, weighted, variant, named=[name for name in there if name in index])


def _misfits(folder: Path, family: Family) -> list[str]:
    """Returns which parts do not fit each other, by their configurations: every run would break off at once."""
    configs = {part.name: read_json(folder / part.name / "config.json") or {} for part in family.modules}
    faults = []
    for fit in family.fitting:
        value = configs[fit.part].get(fit.key)
        others = {f"{key} of {part}/": configs[part].get(key) for part, key in fit.others}
        if not isinstance(value, int | list):
            faults.append(f"states no {fit.key} in {fit.part}/config.json; fetch that file again")
            continue
        known = [other for other in others.values() if isinstance(other, int)]
        if len(known) < len(others) or set(value if isinstance(value, list) else [value]) == {
            fit.times * sum(known)
        }:
            continue
        said = " and ".join(f"{name} is {other}" for name, other in others.items())
        of_them = "" if len(others) == 1 and fit.times == 1 else f" (it should be {fit.times * sum(known)})"
        faults.append(
            f"has parts that do not fit: {fit.key} of {fit.part}/ is {value}, {said}{of_them}; "
            "take parts of one model"
        )
    return faults


def noise_faults(folder: Path, family: Family) -> list[str]:
    """Returns why a model is not trained as its family is.

    Its sampler states other noise, or its UNet takes guidance as a condition (latent consistency models, arXiv
    2310.04378), which a step would leave out.
    """
    denoiser = read_json(folder / family.denoiser.name / "config.json") or {}
    if denoiser.get("time_cond_proj_dim") is not None:
        return [
            f"states time_cond_proj_dim in {family.denoiser.name}/config.json: it is distilled to take guidance as an "
            "input (LCM), which is not trained here; take the model that it was distilled from"
        ]
    config = read_json(folder / "scheduler" / "scheduler_config.json") or {}
    kind = str(config.get("_class_name", ""))
    if family.flow != kind.startswith("FlowMatch"):
        wanted = "a sampler of flow matching" if family.flow else "a noise schedule of diffusion"
        return [
            f"has a {kind} in scheduler/, and a {family.title} needs {wanted}; take the model's own scheduler"
        ]
    if family.flow:
        return []
    if kind.startswith("EDM"):
        return [f"has a {kind} in scheduler/: EDM's preconditioning is not trained here; take another model"]
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in _PREDICTIONS:
        return [
            f"states prediction_type {prediction!r} in scheduler/, which is none of {', '.join(_PREDICTIONS)}; "
            "take the model's own scheduler"
        ]
    if config.get("rescale_betas_zero_snr") and prediction == "epsilon":
        return [
            "states rescale_betas_zero_snr with prediction_type: epsilon in scheduler/: at the last step there is no "
            "signal, and the noise alone says nothing of the image; take rescale_betas_zero_snr: false, or a "
            "model that predicts v"
        ]
    return []


def _weight_faults(folder: Path, parts: list[Part], variant: str | None, named: list[str]) -> list[str]:
    """Returns what is wrong with the weights of some parts.

    Args:
        named: Parts of ``model_index.json`` that there are; diffusers looks at them all for the variant.
    """
    without = [
        part
        for part in parts
        if not has_weights(folder / part.name, part.weights, None)
        and not variants_of(folder / part.name, part.weights)
    ]
    faults = [
        f"has no safetensors weights in {part.name}/ ({part.weights}.safetensors); other formats are not read "
        "because they can run code: save the pipeline again with safe_serialization=True"
        for part in without
    ]
    parts = [part for part in parts if part not in without]
    if not _variant_will_do(folder, parts, variant):
        return [*faults, _variant_fault(folder, parts, variant)]
    if variant is not None:
        faults += [
            f"has a file whose name has no ending, {part}/{name}, at which loading a variant breaks off; move it "
            "out of the folder"
            for part in named
            for name in undotted(folder / part)
        ]
    for part in parts:
        applied = applied_variant(folder / part.name, variant)
        faults += weight_faults(folder, part.name, part.weights, applied)
    return faults


def _variant_will_do(folder: Path, parts: list[Part], variant: str | None) -> bool:
    """Whether diffusers finds weights of all parts: of the variant where there are such, else those without one."""
    applied = {part.name: applied_variant(folder / part.name, variant) for part in parts}
    if variant is not None and parts and not any(applied.values()):
        return False
    return all(has_weights(folder / part.name, part.weights, applied[part.name]) for part in parts)


def _variant_fault(folder: Path, parts: list[Part], variant: str | None) -> str:
    found = {part.name: sorted(variants_of(folder / part.name, part.weights)) for part in parts}
    names = sorted({name for each in found.values() for name in each})
    remedies = [
        f"write model: {{path: ..., variant: {name}}}"
        for name in names
        if _variant_will_do(folder, parts, name)
    ]
    if variant is not None and _variant_will_do(folder, parts, None):
        remedies.append("leave variant out")
    plain = [part.name for part in parts if has_weights(folder / part.name, part.weights, None)]
    said = [f"{part}/ has {' and '.join(each)}" for part, each in found.items() if each]
    said += [f"{', '.join(f'{part}/' for part in plain)} those without a variant"] if plain else []
    return (
        f"has weights of {'a variant only' if variant is None else f'no variant {variant!r}'} "
        f"({'; '.join(said)}): {' or '.join(remedies) or 'no variant covers all parts, fetch one of them whole'}"
    )


def _is_loaded(index: dict[str, Any], part: str) -> bool:
    value = index.get(part)
    return isinstance(value, list) and len(value) == 2 and value[0] is not None


def _foreign_parts(index: dict[str, Any], not_loaded: tuple[str, ...]) -> list[str]:
    """Names parts whose class lies elsewhere than in the two libraries: loading them would import that code."""
    named = {
        part: value
        for part, value in index.items()
        if isinstance(value, list) and not part.startswith("_") and part not in not_loaded
    }
    return [
        f"wants code of {value[0]!r} for its part {part}; only parts of diffusers and transformers are loaded: "
        "replace that part, or take another model"
        for part, value in named.items()
        if value and value[0] is not None and value[0] not in _LIBRARIES
    ]

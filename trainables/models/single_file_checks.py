"""Whether the tensors of a single file fit the configurations beside it, told from its header: no weight is read.

What diffusers would drop with no more than a line in a log is looked for too: the names and shapes of the denoiser's
tensors go through the converter of `from_single_file` without their numbers.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainables.models.family import Family, Part, SingleFile
from trainables.models.model_files import has_weights, read_json, tensor_headers
from trainables.models.publisher_names import NO_SIGNAL, PREDICTS_V
from trainables.models.single_files import kind_of, parts_in
from trainables.util.text import some


def misfits(path: Path, configs: Path) -> list[str]:
    """Returns where a single file and the folder with its configurations are not of one model, as predicates."""
    headers = tensor_headers(path)
    found = kind_of(headers)
    assert found is not None
    family, kind = found
    said = (read_json(configs / "model_index.json") or {}).get("_class_name")
    remedy = f"name those of a {kind.title} ({kind.remedy})"
    if said != family.pipeline_class:
        return [f"is a {kind.title}, but the configurations in {str(configs)!r} are of a {said}; {remedy}"]
    config = read_json(configs / family.denoiser.name / "config.json")
    if config is None:  # what the folder lacks is told where folders are checked
        return []
    width, wanted = _width(headers, kind), config.get("cross_attention_dim")
    if width is not None and isinstance(wanted, int) and width != wanted:
        return [
            f"is a {kind.title} with text embeddings of {width}, but the configurations in {str(configs)!r} are of "
            f"{wanted}; {remedy}"
        ]
    faults = _noise_misfits(headers, family, configs)
    guidance = _guidance_misfit(headers, kind, family, config, configs)
    return faults + (guidance or _denoiser_misfits(headers, kind, family, config, configs))


def lacking(path: Path, configs: Path) -> list[str]:
    """Returns which parts neither a single file nor the folder beside it has weights of, as predicates."""
    found, inside = kind_of(tensor_headers(path)), parts_in(path)
    assert found is not None
    nowhere = [
        f"{part.title} ({part.name}/)"
        for part in found[0].modules
        if part.name not in inside and not has_weights(configs / part.name, part.weights, None)
    ]
    if not nowhere:
        return []
    return [
        f"holds no weights of {' and '.join(nowhere)}, and the folder with its configurations, {str(configs)!r}, has "
        "none either; name a whole folder of the same kind of model (model: {path: ..., config: FOLDER})"
    ]


def _width(headers: Mapping[str, Any], kind: SingleFile) -> int | None:
    shape: list[int] = headers.get(kind.width, {}).get("shape") or []
    return int(shape[1]) if len(shape) > 1 else None


def _noise_misfits(headers: Mapping[str, Any], family: Family, configs: Path) -> list[str]:
    """Returns where a file is marked as trained on other noise than the configurations say.

    A file without marks says nothing: not all tools write them.
    """
    if family.flow:
        return []
    scheduler = read_json(configs / "scheduler" / "scheduler_config.json") or {}
    place = f"scheduler/scheduler_config.json in {str(configs)!r}"
    remedy = "take the configurations of a model that is trained as this one is, or correct that file"
    faults = []
    prediction = scheduler.get("prediction_type", "epsilon")
    if PREDICTS_V in headers and prediction != "v_prediction":
        faults.append(
            f"predicts v (it has a tensor {PREDICTS_V!r}), but {place} states prediction_type: {prediction}; {remedy} "
            "(prediction_type: v_prediction)"
        )
    if NO_SIGNAL in headers and not scheduler.get("rescale_betas_zero_snr"):
        faults.append(
            f"was trained on a schedule that ends without any signal (it has a tensor {NO_SIGNAL!r}), but {place} "
            f"does not state that; {remedy} (rescale_betas_zero_snr: true)"
        )
    return faults


def _guidance_misfit(
    headers: Mapping[str, Any], kind: SingleFile, family: Family, config: Mapping[str, Any], configs: Path
) -> list[str]:
    """Returns whether one of file and configurations has the layers that take guidance, and the other has not."""
    if not kind.guidance:
        return []
    takes, said = any(kind.guidance in name for name in headers), bool(config.get("guidance_embeds"))
    if takes == said:
        return []
    layers, place = f"layers that take guidance ({kind.guidance}*)", f"{family.denoiser.name}/config.json"
    have = "has" if takes else "has no"
    return [
        f"{have} {layers}, but {place} in {str(configs)!r} states guidance_embeds: {str(said).lower()}; name the "
        f"configurations of its own model (model: {{path: ..., config: {kind.configs if takes else kind.unguided}}})"
    ]


def _denoiser_misfits(
    headers: Mapping[str, Any], kind: SingleFile, family: Family, config: Mapping[str, Any], configs: Path
) -> list[str]:
    """Returns which tensors the denoiser of the configurations lacks, has no place for, or has in other shapes."""
    part = family.denoiser
    inside = _denoiser_tensors(headers, kind, part)
    if not inside:
        return []  # it comes from the folder
    remedy = "name the configurations of its own model (model: {path: ..., config: FOLDER})"
    try:
        shapes = _shapes(part, json.dumps(config, sort_keys=True))
        converted, unread = _converted(part, config, {name: headers[name]["shape"] for name in inside})
    except Exception as error:  # of whatever diffusers makes of tensors that it does not expect
        return [
            f"does not fit the configurations in {str(configs)!r} ({type(error).__name__}: {error}); {remedy}"
        ]
    there = f"{part.title} of the configurations in {str(configs)!r}"
    unread += [name for name in converted if name not in shapes]
    if unread:
        return [
            f"has tensors for which {there} has no place and that would be lost: {some(unread, 1)}; {remedy}"
        ]
    missing = [name for name in shapes if name not in converted]
    if missing:
        return [f"lacks weights of {there}: {some(missing, 1)}; fetch it again, or {remedy}"]
    others = [name for name, shape in shapes.items() if converted[name] != shape]
    if others:
        name = others[0]
        return [
            f"does not fit the configurations in {str(configs)!r}: {name} is {list(converted[name])}, and {there} "
            f"wants {list(shapes[name])}; {remedy}"
        ]
    return []


def _denoiser_tensors(headers: Mapping[str, Any], kind: SingleFile, part: Part) -> list[str]:
    """Returns the names of the denoiser's tensors: those below its prefix or, in a file that holds it alone, all others
    than those of other parts.
    """
    root, *bare = kind.prefixes[part.name]
    below = [name for name in headers if name.startswith(root)]
    if below or not any(name.startswith(tuple(bare)) for name in headers):
        return below
    elsewhere = tuple(
        prefix for other, several in kind.prefixes.items() if other != part.name for prefix in several
    )
    return [name for name in headers if not name.startswith(elsewhere)]


@functools.cache
def _shapes(part: Part, config: str) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a part's tensors by name, from the content of its ``config.json``."""
    import torch

    with torch.device("meta"):  # tensors without memory
        state = part.make(json.loads(config)).state_dict()
    return {name: tuple(value.shape) for name, value in state.items()}


def _converted(
    part: Part, config: Mapping[str, Any], shapes: Mapping[str, list[int]]
) -> tuple[dict[str, tuple[int, ...]], list[str]]:
    """Returns the shapes that diffusers' converter makes of tensors by its own names, and which ones it leaves unread.

    It takes tensors out, or passes them on as they are.
    """
    import torch
    from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES

    tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    kept = dict(tensors)  # by identity they are told apart, which ends with them
    convert = SINGLE_FILE_LOADABLE_CLASSES[part.model_class]["checkpoint_mapping_fn"]
    made = convert(checkpoint=tensors, config=dict(config))
    passed_on, left = {id(value) for value in made.values()}, {id(value) for value in tensors.values()}
    unread = [name for name, value in kept.items() if id(value) in left - passed_on]
    return {name: tuple(value.shape) for name, value in made.items()}, unread

"""Whether adapters fit the layers of a base model, told before anything starts."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from trainables.methods.adapter_config import (
    CROSS_ATTENTION,
    MODULES,
    TARGET_PRESETS,
    TEXT_MODULES,
    AdapterConfig,
    matches_pattern,
)
from trainables.methods.targets import Layer, target_problems, targeted

if TYPE_CHECKING:
    from trainables.config.fields import ModelConfig
    from trainables.models.families import Family, Part

# Layers of every supported model are at least so wide, and divide by it: nothing is looked up for smaller sizes.
_COMMON_WIDTH = 32
_MOST_SIZES = 6  # that a message names


def check_adapters(config: AdapterConfig, model: ModelConfig) -> list[str]:
    """Returns what keeps adapters from being put on a base model that is on this machine, one message a problem.

    The defaults fit every model of the supported layout, so that nothing is looked up for them.
    """
    from trainables.methods.targets import layers_in
    from trainables.models.families import family_in
    from trainables.models.folders import local_folder

    folder = local_folder(model) if _need_the_model(config) else None
    if folder is None:
        return []
    family = family_in(folder)
    with suppress(OSError, ValueError, TypeError):  # what is wrong with the folder is told elsewhere
        parts = adapted_parts(family, config)
        return adapter_problems(
            config, family, {part: layers_in(folder, family.part(part)) for part in parts}
        )
    return []


def adapted_parts(family: Family, config: AdapterConfig) -> dict[str, str]:
    """Returns the parts that get adapters -> the field that names their modules."""
    parts = family.trainable(text_encoders=config.train_text_encoder)
    return {part.name: MODULES if part is family.denoiser else TEXT_MODULES for part in parts}


def adapter_problems(
    config: AdapterConfig, family: Family, layers: Mapping[str, Mapping[str, Layer]]
) -> list[str]:
    """Returns what is wrong with a configuration for the layers of the parts that get adapters.

    Args:
        layers: Part of the model -> its modules by name.
    """
    problems: list[str] = []
    adapted: dict[str, Layer] = {}
    for part, name in adapted_parts(family, config).items():
        if name == MODULES and (problem := _preset_problem(config, family)):
            problems.append(problem)
            continue
        found, fits = _target_problems(config, family.part(part), name, layers[part])
        chosen = targeted(config.modules(name), layers[part], fits)
        problems += found
        problems += _rank_problems(config, family.part(part), chosen)
        problems += _block_problems(config, family.part(part), chosen)
        adapted |= chosen
    return problems + _pattern_problems(config, adapted)


def _preset_problem(config: AdapterConfig, family: Family) -> str | None:
    """Names a preset that means layers which a family has not; it may have others of the same name.

    ``attn2`` of Stable Diffusion 3.5-medium is a second attention of the image to itself.
    """
    if config.target_modules != CROSS_ATTENTION or CROSS_ATTENTION in family.features:
        return None
    return (
        f"{MODULES}: {CROSS_ATTENTION} means the attention from image to text, for which {family.title} has no "
        "layers of its own: text and image attend to each other in the same layers; take attention or attention_mlp, "
        "or name the projections of the text ([add_q_proj, add_k_proj, add_v_proj, to_add_out])"
    )


def _need_the_model(config: AdapterConfig) -> bool:
    fields = type(config).model_fields
    plain = {"attention", "attention_mlp"}
    wanted = [MODULES, *([TEXT_MODULES] if config.train_text_encoder else [])]
    own = [name for name in wanted if getattr(config, name) != fields[name].default]
    block = getattr(config, config.kind.block) if config.kind.block else 1
    return (
        any(name == TEXT_MODULES or getattr(config, name) not in plain for name in own)
        or (config.kind.ranked and config.r > _COMMON_WIDTH)
        or _COMMON_WIDTH % block > 0
        or bool(config.rank_pattern or config.alpha_pattern)
    )


def _target_problems(
    config: AdapterConfig, part: Part, name: str, layers: Mapping[str, Layer]
) -> tuple[list[str], str]:
    """Messages, and what the adapters fit at most."""
    fits: str = config.kind.fits
    because = ""
    if config.linear_layers_only:
        fits, because = "linear layers", f" (init_lora_weights: {config.init_lora_weights})"
    elif fits != "convolutions":
        because = f" (adapter: {config.adapter})"
    words: Collection[str] | None = TARGET_PRESETS if name == MODULES else ()
    place = name
    if config.preset(name):
        words, place = None, f"{name}: {getattr(config, name)}"
    modules = config.modules(name)
    found = target_problems(modules, layers, part.title, fits=fits, words=words)
    if config.preset(name):  # whoever names a preset has not written its pattern
        found = [problem.replace(repr(modules), "it") for problem in found]
    return [f"{place}: {problem}{because}" for problem in found], fits


def _rank_problems(config: AdapterConfig, part: Part, layers: Mapping[str, Layer]) -> list[str]:
    """A rank above a layer's width says nothing that the width does not, at a higher cost.

    LoKr takes such a rank for a whole second factor.
    """
    if not config.kind.ranked:
        return []

    def widest(layer: Layer) -> int:
        return layer.inputs if config.adapter == "hra" else layer.width

    wide = {name: layer for name, layer in layers.items() if config.rank_of(name) > widest(layer)}
    if not wide:
        return []
    name, layer = min(wide.items(), key=lambda item: widest(item[1]))
    others = f" and {len(wide) - 1} more" if len(wide) > 1 else ""
    pattern = ", or give such layers one of their own (rank_pattern)" if config.kind.scaled else ""
    return [
        f"r: {config.rank_of(name)} is above the width of {name} in {part.title}{others} ({layer}, {layer.inputs} "
        f"inputs, {layer.outputs} outputs); take a rank of at most {widest(layer)}{pattern}"
    ]


def _block_problems(config: AdapterConfig, part: Part, layers: Mapping[str, Layer]) -> list[str]:
    """PEFT takes another size where one does not divide a layer, or fails on the way."""
    field = config.kind.block
    if field is None or not layers:
        return []
    size = getattr(config, field)
    name = next((name for name, layer in layers.items() if layer.inputs % size), None)
    if name is None:
        return []
    common = math.gcd(*(layer.inputs for layer in layers.values()))
    sizes = [number for number in range(2, common + 1) if common % number == 0][-_MOST_SIZES:]
    remedy = f"take one of {', '.join(map(str, sizes))}" if sizes else "name other target_modules"
    return [
        f"{field}: {size} does not divide the {layers[name].inputs} inputs of {name} in {part.title}; {remedy}"
    ]


def _pattern_problems(config: AdapterConfig, adapted: Mapping[str, Layer]) -> list[str]:
    if not config.kind.scaled:
        return []
    problems = []
    for field in ("rank_pattern", "alpha_pattern"):
        for key, _ in getattr(config, field):
            if not any(matches_pattern(key, name) for name in adapted):
                example = next(iter(adapted), "down_blocks.0.attentions.0.to_q")
                problems.append(
                    f"{field}: {key!r} matches none of the {len(adapted)} layers that get adapters, such as {example}; "
                    "write the end of such a name, or a regular expression for one"
                )
    return problems

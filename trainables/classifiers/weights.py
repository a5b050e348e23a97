"""Weights that a classifier starts from: folders and hub ids of transformers, and single files of plain modules.

Only safetensors are read: other formats can run code.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from trainables.config.paths import is_hub_id
from trainables.data.path_map import folder_of
from trainables.errors import UserError
from trainables.models.folders import hub_is_reachable
from trainables.util.text import some

CONFIG, PROCESSOR, WEIGHTS = "config.json", "preprocessor_config.json", "model.safetensors"

_AUXILIARY = "AuxLogits."  # torchvision's Inception-v3 has them in its file
_MODEL_TYPES = {"resnet18": "resnet", "resnet50": "resnet", "vit": "vit", "convnext": "convnext"}
_DEPTHS = {"resnet18": [2, 2, 2, 2], "resnet50": [3, 4, 6, 3]}
_HEAD = "classifier."  # of transformers' image classifiers

Channels = tuple[float, ...]


def weights_problem(weights: str, *, hub: bool) -> list[str]:
    """Returns what is wrong with the place of weights, before anything is loaded.

    Args:
        hub: They may be a hub id, and a folder is in transformers' layout; else it needs no configuration.
    """
    folder = folder_of(weights)
    if not folder.is_dir():
        if hub and is_hub_id(weights):
            return []
        if hub:
            return [
                f"weights {weights!r} is neither an existing folder nor a hub id such as microsoft/resnet-18"
            ]
        return [f"weights {weights!r} is no existing folder; this network reads a folder with {WEIGHTS}"]
    missing = [CONFIG] if hub and not (folder / CONFIG).is_file() else []
    if not any(folder.glob("*.safetensors")):
        missing.append("weights as *.safetensors (other formats are not read, they can run code)")
    elif not hub and not (folder / WEIGHTS).is_file():
        missing.append(WEIGHTS)
    return [f"weights {weights!r} lacks {' and '.join(missing)}"] if missing else []


def load_transformers(
    name: str, model_class: Any, weights: str, classes: int, image_size: int
) -> tuple[nn.Module, tuple[str, ...]]:
    """Loads an image classifier of transformers, with a new head where its own is for other classes.

    Random numbers come from torch's global generator, as transformers draws them.

    Args:
        name: Of the network, for messages and for what it must be.

    Returns:
        The network, and what is to be said of it.

    Raises:
        UserError: They cannot be had, are of another network, or are not all there.
    """
    config = configuration(name, weights, image_size)
    with _loading(weights):
        network, info = model_class.from_pretrained(
            _source(weights),
            num_labels=classes,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            use_safetensors=True,
            trust_remote_code=False,
        )
    other = {str(entry[0]): tuple(entry[1]) for entry in info["mismatched_keys"]}
    lacking = {str(key) for key in info["missing_keys"]} - set(other)
    wrong = sorted(key for key in (*lacking, *other) if not key.startswith(_HEAD))
    if wrong:
        raise UserError(
            f"weights {weights!r} lack, or have in other shapes, {some(wrong)} of {name}; fetch them again"
        )
    return network, _sizes(name, config) + _new_head(weights, classes, _outputs(other), bool(lacking))


def configuration(name: str, weights: str, image_size: int) -> Any:
    """Returns transformers' configuration of weights; raises UserError if they cannot be had, or are of another
    network.
    """
    from transformers import AutoConfig

    source = _source(weights)
    offline = not Path(source).is_dir() and not hub_is_reachable()
    with _loading(weights):
        config = AutoConfig.from_pretrained(source, trust_remote_code=False, local_files_only=offline)
    if config.model_type != _MODEL_TYPES[name]:
        raise UserError(
            f"weights {weights!r} are of a network of type {config.model_type}, and {name} is of type "
            f"{_MODEL_TYPES[name]}; name weights of it, or another network"
        )
    _check_sizes(name, weights, config, image_size)
    return config


def _check_sizes(name: str, weights: str, config: Any, image_size: int) -> None:
    """ResNets of all depths are of one type."""
    depths = _DEPTHS.get(name)
    if depths is not None and list(config.depths) != depths:
        raise UserError(
            f"weights {weights!r} are of a ResNet of depths {list(config.depths)}, and {name} has {depths}; name "
            "weights of it, or another network"
        )
    patch = config.patch_size if name == "vit" else 1
    if image_size % patch:
        raise UserError(
            f"weights {weights!r} cut images into patches of {patch} pixels, and {image_size} is no multiple of it: "
            f"make the images {max(1, image_size // patch) * patch} pixels a side"
        )


def _sizes(name: str, config: Any) -> tuple[str, ...]:
    """ViTs and ConvNeXts have many sizes, and which is taken is the weights' affair."""
    if name == "vit":
        layers, width, patch = config.num_hidden_layers, config.hidden_size, config.patch_size
        return (f"vit has the sizes of its weights: {layers} layers of {width}, patches of {patch} pixels",)
    if name == "convnext":
        sizes = f"depths {list(config.depths)}, widths {list(config.hidden_sizes)}"
        return (f"convnext has the sizes of its weights: {sizes}",)
    return ()


def load_plain(name: str, network: nn.Module, weights: str, heads: tuple[str, ...]) -> tuple[str, ...]:
    """Reads a folder's ``model.safetensors`` into a network; layers of its head that do not fit stay new.

    Args:
        heads: How the names of the head's layers begin.

    Returns:
        What is to be said of it.

    Raises:
        UserError: Anything but the head does not fit.
    """
    path = folder_of(weights) / WEIGHTS
    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"weights {str(path)!r} cannot be read ({error}); fetch the file again") from error
    own = network.state_dict()
    fitting = {key: value for key, value in found.items() if key in own and own[key].shape == value.shape}
    counters = {
        key for key in own if key.endswith("num_batches_tracked")
    }  # which only a changing momentum reads
    new = [key for key in own if key not in fitting and key not in counters]
    foreign = [key for key in found if key not in own and not key.startswith(_AUXILIARY)]
    wrong = [key for key in (*new, *foreign) if not (heads and key.startswith(heads))]
    if wrong:
        raise UserError(
            f"weights {str(path)!r} are not those of {name}: {some(wrong)} are missing, have other shapes or are "
            "unknown; name weights of this network"
        )
    network.load_state_dict(fitting, strict=False)
    return (f"new, with random weights: {some(new)} of {name}; all else is from {weights}",) if new else ()


def mean_and_std(
    weights: str, usual: tuple[Channels, Channels]
) -> tuple[tuple[Channels, Channels], tuple[str, ...]]:
    """Returns by what the images of some weights are normalised: as their ``preprocessor_config.json`` says.

    Args:
        usual: Mean and standard deviation where there is no such file.

    Returns:
        Mean and standard deviation of red, green and blue, and a note where they are the usual ones.
    """
    found = _processor(weights)
    if found.get("do_normalize") is False:
        return ((0.0,) * 3, (1.0,) * 3), ()
    stated = [found.get(key) for key in ("image_mean", "image_std")]
    if all(isinstance(values, list) and len(values) == 3 for values in stated):
        mean, std = (tuple(map(float, values or ())) for values in stated)
        return (mean, std), ()
    return usual, (
        f"{weights} has no {PROCESSOR} with image_mean and image_std: the network's usual ones are taken",
    )


def _processor(weights: str) -> dict[str, Any]:
    from huggingface_hub import hf_hub_download

    folder = folder_of(weights)
    try:
        path = folder / PROCESSOR if folder.is_dir() else hf_hub_download(weights, PROCESSOR)
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _source(weights: str) -> str:
    folder = folder_of(weights)
    return str(folder) if folder.is_dir() else weights


def _outputs(other: dict[str, tuple[int, ...]]) -> int | None:
    """The number of classes of a head that did not fit."""
    return next((shape[0] for shape in other.values() if shape), None)


def _new_head(weights: str, classes: int, had: int | None, lacked: bool) -> tuple[str, ...]:
    if had is not None:
        return (
            f"the last layer is new, with random weights: that of {weights} is for {had} classes, not {classes}",
        )
    if lacked:
        return (f"the last layer is new, with random weights: {weights} has none",)
    return (f"the last layer is that of {weights}, which is for {classes} classes too",)


@contextmanager
def _loading(weights: str) -> Iterator[None]:
    """Names the weights in errors, and keeps transformers from reporting new layers at length."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"weights {weights!r} cannot be loaded ({first}); name a folder in transformers' layout, or a hub id that "
            "can be had from here"
        ) from error
    finally:
        logging.set_verbosity(verbosity)

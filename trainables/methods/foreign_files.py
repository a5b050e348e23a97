"""Files of weights that were trained elsewhere: which layout one has, and what it adds to a model's weights.

Layouts: diffusers, kohya (with LyCORIS' loha, lokr and full, and DoRA along either axis), PEFT, Custom Diffusion's
projections, embeddings and hypernetworks as this project and AUTOMATIC1111 write them, and whole models: pipelines in
diffusers' layout, and single files in their publishers'. Nothing here trusts a file: safetensors, JSON, and torch's
loader that refuses code. Their words: ``foreign_words.py``.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from trainables.errors import UserError
from trainables.methods.foreign_words import (
    ENCODERS,
    number_of_vectors,
    require_no_word_beside,
    shapes_in,
    state_beside,
    word_beside,
    word_files,
    word_of,
    word_of_pipeline,
)
from trainables.methods.hypernetwork_files import is_pt
from trainables.methods.kohya import kohya_name
from trainables.methods.pickled_files import read_pt
from trainables.methods.projection_exports import PROJECTIONS_FILE, is_projections, projection_weights
from trainables.methods.word_exports import BUNDLED
from trainables.models.folders import file_digest
from trainables.models.single_files import kind_of

if TYPE_CHECKING:
    import torch

    from trainables.models.backbone import Backbone

Layout = Literal[
    "pipeline",
    "checkpoint",
    "folders",
    "peft",
    "kohya",
    "diffusers",
    "projections",
    "embedding",
    "hypernetwork",
]
State = Mapping[str, "torch.Tensor"]

_KOHYA = ("lora_unet_", "lora_te_", "lora_te1_", "lora_te2_")
_BUNDLED = f"{BUNDLED}."
_KNOWN = (
    "a folder with a pipeline, or with adapters in PEFT's layout, or a .safetensors file of a LoRA (names of kohya, "
    "LyCORIS or diffusers), a whole model, an embedding, projections of Custom Diffusion or a hypernetwork of ours, or "
    "a .pt file of A1111"
)
_MOST_NAMED = 3
_OF_BIAS = ("diff_b", "b_norm")


@dataclass(frozen=True)
class ForeignFile:
    """What a file or folder was found to be.

    Attributes:
        sha256: Of the file; of a folder that of its files' names and hashes.
        vectors: Of an embedding, or of one inside a file of adapters, beside weights in a folder or in a pipeline: its
            number of vectors; else 0.
        word: How prompts say it, without angle brackets: as the file or the tokenizer has it, or else the file's name;
            without an embedding empty.
    """

    path: Path
    layout: Layout
    sha256: str
    vectors: int = 0
    word: str = ""


def inspect(path: Path, base: Path | None = None) -> ForeignFile:
    """Returns what a file is, by its content.

    Args:
        base: Folder of the base model, by whose tokenizers a pipeline's own words are told; None: they are not.

    Raises:
        UserError: It is missing, damaged, of a kind that may hold code, or of no known layout.
    """
    if not path.exists():
        raise UserError(f"there is no {path}; name {_KNOWN}")
    if path.is_dir():
        layout = _layout_of_folder(path)
        word, vectors = word_beside(path) if layout != "pipeline" else ("", 0)
        if layout == "pipeline" and base is not None:
            word, vectors = word_of_pipeline(path, base)
        return ForeignFile(path, layout, _folder_digest(path), vectors, word)
    digest = file_digest(path)
    if is_pt(path):
        content = _read_pt(path)
        rows = _rows_of_a1111(content)
        if rows is not None:
            return ForeignFile(path, "embedding", digest, len(rows), path.stem)
        _require_hypernetwork(path, content)
        return ForeignFile(path, "hypernetwork", digest)
    if path.suffix.lower() != ".safetensors":
        raise UserError(f"{path}: files of this kind may hold code and are not read; name {_KNOWN}")
    require_no_word_beside(path)
    shapes, metadata = shapes_in(path)
    layout = _layout_of(path, shapes, metadata)
    if layout == "hypernetwork":
        _require_hypernetwork(path)
    word, embedded = _word_in(path, layout, shapes, metadata)
    return ForeignFile(path, layout, digest, number_of_vectors(path, embedded.values()), word)


def _word_in(
    path: Path, layout: Layout, shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str]
) -> tuple[str, dict[str, tuple[int, ...]]]:
    """Returns the word of an embedding that a file is or holds, and the shapes of its tensors; empty where none is.

    Raises:
        UserError: There are several words.
    """
    if layout == "embedding":
        return word_of(path, shapes, metadata), dict(shapes)
    inside = {key: shape for key, shape in shapes.items() if key.startswith(_BUNDLED)}
    words = sorted({key.split(".")[1] for key in inside})
    if len(words) > 1:
        raise UserError(
            f"{path} holds the embeddings of {len(words)} words ({', '.join(words)}), and one is read beside adapters; "
            "take a file with one"
        )
    return (words[0] if words else ""), inside


def embedding_rows(path: Path, encoders: Iterable[str]) -> dict[str, torch.Tensor]:
    """Returns an embedding's vectors [vectors, width] by the key of the text encoder, as `Part.embeddings` has it.

    Args:
        encoders: Keys of the model's text encoders; one without a key takes the one tensor that there is.

    Raises:
        UserError: The file has none for one of them.
    """
    import torch
    from safetensors.torch import load_file

    wanted = tuple(encoders)
    rows = _rows_of_a1111(_read_pt(path)) if is_pt(path) else None
    state: dict[str, Any]
    if path.is_dir():
        state = dict(state_beside(path, wanted))
    else:
        state = {"": rows} if rows is not None else dict(load_file(path))
    if inside := {key: value for key, value in state.items() if key.startswith(_BUNDLED)}:
        state = {key.split(".", 2)[-1]: value for key, value in inside.items()}
    if len(wanted) == 1 and len(state) == 1:
        state = {wanted[0]: next(iter(state.values()))}
    lacking = [key for key in wanted if key not in state]
    if lacking:
        raise UserError(
            f"{path} is an embedding for {', '.join(state) or 'one text encoder'}, and the base model has the text "
            f"encoders {', '.join(key or 'without a key' for key in wanted)}: it was trained on another kind of model"
        )
    return {key: torch.atleast_2d(state[key]).float() for key in wanted}


def kohya_changes(path: Path, backbone: Backbone) -> dict[tuple[str, str], torch.Tensor]:
    """Returns the weights that a file in kohya's names gives a model: (part, parameter) -> its whole new value.

    Likewise of Custom Diffusion's projections, in a file or a folder. Embeddings are left to `embedding_rows`.

    Raises:
        UserError: It names modules that the model has not, or holds what is not known here.
    """
    from safetensors.torch import load_file

    if path.is_dir():
        return projection_weights(path / PROJECTIONS_FILE, backbone)
    state = load_file(path)
    if is_projections(state):
        return projection_weights(path, backbone)
    layers: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in state.items():
        if key.startswith(_BUNDLED):
            continue
        stem, _, rest = key.partition(".")
        layers.setdefault(stem, {})[rest] = value.float()
    known = _weights_of(backbone)
    unknown = sorted(stem for stem in layers if stem not in known)
    if unknown:
        raise UserError(
            f"{path} has {len(unknown)} of {len(layers)} layers that the base model has not, such as "
            f"{', '.join(unknown[:_MOST_NAMED])}: it was trained on another kind of model, or trains what is not read"
        )
    found: dict[tuple[str, str], torch.Tensor] = {}
    for stem, layer in sorted(layers.items()):
        part, module = known[stem]
        base = backbone.modules[part].get_submodule(module)
        try:
            changed = _changed(base, layer)
        except KeyError as error:
            raise UserError(f"{path}, layer {stem}: it lacks {error.args[0]}; fetch the file again") from None
        except (ValueError, RuntimeError, IndexError, TypeError) as error:
            raise UserError(f"{path}, layer {stem}: {error}") from None
        found |= {(part, f"{module}.{name}"): value for name, value in changed.items()}
    return found


def _weights_of(backbone: Backbone) -> dict[str, tuple[str, str]]:
    """Stem in kohya's layout -> part and module; the denoiser's modules by both of their names."""
    found: dict[str, tuple[str, str]] = {}
    family = backbone.family
    for part in (family.denoiser, *family.text_encoders):
        if not part.kohya:
            continue
        for name, module in backbone.modules[part.name].named_modules():
            if getattr(module, "weight", None) is None:
                continue
            found[kohya_name(part, name)] = (part.name, name)
            if part is family.denoiser:
                try:
                    other = family.kohya_module(name, backbone.denoiser.config)
                except ValueError:  # norms outside of blocks
                    continue
                found[kohya_name(part, other)] = (part.name, name)
            elif len(family.text_encoders) == 1:  # kohya's first encoder, as some tools number it
                found[kohya_name(part, name).replace(part.kohya, f"{part.kohya}1", 1)] = (part.name, name)
    return found


def _changed(base: Any, layer: State) -> dict[str, torch.Tensor]:
    """Returns parameter -> value after the change of one layer."""
    import torch

    weight = base.weight.detach().to("cpu", torch.float32)
    known = set(layer)
    change, used = _change(layer)
    scale = layer.get("dora_scale")
    if left := sorted(known - used - {"alpha", "dora_scale", *_OF_BIAS}):
        raise ValueError(f"{', '.join(left[:_MOST_NAMED])} is of a kind that is not read here")
    found = {}
    if change is not None:
        if not _fits(change.shape, weight.shape):
            raise ValueError(
                f"it changes a weight of shape {tuple(change.shape)} where the base model has {tuple(weight.shape)}: "
                "another kind of model"
            )
        merged = weight + change.reshape(weight.shape)
        found["weight"] = merged if scale is None else _dora(merged, scale)
    elif alone := sorted(known - set(_OF_BIAS)):
        raise ValueError(
            f"it has {', '.join(alone)} and no change of the weight that it is of; fetch the file again"
        )
    for name in _OF_BIAS:
        if name not in layer:
            continue
        bias = getattr(base, "bias", None)
        if bias is None or bias.shape != layer[name].shape:
            there = "no bias" if bias is None else f"a bias of shape {tuple(bias.shape)}"
            raise ValueError(
                f"it has {name} of shape {tuple(layer[name].shape)} where the base model has {there}: another kind of "
                "model"
            )
        found["bias"] = bias.detach().to("cpu", torch.float32) + layer[name]
    return found


def _fits(change: Sequence[int], weight: Sequence[int]) -> bool:
    """Whether a change has the shape of a weight, or its outputs and, flattened, inputs and places of the kernel."""
    if len(change) == len(weight) or 1 in (len(change), len(weight)):
        return tuple(change) == tuple(weight)
    return change[0] == weight[0] and math.prod(change[1:]) == math.prod(weight[1:])


def _change(layer: State) -> tuple[torch.Tensor | None, set[str]]:
    """Returns what is added to the weight, kernels perhaps flattened, and the keys that say so.

    Raises:
        ValueError: A factor is missing, or does not fit the others.
    """
    import torch

    def factor(rank: int) -> float:
        return float(layer["alpha"]) / rank if "alpha" in layer else 1.0

    if "lora_down.weight" in layer:
        names = {"lora_down.weight", "lora_up.weight"}
        down, up = layer["lora_down.weight"], layer["lora_up.weight"]
        if "lora_mid.weight" not in layer:
            change = up.flatten(1) @ down.flatten(1) * factor(len(down))
            return change.reshape(len(up), *down.shape[1:]), names
        core = _tucker(layer["lora_mid.weight"], up.flatten(1).T, down.flatten(1))
        return core * factor(len(down)), {*names, "lora_mid.weight"}
    if "hada_w1_a" in layer:
        first, second = (
            _product(layer, f"hada_w{number}", layer.get(f"hada_t{number}")) for number in (1, 2)
        )
        used = {key for key in layer if key.startswith("hada_")}
        return first * second * factor(len(layer["hada_w1_b"])), used
    if any(key.startswith("lokr_") for key in layer):
        split = [name for name in ("lokr_w1", "lokr_w2") if name not in layer]
        first = layer["lokr_w1"] if "lokr_w1" not in split else _product(layer, "lokr_w1")
        second = (
            layer["lokr_w2"] if "lokr_w2" not in split else _product(layer, "lokr_w2", layer.get("lokr_t2"))
        )
        if second.dim() == 4:
            first = first[:, :, None, None]
        # Of two whole factors readers take 1.
        scale = factor(len(layer[f"{split[-1]}_b"])) if split else 1.0
        change = (
            torch.kron(first.contiguous(), second.contiguous()) * scale
        )  # it takes no others in 4 dimensions
        return change, {key for key in layer if key.startswith("lokr_")}
    for name in ("diff", "w_norm"):
        if name in layer:
            return layer[name], {name}
    return None, set()


def _product(layer: State, name: str, core: torch.Tensor | None = None) -> torch.Tensor:
    """Returns what a factor in two is, or in three with a core."""
    left, right = layer[f"{name}_a"], layer[f"{name}_b"]
    return left @ right if core is None else _tucker(core, left, right)


def _tucker(core: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """[i, j, h, w], [i, out], [j, in] -> [out, in, h, w]."""
    import torch

    return torch.einsum("ijkl,ip,jr->prkl", core, first, second)


def _dora(merged: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """DoRA (arXiv 2402.09353, equation 5), with magnitudes of outputs or, as LyCORIS at first, of inputs.

    The shape decides: [out, 1, ...] or [1, in, ...].
    """
    if scale.shape[0] == merged.shape[0] and scale.numel() == merged.shape[0]:
        norm = merged.flatten(1).norm(dim=1)
        return merged * (scale.flatten() / norm).reshape(-1, *[1] * (merged.dim() - 1))
    if scale.dim() > 1 and scale.shape[0] == 1 and scale.numel() == merged.shape[1]:
        norm = merged.transpose(0, 1).flatten(1).norm(dim=1)
        return merged * (scale.flatten() / norm).reshape(1, -1, *[1] * (merged.dim() - 2))
    raise ValueError(f"its dora_scale of shape {tuple(scale.shape)} fits neither outputs nor inputs")


def _layout_of_folder(folder: Path) -> Layout:
    from trainables.methods.adapter_files import KOHYA_FILE, PEFT_CONFIG, WEIGHTS_FILE

    if (folder / "model_index.json").is_file():
        return "pipeline"
    if (folder / PEFT_CONFIG).is_file():
        return "peft"
    words = [path.name for path in word_files(folder)]
    if (folder / WEIGHTS_FILE).is_file() or any(folder.glob(f"*/{PEFT_CONFIG}")):
        layout: Layout = "folders"
    elif (folder / PROJECTIONS_FILE).is_file():
        layout = "projections"
    elif words:
        layout = "embedding"
    else:
        raise UserError(f"{folder} holds no weights of a known layout; name {_KNOWN}")
    # Of the first two the second is a copy; scripts keep embeddings of the way (learned_embeds-steps-500).
    read = {"folders": (WEIGHTS_FILE, KOHYA_FILE), "projections": (PROJECTIONS_FILE,)}.get(layout, ())
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    if beside := [name for name in files if name not in read and not name.startswith("learned_embeds")]:
        raise UserError(
            f"{folder} holds {beside[0]} beside weights of the layout {layout!r}, which alone would be judged; move "
            "the file away, or name it by itself"
        )
    return layout


def _folder_digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()} ".encode())
        digest.update(bytes.fromhex(file_digest(path)))
    return digest.hexdigest()


def _layout_of(path: Path, shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str]) -> Layout:
    from trainables.models.families import FAMILIES

    if metadata.get("study.format") == "hypernetwork":
        return "hypernetwork"
    if kind_of(shapes) is not None:
        return "checkpoint"
    parts = {f"{part.name}." for family in FAMILIES.values() for part in family.trainable(text_encoders=True)}
    if any(key.startswith(_KOHYA) for key in shapes) and all(
        key.startswith((*_KOHYA, _BUNDLED)) for key in shapes
    ):
        return "kohya"
    if shapes and all(key.startswith(tuple(parts)) for key in shapes):
        return "diffusers"
    if is_projections(shapes):
        return "projections"
    few = all(len(shape) <= 2 for shape in shapes.values())
    if shapes and few and (set(shapes) <= set(ENCODERS) or len(shapes) == 1):
        return "embedding"
    others = [key for key in shapes if not key.startswith((*_KOHYA, *parts))]
    raise UserError(
        f"{path} is of no layout that is read here: it has tensors such as "
        f"{', '.join(others[:_MOST_NAMED]) or 'none'}; name {_KNOWN}"
    )


def _read_pt(path: Path) -> Any:
    try:
        return read_pt(path)
    except ValueError as error:
        raise UserError(f"{path} is damaged, or holds code ({error})") from None


def _rows_of_a1111(content: Any) -> torch.Tensor | None:
    """Returns the vectors of an embedding of A1111, [vectors, width]; None if it is none."""
    import torch

    held = content.get("string_to_param") if isinstance(content, dict) else None
    if not isinstance(held, dict) or len(held) != 1:
        return None
    (rows,) = held.values()
    if not isinstance(rows, torch.Tensor) or not 1 <= rows.dim() <= 2 or not rows.numel():
        return None
    return torch.atleast_2d(rows.detach())


def _require_hypernetwork(path: Path, content: Any = None) -> None:
    """Raises UserError if a file is no hypernetwork that can be read; `content` is that of a ``.pt`` file."""
    from trainables.methods.hypernetwork_files import read_hypernetwork

    if is_pt(path) and not (isinstance(content, dict) and any(isinstance(key, int) for key in content)):
        keys = [repr(key) for key in content][:_MOST_NAMED] if isinstance(content, dict) else []
        has = f"keys such as {', '.join(keys)}" if keys else f"a {type(content).__name__}"
        raise UserError(
            f"{path} is neither an embedding of A1111 (looked for: string_to_param with one tensor of vectors) nor a "
            "hypernetwork of it (looked for: the width of a context, such as 768, with a pair of state dicts); it "
            f"holds {has}; name {_KNOWN}"
        )
    read_hypernetwork(path)

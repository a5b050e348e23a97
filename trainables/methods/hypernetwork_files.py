"""Files of hypernetworks, and the loader that puts one into a diffusers pipeline, since diffusers has none.

Our own files are safetensors: flat names ``<width>.<k|v>.linear.<position>.<weight|bias>``, where positions count
activations and layer norms but no dropout, and metadata that says what the layers are. A1111's are ``.pt``: integer
keys with a pair of state dicts each, and the settings beside them; they are read by torch's loader that refuses code.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables.errors import UserError
from trainables.methods.adapter_files import sort_header
from trainables.methods.pickled_files import read_pt
from trainables.models.families import FAMILIES
from trainables.models.hypernetwork_layers import (
    ACTIVATIONS,
    LINEAR,
    NORM,
    SHARED_ACTIVATIONS,
    LayerPlan,
    multipliers_of,
    text_of,
)

if TYPE_CHECKING:
    import torch
    from torch import nn

WEIGHTS_FILE = "hypernetwork.safetensors"
A1111_SUFFIX = ".pt"

_FORMAT, _VERSION = "hypernetwork", "1"
_ROLES = ("k", "v")  # in A1111's order
_LEGACY_DROPOUT = 0.3  # of A1111's files from before dropout structures
_LEGACY_NAMES = {"linear1": "linear.0", "linear2": "linear.1"}


@dataclass(frozen=True)
class StoredHypernetwork:
    """What a file of a hypernetwork holds.

    Attributes:
        plan: The layers.
        cross_only: Only contexts of cross-attention are changed; else all contexts of the widths.
        tensors: ``<width>.<k|v>.linear.<position>.<weight|bias>`` -> values, on the CPU.
        self_widths: Of the contexts of self-attention in the model that it was trained on; None if that is not known.
    """

    plan: LayerPlan
    cross_only: bool
    tensors: Mapping[str, torch.Tensor]
    self_widths: tuple[int, ...] | None = None

    @property
    def widths(self) -> tuple[int, ...]:
        """The widths of contexts that are changed."""
        return tuple(sorted({int(name.split(".")[0]) for name in self.tensors}))

    def of_widths(self, widths: Collection[int]) -> StoredHypernetwork:
        """Returns the same without the networks for contexts of other widths."""
        tensors = {name: value for name, value in self.tensors.items() if int(name.split(".")[0]) in widths}
        return replace(self, tensors=tensors)


def load_hypernetwork(pipeline: Any, path: str | Path, strength: float = 1.0) -> Any:
    """Puts a hypernetwork into a diffusers pipeline, whose images it then changes; returns the pipeline.

    It becomes the submodule ``hypernetwork`` of the UNet: it moves with ``pipeline.to``, and its attribute ``strength``
    may be changed at any time. LoRA may be loaded before or after. Take it out by `unload_hypernetwork` before the
    pipeline is saved, or another one is loaded. Of a file of A1111 that has networks for the width of the model's text,
    those for widths that the model has not are left out.

    Args:
        pipeline: Of a model with cross-attention.
        path: A file of ours (``.safetensors``), the folder that holds it, or one of A1111 (``.pt``).
        strength: Factor on what the networks add to contexts, a finite number; 0 leaves images as they are.

    Raises:
        UserError: The file is none, or damaged, or was made for contexts of other widths, or the strength is no number.
    """
    from trainables.models.hypernetworks import attention_widths, insert, make_from

    strength = _finite(strength)
    path = Path(path)
    path = path / WEIGHTS_FILE if path.is_dir() else path
    stored = read_hypernetwork(path)
    denoiser = _denoiser_of(pipeline)
    found = attention_widths(denoiser)
    known = set(found["cross"]) if stored.cross_only else {*found["cross"], *found["self"]}
    if is_pt(path) and found["cross"] and set(found["cross"]) <= set(stored.widths):
        # Users of A1111 may tick any widths, also of other models, and it uses those that a model has.
        stored = stored.of_widths(known)
    foreign = [width for width in stored.widths if width not in known]
    if foreign:
        kind = "cross-attention" if stored.cross_only else "attention"
        raise UserError(
            f"{path} changes contexts of width {_listed(foreign)}, but {kind} of this model has contexts of width "
            f"{_listed(sorted(known)) or 'none'}: it was trained on another kind of base model; load it into "
            "one of that kind"
        )
    try:
        made = make_from(stored.plan, stored.tensors, cross_only=stored.cross_only, strength=strength)
    except ValueError as error:
        raise UserError(_damaged(path, str(error))) from None
    dtype = denoiser.dtype
    insert(denoiser, made.to(denoiser.device, dtype) if dtype.is_floating_point else made.to(denoiser.device))
    return pipeline


def _finite(strength: Any) -> float:
    """Returns a strength as a number.

    Raises:
        UserError: It is none, or not finite: every image would be noise or black.
    """
    is_number = isinstance(strength, Real) and not isinstance(strength, bool)
    if is_number and abs(strength) <= sys.float_info.max:
        return float(strength)
    raise UserError(f"strength must be a finite number, such as 0.5 or 1; got {strength!r}")


def unload_hypernetwork(pipeline: Any) -> Any:
    """Takes a hypernetwork out of a pipeline, whose images then are what they were; returns the pipeline."""
    from trainables.models.hypernetworks import remove

    remove(_denoiser_of(pipeline))
    return pipeline


def stored_of(denoiser: nn.Module) -> StoredHypernetwork:
    """Returns what is to be saved of the hypernetwork in a denoiser: with its strength multiplied into the last layers,
    so that every reader's strength of 1 is that of the training.
    """
    import torch

    from trainables.models.hypernetworks import NAME, attention_widths

    hypernetwork: Any = getattr(denoiser, NAME)
    plan: LayerPlan = hypernetwork.plan
    if plan.activate_output:
        raise ValueError("the strength cannot be multiplied into layers that an activation follows")
    last = f".linear.{_affine(plan)[-1]}."
    tensors = {
        name: (value.detach() * hypernetwork.strength if last in name else value.detach())
        .to("cpu", torch.float32, copy=True)
        .contiguous()
        for name, value in hypernetwork.banks.state_dict().items()
    }
    return StoredHypernetwork(plan, hypernetwork.cross_only, tensors, attention_widths(denoiser)["self"])


def write_hypernetwork(path: Path, stored: StoredHypernetwork) -> None:
    """Writes our own file: equal weights are equal bytes."""
    from safetensors.torch import save_file

    plan = stored.plan
    metadata = {
        "format": _FORMAT,
        "version": _VERSION,
        "layer_structure": text_of(plan.multipliers),
        "activation_func": plan.activation,
        "is_layer_norm": str(plan.layer_norm).lower(),
        "activate_output": str(plan.activate_output).lower(),
        "attention_layers": "cross" if stored.cross_only else "all",
    }
    if stored.self_widths is not None:
        metadata["self_attention_widths"] = ",".join(map(str, stored.self_widths))
    save_file(dict(stored.tensors), path, {f"study.{key}": value for key, value in metadata.items()})
    sort_header(path)


def read_hypernetwork(path: Path) -> StoredHypernetwork:
    """Reads a file of ours or, by its suffix ``.pt``, of A1111.

    Raises:
        UserError: There is no such file, it is damaged, or it is no hypernetwork.
    """
    if not path.is_file():
        raise UserError(
            f"there is no file {path}; name a hypernetwork's {WEIGHTS_FILE}, or a .pt file of A1111"
        )
    return _read_a1111(path) if is_pt(path) else _read_own(path)


def is_pt(path: Path) -> bool:
    """Whether a file is one of A1111 by its suffix, in whatever case."""
    return path.suffix.lower() == A1111_SUFFIX


def write_a1111(
    path: Path, stored: StoredHypernetwork, *, name: str = "", step: int = 0, info: str | None = None
) -> list[str]:
    """Writes a hypernetwork as AUTOMATIC1111 does, for its ``models/hypernetworks``, and for ComfyUI.

    Every key is written, since readers differ in what they take a missing one for. Nothing is said of dropout: ComfyUI
    would draw with it.

    Args:
        path: Should end in ``.pt``: A1111 lists no others.
        stored: What to write.
        name: Shown by A1111; the file's name by default.
        step: Optimizer steps that it was trained for.
        info: What A1111 prints when it loads the file.

    Returns:
        What a user should know of how the file is read elsewhere, one note each.

    Raises:
        UserError: A1111 and ComfyUI would change other layers than were trained.
    """
    import torch

    plan = stored.plan
    also = [width for width in stored.widths if width in (stored.self_widths or ())]
    if stored.cross_only and also:
        raise UserError(
            f"this hypernetwork changes the text's contexts, of width {_listed(also)}, and self-attention of its base "
            "model has contexts of that width too: A1111 and ComfyUI tell them apart by width alone, and would change "
            "both; train with attention_layers: all for them"
        )
    positions = _affine(plan)
    content: dict[Any, Any] = {
        width: tuple(
            {
                f"linear.{position}.{kind}": stored.tensors[f"{width}.{role}.linear.{position}.{kind}"]
                for position in positions  # in order: ComfyUI goes by it
                for kind in ("weight", "bias")
            }
            for role in _ROLES
        )
        for width in stored.widths
    }
    content |= {
        "step": step,
        "name": name or path.stem,
        "layer_structure": [float(value) for value in plan.multipliers],
        "activation_func": plan.activation,
        "is_layer_norm": plan.layer_norm,
        "weight_initialization": None,
        "sd_checkpoint": None,
        "sd_checkpoint_name": None,
        "activate_output": plan.activate_output,
        "use_dropout": False,
        "dropout_structure": [0.0] * len(plan.multipliers),
        "last_layer_dropout": False,
        "optional_info": info,
    }
    torch.save(content, path)
    return list(_notes(plan))


def _notes(plan: LayerPlan) -> Iterator[str]:
    if plan.activation not in SHARED_ACTIVATIONS:
        yield f"ComfyUI does not know the activation {plan.activation} and refuses the file; A1111 reads it"
    elif plan.layer_norm and plan.activation != "linear" and not plan.activate_output:
        yield (
            f"ComfyUI will give other images: with layer norms it lets the activation ({plan.activation}) follow the "
            "last linear layer too; A1111 reads the file as it was trained"
        )


def _affine(plan: LayerPlan, dropout: Sequence[float] = ()) -> list[int]:
    """Positions of the layers that have parameters."""
    return [position for position, (kind, _) in enumerate(plan.layers(dropout)) if kind in (LINEAR, NORM)]


def _read_own(path: Path) -> StoredHypernetwork:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = {key.removeprefix("study."): value for key, value in (file.metadata() or {}).items()}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(_damaged(path, str(error))) from None
    if metadata.get("format") != _FORMAT:
        raise UserError(
            f"{path} is no hypernetwork of ours: its metadata do not say study.format: {_FORMAT}; a LoRA is loaded by "
            "pipeline.load_lora_weights, an embedding by pipeline.load_textual_inversion"
        )
    if metadata.get("version") != _VERSION:
        raise UserError(
            f"{path} has version {metadata.get('version')} of the format, and this is made for {_VERSION}; take a "
            "newer version of this program"
        )
    try:
        plan = LayerPlan(
            multipliers_of(metadata["layer_structure"]),
            _known_activation(metadata["activation_func"]),
            metadata["is_layer_norm"] == "true",
            metadata["activate_output"] == "true",
        )
        widths = metadata.get("self_attention_widths")
        stored = StoredHypernetwork(
            plan,
            metadata["attention_layers"] == "cross",
            tensors,
            None if widths is None else tuple(int(width) for width in widths.split(",") if width),
        )
        _ = stored.widths  # what its tensors are called is checked here
    except KeyError as error:
        raise UserError(_damaged(path, f"its metadata lack study.{error.args[0]}")) from None
    except ValueError as error:
        raise UserError(_damaged(path, str(error))) from None
    return stored


def _read_a1111(path: Path) -> StoredHypernetwork:
    try:
        content = read_pt(path)
    except ValueError as error:
        raise UserError(_damaged(path, str(error))) from None
    if not isinstance(content, dict):
        raise UserError(_damaged(path, f"it holds a {type(content).__name__} and no settings"))
    try:
        plan, dropout = _a1111_layers(content)
        tensors: dict[str, torch.Tensor] = {}
        for width, pair in content.items():
            if isinstance(width, int):
                tensors |= _a1111_bank(width, pair, plan, dropout)
    except ValueError as error:
        raise UserError(_damaged(path, str(error))) from None
    if not tensors:
        raise UserError(
            f"{path} is no hypernetwork of A1111: it has no key that is the width of a context, such as 768; an "
            "embedding is loaded by pipeline.load_textual_inversion"
        )
    return StoredHypernetwork(plan, False, tensors)


def _a1111_layers(content: Mapping[Any, Any]) -> tuple[LayerPlan, Sequence[float]]:
    """Returns the layers of a file of A1111 and its dropout structure, with what A1111 takes missing keys for."""
    structure = multipliers_of(content.get("layer_structure") or [1, 2, 1])
    activation = _known_activation(str(content.get("activation_func") or "linear").lower())
    after_the_last = bool(content.get("activate_output", True)) and activation != "linear"
    dropout = content.get("dropout_structure")
    if dropout is None and content.get("use_dropout"):
        before_last = _LEGACY_DROPOUT if content.get("last_layer_dropout") else 0.0
        dropout = [0.0, *[_LEGACY_DROPOUT] * (len(structure) - 3), before_last, 0.0]
    if not isinstance(dropout or [], list | tuple):
        raise ValueError(f"its dropout_structure is {dropout!r} and no list")
    return LayerPlan(structure, activation, bool(content.get("is_layer_norm")), after_the_last), dropout or []


def _a1111_bank(width: int, pair: Any, plan: LayerPlan, dropout: Sequence[float]) -> dict[str, torch.Tensor]:
    """Returns the tensors of one width under our names: A1111 counts dropouts as positions, we do not."""
    import torch

    if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(isinstance(one, dict) for one in pair):
        raise ValueError(f"its entry {width} is no pair of state dicts, for keys and for values")
    positions = dict(zip(_affine(plan, dropout), _affine(plan), strict=True))
    found = {}
    for role, state in zip(_ROLES, pair, strict=True):
        for name, value in state.items():
            stem, _, kind = str(name).rpartition(".")
            stem = _LEGACY_NAMES.get(stem, stem)
            root, _, position = stem.partition(".")
            if root != "linear" or not position.isdigit() or int(position) not in positions:
                raise ValueError(
                    f"its entry {width} has a {name}, where layer_structure {text_of(plan.multipliers)} has no layer"
                )
            if not isinstance(value, torch.Tensor):
                raise ValueError(f"its {name} of entry {width} is no tensor")
            found[f"{width}.{role}.linear.{positions[int(position)]}.{kind}"] = value
    return found


def _known_activation(name: str) -> str:
    if name not in ACTIVATIONS:
        raise ValueError(f"its activation {name!r} is none of {', '.join(ACTIVATIONS)}")
    return name


def _denoiser_of(pipeline: Any) -> Any:
    """Returns what a pipeline of any class denoises with: image-to-image has the same parts as text-to-image."""
    names = dict.fromkeys(family.denoiser.name for family in FAMILIES.values())
    found = [getattr(pipeline, name, None) for name in names]
    denoiser = next((module for module in found if module is not None), None)
    if denoiser is None:
        raise UserError(
            f"a {type(pipeline).__name__} has none of the parts that a hypernetwork is put into: {', '.join(names)}"
        )
    return denoiser


def _damaged(path: Path, reason: str) -> str:
    return f"{path} is damaged, or no hypernetwork ({reason}); fetch or make it again"


def _listed(widths: Sequence[int]) -> str:
    return ", ".join(map(str, widths))

"""The methods that can be compared. Adding one: one file in ``methods/``, one search space, one line here."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from trainables.errors import UserError

if TYPE_CHECKING:
    from trainables.config.fields import TrainingConfig
    from trainables.methods.protocol import Method

BASE = "base"  # the method that trains nothing
_MODULES = {
    BASE: "trainables.methods.base",
    "lora": "trainables.methods.lora",
    "dreambooth": "trainables.methods.dreambooth",
    "dreambooth_lora": "trainables.methods.dreambooth_lora",
    "hypernetwork": "trainables.methods.hypernetwork",
    "textual_inversion": "trainables.methods.textual_inversion",
    "custom_diffusion": "trainables.methods.custom_diffusion",
    "pivotal_tuning": "trainables.methods.pivotal_tuning",
    "text_to_image": "trainables.methods.text_to_image",
}
_UNLISTED = {"foreign": "trainables.methods.foreign"}  # of runs that no study file asks for: `study evaluate`


def method_names() -> tuple[str, ...]:
    """Returns the names of all methods, ``base`` (no training) first."""
    return tuple(_MODULES)


def get_method(name: str) -> Method:
    """Returns the method called `name`; raises UserError with the nearest names if there is none."""
    known = _MODULES | _UNLISTED
    if name not in known:
        import difflib

        near = difflib.get_close_matches(name, _MODULES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"unknown method {name!r}{hint} Methods: {', '.join(_MODULES)}")
    method: Method = importlib.import_module(known[name]).METHOD
    return method


def method_config_class(name: str) -> type[TrainingConfig]:
    """Returns the configuration class of a method; loads no torch."""
    return get_method(name).config_class

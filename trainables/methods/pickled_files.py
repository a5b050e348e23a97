"""Files that torch writes by pickle (``.pt``): read without running what they may hold."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from trainables.errors import UserError

_NAMED = re.compile(r"GLOBAL (\S+)")  # in torch's message: what the file would have called
_REMEDY = "take the weights as .safetensors, which holds no code"


def read_pt(path: Path) -> Any:
    """Returns what a file holds: tensors, numbers, texts and containers of these.

    Raises:
        UserError: It holds what might be code.
        ValueError: It is damaged, or was not written by torch; says how that showed.
    """
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever zip files, unpickling and torch find wrong
        # In our own words: torch's advise to load the file with its code.
        said = str(error)
        if named := _NAMED.search(said):
            raise UserError(
                f"{path} holds more than tensors and settings: to read it would call {named[1]}, so that it may run "
                f"code of whoever made it; {_REMEDY}"
            ) from None
        if "TorchScript" in said:
            raise UserError(f"{path} holds a program (TorchScript), and is not read; {_REMEDY}") from None
        kind, line = type(error).__name__, said.split("\n")[0]
        known = line and "weights_only" not in said
        raise ValueError(f"{kind}: {line}" if known else kind) from None

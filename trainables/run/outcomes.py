"""How runs end, as the data of their last event: a state, and for those that fail a reason and a traceback."""

from __future__ import annotations

import traceback
from typing import Any

import torch

from trainables.errors import TrainingFailure, UserError


def describe(error: Exception) -> dict[str, Any]:
    """Returns the outcome of a run that has failed."""
    if isinstance(error, TrainingFailure):
        reason = error.reason
    elif isinstance(error, UserError):
        reason = "user_error"
    elif is_out_of_memory(error):
        reason = "out_of_memory"
    else:
        reason = "exception"
    text = "".join(traceback.format_exception(error))
    return outcome("FAIL", reason, str(error) or type(error).__name__, text)


def outcome(
    state: str, reason: str | None = None, message: str | None = None, trace: str | None = None
) -> dict[str, Any]:
    """Returns the data of a ``finished`` event."""
    return {"state": state, "reason": reason, "message": message, "traceback": trace}


def is_provided_for(error: BaseException) -> bool:
    """Whether a run that ends so has left its model as any other run does: a loss that is not finite, a mistake of
    the user's. Of anything else nobody knows what it interrupted.
    """
    return isinstance(error, (TrainingFailure, UserError))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out; torch reports the host's as a plain RuntimeError."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)

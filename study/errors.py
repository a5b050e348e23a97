"""Errors of the study; the same types as those of the training core, so that one handler prints both."""

from trainables.errors import TrainingFailure, UserError

__all__ = ["TrainingFailure", "UserError"]

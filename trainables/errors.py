"""Errors that a user can mend: each message states the rule, the value and the remedy."""


class UserError(Exception):
    """A mistake in a file, an argument or the environment; the command line prints it and exits with code 2.

    Args:
        problems: One message a problem; all that were found, not only the first.
    """

    def __init__(self, *problems: str) -> None:
        if not problems:
            raise ValueError("UserError needs at least one message")
        self.problems: tuple[str, ...] = problems
        super().__init__("\n".join(problems))


class InputsChanged(UserError):
    """The files that a run reads are not those that it was begun with; the run is not to blame, and can go on when
    they are there again.
    """


class TrainingFailure(Exception):
    """A run that cannot go on for a reason of its own (NaN loss, out of memory); the study goes on without
    it.

    Args:
        reason: A short stable word for tables, such as ``nan_loss`` or ``out_of_memory``.
        message: What happened, with values.
    """

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        super().__init__(message)

"""Which run a name means that a person gives: the whole name, or a part that no other run has in its name."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterator, Sequence

from study.storage.layout import Storage
from study.storage.run_key import DOWNSTREAM_PHASES, PHASES, RunKey
from trainables.errors import UserError

MOST_CANDIDATES = 20


def begun_runs(storage: Storage) -> Iterator[RunKey]:
    """Yields the runs of the study's plan that have a folder, in no order; other folders are passed over."""
    for path in storage.runs.glob("*/*/*"):
        with contextlib.suppress(ValueError):
            key = RunKey.parse("/".join(path.parts[-3:]))
            if key.phase in (*PHASES, *DOWNSTREAM_PHASES):
                yield key


def known_runs(storage: Storage) -> list[RunKey]:
    """Returns the runs that have a folder, in order."""
    return sorted(begun_runs(storage))


def runs_named(wanted: str, known: Sequence[RunKey]) -> list[RunKey]:
    """Returns the run of that name, or else all that have it in their names.

    Args:
        wanted: With slashes around it or without.
    """
    name = wanted.strip("/")
    return [key for key in known if key.name == name] or [key for key in known if wanted in key.name]


def find_run(wanted: str, known: Sequence[RunKey]) -> RunKey:
    """Returns the run that a name or a part of one names, see `runs_named`.

    Raises:
        UserError: None or several have it in their names; the message lists candidates.
    """
    found = runs_named(wanted, known)
    if len(found) == 1:
        return found[0]
    names = [key.name for key in known]
    if found:
        more = [f"... and {len(found) - MOST_CANDIDATES} more"] if len(found) > MOST_CANDIDATES else []
        listed = "\n  ".join([*sorted(key.name for key in found)[:MOST_CANDIDATES], *more])
        raise UserError(
            f"{wanted!r} is part of the names of {len(found)} runs; name one of them:\n  {listed}"
        )
    if not names:
        raise UserError(f"no run called {wanted!r}: none has begun")
    near = difflib.get_close_matches(wanted, names, n=5, cutoff=0.3) or sorted(names)[:5]
    raise UserError(f"no run called {wanted!r}; the nearest are:\n  " + "\n  ".join(near))

"""Somebody else's runs before they have a meaning here: fields that name them, numbers that judge them."""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from study.storage.run_key import State
from trainables.errors import UserError

#: What stands in the place of a number that nobody has, in small letters.
UNKNOWN = frozenset({"", "na", "n/a", "nan", "none", "null", "-", "--", "–", "—", "#n/a"})
PARAMS = "params."  # prefix of the fields that say how a run was made
_NEAR = 5
_CUTOFF = 0.55


@dataclass(frozen=True)
class Record:
    """One run of an experiment, or one row of a table.

    Attributes:
        key: What names it where it is: MLflow's id of the run, or the number of the row.
        fields: Texts, under their whole names (``params.r``, ``tags.method``; of a table the column's).
        metrics: Finite numbers.
        parent: Key of the run that it is nested in.
        reason: Why it did not complete, where that is known.
    """

    key: str
    fields: Mapping[str, str]
    metrics: Mapping[str, float]
    state: State = "COMPLETE"
    parent: str | None = None
    reason: str | None = None


def plain_number(text: str) -> float | None:
    """Returns a text as a finite number; None where it says that nothing is known, ValueError for anything else."""
    try:
        value = float(text)
    except ValueError:
        if text.strip().lower() in UNKNOWN:
            return None
        raise ValueError(f"{text!r} is not a number") from None
    return value if math.isfinite(value) else None


@dataclass(frozen=True)
class Source:
    """Records and where they come from.

    Attributes:
        words: E.g. "the MLflow experiment 'peft'".
        name: What the results are called there.
        prefixes: In the place of which a field may be named without them, e.g. ``params.``.
        field_word: What a field is called there, e.g. "tag or param".
        metric_word: What a metric is called there.
        numbers_of: Makes of the texts of all fields that are numbers what reads one of them; that raises ValueError,
            with what is expected, for anything else and returns None for a cell that says that nothing is known.
        origin: What tells this source from others, for the report's provenance.
    """

    words: str
    name: str
    records: Sequence[Record]
    field_word: str
    metric_word: str
    prefixes: tuple[str, ...] = ()
    numbers_of: Callable[[Iterable[str]], Callable[[str], float | None]] = lambda _: plain_number
    origin: Mapping[str, str] = field(default_factory=dict)
    by_key: Mapping[str, Record] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_key", {record.key: record for record in self.records})

    def field_names(self) -> tuple[str, ...]:
        """Names of all fields, the most frequent first."""
        counts = Counter(name for record in self.records for name in record.fields)
        return tuple(name for name, _ in counts.most_common())

    def metric_names(self) -> tuple[str, ...]:
        """Names of all metrics, the most frequent first."""
        counts = Counter(name for record in self.records for name in record.metrics)
        return tuple(name for name, _ in counts.most_common())

    def value(self, record: Record, name: str) -> str | None:
        """A field of a record: its own, or that of the run that it is nested in; None where there is none.

        Who nests the seeds of a method in one run of the method says the method there.
        """
        seen: set[str] = set()
        at: Record | None = record
        while at is not None and at.key not in seen:
            if text := at.fields.get(name, "").strip():
                return " ".join(text.split())
            seen.add(at.key)
            at = self.by_key.get(at.parent or "")
        return None


def whole_field(source: Source, wanted: str, names: Sequence[str]) -> str:
    """Returns the whole name of a field that may be named without its prefix.

    Raises:
        UserError: No record has it, with the nearest names; or it is a tag and a param that differ.
    """
    if wanted in names:
        return wanted
    found = [prefix + wanted for prefix in source.prefixes if prefix + wanted in names]
    if len(found) == 1:
        return found[0]
    if found:
        if all(_alike(record, found) for record in source.records):
            return found[0]
        raise UserError(f"{wanted!r} is {' and '.join(found)}, which differ; write which of them is meant")
    raise UserError(
        f"no {source.field_word} of {source.words} is called {wanted!r}; {nearest(wanted, names, source.prefixes)}"
    )


def _alike(record: Record, names: Sequence[str]) -> bool:
    return len({record.fields[name] for name in names if name in record.fields}) < 2


def nearest(wanted: str, names: Iterable[str], prefixes: Iterable[str] = ()) -> str:
    """Returns the names that are most like one that does not exist, or some that do, for a message."""
    bare = {_bare(name, prefixes): name for name in names}
    wanted = _bare(wanted, prefixes)
    if not bare:
        return "there are none"
    lowered = {name.lower(): name for name in bare}
    near = difflib.get_close_matches(wanted.lower(), lowered, n=_NEAR, cutoff=_CUTOFF)
    inside = [name for name in lowered if wanted.lower() in name]
    if found := list(dict.fromkeys([*near, *inside]))[:_NEAR]:
        return f"nearest: {', '.join(bare[lowered[name]] for name in found)}"
    known = list(bare.values())
    more = f" and {len(known) - _NEAR} more" if len(known) > _NEAR else ""
    return f"there are: {', '.join(known[:_NEAR])}{more}"


def _bare(name: str, prefixes: Iterable[str]) -> str:
    return next((name[len(prefix) :] for prefix in prefixes if name.startswith(prefix)), name)

"""Results that this program did not make, as those that it makes: any experiment's runs, or any table's rows."""

from __future__ import annotations

import contextlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from study.results.columns import CURVE_COLUMNS, IMAGE_COLUMNS, RUN_COLUMNS
from study.results.frames import Results, frame_of, table_of
from study.results.mapping import ResultMapping
from study.results.records import PARAMS, Record, Source, nearest, whole_field
from study.storage.run_key import RunKey
from trainables.errors import UserError

METHOD = "external"  # in the place of a method, which only this program's runs have
METRIC_PREFIX = (
    "metric."  # of columns: a foreign metric may be called as one of this program's, and be another
)
NO_SUBJECT = "(not stated)"
MOST_ARMS = 100
_EXAMPLES = 3
_FIELDS = "fields"  # of a row on its way: all that was said of it
_COLUMNS = (*RUN_COLUMNS, "run_key", "reason")
_SEED = re.compile(r"-?\d{1,18}")
_NAME_LENGTH = 64

Reader = Callable[[Record], float | None]


@dataclass(frozen=True)
class _Fields:
    """The whole names of the fields that tell arm, subject and seed."""

    arm: tuple[str, ...]
    subject: tuple[str, ...]
    seed: tuple[str, ...]


def external_results(source: Source, mapping: ResultMapping) -> Results:
    """Gives somebody else's records the meaning that a mapping says.

    Runs of one arm, subject and seed are kept as they are; the report averages them. Runs that cannot be compared are
    counted by reason. What is not said stays unsaid: without subjects all runs are of one, which carries no interval.

    Raises:
        UserError: With everything that the mapping names and the source does not have, or with the reasons why no run
            can be compared.
    """
    fields, readers = _resolved(source, mapping)
    left = _LeftOut()
    placed = list(_placed(source, mapping, fields, readers, left))
    if not any(row["state"] == "COMPLETE" and _value(row, mapping.quality[0]) is not None for row in placed):
        raise UserError(f"no run of {source.words} can be compared: {left.words()}")
    arms = dict.fromkeys(row["arm"] for row in placed)
    if len(arms) > MOST_ARMS:
        raise UserError(
            f"{' and '.join(mapping.arm)} {'tell' if len(mapping.arm) > 1 else 'has'} {len(arms):,} arms, and a report "
            f"compares at most {MOST_ARMS}; name a {source.field_word} with fewer values"
        )
    named = {*fields.arm, *fields.subject, *fields.seed, *(PARAMS + metric for metric in mapping.shown)}
    name = folder_name(mapping.name or source.name)
    rows, seeds = numbered(name, placed)
    columns = [*_COLUMNS, *(METRIC_PREFIX + metric for metric in mapping.shown)]
    facts = {
        "source": source.words,
        "title": mapping.name or source.name,
        "field_word": source.field_word,
        "fields": {"arm": list(fields.arm), "subject": list(fields.subject), "seed": list(fields.seed)},
        "measures": measures_of(mapping),
        "margin": mapping.margin,
        "read": len(source.records),
        "left_out": left.rows(),
        "seeds": seeds,
        "varying": varying_params(placed, named),
    }
    return Results(
        frame=frame_of([{column: row.get(column) for column in columns} for row in rows]),
        curves=table_of([], CURVE_COLUMNS),
        images=table_of([], IMAGE_COLUMNS),
        meta={**source.origin, "study": name, "external": facts},
    )


def measures_of(mapping: ResultMapping) -> list[dict[str, str]]:
    """What a report is told of each metric that it shows."""
    return [
        {
            "name": METRIC_PREFIX + name,
            "role": mapping.role(name),
            "title": mapping.title(name),
            "unit": mapping.unit(name),
            "direction": mapping.direction(name),
            "description": mapping.description(name),
        }
        for name in mapping.shown
    ]


def folder_name(title: str) -> str:
    """Returns a title as the name of a folder: letters, digits, dots, dashes and underscores, at most 64."""
    clean = re.sub(r"[^A-Za-z0-9_.-]+", "-", title).strip("-._")[:_NAME_LENGTH].rstrip("-._")
    if not clean:
        raise UserError(f"{title!r} has no letter that a folder's name may have; give the report a NAME")
    return clean


# ---------------------------------------------------------------------- what the mapping names


def _resolved(source: Source, mapping: ResultMapping) -> tuple[_Fields, dict[str, Reader]]:
    """Looks up everything that a mapping names; raises UserError with all that is not there."""
    problems: list[str] = []
    fields, metrics = source.field_names(), source.metric_names()

    def found(role: str) -> tuple[str, ...]:
        whole = []
        for name in getattr(mapping, role):
            try:
                whole.append(whole_field(source, name, fields))
            except UserError as error:
                problems.extend(f"{role}: {problem}" for problem in error.problems)
        return tuple(whole)

    named = _Fields(found("arm"), found("subject"), found("seed"))
    readers: dict[str, Reader] = {}
    numbers = source.numbers_of(_number_cells(source, mapping.shown, metrics, fields))
    for name in mapping.shown:
        try:
            readers[name] = _reader(source, name, metrics, fields, numbers)
        except UserError as error:
            problems += [f"{mapping.role(name)}: {problem}" for problem in error.problems]
    if problems:
        raise UserError(*problems)
    return named, readers


def _number_cells(
    source: Source, names: Sequence[str], metrics: Sequence[str], fields: Sequence[str]
) -> list[str]:
    """The texts of all fields that are to be numbers."""
    cells = []
    for name in names:
        if name in metrics:  # which are numbers already
            continue
        with contextlib.suppress(UserError):  # told where it is read
            whole = whole_field(source, name, fields)
            texts = (source.value(record, whole) for record in source.records)
            cells += [text for text in texts if text is not None]
    return cells


def _reader(
    source: Source,
    name: str,
    metrics: Sequence[str],
    fields: Sequence[str],
    numbers: Callable[[str], float | None],
) -> Reader:
    """What reads a metric; a param, tag or column will do where its values are numbers.

    Raises:
        UserError: There is none of that name, or values are no numbers.
    """
    if name in metrics:
        return lambda record: record.metrics.get(name)
    try:
        whole = whole_field(source, name, fields)
    except UserError as error:
        if source.metric_word == source.field_word:
            raise
        raise UserError(
            f"no {source.metric_word} of {source.words} is called {name!r}; {nearest(name, metrics)}"
        ) from error
    values: dict[str, float | None] = {}
    wrong: list[str] = []
    for record in source.records:
        if (text := source.value(record, whole)) is not None and text not in values:
            try:
                values[text] = numbers(text)
            except ValueError as error:
                values[text] = None
                wrong.append(f"{record.key}: {error}")
    if wrong:
        more = f" (and {len(wrong) - _EXAMPLES} more)" if len(wrong) > _EXAMPLES else ""
        raise UserError(f"{name!r} is not numeric: {'; '.join(wrong[:_EXAMPLES])}{more}; name one that is")
    return lambda record: None if (text := source.value(record, whole)) is None else values[text]


# ---------------------------------------------------------------------- which runs count


class _LeftOut:
    """Counts records that are not compared by the first quality, by reason, with a few of their names."""

    def __init__(self) -> None:
        self._keys: dict[str, list[str]] = defaultdict(list)

    def add(self, reason: str, record: Record) -> None:
        self._keys[reason].append(record.key)

    def rows(self) -> list[dict[str, Any]]:
        """For the report: reason, number of runs, examples; the most frequent first."""
        ordered = sorted(self._keys.items(), key=lambda item: (-len(item[1]), item[0]))
        return [{"reason": r, "runs": len(keys), "examples": keys[:_EXAMPLES]} for r, keys in ordered]

    def words(self) -> str:
        return "; ".join(f"{row['runs']:,}: {row['reason']}" for row in self.rows())


def _placed(
    source: Source, mapping: ResultMapping, fields: _Fields, readers: dict[str, Reader], left: _LeftOut
) -> Iterator[dict[str, Any]]:
    """The records that have an arm, and where it is asked for a subject and a seed, as rows without numbers."""
    quality = readers[mapping.quality[0]]
    parents = {record.parent for record in source.records if record.parent}
    doubled = _parents_of_measured(source, quality)
    for record in source.records:
        value = quality(record)
        if value is None and record.key in parents:
            left.add(f"parents of nested runs, without {mapping.quality[0]}", record)
            continue
        if record.key in doubled:
            left.add("parents of nested runs that are judged themselves", record)
            continue
        labels = {role: _label(source, record, getattr(fields, role)) for role in ("arm", "subject", "seed")}
        unnamed = [role for role in labels if getattr(fields, role) and labels[role] is None]
        if record.state == "FAIL":
            left.add(f"did not complete: {record.reason}", record)
        elif record.state == "RUNNING":
            left.add(f"have not ended: {record.reason}", record)
        elif unnamed:
            what = " and ".join(", ".join(getattr(mapping, role)) for role in unnamed)
            left.add(f"have no value of {what} ({', '.join(unnamed)})", record)
        elif value is None:
            left.add(f"have no value of {mapping.quality[0]}; their other measures count", record)
        if unnamed:
            continue
        yield {
            "arm": labels["arm"],
            "subject": labels["subject"] or NO_SUBJECT,
            "seed": labels["seed"],
            "state": record.state,
            "reason": record.reason if record.state != "COMPLETE" else None,
            _FIELDS: record.fields,
            "mlflow_run_id": record.key if source.prefixes else None,
            **{METRIC_PREFIX + name: reader(record) for name, reader in readers.items()},
        }


def _parents_of_measured(source: Source, quality: Reader) -> set[str]:
    """Runs whose nested runs, however deep, are judged: what they say themselves would count twice."""
    found: set[str] = set()
    for record in source.records:
        if record.state != "COMPLETE" or quality(record) is None:
            continue
        parent = record.parent
        while parent and parent not in found and parent != record.key:
            found.add(parent)
            above = source.by_key.get(parent)
            parent = above.parent if above else None
    return found


def _label(source: Source, record: Record, names: Sequence[str]) -> str | None:
    """What a record is called by some fields: the first's value, and the others' with their names."""
    parts = [(name, source.value(record, name)) for name in names]
    if not parts or any(text is None for _, text in parts):
        return None
    bare = [next((n.removeprefix(p) for p in source.prefixes if n.startswith(p)), n) for n, _ in parts]
    first, *others = zip(bare, (str(text) for _, text in parts), strict=True)
    return ", ".join([first[1], *(f"{name} {text}" for name, text in others)])


def varying_params(placed: Sequence[Mapping[str, Any]], named: Container[str]) -> list[str]:
    """Returns the params in which runs of one arm differ although nobody has named them, those of most arms first.

    A mean over such runs is one over the settings, too: of a search of the learning rate, say. Params with another
    value in each run, such as folders, are names and no settings.

    Args:
        named: Whole names of the fields and metrics that have a meaning.
    """
    values: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    runs: Counter[str] = Counter()
    for row in placed:
        for name, text in row[_FIELDS].items():
            if name.startswith(PARAMS) and name not in named:
                values[name][row["arm"]].add(text)
                runs[name] += 1
    arms = {name: sum(len(texts) > 1 for texts in by_arm.values()) for name, by_arm in values.items()}
    unique = {name for name in values if sum(map(len, values[name].values())) == runs[name] > 2}
    found = [name for name, count in arms.items() if count and name not in unique]
    return [name.removeprefix(PARAMS) for name in sorted(found, key=lambda name: (-arms[name], name))]


def _value(row: dict[str, Any], name: str) -> float | None:
    found: float | None = row[METRIC_PREFIX + name]
    return found


def numbered(name: str, placed: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Gives rows their numbers: of seeds that are no whole numbers by their order, of runs of the same thing by theirs.

    Args:
        name: Stands in the place of the study.
        placed: With arm, subject, and seed as text or None; where nothing else is said, the method is not known.

    Returns:
        The rows, and the numbers of the seeds where they are not the seeds themselves.
    """
    told = sorted({row["seed"] for row in placed if row["seed"] is not None})
    whole = all(_SEED.fullmatch(seed) for seed in told)
    numbers = {seed: int(seed) if whole else k for k, seed in enumerate(told)}
    seen: Counter[tuple[str, str, int]] = Counter()
    rows = []
    for row in placed:
        seed = 0 if row["seed"] is None else numbers[row["seed"]]
        place = (row["arm"], row["subject"], seed)
        key = RunKey("confirm", row["arm"], seen[place], row["subject"], seed)
        seen[place] += 1
        rows.append({
            "method": METHOD, **row, "study": name, "phase": key.phase, "trial": key.trial, "seed": seed,
            "run_key": key.name,
        })  # fmt: skip
    return rows, {} if whole else numbers

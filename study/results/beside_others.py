"""Results of others beside each other or beside studies of this program: by the measures that all of them have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from study.results.columns import CURVE_COLUMNS, IMAGE_COLUMNS, RUN_COLUMNS
from study.results.external import METHOD, METRIC_PREFIX, MOST_ARMS, NO_SUBJECT, folder_name, numbered
from study.results.frames import Results, frame_of, table_of
from study.results.shared_measures import OneMeasure, Shared, measures_of_results, shared_measures
from study.results.side_by_side import Beside
from trainables.errors import UserError

_COLUMNS = (*RUN_COLUMNS, "run_key", "reason")
_ROLES = ("arm", "subject", "seed")
_OWN_FIELDS: dict[str, tuple[str, ...]] = {role: (role,) for role in _ROLES}  # of a study of this program
_UNSAID = "--"
_NAMED = 8  # in a sentence


def beside_others(studies: Sequence[Beside]) -> Results:
    """Puts the compared runs of several results into one table, of which at least one is no study of this program.

    An arm is called ``name/arm``. Measures are those that all have (`study.results.shared_measures`). Subjects are the
    same where their names are; seeds of different programs have nothing in common, so that arms are paired by subject
    alone.

    Raises:
        UserError: There is no measure that all have and that ranks, no run that has a value of it, or too many arms.
    """
    names = [study.name for study in studies]
    owned = [measures_of_results(study.results) for study in studies]
    shared = shared_measures(names, owned)
    stated = [study for study in studies if _fields(study)["subject"]]
    placed = [
        row
        for k, study in enumerate(studies)
        for row in _rows(
            study, {one.about.column: one.columns[k] for one in shared.measures}, named=bool(stated)
        )
    ]
    first = shared.measures[0].about
    if not any(row["state"] == "COMPLETE" and row[first.column] is not None for row in placed):
        raise UserError(f"no run of {', '.join(names)} that completed has a value of {first.words}")
    if (count := len({row["arm"] for row in placed})) > MOST_ARMS:
        raise UserError(f"these have {count} arms, and a report compares at most {MOST_ARMS}; name fewer")
    title = folder_name("-vs-".join(names))
    rows, seeds = numbered(title, placed)
    columns = [*_COLUMNS, *(one.about.column for one in shared.measures)]
    facts = {
        "source": f"the reports {', '.join(names)}",
        "title": " and ".join(names),
        "field_word": "column",
        "fields": {"arm": ["report", "arm"], "subject": ["subject"] if stated else [], "seed": []},
        "measures": [_told(one.about) for one in shared.measures],
        "margin": _margin(studies, owned, shared),
        "read": sum(_read(study) for study in studies),
        "left_out": [item for study in studies for item in _left_out(study)],
        "seeds": seeds,
        "varying": [
            f"{study.name}: {name}" for study in studies for name in _facts(study).get("varying", ())
        ],
        "studies": names,
        "others": [study.name for study in studies if _facts(study)],
        "differences": _origins(studies, shared),
        "notes": list(_notes(studies, owned, shared)),
    }
    return Results(
        frame=frame_of([{column: row.get(column) for column in columns} for row in rows]),
        curves=table_of([], CURVE_COLUMNS),
        images=table_of([], IMAGE_COLUMNS),
        meta={"study": title, "external": facts},
    )


def _facts(study: Beside) -> Mapping[str, Any]:
    """What others' results bear of themselves; empty of a study of this program."""
    return study.results.meta.get("external") or {}


def _fields(study: Beside) -> dict[str, tuple[str, ...]]:
    """Which fields are arm, subject and seed."""
    if not (facts := _facts(study)):
        return _OWN_FIELDS
    stated = facts.get("fields") or {}
    return {role: tuple(stated.get(role, ())) for role in _ROLES}


def _units_are_seeds(study: Beside) -> bool:
    fields = _fields(study)
    return bool(fields["subject"]) and fields["subject"] == fields["seed"]


def _told(one: OneMeasure) -> dict[str, str]:
    return {
        "name": one.column,
        "role": one.role,
        "title": one.title,
        "unit": one.unit,
        "direction": one.direction,
        "description": one.description,
    }


# ---------------------------------------------------------------------- the runs


def _confirm(study: Beside) -> pd.DataFrame:
    """The runs that are compared, whether they completed or not."""
    frame = study.results.frame
    return frame[frame["phase"] == "confirm"]


def _rows(study: Beside, columns: Mapping[str, str], *, named: bool) -> Iterator[dict[str, Any]]:
    """The runs of one, without numbers.

    Args:
        columns: Columns of the common table -> of this one.
        named: Whether some of the results name subjects.
    """
    seeds = {number: seed for seed, number in (_facts(study).get("seeds") or {}).items()}
    for row in _confirm(study).to_dict("records"):
        number = None if pd.isna(row["seed"]) else int(row["seed"])
        yield {
            "arm": f"{study.name}/{row['arm']}",
            "method": METHOD if _facts(study) else row["method"],
            "subject": _subject(study, str(row["subject"]), named=named),
            "seed": None if number is None or not _fields(study)["seed"] else str(seeds.get(number, number)),
            "state": row["state"],
            "reason": _known(row.get("reason")),
            "mlflow_run_id": _known(row.get("mlflow_run_id")),
            **{common: _known(row.get(own)) for common, own in columns.items()},
        }


def _known(value: Any) -> Any:
    return None if pd.isna(value) else value


def _subject(study: Beside, name: str, *, named: bool) -> str:
    """Its name, with that of the results where nothing makes it the same as one of the others'."""
    alone = _units_are_seeds(study) or (name == NO_SUBJECT and named)
    return f"{name} ({study.name})" if alone else name


# ---------------------------------------------------------------------- what the report is told of them


def _margin(studies: Sequence[Beside], owned: Sequence[Sequence[OneMeasure]], shared: Shared) -> float | None:
    """The margin that all have stated of the measure that ranks; None where one has stated none or of another."""
    stated = set()
    for study, own, column in zip(studies, owned, shared.measures[0].columns, strict=True):
        first = next((one.column for one in own if one.role == "quality"), None)
        spec = study.spec.get("report") or {}
        margin = _facts(study).get("margin") if _facts(study) else spec.get("margin")
        stated.add(margin if first == column else None)
    return stated.pop() if len(stated) == 1 else None


def _read(study: Beside) -> int:
    return int(_facts(study).get("read", len(_confirm(study))))


def _left_out(study: Beside) -> list[dict[str, Any]]:
    if facts := _facts(study):
        return [{**item, "reason": f"{study.name}: {item['reason']}"} for item in facts.get("left_out", ())]
    frame = _confirm(study)
    failed = frame[frame["state"] != "COMPLETE"]
    if failed.empty:
        return []
    examples = [str(key) for key in failed["run_key"][:3]]
    return [{"reason": f"{study.name}: did not complete", "runs": len(failed), "examples": examples}]


def _origins(studies: Sequence[Beside], shared: Shared) -> list[tuple[str, list[str]]]:
    """What each is of, and which of its columns and fields mean what."""

    def field(role: str) -> tuple[str, list[str]]:
        return role, [", ".join(_fields(study)[role]) or _UNSAID for study in studies]

    sources = [str(_facts(study).get("source", "a study of this program")) for study in studies]
    measures = [
        (one.about.title, [column.removeprefix(METRIC_PREFIX) for column in one.columns])
        for one in shared.measures
    ]
    return [("source", sources), *map(field, _ROLES), *measures]


def _notes(studies: Sequence[Beside], owned: Sequence[Sequence[OneMeasure]], shared: Shared) -> Iterator[str]:
    """What a reader is to know before anything else."""
    titles = [one.about.title for one in shared.measures]
    others = [study.name for study in studies if _facts(study)]
    yield (
        f"These results need not be on one scale: what {_some(others)} {'has' if len(others) == 1 else 'have'} was "
        "measured by another program, and a measure of one name may be computed otherwise there, with another metric "
        "model, other references, prompts or images. A difference between arms of different reports is also one of "
        "the scales."
    )
    taken = f"{_some(titles)}, taken for the same by {'its name' if len(titles) == 1 else 'their names'}"
    yield f"Compared is what all of the reports have: {taken}. Arms are ranked by {titles[0]}."
    if shared.disagreeing:
        yield f"Not compared though called alike: {'; '.join(shared.disagreeing)}."
    for k, (study, own) in enumerate(zip(studies, owned, strict=True)):
        used = {one.columns[k] for one in shared.measures}
        if _facts(study) and (rest := [one.words for one in own if one.column not in used]):
            yield f"{_some(rest)} of {study.name} {'is' if len(rest) == 1 else 'are'} not among it."
    yield from _notes_on_subjects(studies)


def _notes_on_subjects(studies: Sequence[Beside]) -> Iterator[str]:
    for study in studies:
        if _units_are_seeds(study):
            yield f"The units of {study.name} are seeds, which are not those of any other report."
        elif not _fields(study)["subject"] and any(_fields(other)["subject"] for other in studies):
            yield f"{study.name} names no subject: its runs count as runs of one, of which nobody else has any."
    if not any(_fields(study)["subject"] for study in studies):
        return
    named = [
        {_subject(study, str(name), named=True) for name in _confirm(study)["subject"].unique()}
        for study in studies
    ]
    pairs = [one & two for k, one in enumerate(named) for two in named[k + 1 :]]
    if not any(pairs):
        yield (
            "The reports have no subject in common, so that nothing is tested between arms of different reports: what "
            "stands side by side is their means, each over other subjects."
        )
        return
    several = len(set.union(*pairs))
    yield (
        f"{several} subject{' is' if several == 1 else 's are'} in more than one of the reports, by name alone; "
        "whether the images are the same is not known here. Arms are paired by subject, and not by seed, since an "
        "equal seed is not the same noise in another program."
    )


def _some(words: Sequence[str]) -> str:
    if len(words) > _NAMED:
        return f"{', '.join(words[:_NAMED])} and {len(words) - _NAMED} more"
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else words[0]

"""Which measures several results have in common that were not judged by one program, and which of them ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from study.results.columns import COST_METRICS, EVALUATION_METRICS
from study.results.external import METRIC_PREFIX
from study.results.frames import Results
from study.results.mapping import Direction, Role
from study.storage.layout import META_JSON
from trainables.errors import UserError
from trainables.evaluation.metrics_table import METRICS

# Of this program's measures those that its reports rank by and plot; any other ranks where somebody else ranks by it.
OWN_QUALITIES = ("quality", "subject_fidelity_scaled", "prompt_fidelity_scaled", "class_kept")
_DIRECTIONS: dict[str, Direction] = {"higher": "max", "lower": "min", "none": "none"}
_BETTER = {"max": "higher", "min": "lower", "none": "neither"}
_LISTED = 12  # measures named in a message


@dataclass(frozen=True)
class OneMeasure:
    """A measure as one of the results has it.

    Attributes:
        column: Its column in the runs.
        name: What it is called there: the column without the prefix of others' metrics.
        description: What it is; empty where nobody has said it.
    """

    column: str
    name: str
    title: str
    unit: str
    direction: Direction
    role: Role
    description: str = ""

    @property
    def words(self) -> str:
        """E.g. 'fid "FID (DINOv2)"'; the name alone where the title says the same."""
        same = self.title.casefold() == self.name.replace("_", " ").casefold()
        return self.name if same or self.title == self.name else f'{self.name} "{self.title}"'


@dataclass(frozen=True)
class SharedMeasure:
    """A measure that all results have; `columns` are its columns in each of them, in their order.

    Attributes:
        about: Its name, title, unit, direction and role in the common table.
    """

    about: OneMeasure
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Shared:
    """What results have in common.

    Attributes:
        measures: The one that ranks is first.
        disagreeing: Why measures of one name are not taken for one.
    """

    measures: tuple[SharedMeasure, ...]
    disagreeing: tuple[str, ...] = ()


def measures_of_results(results: Results) -> tuple[OneMeasure, ...]:
    """The measures that some compared run has, qualities first.

    Raises:
        UserError: What others' results bear of their measures is damaged.
    """
    external = results.meta.get("external")
    return _own(results) if external is None else _theirs(external)


def _own(results: Results) -> tuple[OneMeasure, ...]:
    """Of a study of this program: all of its metrics."""
    frame = results.frame
    compared = frame[(frame["phase"] == "confirm") & (frame["state"] == "COMPLETE")]
    names = [*OWN_QUALITIES, *EVALUATION_METRICS, *COST_METRICS]
    found = []
    for name in dict.fromkeys(names):
        if name in compared and compared[name].notna().any():
            metric = METRICS[name]
            role: Role = "cost" if metric.kind == "cost" else "quality" if name in OWN_QUALITIES else "other"
            direction = _DIRECTIONS[metric.direction]
            unit = metric.unit or metric.shown_unit
            found.append(OneMeasure(name, name, metric.title, unit, direction, role, metric.description))
    return tuple(found)


def _theirs(external: Mapping[str, Any]) -> tuple[OneMeasure, ...]:
    try:
        return tuple(
            OneMeasure(
                column=str(one["name"]),
                name=str(one["name"]).removeprefix(METRIC_PREFIX),
                title=str(one["title"]),
                unit=str(one.get("unit", "")),
                direction=one["direction"],
                role=one["role"],
                description=str(one.get("description", "")),
            )
            for one in external["measures"]
        )
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{META_JSON} of these results is damaged where it says what was measured ({error}); take it from the "
            "report again, or make the report anew from the source"
        ) from None


def shared_measures(names: Sequence[str], found: Sequence[Sequence[OneMeasure]]) -> Shared:
    """Matches the measures of several results: by name, and else by the title that somebody has given them.

    A measure of which one says that higher is better and another lower, or that has another unit, is not the same.

    Args:
        names: What the results are called, for messages.
        found: The measures of each.

    Raises:
        UserError: They have none in common that arms can be ranked by; says which measures each has.
    """
    shared, disagreeing = [], []
    for first in found[0]:
        alike = [first, *(_like(first, other, found[0]) for other in found[1:])]
        known = [one for one in alike if one is not None]
        if len(known) < len(found):
            continue
        if why := _disagreement(names, known):
            disagreeing.append(why)
        else:
            shared.append(SharedMeasure(_joined(names, known), tuple(one.column for one in known)))
    if not any(one.about.role == "quality" for one in shared):  # nobody ranks by it, and it can be ranked by
        shared = [
            replace(one, about=replace(one.about, role="quality"))
            if one.about.role == "other" and one.about.direction != "none"
            else one
            for one in shared
        ]
    order: list[Role] = ["quality", "cost", "other"]
    shared.sort(key=lambda one: order.index(one.about.role))
    if not shared or shared[0].about.role != "quality":
        raise UserError(_nothing_shared(names, found, disagreeing))
    return Shared(tuple(shared), tuple(disagreeing))


def _like(first: OneMeasure, others: Sequence[OneMeasure], beside: Sequence[OneMeasure]) -> OneMeasure | None:
    """The measure of other results that is called like `first`; a name goes before a title.

    Args:
        beside: The measures among which `first` stands: one that has another's name is not taken by the title.
    """
    by_name = next((one for one in others if one.name == first.name), None)
    if by_name is not None:
        return by_name
    names = {one.name for one in beside}
    calls = _calls(first)
    alike = [one for one in others if one.name not in names and _calls(one) & calls]
    is_clear = len(alike) == 1 and sum(bool(_calls(one) & _calls(alike[0])) for one in beside) == 1
    return alike[0] if is_clear else None


def _calls(one: OneMeasure) -> set[str]:
    return {one.name.casefold(), one.title.casefold()}


def _disagreement(names: Sequence[str], known: Sequence[OneMeasure]) -> str:
    """Why measures that are called alike cannot be the same; empty if they can."""
    ways = {one.direction for one in known} - {"none"}
    if len(ways) > 1:
        said = ", ".join(
            f"{_BETTER[one.direction]} in {name}" for name, one in zip(names, known, strict=True)
        )
        return f"{known[0].words}, of which this is better: {said}"
    if len({one.unit for one in known}) > 1:
        said = ", ".join(f"{one.unit or 'none'} in {name}" for name, one in zip(names, known, strict=True))
        return f"{known[0].words}, of which the unit is: {said}"
    return ""


def _joined(names: Sequence[str], known: Sequence[OneMeasure]) -> OneMeasure:
    first = known[0]
    titled = next((one.title for one in known if one.title != one.name), first.title)
    direction: Direction = next((one.direction for one in known if one.direction != "none"), "none")
    roles = {one.role for one in known}
    role: Role = "other"
    if roles == {"cost"}:
        role = "cost"
    elif "quality" in roles and direction != "none":
        role = "quality"
    said = dict.fromkeys(one.description for one in known if one.description)
    stated = [f"{n}: {one.description}" for n, one in zip(names, known, strict=True) if one.description]
    words = next(iter(said)) if len(said) == 1 and len(stated) == len(known) else " ".join(stated)
    return OneMeasure(METRIC_PREFIX + first.name, first.name, titled, first.unit, direction, role, words)


def _nothing_shared(
    names: Sequence[str], found: Sequence[Sequence[OneMeasure]], disagreeing: Sequence[str]
) -> str:
    has = "; ".join(f"{name} has {_listed(own)}" for name, own in zip(names, found, strict=True))
    not_one = f"; called alike, but not the same: {'; '.join(disagreeing)}" if disagreeing else ""
    return (
        f"{', '.join(names)} have no measure in common that arms can be ranked by: {has}{not_one}. Where one of these "
        "is the same, make the report of others' results again (`study report NAME --from-csv FILE ...`) with the name "
        "that the other has: as the title of the column in the --mapping, `metrics: {COLUMN: {title: NAME}}`, or as "
        "the column's own name (--quality NAME)"
    )


def _listed(own: Sequence[OneMeasure]) -> str:
    more = f" and {len(own) - _LISTED} more" if len(own) > _LISTED else ""
    return f"{', '.join(one.words for one in own[:_LISTED])}{more}" if own else "none"

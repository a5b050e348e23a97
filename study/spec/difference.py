"""What differs between two study files, key by key, in words."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from study.spec.contents import NOT_RECORDED, differing
from study.spec.study_spec import StudySpec
from trainables.errors import UserError


def difference(old: Mapping[str, Any] | StudySpec, new: StudySpec) -> list[str]:
    """Returns one line for every value that differs between two studies, e.g. ``search.trials: 4 -> 8``.

    Args:
        old: A study, or the record of one.
        new: The study to compare with it.
    """
    before = old.identity() if isinstance(old, StudySpec) else recorded_identity(old)
    new = new if isinstance(old, StudySpec) else new.resuming(old)
    held = before.pop("contents", None)
    after = (new if held is not None else new.with_contents({})).identity()
    after.pop("contents", None)
    left, right = _flatten(before), _flatten(after)
    lines = []
    for path in sorted(
        {**left, **right}, key=lambda path: (list(left).index(path) if path in left else len(left), path)
    ):
        a, b = left.get(path, _ABSENT), right.get(path, _ABSENT)
        if a != b:
            lines.append(f"{path}: {_show(a)} -> {_show(b)}")
    if held is None:
        return lines + ([NOT_RECORDED] if new.contents else [])
    return lines + differing(held, new.contents)


def recorded_identity(record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the identity in a study's record, as a version of this program writes it that knows more fields.

    A field that the record lacks has its default: what the study did when there was no such field. Search spaces are
    left as they were recorded, since a dimension more is another search.
    """
    identity = dict(record["identity"])
    try:
        known: dict[str, Any] = _completed(identity, StudySpec.from_record(record).identity())
    except UserError:
        return identity
    return known


def not_taken(record: Mapping[str, Any], new: StudySpec) -> list[str]:
    """Returns a line for each value that a study file has changed in vain: margins, claims about generated images and
    prices are those of the first launch, since they say what the results mean.
    """
    before, after = record.get("spec") or {}, new.model_dump(mode="json")
    now = _of_first_launch(after)
    stated = [(path, value, now.get(path, _ABSENT)) for path, value in _of_first_launch(before).items()]
    return [
        f"{path}: {_show(old)} -> {_show(value)} is not taken: what the first launch stated "
        "counts; a study of another name may state another"
        for path, old, value in (*stated, *_claims(before, after))
        if old != value
    ]


def _of_first_launch(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a study file that are those of its first launch, by dotted path; without what it does not say."""
    report, resources = spec.get("report") or {}, spec.get("resources") or {}
    found = _flatten(report, "report") if report else {}
    for section, name, content in (
        ("resources", "price_per_hour", resources),
        ("downstream", "margin", spec.get("downstream") or {}),
    ):
        if name in content:
            found[f"{section}.{name}"] = content[name]
    return found


def _claims(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Path and both values of what claims say: those that one study alone has as a whole, others field by field."""
    old, new = ((spec.get("downstream") or {}).get("claims") or {} for spec in (before, after))
    for name in dict.fromkeys([*old, *new]):
        path = f"downstream.claims.{name}"
        if name in old and name in new:
            fields = _flatten(new[name], path)
            yield from (
                (field, value, fields.get(field, _ABSENT))
                for field, value in _flatten(old[name], path).items()
            )
        else:
            yield path, old.get(name, _ABSENT), new.get(name, _ABSENT)


def _completed(recorded: Any, filled: Any, key: str = "") -> Any:
    if key == "search_space":
        return recorded
    if isinstance(recorded, dict) and isinstance(filled, dict):
        both = {name: _completed(value, filled.get(name), name) for name, value in recorded.items()}
        return {**filled, **both}
    if isinstance(recorded, list) and isinstance(filled, list) and len(recorded) == len(filled):
        return [_completed(*pair) for pair in zip(recorded, filled, strict=True)]
    return recorded


_ABSENT = object()


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted path -> leaf; lists of named things (subjects) by name, other lists are leaves."""
    if isinstance(value, dict) and value:
        items = value.items()
    elif (
        isinstance(value, list) and value and all(isinstance(item, dict) and "name" in item for item in value)
    ):
        items = {item["name"]: item for item in value}.items()
    else:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in items:
        flat |= _flatten(item, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _show(value: Any) -> str:
    return "(absent)" if value is _ABSENT else json.dumps(value)

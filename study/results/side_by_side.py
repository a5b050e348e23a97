"""The confirm runs of several studies as one table of results: their arms side by side, paired where they can be."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from study.results.columns import (
    COST_METRICS,
    CURVE_COLUMNS,
    EVALUATION_METRICS,
    IMAGE_COLUMNS,
    RUN_COLUMNS,
)
from study.results.external import MOST_ARMS, folder_name
from study.results.frames import Results, frame_of, table_of
from study.storage.run_key import RunKey
from trainables.errors import UserError
from trainables.evaluation.metrics_table import QUALITY

_SHOWN = 60  # letters of a value in the table of differences
_MOST_DIFFERENCES = 60
_ABSENT = "--"
# Sections of a study file that change nothing of what is compared, or say it elsewhere.
_ASIDE = frozenset({"name", "description", "arms", "subjects", "storage", "tracking", "resources"})
# What a run's scores rest on: where it differs, equal values do not mean the same.
_SCALES = ("model", "evaluation")
_NO_SCALE = ("evaluation.at", "evaluation.search", "evaluation.images_between", "evaluation.batch_size")
_QUALITIES = (QUALITY, "subject_fidelity_scaled", "prompt_fidelity_scaled", "class_kept")
_OTHERS = ("quality_subject_prompt", "failed_images", "subject_fidelity", "prompt_fidelity", "drift")
_COSTS = ("total_seconds", "total_flops", "peak_memory_bytes", "trainable_parameters", "artifact_bytes")
_MADE_OF = {"total_seconds": "class_image_seconds", "total_flops": "class_image_flops"}  # by the report
_INSTEAD = {"total_seconds": "train_seconds", "total_flops": "train_flops"}
_COLUMNS = tuple(dict.fromkeys((*RUN_COLUMNS, *EVALUATION_METRICS, *COST_METRICS, "run_key", "reason")))


@dataclass(frozen=True)
class Beside:
    """One of the studies.

    Attributes:
        results: As `study.results.loading.load_results` gives them.
        identity: The study file with the digests of what it reads (``identity`` of ``study.json``); without them
            subjects count as the same where the study files say the same of them. A report's folder has none.
    """

    name: str
    results: Results
    identity: Mapping[str, Any] = field(default_factory=dict)

    @property
    def spec(self) -> Mapping[str, Any]:
        """The study file as it was launched."""
        return self.results.meta.get("spec") or {}

    def subject(self, name: str) -> str:
        """Everything that says what a subject is, as one text."""
        identity = self.identity or self.spec
        listed = identity.get("subjects") or ()
        stated = [one for one in listed if isinstance(one, Mapping) and one.get("name") == name]
        stated = [{key: value for key, value in one.items() if value is not None} for one in stated]
        contents = identity.get("contents") or {}
        held = {key: value for key, value in contents.items() if key.startswith(f"subjects.{name}.")}
        return json.dumps([stated, held], sort_keys=True, default=str)

    def has_images(self, name: str) -> bool:
        """Whether the study file names a folder of a subject's images."""
        listed = self.spec.get("subjects") or ()
        return any(
            one.get("images") for one in listed if isinstance(one, Mapping) and one.get("name") == name
        )


def side_by_side(studies: Sequence[Beside]) -> Results:
    """Puts the confirm runs of several studies into one table; an arm is then called ``study/arm``.

    Runs of the same subject and seed are paired over studies, as within one. A subject that two studies describe
    differently is not the same: it then bears the study's name, too.

    Raises:
        UserError: There are too many arms, or none of the studies has a confirm run.
    """
    renamed = _renamed_subjects(studies)
    rows = [row for study in studies for row in _rows(study, renamed)]
    if not any(row["state"] == "COMPLETE" for row in rows):
        raise UserError(
            f"none of {', '.join(study.name for study in studies)} has a complete confirm run, and only those are "
            "compared"
        )
    if (count := len({row["arm"] for row in rows})) > MOST_ARMS:
        raise UserError(
            f"these studies have {count} arms, and a report compares at most {MOST_ARMS}; name fewer"
        )
    names = [study.name for study in studies]
    title = folder_name("-vs-".join(names))
    frame = frame_of([{**{name: row.get(name) for name in _COLUMNS}, "study": title} for row in rows])
    differences = _differences(studies)
    margins = {json.dumps((study.spec.get("report") or {}).get("margin")) for study in studies}
    failed = [row for row in rows if row["state"] != "COMPLETE"]
    facts = {
        "source": f"the studies {', '.join(names)}",
        "title": " and ".join(names),
        "field_word": "field",
        "fields": {"arm": ["study", "arm"], "subject": ["subject"], "seed": ["seed"]},
        "measures": _measures(frame),
        "margin": json.loads(margins.pop()) if len(margins) == 1 else None,
        "read": len(rows),
        "left_out": [
            {
                "reason": "did not complete",
                "runs": len(failed),
                "examples": [row["run_key"] for row in failed[:3]],
            }
        ]
        if failed
        else [],
        "studies": names,
        "differences": differences[:_MOST_DIFFERENCES],
        "notes": list(_notes(studies, differences, renamed)),
    }
    meta = {"study": title, "external": facts, "spec_digests": _digests(studies)}
    return Results(frame, table_of([], CURVE_COLUMNS), table_of([], IMAGE_COLUMNS), meta)


def _digests(studies: Sequence[Beside]) -> dict[str, Any]:
    return {study.name: study.results.meta.get("spec_digest") for study in studies}


def _rows(study: Beside, renamed: frozenset[str]) -> Iterator[dict[str, Any]]:
    frame = study.results.frame
    for row in frame[frame["phase"] == "confirm"].to_dict("records"):
        known: dict[str, Any] = {str(name): None if pd.isna(value) else value for name, value in row.items()}
        arm, subject = f"{study.name}/{known['arm']}", str(known["subject"])
        if subject in renamed:
            subject = f"{subject} ({study.name})"
        key = RunKey("confirm", arm, int(known["trial"]), subject, int(known["seed"]))
        yield {**known, "arm": arm, "subject": subject, "run_key": key.name}


def _renamed_subjects(studies: Sequence[Beside]) -> frozenset[str]:
    """Names of subjects that mean different things in different studies."""
    meant: dict[str, set[str]] = {}
    for study in studies:
        for subject in study.results.frame["subject"].dropna().unique():
            meant.setdefault(str(subject), set()).add(study.subject(str(subject)))
    return frozenset(name for name, texts in meant.items() if len(texts) > 1)


def _measures(frame: pd.DataFrame) -> list[dict[str, str]]:
    """The measures that some run has, under their own names: the report knows what they are."""

    def known(name: str) -> bool:
        return bool(frame[_MADE_OF.get(name, name)].notna().any())

    qualities = [name for name in _QUALITIES if known(name)]
    if QUALITY not in qualities:  # as within a study
        qualities = [name for name in ("subject_fidelity", "prompt_fidelity") if known(name)] or [QUALITY]
    costs = [name if known(name) else _INSTEAD.get(name, name) for name in _COSTS]
    others = [name for name in _OTHERS if known(name) and name not in qualities]
    roles = {"quality": qualities, "cost": [name for name in costs if known(name)], "other": others}
    return [{"name": name, "role": role} for role, names in roles.items() for name in names]


# ---------------------------------------------------------------------- in what the studies differ


def _differences(studies: Sequence[Beside]) -> list[tuple[str, list[str]]]:
    """The fields of the study files that are not the same in all, with each study's value."""
    flat = [dict(_flat(study.spec)) for study in studies]
    fields = list(dict.fromkeys(name for one in flat for name in one))
    return [
        (name, [one.get(name, _ABSENT) for one in flat])
        for name in fields
        if len({one.get(name, _ABSENT) for one in flat}) > 1
    ]


def _flat(spec: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in spec.items():
        if not prefix and name in _ASIDE:
            continue
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            text = _ABSENT if value in (None, [], {}) else _text(value)
            yield f"{prefix}{name}", text


def _text(value: Any) -> str:
    if isinstance(value, list):
        text = ", ".join(map(str, value))
    else:
        text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def _notes(
    studies: Sequence[Beside], differences: Sequence[tuple[str, Sequence[str]]], renamed: frozenset[str]
) -> Iterator[str]:
    """What a reader of several studies is to know before anything else."""
    scales = [
        name
        for name, _ in differences
        if name.partition(".")[0] in _SCALES and not name.startswith(_NO_SCALE)
    ]
    if scales:
        more = f" and {len(scales) - 4} more" if len(scales) > 4 else ""
        yield (
            f"The studies are not judged on one scale: they differ in {', '.join(scales[:4])}{more}. A difference "
            "between arms of different studies is also one of the scales."
        )
    subjects = [
        {
            str(name)
            for name in study.results.frame.loc[study.results.frame["phase"] == "confirm", "subject"].unique()
        }
        - renamed
        for study in studies
    ]
    common = set.intersection(*subjects)
    if len(common) < max(map(len, subjects)):
        yield (
            f"The studies have {len(common)} confirm subjects in common. Arms are paired on common subjects and seeds "
            "alone; means of arms on different subjects are not paired, and no verdict compares them."
        )
    if renamed:
        yield (
            f"Different things are called {', '.join(sorted(renamed))} in these studies; they are not paired, and bear "
            "the name of their study."
        )
    unseen = sorted(name for name in common if any(one.has_images(name) for one in studies))
    if unseen and not all(study.identity for study in studies):
        them = "is" if len(unseen) == 1 else "are"
        yield (
            f"{', '.join(unseen)} {them} taken for the same by what the study files say; whether the folders hold the "
            "same images, a report does not tell."
        )
    tuning = [name for name, _ in differences if name.partition(".")[0] in ("search", "budget", "training")]
    if tuning:
        yield (
            "The studies differ in how arms were tuned and trained (see the table of the studies), so that no "
            "difference between arms of different studies is that of the methods alone."
        )

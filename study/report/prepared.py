"""The rows of a study, put in order for the report: typed, completed, sorted, split by what they may serve for."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

import pandas as pd

from study.report.derived import with_derived
from study.report.measures import DATA_SET
from study.results.columns import (
    BEST,
    COST_METRICS,
    CURVE_COLUMNS,
    EVALUATION_METRICS,
    IMAGE_COLUMNS,
    PARAM_PREFIX,
    RUN_COLUMNS,
    SCORE_COLUMNS,
    SCORE_INTEGERS,
    SCORE_NUMBERS,
)
from study.results.downstream import Downstream
from study.spec.sections import MOST_STEPS
from study.storage.run_key import FOREIGN
from trainables.methods.registry import BASE

if TYPE_CHECKING:
    from collections.abc import Iterable

STEPS_FOLLOW = "steps_follow"  # column: whether the number of steps came of a budget in FLOPs or seconds


class ResultsLike(Protocol):
    """What a report is made of; see ``study/results/frames.py``."""

    @property
    def frame(self) -> pd.DataFrame: ...
    @property
    def curves(self) -> pd.DataFrame: ...
    @property
    def images(self) -> pd.DataFrame: ...
    @property
    def meta(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class Drawn:
    """What the runs of a phase are judged on at their end: prompts, images of the subject, and class images."""

    prompts: int
    images: int
    class_images: int


@dataclass(frozen=True)
class Rows:
    """The prepared input of all analyses.

    Attributes:
        study: Name of the study.
        arms: Names of all arms in the order of the study file, or of the alphabet.
        methods: Method of each arm.
        frame: One row a run, sorted by phase, arm, trial, subject, seed; all columns of ``RUN_COLUMNS`` exist.
        curves: One row a value: CURVE_COLUMNS, metrics under bare names, sorted.
        images: One row an image: IMAGE_COLUMNS with arm, phase, subject and seed of its run.
        image_scores: One row a scored image of a complete confirm run: SCORE_COLUMNS, sorted; empty in older data.
        meta: What else is known of the study.
        drawn: By phase, from the scores of single images (medians over complete runs); empty in older data.
        foreign: Rows like those of `frame`, of weights that were trained elsewhere: in no comparison.
        downstream: Classifiers that learnt from generated images; None where there are none.
    """

    study: str
    arms: tuple[str, ...]
    methods: dict[str, str]
    frame: pd.DataFrame
    curves: pd.DataFrame
    images: pd.DataFrame
    image_scores: pd.DataFrame
    meta: Mapping[str, Any]
    drawn: Mapping[str, Drawn] = field(default_factory=dict)
    foreign: pd.DataFrame = field(default_factory=lambda: _frame(None))
    downstream: Downstream | None = None

    @cached_property
    def confirm(self) -> pd.DataFrame:
        """Complete runs of the confirm phase: the only ones that are compared."""
        return self.frame[(self.frame["phase"] == "confirm") & (self.frame["state"] == "COMPLETE")]

    @cached_property
    def search(self) -> pd.DataFrame:
        """All runs of the search phase, in every state."""
        return self.frame[self.frame["phase"] == "search"]

    @property
    def of_data_sets(self) -> bool:
        """Whether the units are data sets: by the study file, or, where it names them alone, by what was measured."""
        measured = any(name in self.frame and self.frame[name].notna().any() for name in DATA_SET)
        if measured or ("character" in self.image_scores and self.image_scores["character"].notna().any()):
            return True
        stated = section(self.meta, "spec").get("subjects")
        items = list(stated.values()) if isinstance(stated, Mapping) else stated
        return isinstance(items, list) and any(
            isinstance(one, Mapping) and one.get("dataset") for one in items
        )

    @property
    def trained_arms(self) -> tuple[str, ...]:
        """Arms that train (all but the base model)."""
        return tuple(arm for arm in self.arms if self.methods.get(arm) != BASE)

    def parameters_of(self, arm: str) -> list[str]:
        """Names of the configuration columns in which the search runs of an arm differ.

        Where the budget is in another currency, the number of steps is what came of it and no column of its own.
        """
        rows = self.search[self.search["arm"] == arm]
        columns = ["learning_rate", "lr_scheduler"]
        columns += [] if rows[STEPS_FOLLOW].any() else ["max_train_steps"]
        columns += [c for c in rows.columns if c.startswith(PARAM_PREFIX)]
        found = [c for c in columns if rows[c].dropna().astype(str).nunique() > 1]
        names = {c.removeprefix(PARAM_PREFIX) for c in found if not c.startswith(PARAM_PREFIX)}
        return [
            c for c in found if not c.startswith(PARAM_PREFIX) or c.removeprefix(PARAM_PREFIX) not in names
        ]


def natural_key(text: str) -> list[tuple[int, int | str]]:
    """Sort key that puts "r4" before "r16"."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", text) if part]


def prepare(results: ResultsLike) -> Rows:
    """Puts the results in order; the input is not changed, and the order of its rows does not matter."""
    frame = _frame(results.frame)
    elsewhere = frame["phase"] == FOREIGN
    foreign = frame[elsewhere].sort_values(["arm", "subject", "seed"], kind="stable").reset_index(drop=True)
    frame = frame[~elsewhere]
    arms = _arm_order(results.meta or {}, frame)
    meta = plain_meta(results.meta or {}, arms)
    frame = with_derived(frame, section(meta, "spec", "resources"))
    names = _study_names(meta, frame)
    methods = {str(arm): str(method) for arm, method in zip(frame["arm"], frame["method"], strict=True)}
    rank = {arm: k for k, arm in enumerate(arms)}
    frame = frame.assign(_arm=frame["arm"].map(rank), _phase=(frame["phase"] == "confirm").astype(int))
    frame = frame.sort_values(["_phase", "_arm", "trial", "subject", "seed", "run_key"], kind="stable")
    frame = frame.drop(columns=["_arm", "_phase"]).reset_index(drop=True)
    curves = _curves(results.curves)
    images = _images(results.images, frame)
    raw = getattr(results, "image_scores", None)
    return Rows(
        names, arms, methods, frame, curves, images, _scores(raw, frame), meta, _drawn(raw, frame), foreign,
        getattr(results, "downstream", None),
    )  # fmt: skip


def plain_meta(meta: Mapping[str, Any], arms: tuple[str, ...]) -> dict[str, Any]:
    """The metadata as it is after a round trip through a file: sorted, with the order of arms kept apart.

    Of a local tracking store only the name stays: reports are published, and a machine's folders are private.
    """
    found: dict[str, Any] = json.loads(json.dumps({**meta, "arms": arms}, default=str, sort_keys=True))
    uri = found.get("tracking_uri")
    if isinstance(uri, str) and urlsplit(uri).scheme in ("sqlite", "file", ""):
        parts = urlsplit(uri)
        found["tracking_uri"] = f"{parts.scheme or 'file'}:{PurePosixPath(parts.path).name}"
    return found


def section(meta: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    """A nested mapping of the metadata; empty where it is missing or something else."""
    found: Any = meta
    for name in names:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def value_or_none(value: object) -> float | None:
    """A finite float, or None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        try:
            value = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            return None
    return float(value) if math.isfinite(value) else None


def distinct(values: Iterable[object]) -> list[Any]:
    """Values without repetition and without missing ones, as plain Python values, in natural order."""
    plain = (value.item() if hasattr(value, "item") else value for value in values if not pd.isna(value))  # type: ignore[call-overload]
    return sorted(set(plain), key=lambda value: natural_key(str(value)))


def _frame(raw: pd.DataFrame | None) -> pd.DataFrame:
    frame = pd.DataFrame(columns=list(RUN_COLUMNS)) if raw is None else raw.copy()
    for column in (
        *RUN_COLUMNS,
        *EVALUATION_METRICS,
        *DATA_SET,
        *COST_METRICS,
        *BEST,
        "reason",
        "run_key",
        "message",
        "host",
        "attempts",
        "peak_memory_kind",
    ):
        if column not in frame.columns:
            frame[column] = pd.Series([None] * len(frame), dtype=object, index=frame.index)
    for column in (*EVALUATION_METRICS, *DATA_SET, *COST_METRICS, *BEST[:-1], "learning_rate"):
        numbers = pd.to_numeric(frame[column], errors="coerce").astype("float64")
        frame[column] = numbers.where(numbers.abs() != math.inf)
    # Where the budget is another, the number of steps is what came of it.
    stated = pd.to_numeric(frame["max_train_steps"], errors="coerce").astype("float64")
    frame["max_train_steps"] = stated.where(stated < MOST_STEPS, frame["train_steps"])
    frame[STEPS_FOLLOW] = stated >= MOST_STEPS
    for column in ("trial", "seed"):
        frame[column] = pd.to_numeric(frame[column], errors="coerce").fillna(0).astype("int64")
    for column in ("study", "arm", "method", "phase", "subject", "state", "run_key"):
        frame[column] = frame[column].astype(object).where(frame[column].notna(), "").astype(str)
    return (
        frame.copy()
    )  # columns that were put in one by one are blocks of their own, and slow to take rows of


def _study_names(meta: Mapping[str, Any], frame: pd.DataFrame) -> str:
    name = meta.get("study") or meta.get("name")
    return str(name) if isinstance(name, str) else str(frame["study"].iloc[0]) if len(frame) else "study"


def _arm_order(meta: Mapping[str, Any], frame: pd.DataFrame) -> tuple[str, ...]:
    present = distinct(frame["arm"])
    listed = meta.get("arms") or section(meta, "spec").get("arms") or ()
    known = [str(arm.get("name", "")) if isinstance(arm, Mapping) else str(arm) for arm in listed]
    known = list(dict.fromkeys(arm for arm in known if arm))
    if not known:
        base = [arm for arm in present if (frame.loc[frame["arm"] == arm, "method"] == BASE).all()]
        known = base
    return tuple(known + [arm for arm in present if arm not in known])


def _curves(raw: pd.DataFrame | None) -> pd.DataFrame:
    curves = pd.DataFrame(columns=list(CURVE_COLUMNS)) if raw is None else raw.copy()
    for column in CURVE_COLUMNS:
        if column not in curves.columns:
            curves[column] = None
    curves["metric"] = curves["metric"].astype(str).str.replace(r"^(eval|cost)/", "", regex=True)
    curves["value"] = pd.to_numeric(curves["value"], errors="coerce").astype("float64")
    curves["step"] = pd.to_numeric(curves["step"], errors="coerce")
    curves["run_key"] = curves["run_key"].astype(str)
    curves = curves[curves["phase"] != FOREIGN]
    return curves.sort_values(["run_key", "metric", "step"], kind="stable").reset_index(drop=True)


def _scores(raw: pd.DataFrame | None, frame: pd.DataFrame) -> pd.DataFrame:
    """Scores of complete confirm runs, as numbers; what their run is called is told by its row."""
    scores = (
        pd.DataFrame(columns=list(SCORE_COLUMNS)) if raw is None else raw.reindex(columns=list(SCORE_COLUMNS))
    )
    known = frame[(frame["phase"] == "confirm") & (frame["state"] == "COMPLETE")]
    about = known[["run_key", "arm", "subject", "seed"]].drop_duplicates("run_key")
    scores = scores.drop(columns=["arm", "subject", "seed"]).astype({"run_key": str})
    scores = scores.merge(about, on="run_key", how="inner")
    for name in (*SCORE_NUMBERS, *SCORE_INTEGERS):
        scores[name] = pd.to_numeric(scores[name], errors="coerce").astype("float64")
    return scores.sort_values(["run_key", "kind", "prompt", "image"], kind="stable").reset_index(drop=True)


def _drawn(raw: pd.DataFrame | None, frame: pd.DataFrame) -> dict[str, Drawn]:
    """Counts the scored images of complete runs, by phase."""
    if raw is None or raw.empty:
        return {}
    complete = frame.loc[frame["state"] == "COMPLETE", ["run_key", "phase"]].drop_duplicates("run_key")
    known = raw[["run_key", "kind", "prompt"]].merge(complete, on="run_key", how="inner")
    found = {}
    for phase, own in known.groupby("phase"):
        of_subject = own[own["kind"] == "instance"].groupby("run_key")["prompt"]
        if not len(of_subject):
            continue
        classes = (own["kind"] == "class").groupby(own["run_key"]).sum()
        counts = (of_subject.nunique().median(), of_subject.size().median(), classes.median())
        found[str(phase)] = Drawn(*(int(count) for count in counts))
    return found


def _images(raw: pd.DataFrame | None, frame: pd.DataFrame) -> pd.DataFrame:
    images = pd.DataFrame(columns=list(IMAGE_COLUMNS)) if raw is None else raw.copy()
    for column in IMAGE_COLUMNS:
        if column not in images.columns:
            images[column] = None
    about = frame[["run_key", "arm", "phase", "subject", "seed", "state"]].drop_duplicates("run_key")
    images = images[list(IMAGE_COLUMNS)].astype({"run_key": str})
    images = images.merge(about, on="run_key", how="inner")
    images["step"] = pd.to_numeric(images["step"], errors="coerce")
    return images.sort_values(["run_key", "step", "key", "path"], kind="stable").reset_index(drop=True)

"""Courses of training: what each arm has reached at each share of its training, and what it had cost by then.

Runs of one arm may differ in length (each search tunes it), so that their evaluations are put together by their place:
the k-th of each run, or, where runs were evaluated at different places, by the share of training, in steps of 1 %. The
course begins at share 0 with the base model, and ends at 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from study.report.design import PhaseDesign, confirm_design
from study.report.formatting import plural
from study.report.measures import CLASS_KEPT, SCALED, SUBJECT_PROMPT, bounded, measure
from study.report.prepared import Rows, value_or_none
from study.report.tables import Column, Table, assemble, count_cell, estimate_column, number_cell, text_cell
from study.statistics.paired import Estimate, mean_interval
from trainables.evaluation.metrics_table import QUALITY
from trainables.methods.registry import BASE

ENOUGH_POINTS = 5  # of a course, the base model and the end included, from which on its shape can be seen

# What the scales say of the base model; where it was evaluated itself, its own measured values are taken.
_AT_ZERO = {QUALITY: 0.0, SUBJECT_PROMPT: 0.0, SCALED[0]: 0.0, SCALED[1]: 1.0, CLASS_KEPT: 1.0}


@dataclass(frozen=True)
class Point:
    """One place of an arm's course.

    Attributes:
        share: Of the run's training steps, 0..1 (mean over runs).
        steps, seconds, flops: By then, means over runs; seconds and FLOPs with class images, which are made before the
            first step, where they are known. None where unknown.
        estimate: The measure over subjects.
        images, class_images: That each run was judged on here; None where unknown.
    """

    share: float
    steps: float
    seconds: float | None
    flops: float | None
    estimate: Estimate
    images: int | None = None
    class_images: int | None = None


@dataclass(frozen=True)
class Course:
    """One arm's course in one measure."""

    arm: str
    measure: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Courses:
    """The courses of all arms in one measure, and the base model's arm with its level."""

    measure: str
    courses: tuple[Course, ...]
    base: tuple[str, float] | None

    @property
    def most_images(self) -> int | None:
        """Images of the best measured place."""
        known = [p.images for c in self.courses for p in c.points if p.images is not None]
        return max(known, default=None)


def compute_courses(rows: Rows, name: str, level: float) -> Courses:
    """Courses over complete confirm runs; a place at which fewer runs were evaluated has a smaller n."""
    confirm = rows.confirm
    runs = confirm[["run_key", "arm", "subject", "train_seconds", "train_flops"]].assign(
        extra_seconds=confirm["class_image_seconds"].fillna(0.0),
        extra_flops=confirm["class_image_flops"].fillna(0.0),
    )
    known = (rows.curves["metric"] == name) & rows.curves["value"].notna() & rows.curves["step"].notna()
    values = rows.curves.loc[known, ["run_key", "step", "value"]].merge(runs, on="run_key", how="inner")
    values = values.drop_duplicates(["run_key", "step"], keep="last")
    design = confirm_design(rows)
    base = next((arm for arm in rows.arms if rows.methods.get(arm) == BASE), None)
    zero = values[values["arm"] == base].groupby("subject")["value"].mean()
    scale = _AT_ZERO.get(name)
    if rows.of_data_sets and name == SCALED[1]:
        scale = None  # the end may be real images
    courses = tuple(
        _counted(_course(arm, name, values[values["arm"] == arm], zero, level, scale), design, len(zero) > 0)
        for arm in rows.trained_arms
        if (values["arm"] == arm).any()
    )
    return Courses(name, courses, (base, float(zero.mean())) if base is not None and len(zero) else None)


def _course(
    arm: str, name: str, values: pd.DataFrame, zero: pd.Series, level: float, scale: float | None
) -> Course:
    last = values.groupby("run_key")["step"].transform("max").clip(lower=1)
    values = values.assign(share=values["step"] / last).sort_values(["run_key", "step"], kind="stable")
    counts = values.groupby("run_key")["step"].count()
    place = values.groupby("run_key").cumcount() if counts.nunique() == 1 else values["share"].round(2)
    points = [_point(own, name, level) for _, own in values.groupby(place)]
    if points and points[0].share > 0:
        first = _start(values, zero, level, scale)
        points = [first, *points] if first is not None else points
    return Course(arm, name, tuple(points))


def _counted(course: Course, design: PhaseDesign | None, measured: bool) -> Course:
    """The course with the images of each place: all of them at the end, and of the base model where it was measured;
    fewer on the way (`evaluation.images_between`).
    """
    if design is None:
        return course
    points = []
    for point in course.points:
        counts: tuple[int | None, int | None] = design.images, design.class_images
        if 0 < point.share < 1:
            counts = design.images_between, design.class_images_between
        elif point.share == 0 and not measured:
            counts = None, None
        points.append(replace(point, images=counts[0], class_images=counts[1]))
    return replace(course, points=tuple(points))


def images_words(found: Sequence[Courses]) -> str:
    """E.g. "On the way each run was judged on 8 images of the subject and 2 class images, ..."; empty where alike."""
    points = [p for courses in found for c in courses.courses for p in c.points if p.images is not None]
    few = [p for p in points if 0 < p.share < 1]
    full = [p for p in points if p.share == 1]
    if not few or not full or few[0].images == full[0].images:
        return ""
    return (
        f"On the way each run was judged on {_images(few[0])}, at the end on {_images(full[0])}, and the base model as "
        "at the end: places on the way are noisier"
    )


def few_points_words(found: Sequence[Courses]) -> tuple[str, ...]:
    """How many points the courses have and how to get more, where some course has fewer than `ENOUGH_POINTS`."""
    counts = {len(course.points) for course in found[0].courses} if found else set()
    if not counts or min(counts) >= ENOUGH_POINTS:
        return ()
    low, high = min(counts), max(counts)
    count = plural(low, "point") if low == high else f"{low} to {high} points"
    return (
        f"The curve of an arm has {count}, beginning and end of training included, which shows little of how it bends. "
        "`evaluation.at` in the study file adds places at which confirm runs are evaluated on the way: "
        "`at: [0.25, 0.5, 0.75]` makes five points.",
    )


def _images(point: Point) -> str:
    classes = "" if point.class_images is None else f" and {plural(point.class_images, 'class image')}"
    return f"{plural(point.images or 0, 'image')} of the subject{classes}"


def _point(own: pd.DataFrame, name: str, level: float) -> Point:
    estimate = mean_interval(own["value"].to_numpy(dtype=float), own["subject"].tolist(), level=level)
    return Point(
        float(own["share"].mean()),
        float(own["step"].mean()),
        value_or_none((own["train_seconds"] * own["share"] + own["extra_seconds"]).mean()),
        value_or_none((own["train_flops"] * own["share"] + own["extra_flops"]).mean()),
        bounded(name, estimate),
    )


def _start(values: pd.DataFrame, zero: pd.Series, level: float, scale: float | None) -> Point | None:
    """The base model's own values on the arm's subjects, or what the scale says of it; None without either."""
    subjects = [subject for subject in sorted(set(values["subject"])) if subject in zero.index]
    if subjects:
        estimate = mean_interval(zero.loc[subjects].to_numpy(dtype=float), subjects, level=level)
    elif scale is not None:
        estimate = Estimate(scale, level=level)
    else:
        return None
    runs = values.drop_duplicates("run_key")
    seconds, flops = (value_or_none(runs[column].mean()) for column in ("extra_seconds", "extra_flops"))
    return Point(0.0, 0.0, seconds, flops, estimate)


def anytime_table(found: Sequence[Courses]) -> Table | None:
    """Every point of every course: one line an arm and place; None without a course."""
    places: dict[tuple[str, int], dict[str, Point]] = {}
    for courses in found:
        for course in courses.courses:
            for k, point in enumerate(course.points):
                # From the end, since a course may lack its beginning in a measure without a scale.
                places.setdefault((course.arm, k - len(course.points)), {})[courses.measure] = point
    if not places:
        return None
    arms = list(dict.fromkeys(arm for arm, _ in places))
    order = sorted(places, key=lambda key: (arms.index(key[0]), key[1]))
    firsts = [next(iter(places[key].values())) for key in order]
    columns = [
        (Column("arm", "Arm"), [text_cell(arm) for arm, _ in order]),
        (
            Column("share", "Share of training", numeric=True),
            [number_cell(p.share, digits=2) for p in firsts],
        ),
        (Column("steps", "Steps", numeric=True), [count_cell(p.steps) for p in firsts]),
        *(
            [
                (Column("images", "Images a run", numeric=True), [count_cell(p.images) for p in firsts]),
                (
                    Column("class_images", "Class images", numeric=True),
                    [count_cell(p.class_images) for p in firsts],
                ),
            ]
            if any(p.images is not None for p in firsts)
            else []
        ),
        estimate_column("seconds", "Time", "s", None, [Estimate(p.seconds) for p in firsts]),
        estimate_column("flops", "FLOPs", "FLOP", None, [Estimate(p.flops) for p in firsts]),
    ]
    for courses in found:
        about = measure(courses.measure)
        estimates = [
            p.estimate if (p := places[key].get(courses.measure)) else Estimate(None) for key in order
        ]
        columns.append(estimate_column(about.name, about.title, "", None, estimates))
    note = (
        "Means over subjects of the confirm runs with Student's 95 % intervals, from 3 subjects on. Share 0: the base "
        "model. Time and FLOPs: of training until then, class images included, which come before the first step."
    )
    words = images_words(found)
    notes = (note, f"{words}.") if words else (note,)
    return assemble("anytime", "What each arm has reached on the way.", columns, notes)

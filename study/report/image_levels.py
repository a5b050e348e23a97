"""Single images as levels of the analysis: scores by prompt, and how much subjects, seeds, prompts and images vary.

The model of one arm's images: score = mean + subject + seed within subject + prompt + prompt by run + image. Prompts
are crossed with runs (every run draws the same ones), seeds and images are nested. Components of variance are
estimated by the method of moments from the mean squares of the balanced analysis of variance (Searle, Casella and
McCulloch 1992, chapter 4); negative estimates are 0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from study.report.prepared import Rows, distinct, natural_key, value_or_none
from study.statistics.paired import Floats
from trainables.methods.registry import BASE

FACTORS = {"subject": "subject_scaled", "prompt": "prompt_scaled"}  # of quality; per image, not clipped
CLASS, CLASS_RAW = "class", "class similarity"  # the third factor, rescaled; as it was measured
_CLASS_ALONE = -1  # number of the class prompt without a template, which has none
_EXACT = 1e-6  # of C: runs of one subject share its scale to the last digit
_FEWEST = 2  # subjects, prompts
_ROUNDING = 1e-9  # standard deviations below this share of the largest score are rounding


@dataclass(frozen=True)
class PromptScore:
    """An arm's images of one prompt: means over subjects, None where unknown; `failed` is a share."""

    arm: str
    prompt: int
    template: str
    images: int
    subject: float | None
    prompted: float | None
    failed: float | None


@dataclass(frozen=True)
class Components:
    """Variances of one factor of quality, and the design that they were seen in.

    Attributes:
        factor: "subject" or "prompt": which fidelity, rescaled; `CLASS`: class kept; `CLASS_RAW`: similarity of class
            images to the subject, where its scale cannot be told.
        variances: By level: subject, seed, prompt, prompt by run, image. None where the design cannot tell it: seed
            with one seed (then in the subject's), image with one image a prompt (then in "prompt by run").
        subjects, seeds, prompts, images: Seeds of a subject, prompts of a run, images of a prompt.
    """

    arm: str
    factor: str
    variances: dict[str, float | None]
    subjects: int
    seeds: int
    prompts: int
    images: int

    @property
    def error(self) -> float:
        """Standard error of the arm's mean that this design leaves, subjects and prompts both drawn at random."""
        subject, seed, prompt, cell, image = (self.variances[name] or 0.0 for name in LEVELS)
        runs = self.subjects * self.seeds
        total = subject / self.subjects + seed / runs + prompt / self.prompts
        total += cell / (runs * self.prompts) + image / (runs * self.prompts * self.images)
        return float(np.sqrt(total))

    def error_with(self, name: str) -> float:
        """The same with twice as many subjects, seeds, prompts or images."""
        return replace(self, **{name: 2 * getattr(self, name)}).error


LEVELS = ("subject", "seed", "prompt", "prompt by run", "image")


def instance_images(rows: Rows, arm: str) -> pd.DataFrame:
    """The scores of an arm's images of its subjects."""
    scores = rows.image_scores
    return scores[(scores["arm"] == arm) & (scores["kind"] == "instance") & scores["prompt"].notna()]


def prompt_scores(rows: Rows) -> tuple[PromptScore, ...]:
    """Mean scores of each arm on each prompt; every subject weighs the same. Data sets share no prompts."""
    found = []
    by = ["subject", "prompt"] if rows.of_data_sets else ["prompt"]
    for arm in rows.arms:
        own = instance_images(rows, arm)
        for _, images in own.groupby(by, sort=True):
            means = images.groupby("subject")[["subject_scaled", "prompt_scaled", "failed"]].mean().mean()
            named = sorted(distinct(images["template"].dropna()), key=natural_key)
            found.append(
                PromptScore(
                    arm,
                    int(images["prompt"].iloc[0]),
                    _asked(str(named[0]), rows) if named else "",
                    len(images),
                    *(value_or_none(means[name]) for name in ("subject_scaled", "prompt_scaled", "failed")),
                )
            )
    return tuple(found)


def _asked(template: str, rows: Rows) -> str:
    """A template as a table shows it: of a data set the held-out caption alone."""
    return template.removeprefix("{subject}") if rows.of_data_sets else template


def components(rows: Rows) -> tuple[Components, ...]:
    """Components of variance of all factors of quality, of every arm whose images allow it."""
    found = []
    classes, scaled = class_images(rows)
    for arm in rows.arms:
        own = instance_images(rows, arm)
        arrays = {factor: balanced(own, column) for factor, column in FACTORS.items()}
        arrays[CLASS if scaled else CLASS_RAW] = balanced(classes[classes["arm"] == arm], "class_kept")
        found += [components_of(a, arm, factor) for factor, a in arrays.items() if a is not None]
    return tuple(found)


def class_images(rows: Rows) -> tuple[pd.DataFrame, bool]:
    """The scored class images of all arms, with a column `class_kept`, and whether that is C.

    C falls linearly with the similarity of the class images to the subject, on a scale that all runs on a subject
    share, so that the runs' own values tell the scale of their images. Where they do not, the column holds the
    similarity itself.
    """
    scores = rows.image_scores
    own = scores[(scores["kind"] == "class") & scores["subject_similarity"].notna()]
    own = own.assign(prompt=own["prompt"].fillna(_CLASS_ALONE))
    scales = {str(subject): _class_scale(rows, str(subject)) for subject in own["subject"].unique()}
    known = {subject: scale for subject, scale in scales.items() if scale is not None}
    if len(known) < len(scales) or not known:
        return own.assign(class_kept=own["subject_similarity"]), False
    zero = own["subject"].map({subject: scale[0] for subject, scale in known.items()})
    slope = own["subject"].map({subject: scale[1] for subject, scale in known.items()})
    return own.assign(class_kept=zero + slope * own["subject_similarity"]), True


def _class_scale(rows: Rows, subject: str) -> tuple[float, float] | None:
    """C at similarity 0, and its slope, from the runs on a subject; None where they lie on no line."""
    confirm = rows.confirm
    runs = confirm.loc[confirm["subject"] == subject, ["prior_preservation", "class_kept"]].dropna()
    similarity, kept = (runs[name].to_numpy(dtype=float) for name in ("prior_preservation", "class_kept"))
    if len(runs) < 2 or np.ptp(similarity) < _EXACT:
        return None
    slope, zero = np.polyfit(similarity, kept, 1)
    return (float(zero), float(slope)) if np.abs(zero + slope * similarity - kept).max() < _EXACT else None


@dataclass(frozen=True)
class ClassSample:
    """How many class images a run's class kept rests on, and its standard error from them alone (None: unknown)."""

    smallest: int
    largest: int
    error: float | None


def class_sample(rows: Rows) -> ClassSample | None:
    """The class images behind each confirm run of the trained arms; None where they were not kept."""
    images, scaled = class_images(rows)
    trained = images[images["arm"].map(rows.methods) != BASE]
    runs = (trained if len(trained) else images).groupby("run_key")["class_kept"]
    counts, variances = runs.size(), runs.var(ddof=1)
    if counts.empty:
        return None
    error = value_or_none(np.sqrt((variances / counts).mean())) if scaled else None
    return ClassSample(int(counts.min()), int(counts.max()), error)


def balanced(images: pd.DataFrame, column: str) -> Floats | None:
    """Scores of shape ``(subjects, seeds, prompts, images)``; None with fewer than two subjects or prompts.

    What is not there for all is left out: prompts that a run lacks, and seeds and images beyond the smallest number.
    """
    known = images[images[column].notna()]
    if known.empty:
        return None
    runs = known.groupby("subject")["seed"].unique()
    seeds = min(len(found) for found in runs)
    kept = [(subject, seed) for subject in sorted(runs.index) for seed in sorted(runs[subject])[:seeds]]
    cells = known.sort_values(["prompt", "image"]).groupby(["subject", "seed", "prompt"])[column].apply(list)
    prompts = [p for p in sorted(known["prompt"].unique()) if all((*run, p) in cells.index for run in kept)]
    if len(runs) < _FEWEST or len(prompts) < _FEWEST:
        return None
    smallest = min(len(cells[(*run, p)]) for run in kept for p in prompts)
    array = np.array([[cells[(*run, p)][:smallest] for p in prompts] for run in kept], dtype=float)
    return array.reshape(len(runs), seeds, len(prompts), smallest)


def components_of(array: Floats, arm: str = "", factor: str = "subject") -> Components:
    """Components of variance from scores of shape ``(subjects, seeds, prompts, images)``."""
    subjects, seeds, prompts, images = array.shape
    runs = subjects * seeds
    grand = array.mean()
    by_cell, by_run = array.mean(axis=3), array.mean(axis=(2, 3))
    by_subject, by_prompt = array.mean(axis=(1, 2, 3)), array.mean(axis=(0, 1, 3))

    def mean_square(away: Floats, weight: int, freedom: int) -> float | None:
        return float(weight * (away**2).sum() / freedom) if freedom else None

    image = mean_square(array - by_cell[..., None], 1, runs * prompts * (images - 1))
    away = by_cell - by_run[:, :, None] - by_prompt + grand
    cell = mean_square(away, images, (runs - 1) * (prompts - 1)) or 0.0
    prompt = mean_square(by_prompt - grand, runs * images, prompts - 1) or 0.0
    seed = mean_square(by_run - by_subject[:, None], prompts * images, subjects * (seeds - 1))
    subject = mean_square(by_subject - grand, seeds * prompts * images, subjects - 1) or 0.0
    run = cell if seed is None else seed  # what a subject's mean holds of its runs
    variances = {
        "subject": max(0.0, subject - run) / (seeds * prompts * images),
        "seed": None if seed is None else max(0.0, seed - cell) / (prompts * images),
        "prompt": max(0.0, prompt - cell) / (runs * images),
        "prompt by run": max(0.0, cell - (image or 0.0)) / images,
        "image": image,
    }
    rounding = (_ROUNDING * float(np.abs(array).max())) ** 2
    variances = {name: 0.0 if v is not None and v < rounding else v for name, v in variances.items()}
    return Components(arm, factor, variances, subjects, seeds, prompts, images)

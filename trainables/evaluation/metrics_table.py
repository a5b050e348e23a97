"""The names, meanings and units of everything that a run reports; a plain table that needs no other module.

The study file is checked against it ("wrong metric"), the columns of ``runs.csv`` follow from it, and the report takes
its titles, arrows and units from it. How the numbers of kind ``eval`` are computed stands in ``trainables/evaluation``;
``cost`` is measured by the meter.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Metric:
    """One number of a run.

    Attributes:
        name: Bare name, as in ``runs.csv``; MLflow bears it under ``eval/`` or ``cost/``.
        title: For axes and table heads.
        direction: Which way is better; "none" where neither is.
        unit: Empty for pure numbers.
        kind: ``eval``: how good the result is; ``cost``: what it took.
        description: One sentence.
        listed: Whether tables have its column even where no run reports it.
        limits: What no run lies beyond; wide where a measure is scaled to 0..1 and not clipped. None: not known.
        of_data_sets: Whether it is measured of data sets alone, so that subjects have no value.
        ranked: Whether reports mark the best arms: not of wall seconds that depend on what else the machine did, and
            that no arm is chosen by.
        as_score: Of kind ``eval``: whether reports show two decimals, as of scores and distances whose usual values lie
            between 0 and 1.
        false_alarms: Of a share of images that a detector calls wrong: of how many sound images it does so. Below, no
            runs are told apart. None: it is no such share.
        shown_unit: What reports show as the unit of a pure number, e.g. "count".
        explained: What reports say in the place of the description, with its thresholds; empty: the description.
        counted: Of kind ``cost``: whether it follows from a run's configuration, so that no chance is in its value.
    """

    name: str
    title: str
    direction: Literal["higher", "lower", "none"]
    unit: str
    kind: Literal["eval", "cost"]
    description: str
    listed: bool = True
    limits: tuple[float, float] | None = None
    of_data_sets: bool = False
    ranked: bool = True
    as_score: bool = True
    false_alarms: float | None = None
    shown_unit: str = ""
    explained: str = ""
    counted: bool = False

    @property
    def key(self) -> str:
        """The name with its namespace, as in MLflow, e.g. ``eval/quality``."""
        return f"{self.kind}/{self.name}"

    @property
    def possible(self) -> tuple[float, float] | None:
        """What no mean of it can lie beyond: shares 0 and 1, costs 0; None where nothing is impossible."""
        if self.limits == SHARE:
            return SHARE
        return (0.0, math.inf) if self.kind == "cost" else None


HELD_OUT_LOSS = "held_out_loss"  # of the model itself, and of no image that it draws
QUALITY = "quality"  # the metric that the default search, the ranking and the verdict go by

#: Metrics by which the best step of a run that restores none is told, and the best run of an arm; the next one where
#: the first is unknown, as quality is where CLIP does not tell real images of a data set from those of other captions.
TOLD_BY = (QUALITY, "subject_fidelity_scaled")

#: What the images that a result draws in other numbers of solver steps are measured by (`evaluate_at_steps`).
AT_INFERENCE_STEPS = ("quality_subject_prompt", "subject_fidelity_scaled", "prompt_fidelity_scaled")

#: What classifiers of the downstream phase are judged by, on test images; choices are made by the same of validation
#: images. They are no measures of fine-tuned models, so that no table of these has them.
CLASSIFIER_SCORES = ("accuracy", "balanced_accuracy", "macro_f1", "auroc")
VALIDATION_SCORES = tuple(f"validation_{name}" for name in CLASSIFIER_SCORES)

SHARE = (0.0, 1.0)  # the limits of what is between 0 and 1 by its definition
_SCALED = (-2.0, 3.0)

_EVALUATION = (
    Metric(QUALITY, "Quality", "higher", "", "eval",
           "Subject fidelity times prompt fidelity times class kept, each rescaled and clipped to 0..1.",
           limits=SHARE),
    Metric("quality_subject_prompt", "Quality (subject, prompt)", "higher", "", "eval",
           "Subject fidelity times prompt fidelity, each rescaled and clipped to 0..1; blind to the class.",
           limits=SHARE),
    Metric("subject_fidelity", "Subject fidelity", "higher", "", "eval",
           "Mean cosine similarity of generated images and held-out references of the subject."),
    Metric("prompt_fidelity", "Prompt fidelity", "higher", "", "eval",
           "Mean cosine similarity of image and prompt, the class named in the place of the subject."),
    Metric("subject_fidelity_scaled", "Subject fidelity (scaled)", "higher", "", "eval",
           "Subject fidelity where the base model is 0 and real held-out images are 1; not clipped.",
           limits=_SCALED),
    Metric("prompt_fidelity_scaled", "Prompt fidelity (scaled)", "higher", "", "eval",
           "Prompt fidelity where images of other prompts are 0 and the base model is 1; not clipped.",
           limits=_SCALED),
    Metric("class_kept", "Class kept", "higher", "", "eval",
           "Class images: 0 as like the subject as real images of it, 1 as the base model's; not clipped.",
           limits=_SCALED),
    Metric("failed_images", "Failed images", "lower", "", "eval",
           "Share of the images that show another subject or another prompt (see trainables/evaluation/quality.py).",
           limits=SHARE, false_alarms=0.05,
           explained="Share of the images that show another subject or another prompt: whose own scaled subject "
           "fidelity is below 0.6 or own scaled prompt fidelity below 0.6. About 1 % of perfect pictures are called "
           "failed."),
    Metric("clip_i", "CLIP-I", "higher", "", "eval",
           "As subject fidelity, with the CLIP image tower."),
    Metric("diversity", "Diversity", "none", "", "eval",
           "Mean pairwise perceptual distance of the images of one prompt."),
    Metric("drift", "Drift", "lower", "", "eval",
           "Mean distance (1 - cosine) of tuned and base model on class prompts with the same noise."),
    Metric("prior_preservation", "Class takes after subject", "lower", "", "eval",
           "Mean cosine similarity of images of class prompts and the subject's references."),
    Metric("memorisation", "Memorisation", "lower", "", "eval",
           "Share of the images that are near copies of a training image.",
           limits=SHARE, false_alarms=0.05,
           explained="Share of the images that are near copies of a training image: they correlate with it at 0.97 or "
           "more and agree in every part. Finds more than 95 % of copies, and fewer than 5 % of others."),
    Metric("class_kid", "Class KID", "lower", "", "eval",
           "Squared kernel distance (KID) of the tuned model's class images to the base model's; from 50 images on.",
           as_score=False),
    Metric("class_kid_low", "Class KID, 2.5 %", "lower", "", "eval",
           "Lower end of the 95 % bootstrap interval of the class KID.",
           as_score=False),
    Metric("class_kid_high", "Class KID, 97.5 %", "lower", "", "eval",
           "Upper end of the 95 % bootstrap interval of the class KID.",
           as_score=False),
    Metric("class_cmmd", "Class CMMD", "lower", "", "eval",
           "As class KID, with a Gaussian kernel on CLIP embeddings (CMMD); from 50 images on.",
           as_score=False),
    Metric("class_cmmd_low", "Class CMMD, 2.5 %", "lower", "", "eval",
           "Lower end of the 95 % bootstrap interval of the class CMMD.",
           as_score=False),
    Metric("class_cmmd_high", "Class CMMD, 97.5 %", "lower", "", "eval",
           "Upper end of the 95 % bootstrap interval of the class CMMD.",
           as_score=False),
    Metric("ceiling_quality", "Ceiling of quality", "none", "", "eval",
           "What perfect pictures of the subject would score; missing where there are none of the prompts."),
    Metric("ceiling_subject", "Ceiling of subject fidelity", "none", "", "eval",
           "Scaled subject fidelity of perfect pictures, or of the held-out photographs themselves."),
    Metric("ceiling_prompt", "Ceiling of prompt fidelity", "none", "", "eval",
           "Scaled prompt fidelity of perfect pictures; missing where there are none of the prompts."),
    Metric("subject_anchor_error", "Error of the subject scale", "none", "", "eval",
           "Standard error of this run's scaled subject fidelity that comes of the ends of the scale: base and real.",
           as_score=False),
    Metric("prompt_anchor_error", "Error of the prompt scale", "none", "", "eval",
           "Standard error of this run's scaled prompt fidelity that comes of the ends of the scale: floor and base.",
           as_score=False),
    Metric("class_anchor_error", "Error of the class scale", "none", "", "eval",
           "Standard error of this run's class kept that comes of the ends of the scale: real and base.",
           as_score=False),
    Metric(HELD_OUT_LOSS, "Held-out loss", "lower", "", "eval",
           "Denoising loss on the subject's held-out images, at noise and noise levels that are fixed.",
           as_score=False),
    Metric("consistency", "Consistency", "higher", "", "eval",
           "Mean cosine similarity of a run's images of different prompts: how alike the subject stays.",
           explained="Mean cosine similarity (by the encoder of subject fidelity) of a run's own images of different "
           "prompts, each pair of prompts alike; of a data set that names characters, of prompts about one of "
           "them. The encoder sees whole images, with the surroundings that prompts ask for: 1 is out of reach "
           "for a model that follows them, one that ignores them comes near it, and so this is read beside "
           "prompt fidelity. Being alike is not being right: subject fidelity compares with real images."),
    Metric("dataset_kid", "Data set KID", "lower", "", "eval",
           "Squared kernel distance (KID) of generated images to a data set's held-out ones; from 50 of each on.",
           listed=False, of_data_sets=True, as_score=False),
    Metric("dataset_kid_low", "Data set KID, 2.5 %", "lower", "", "eval",
           "Lower end of the 95 % bootstrap interval of the data set KID.", listed=False, of_data_sets=True,
           as_score=False),
    Metric("dataset_kid_high", "Data set KID, 97.5 %", "lower", "", "eval",
           "Upper end of the 95 % bootstrap interval of the data set KID.", listed=False, of_data_sets=True,
           as_score=False),
    Metric("dataset_cmmd", "Data set CMMD", "lower", "", "eval",
           "As data set KID, with a Gaussian kernel on CLIP embeddings (CMMD); from 50 of each on.",
           listed=False, of_data_sets=True, as_score=False),
    Metric("dataset_cmmd_low", "Data set CMMD, 2.5 %", "lower", "", "eval",
           "Lower end of the 95 % bootstrap interval of the data set CMMD.", listed=False, of_data_sets=True,
           as_score=False),
    Metric("dataset_cmmd_high", "Data set CMMD, 97.5 %", "lower", "", "eval",
           "Upper end of the 95 % bootstrap interval of the data set CMMD.", listed=False, of_data_sets=True,
           as_score=False),
    Metric("worst_character", "Worst character", "higher", "", "eval",
           "Lowest scaled subject fidelity over the characters of a data set, each on its own scale; not clipped.",
           listed=False, limits=_SCALED, of_data_sets=True),
)  # fmt: skip

_COST = (
    Metric("train_seconds", "Training time", "lower", "s", "cost",
           "Wall seconds of optimisation, without preparation, evaluation and saving."),
    Metric("device_seconds", "Device time", "lower", "s", "cost",
           "Training seconds times the devices held for them: whole GPUs or CPU cores."),
    Metric("preparation_seconds", "Preparation", "lower", "s", "cost",
           "Wall seconds before the first step: data, caches, adapters; without class images.", ranked=False),
    Metric("evaluation_seconds", "Evaluation", "lower", "s", "cost",
           "Wall seconds of sampling and scoring.", ranked=False),
    Metric("selection_seconds", "Choosing the step", "lower", "s", "cost",
           "Wall seconds of the evaluations by which evaluation.restore_best chose a step; part of the run's price.",
           listed=False, ranked=False),
    Metric("startup_seconds", "Start-up", "lower", "s", "cost",
           "Wall seconds of loading models into memory; near 0 in a warm process.", listed=False),
    Metric("saving_seconds", "Saving", "lower", "s", "cost",
           "Wall seconds of writing checkpoints and weights.", listed=False),
    Metric("class_image_seconds", "Class images", "lower", "s", "cost",
           "Wall seconds of making the class images that the run trains on, whichever run has made them."),
    Metric("class_image_flops", "Class image FLOPs", "lower", "FLOP", "cost",
           "Counted floating-point operations of making them.", counted=True),
    Metric("generate_seconds", "Generated images", "lower", "s", "cost",
           "Wall seconds of drawing the images that classifiers learn from, whichever attempt or run has drawn them.",
           listed=False),
    Metric("generate_flops", "Generated image FLOPs", "lower", "FLOP", "cost",
           "Counted floating-point operations of drawing them.", listed=False, counted=True),
    Metric("energy_joules", "Energy", "lower", "J", "cost",
           "Of the device while training, where NVML or RAPL counts it; missing elsewhere."),
    Metric("lost_seconds", "Lost time", "lower", "s", "cost",
           "Training seconds of interrupted attempts that had to be done again.", ranked=False),
    Metric("train_steps", "Training steps", "lower", "", "cost",
           "Optimizer steps that were done.", counted=True),
    Metric("train_flops", "Training FLOPs", "lower", "FLOP", "cost",
           "Counted floating-point operations of all training steps; the same on every machine.", counted=True),
    Metric("peak_memory_bytes", "Peak memory", "lower", "B", "cost",
           "Peak during training: allocated CUDA memory, or the process's resident set on a CPU."),
    Metric("trainable_parameters", "Trained parameters", "lower", "", "cost",
           "Number of parameters that the optimizer changes.", shown_unit="count", counted=True),
    Metric("artifact_bytes", "Weights on disk", "lower", "B", "cost",
           "Size of the saved weights.", counted=True),
    Metric("image_latency_seconds", "Latency per image", "lower", "s", "cost",
           "Wall seconds per image in a warm batch of 4 at the evaluation's steps, adapters beside the weights.",
           ranked=False),
    Metric("image_latency_fused_seconds", "Latency per image, fused", "lower", "s", "cost",
           "The same with adapters merged into the weights.", ranked=False),
    Metric("inference_bytes", "Weights in memory", "lower", "B", "cost",
           "Parameters and buffers of denoiser and text encoders as images are drawn with them, adapters beside the "
           "weights; counted, the same on every device."),
    Metric("inference_fused_bytes", "Weights in memory, fused", "lower", "B", "cost",
           "The same with adapters merged into the weights; missing where quantised weights cannot take them."),
    Metric("switch_seconds", "Switching subjects", "lower", "s", "cost",
           "Median wall seconds of taking trained weights off a loaded pipeline and loading weights of a subject from "
           "files that the system has in its cache; a whole model is loaded anew.", ranked=False),
)  # fmt: skip

METRICS: dict[str, Metric] = {metric.name: metric for metric in (*_EVALUATION, *_COST)}


def metric_names(kind: Literal["eval", "cost"] | None = None) -> tuple[str, ...]:
    """Returns the names of all metrics, or of one kind, in the table's order."""
    return tuple(name for name, metric in METRICS.items() if kind in (None, metric.kind))


def listed_after(kind: Literal["eval", "cost"], first: Iterable[str]) -> tuple[str, ...]:
    """Returns the listed metrics of a kind: those of `first` in their order, then all others in the table's order."""
    rest = [name for name, metric in METRICS.items() if metric.kind == kind and metric.listed]
    return tuple(dict.fromkeys((*first, *rest)))


def data_set_metrics() -> tuple[str, ...]:
    """Returns the names of the metrics that are measured of data sets alone, in the table's order."""
    return tuple(name for name, metric in METRICS.items() if metric.of_data_sets)


def measure_of(name: str) -> str | None:
    """Returns the measure of whose interval a metric is an end, e.g. ``class_kid`` of ``class_kid_low``; None for a
    measure of its own.
    """
    measure = name.removesuffix("_low").removesuffix("_high")
    return measure if measure != name and measure in METRICS else None


def choosing_metrics() -> tuple[str, ...]:
    """Returns the metrics by which the best step of a run can be chosen: what evaluations measure that has a better
    direction, without the ends of intervals.
    """
    measured = metric_names("eval")
    return tuple(name for name in measured if METRICS[name].direction != "none" and measure_of(name) is None)


def unfit_choice(name: str) -> str | None:
    """Returns None for a metric by which the best step of a run can be chosen, otherwise what is wrong with it."""
    if problem := unknown_metric(name):
        return problem
    if name in choosing_metrics():
        return None
    why = "has no better direction"
    if METRICS[name].kind == "cost":
        why = "is a cost, and no evaluation measures it"
    elif measure := measure_of(name):
        why = f"is an end of the interval of {measure} and no measure of its own"
    return f"{name} {why}, so that no step is best by it; take one of {', '.join(choosing_metrics())}"


def unknown_metric(name: str) -> str | None:
    """Returns None for a metric of the table, otherwise a message with the value and the nearest name."""
    if name in METRICS:
        return None
    import difflib

    bare = name.removeprefix("eval/").removeprefix("cost/")
    near = difflib.get_close_matches(bare, METRICS, n=2, cutoff=0.6)
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    return f"unknown metric {name!r}: {hint}`study ls metrics` lists all"

"""Names of the columns of a study's runs: whoever reads or writes rows takes them from here."""

from __future__ import annotations

from trainables.evaluation.metrics_table import METRICS, QUALITY, listed_after, metric_names

# What one run was.
IDENTITY = ("study", "arm", "method", "phase", "trial", "subject", "seed", "state")

# What comes first, in the order that others rely on: of how good it is (bare names of MLflow's `eval/...` and of the
# evaluation in `result.json`), and of what it cost (`cost/...`).
EVALUATION = (QUALITY, "subject_fidelity", "prompt_fidelity", "diversity", "drift", "memorisation")
COST = (
    "train_seconds",
    "device_seconds",
    "preparation_seconds",
    "evaluation_seconds",
    "train_flops",
    "peak_memory_bytes",
    "trainable_parameters",
    "artifact_bytes",
    "image_latency_seconds",
)

# The fields that every table shows; further searched fields stand in `param.<name>`.
TRAINING = ("learning_rate", "lr_scheduler", "max_train_steps")

# The columns that others rely on, in this order.
RUN_COLUMNS = (*IDENTITY, *EVALUATION, *COST, *TRAINING, "mlflow_run_id")

# All listed metrics: after the first ones those whose order was settled before the table's, then the table's others.
EVALUATION_METRICS = listed_after(
    "eval",
    (
        *EVALUATION,
        "subject_fidelity_scaled",
        "prompt_fidelity_scaled",
        "quality_subject_prompt",
        "class_kept",
        "failed_images",
        "prior_preservation",
    ),
)
COST_METRICS = listed_after(
    "cost",
    (
        *COST,
        "train_steps",
        "class_image_seconds",
        "class_image_flops",
        "energy_joules",
        "image_latency_fused_seconds",
    ),
)

# Of the best of a run's evaluations, where there were several: its step, its value, that of the last one, and by which
# metric. What a run that restores its best step chose by is on other images than its result.
BEST = ("best_step", "best_value", "best_end_value", "best_metric")

# After RUN_COLUMNS, in this order; then metrics that no list names, sorted; then `param.<name>`, sorted.
MORE_COLUMNS = (
    *EVALUATION_METRICS[len(EVALUATION) :],
    *COST_METRICS[len(COST) :],
    *BEST,
    "peak_memory_kind",
    "attempts",
    "host",
    "reason",
    "started",
    "ended",
    "run_key",
    "config_digest",
)

PARAM_PREFIX = "param."

# How columns are typed; every other column is a number (float64, missing = NaN).
TEXTS = frozenset(
    {
        "study",
        "arm",
        "method",
        "phase",
        "subject",
        "state",
        "lr_scheduler",
        "mlflow_run_id",
        "best_metric",
        "peak_memory_kind",
        "host",
        "reason",
        "run_key",
        "config_digest",
    }
)
INTEGERS = frozenset({"trial", "seed", "max_train_steps", "attempts"})
TIMES = frozenset({"started", "ended"})
# Whole numbers that are kept as float64 in the frame (arithmetic with NaN) but written without a fraction.
COUNTS = frozenset(
    {"best_step", *(name for name in metric_names("cost") if METRICS[name].unit in ("", "B", "FLOP"))}
)

CURVE_COLUMNS = ("run_key", "arm", "method", "phase", "trial", "subject", "seed", "step", "metric", "value")
IMAGE_COLUMNS = ("run_key", "step", "key", "path")

# One row an image of a run's final evaluation: which run, which image, and how it was scored (``image_scores.csv``).
SCORE_RUN = ("run_key", "arm", "method", "phase", "trial", "subject", "seed")
SCORE_TEXTS = ("kind", "template", "noise_seed", "character")  # a noise seed may be larger than 64 bits
SCORE_INTEGERS = ("prompt", "image", "failed", "copy")
SCORE_NUMBERS = ("subject_similarity", "prompt_similarity", "subject_scaled", "prompt_scaled")
SCORE_COLUMNS = (
    *SCORE_RUN,
    "kind",
    "prompt",
    "template",
    "image",
    "noise_seed",
    *SCORE_NUMBERS,
    "failed",
    "copy",
    "character",
)
SCORE_LATER = ("character",)  # columns that older results lack

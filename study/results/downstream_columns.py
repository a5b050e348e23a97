"""The tables of the downstream phase: names, types and meanings of their columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from study.results.dictionary import Entry, Type

if TYPE_CHECKING:
    from pandas import DataFrame

DOWNSTREAM, PREDICTED, GENERATED = "downstream", "downstream_predictions", "generated"  # names of the files

_SCORES = ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "ece")
RUN_SCORES = (*(f"validation_{name}" for name in _SCORES), *_SCORES)
RUN_COSTS = (
    "train_seconds", "train_flops", "device_seconds", "preparation_seconds", "evaluation_seconds",
    "trainable_parameters", "peak_memory_bytes",
)  # fmt: skip
RUN_COLUMNS = (
    "run_key", "phase", "cell", "source", "generator", "ratio", "filter", "real_share", "classifier", "network", "loss",
    "generator_seed", "seed", "trial", "state", "reason", "learning_rate", "optimizer", "weight_decay", "steps",
    "images_drawn", "generated_share", "best_step", "real_images", "generated_images", "filtered_out", *RUN_SCORES,
    *RUN_COSTS, "classes", "data", "leak_checked", "mlflow_run_id", "generated_near_held_out",
)  # fmt: skip
RUN_LATER = ("generated_near_held_out",)  # columns that older results lack
PREDICTION_COLUMNS = ("run_key", "part", "image", "group", "label")
GENERATED_MEASURES = (
    "vendi", "vendi_alike", "vendi_real", "memorisation", "grade_agreement", "generate_seconds", "generate_flops",
)  # fmt: skip
GENERATED_COLUMNS = (
    "run_key", "generator", "subject", "seed", "label", "prompt", "images", *GENERATED_MEASURES,
)  # fmt: skip
#: Column -> how events of kind ``generated`` call it, where the names differ.
EVENT_NAMES = {"generate_seconds": "seconds", "generate_flops": "flops"}

_TEXTS = frozenset(
    {
        "run_key", "phase", "cell", "source", "generator", "ratio", "filter", "classifier", "network", "loss", "state",
        "reason", "optimizer", "classes", "data", "leak_checked", "mlflow_run_id", "part", "image", "group", "prompt",
        "subject",
    }
)  # fmt: skip
_INTEGERS = frozenset(
    {
        "generator_seed", "seed", "trial", "steps", "images_drawn", "best_step", "real_images", "generated_images",
        "filtered_out", "images", "generated_near_held_out",
    }
)  # fmt: skip

#: Column -> unit, range, direction, meaning.
_ABOUT: dict[str, tuple[str, str, str, str]] = {
    "run_key": ("", "", "", "Identity of the run: phase/cell/trial-subject-seed; it joins the tables."),
    "phase": ("", "downstream-search | downstream", "", "downstream-search: a trial of a cell's search, on validation "
              "images; downstream: its choice with every seed, which alone is compared."),
    "cell": ("", "", "", "What is trained: source, classifier and, where there are several, loss."),
    "source": ("", "", "", "What the classifier learns from: real, augmented, repeated, or a generator with a ratio."),
    "generator": ("", "", "", "Arm whose images are learnt from; empty without generated images."),
    "ratio": ("", "> 0 | balance", "", "Generated images for each real one, or as many as balance the classes."),
    "filter": ("", "", "", "Which generated images are left out."),
    "real_share": ("", ">= 0", "", "Share of the real images that may be learnt from; 0: generated ones alone."),
    "classifier": ("", "", "", "Name of the classifier in the study file."),
    "network": ("", "", "", "Its network."),
    "loss": ("", "", "", "Loss that is trained on."),
    "generator_seed": ("", "", "", "Seed of fine-tuning and drawing; empty without generated images."),
    "seed": ("", "", "", "Seed of the classifier; of a generator's run its own."),
    "trial": ("", ">= 0", "", "Number of the trial within the cell's search."),
    "state": ("", "COMPLETE | PRUNED | FAIL | RUNNING", "", "How the run ended; RUNNING: not yet."),
    "reason": ("", "", "", "Why the run did not complete."),
    "learning_rate": ("", "> 0", "", "Learning rate of the classifier."),
    "optimizer": ("", "", "", "Optimizer of the classifier."),
    "weight_decay": ("", ">= 0", "", "Weight decay of the classifier."),
    "steps": ("steps", ">= 0", "", "Optimizer steps that the run took, as it counted them."),
    "images_drawn": ("", ">= 0", "", "Images that it drew, with repeats, as it counted them."),
    "generated_share": ("", "0..1", "", "Share of generated ones among these."),
    "best_step": ("steps", ">= 0", "", "Step whose weights were kept, by validation images."),
    "real_images": ("", ">= 0", "", "Real images that it could learn from."),
    "generated_images": ("", ">= 0", "", "Generated images that it could learn from."),
    "filtered_out": ("", ">= 0", "", "Generated images that the filter left out."),
    "classes": ("", "", "", "Names of the classes in the order of their numbers, as JSON."),
    "data": ("", "", "", "Digest of all real images, their classes and parts."),
    "leak_checked": ("", "", "", "What was compared to prove that no held-out image was learnt from, as JSON."),
    "generated_near_held_out": ("", ">= 0", "lower", "Generated images, before its filter, that nearly show a held-out "
                                "one; they are counted, not refused. Empty where that was not looked for."),
    "mlflow_run_id": ("", "", "", "Id of the run in MLflow; empty where MLflow does not know it."),
    "part": ("", "validation | test", "", "Part of the data set that the image is of."),
    "image": ("", "", "", "File of the image in the prepared data set."),
    "group": ("", "", "", "What the image is of, such as a patient; empty where it is not known."),
    "label": ("", "", "", "Number of the image's class; of generated images the class's name."),
    "subject": ("", "", "", "Subject of the generator's run."),
    "prompt": ("", "", "", "Prompt that the images were drawn by."),
    "images": ("", ">= 0", "", "Number of images that were drawn."),
    "vendi": ("", ">= 1", "higher", "Vendi score of the drawn images: an effective number of different ones."),
    "vendi_alike": ("", ">= 1", "higher", "Vendi score of as many drawn images as there are real ones beside them."),
    "vendi_real": ("", ">= 1", "none", "Vendi score of as many real images of the class that were trained on."),
    "memorisation": ("", "0..1", "lower", "Share of drawn images that nearly show a training image."),
    "grade_agreement": ("", "0..1", "higher", "Share of drawn images that show their class, where that can be told."),
    "generate_seconds": ("s", ">= 0", "lower", "Time of drawing the images."),
    "generate_flops": ("FLOP", ">= 0", "lower", "Counted floating-point operations of drawing them."),
    "train_seconds": ("s", ">= 0", "lower", "Time of the classifier's optimizer steps."),
    "train_flops": ("FLOP", ">= 0", "lower", "Counted floating-point operations of them."),
    "device_seconds": ("s", ">= 0", "lower", "Time that the run held its device."),
    "preparation_seconds": ("s", ">= 0", "lower", "Time before the first step."),
    "evaluation_seconds": ("s", ">= 0", "lower", "Time of validations and of the test."),
    "trainable_parameters": ("", ">= 0", "none", "Number of weights that were trained."),
    "peak_memory_bytes": ("B", ">= 0", "lower", "Peak memory."),
}  # fmt: skip
_OF_SCORES = {
    "accuracy": ("higher", "Share of images whose class is named."),
    "balanced_accuracy": ("higher", "Mean recall of the classes."),
    "macro_f1": ("higher", "Mean F1 of the classes."),
    "auroc": ("higher", "Area under the ROC curve, one class against the rest, mean of the classes."),
    "ece": ("lower", "Expected calibration error, 15 bins."),
}
_ABOUT |= {
    f"{prefix}{name}": ("", "0..1", direction, f"{meaning} On {part} images, by the run itself.")
    for name, (direction, meaning) in _OF_SCORES.items()
    for prefix, part in (("validation_", "validation"), ("", "test"))
}


def typed(found: Sequence[dict[str, Any]], columns: Sequence[str]) -> DataFrame:
    """Makes the typed frame of rows: counts Int64, other numbers float64, the rest str."""
    import pandas as pd

    data = {}
    for name in columns:
        values = [row.get(name) for row in found]
        kind = type_of(name, columns)
        if kind == "number":
            numbers = [float("nan") if value is None else value for value in values]
            data[name] = pd.Series(numbers, dtype="float64")
        else:
            data[name] = pd.Series(values, dtype="Int64" if kind == "integer" else "str")
    return pd.DataFrame(data, columns=list(columns))


def type_of(name: str, columns: Sequence[str]) -> Type:
    """How a column is typed in its table; labels are numbers of classes where there are predictions."""
    if name == "label":
        return "integer" if "part" in columns else "text"
    if name in _TEXTS:
        return "text"
    return "integer" if name in _INTEGERS else "number"


def downstream_entries(table: str, columns: Sequence[str]) -> list[Entry]:
    """Returns an entry of the dictionary for each column."""
    found = []
    for name in columns:
        about = _ABOUT.get(name) or ("", "0..1", "", "Probability that the classifier gave to this class.")
        unit, limits, direction, meaning = about
        found.append(Entry(table, name, type_of(name, columns), unit, limits, direction, meaning))
    return found

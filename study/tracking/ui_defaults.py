"""How the MLflow UI first shows a study: which columns, in which order, and the sample grids before the
curves.

MLflow keeps a shared view of its runs page as JSON in a tag of the experiment, and opens it for a link that
names the tag's key. A version of MLflow that does not know the view shows its usual page.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from study.spec.sections import Budget
from study.storage.run_key import DOWNSTREAM
from trainables.evaluation.metrics_table import CLASSIFIER_SCORES, METRICS, QUALITY

VIEW = "study"
ARMS_VIEW = "arms"
CLASSIFIERS_VIEW = "classifiers"  # of studies with a downstream phase
WORKFLOW = "workflowType=machine_learning"  # or MLflow's page calls models agents
VIEW_QUERY = f"{WORKFLOW}&viewStateShareKey={VIEW}"
ARMS_QUERY = f"{WORKFLOW}&viewStateShareKey={ARMS_VIEW}"
CLASSIFIERS_QUERY = f"{WORKFLOW}&viewStateShareKey={CLASSIFIERS_VIEW}"
IMAGE_SECTION = "samples"
GRID = f"{IMAGE_SECTION}/grid"  # the labelled grid of each evaluation, for people

_TAGS = ("arm", "phase", "subject", "seed", "state")
_FIRST = METRICS[QUALITY]
_METRICS = tuple(
    METRICS[name].key for name in (QUALITY, "subject_fidelity", "prompt_fidelity", "train_seconds")
)
_ARM_MEASURES = (QUALITY, "subject_fidelity_scaled", "prompt_fidelity_scaled", "class_kept", "train_seconds")
_ARM_METRICS = (
    *(f"{part}/{QUALITY}" for part in ("mean", "low", "high", "n")),
    *(f"mean/{name}" for name in _ARM_MEASURES[1:]),
)
_CELL_METRICS = (*(f"mean/{name}" for name in CLASSIFIER_SCORES), "summary/n_complete")
_PARAMS = ("training.learning_rate",)
_SECTIONS = (IMAGE_SECTION, "eval", "train", "cost", "Model metrics", "System metrics")
_SECTION_IDS = {name: f"section-{number}" for number, name in enumerate(_SECTIONS)}


def experiment_tags(spec: Mapping[str, Any]) -> dict[str, str]:
    """Returns the tags that make the UI show a study as one of model training, best quality first."""
    classifiers = {CLASSIFIERS_VIEW: _classifiers_view()} if spec.get("downstream") else {}
    views = {VIEW: _runs_view(spec), ARMS_VIEW: _arms_view(), **classifiers}
    return {
        "mlflow.experimentKind": "custom_model_development",
        "mlflow.experiment.primaryMetric.name": _FIRST.key,
        "mlflow.experiment.primaryMetric.greaterIsBetter": str(_FIRST.direction == "higher"),
        **{
            f"mlflow.sharedViewState.{name}": json.dumps(view, separators=(",", ":"))
            for name, view in views.items()
        },
    }


def _last_step(spec: Mapping[str, Any]) -> int:
    """Returns where the runs of a study end; 0, of which every run has a point, where each has an end of its own."""
    return Budget.model_validate(spec.get("budget") or {}).steps or 0


def _runs_view(spec: Mapping[str, Any]) -> dict[str, Any]:
    """All runs, the best first, and their grids of samples."""
    columns = [f"tags.`{name}`" for name in _TAGS]
    columns += [f"metrics.`{name}`" for name in _METRICS] + [f"params.`{name}`" for name in _PARAMS]
    image = {
        "type": "IMAGE",
        "uuid": "sample-grids",
        "metricSectionId": _SECTION_IDS[IMAGE_SECTION],
        "runsCountToCompare": 10,
        "deleted": False,
        "isGenerated": True,
        "imageKeys": [GRID],
        "step": _last_step(spec),
        "showRunParams": False,  # a run has more parameters than a card has room
    }
    return _view(columns, "tags.kind = 'run'", f"metrics.`{_FIRST.key}`", [image])


def _arms_view() -> dict[str, Any]:
    """The arms by their confirm runs: means with intervals, the best first."""
    columns = ["tags.`method`", *(f"metrics.`{name}`" for name in _ARM_METRICS)]
    condition = "tags.kind = 'parent' and tags.phase = 'confirm'"
    return _view(columns, condition, f"metrics.`mean/{QUALITY}`", [])


def _classifiers_view() -> dict[str, Any]:
    """What classifiers learn from, by their final runs: mean test scores, the best balanced accuracy first."""
    columns = [f"metrics.`{name}`" for name in _CELL_METRICS]
    condition = f"tags.kind = 'parent' and tags.phase = '{DOWNSTREAM}'"
    return _view(columns, condition, "metrics.`mean/balanced_accuracy`", [])


def _view(
    columns: Sequence[str], condition: str, order: str, charts: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    return {
        "selectedColumns": list(columns),
        "searchFilter": condition,
        "orderByKey": order,
        "orderByAsc": _FIRST.direction == "lower",
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "isAccordionReordered": True,
        "compareRunCharts": list(charts),
        "compareRunSections": [
            {
                "uuid": uuid,
                "name": name,
                "display": True,
                "isReordered": False,
                "deleted": False,
                "isGenerated": True,
            }
            for name, uuid in _SECTION_IDS.items()
        ],
    }

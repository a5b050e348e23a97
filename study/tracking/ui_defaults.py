"""How the MLflow UI first shows a study: which columns, in which order, and the sample grids before the
curves.

MLflow keeps a shared view of its runs page as JSON in a tag of the experiment, and opens it for a link that
names the tag's key. A version of MLflow that does not know the view shows its usual page.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from study.spec.sections import Budget
from trainables.evaluation.metrics_table import METRICS, QUALITY

VIEW = "study"
VIEW_QUERY = f"workflowType=machine_learning&viewStateShareKey={VIEW}"
IMAGE_SECTION = "samples"
GRID = f"{IMAGE_SECTION}/grid"  # the labelled grid of each evaluation, for people

_TAGS = ("arm", "phase", "subject", "seed", "state")
_FIRST = METRICS[QUALITY]
_METRICS = tuple(
    METRICS[name].key for name in (QUALITY, "subject_fidelity", "prompt_fidelity", "train_seconds")
)
_PARAMS = ("training.learning_rate",)
_SECTIONS = (IMAGE_SECTION, "eval", "train", "cost", "Model metrics", "System metrics")


def experiment_tags(spec: Mapping[str, Any]) -> dict[str, str]:
    """Returns the tags that make the UI show a study as one of model training, best quality first."""
    return {
        "mlflow.experimentKind": "custom_model_development",
        "mlflow.experiment.primaryMetric.name": _FIRST.key,
        "mlflow.experiment.primaryMetric.greaterIsBetter": str(_FIRST.direction == "higher"),
        f"mlflow.sharedViewState.{VIEW}": json.dumps(_view(spec), separators=(",", ":")),
    }


def _last_step(spec: Mapping[str, Any]) -> int:
    """Returns where the runs of a study end; 0, of which every run has a point, where each has an end of its own."""
    return Budget.model_validate(spec.get("budget") or {}).steps or 0


def _view(spec: Mapping[str, Any]) -> dict[str, Any]:
    columns = [f"tags.`{name}`" for name in _TAGS]
    columns += [f"metrics.`{name}`" for name in _METRICS] + [f"params.`{name}`" for name in _PARAMS]
    sections = {name: f"section-{number}" for number, name in enumerate(_SECTIONS)}
    image = {
        "type": "IMAGE",
        "uuid": "sample-grids",
        "metricSectionId": sections[IMAGE_SECTION],
        "runsCountToCompare": 10,
        "deleted": False,
        "isGenerated": True,
        "imageKeys": [GRID],
        "step": _last_step(spec),
        "showRunParams": False,  # a run has more parameters than a card has room
    }
    return {
        "selectedColumns": columns,
        "searchFilter": "tags.kind = 'run'",
        "orderByKey": f"metrics.`{_FIRST.key}`",
        "orderByAsc": _FIRST.direction == "lower",
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "isAccordionReordered": True,
        "compareRunCharts": [image],
        "compareRunSections": [
            {
                "uuid": uuid,
                "name": name,
                "display": True,
                "isReordered": False,
                "deleted": False,
                "isGenerated": True,
            }
            for name, uuid in sections.items()
        ],
    }

"""The LoggedModels of a run in MLflow: one for each step at which it was evaluated, with the values of that step.

So MLflow's page of models lists checkpoints of all runs side by side, and a search finds the best of them at any step.
Those between hold no weights, which a run keeps of its result alone (artifact ``weights`` of the run).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from study.storage.run_key import RunKey
from study.tracking.data_inputs import judging
from study.tracking.mlflow_store import Metric, MlflowStore
from study.tracking.params import flat_params

MODELS = "models"  # what a server before MLflow 3 lacks

_EVALUATED = ("eval/", "choice/")  # of these groups each step is a model
_OF_MODELS = (*_EVALUATED, "cost/")
_NOT_IN_NAMES = re.compile(r"[/:.%\"']")  # of LoggedModels


@dataclass
class _Model:
    model_id: str
    linked: bool = False
    ready: bool = False


class RunModels:
    """Makes each model once, also after a kill at any moment.

    Classifiers of the downstream phase have none: there are many, and they are measuring instruments.

    Args:
        fresh: Whether the run was made just now, so that MLflow has no models of it yet.
    """

    def __init__(
        self, store: MlflowStore, run_id: str, key: RunKey, document: Mapping[str, Any], *, fresh: bool
    ) -> None:
        self._store = store
        self._run_id = run_id
        self._key = key
        self._document = document
        self._models: dict[int, _Model] | None = {} if fresh else None

    def of(self, metrics: Iterable[Metric]) -> tuple[Metric, ...]:
        """Returns the metrics, those of an evaluated step with the model that they are of, which is made if need be."""
        given = tuple(metrics)
        if self._key.trains_classifier:
            return given
        steps = {metric.step for metric in given if metric.name.startswith(_EVALUATED)}
        if not any(metric.name.startswith(_OF_MODELS) for metric in given):
            return given
        models = self._store.optionally(MODELS, lambda: self._ensured(steps)) or {}
        data = judging(self._document)
        return tuple(
            replace(
                metric,
                model_id=models[metric.step].model_id,
                data=(data.name, data.digest) if metric.name.startswith("eval/") else None,
            )
            if metric.step in models and metric.name.startswith(_OF_MODELS)
            else metric
            for metric in given
        )

    def finish(self) -> None:
        """Links the models to the run at their steps, and says that they are ready."""
        if self._key.trains_classifier:
            return
        models = self._store.optionally(MODELS, lambda: self._ensured(())) or {}
        unlinked = {model.model_id: step for step, model in models.items() if not model.linked}
        if unlinked:
            self._store.link_models(self._run_id, unlinked)
        for model in models.values():
            model.linked = True
            if not model.ready:
                self._store.finish_model(model.model_id)
                model.ready = True

    def _ensured(self, steps: Iterable[int]) -> dict[int, _Model]:
        if self._models is None:
            linked = self._store.linked_models(self._run_id)
            self._models = {
                known.step: _Model(known.model_id, linked=known.model_id in linked, ready=known.ready)
                for known in self._store.models_of(self._run_id)
            }
        for step in sorted(set(steps) - self._models.keys()):
            self._models[step] = _Model(self._create(step))
        return self._models

    def _create(self, step: int) -> str:
        key, method = self._key, str(self._document["method"])
        params = {
            name: value for name, value in flat_params(self._document).items() if name.startswith("training.")
        }
        tags = {
            "study": self._store.study,
            "run_key": key.name,
            "arm": key.arm,
            "phase": str(key.phase),
            "subject": key.subject,
            "seed": str(key.seed),
        }
        # The step first: pages cut long names, and show the run beside them.
        name = f"step {step} {key.arm} {key.trial:04d} {key.subject} s{key.seed}"
        return self._store.create_model(
            _NOT_IN_NAMES.sub("_", name), self._run_id, step, method, params, tags
        )

"""The champion of a study in MLflow's registry of models: the result to take, under an alias that stays.

The registered model bears the study's name, its versions are the results that have led so far, and the alias
``champion`` stands at the one that leads now: ``models:/<study>@champion`` is its weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from study.storage.safe_paths import inside
from study.tracking.arm_summary import Child, estimates
from study.tracking.mlflow_store import MlflowStore
from study.tracking.registry import Registry
from study.tracking.run_models import MODELS
from trainables.evaluation.metrics_table import METRICS, QUALITY
from trainables.methods.registry import BASE

CHAMPION = "champion"
_QUALITY = METRICS[QUALITY].key


def name_champion(
    store: MlflowStore, study_id: str, child: Child, run_id: str, weights: Path | None, reproduce: str
) -> None:
    """Gives the alias to the result of a run; repeating it, also after a kill at any moment, changes nothing.

    Args:
        run_id: Of the run in MLflow.
        weights: Its folder of weights, None where it is not at hand or too large: the run's tag ``weights`` says where.
        reproduce: The command that trains it again.
    """
    models = store.optionally(MODELS, lambda: store.models_of(run_id))
    if not models:  # written by an earlier version
        return
    result = max(models, key=lambda model: model.step)
    tags = {
        "run_key": child.key.name,
        "arm": child.key.arm,
        "subject": child.key.subject,
        QUALITY: f"{child.values[_QUALITY]:.4f}",
        "reproduce": reproduce,
    }
    about = f"The best confirm run of the arm with the highest mean quality. Train it again: `{reproduce}`"
    Registry(store, study_id).give_alias(CHAMPION, result.model_id, run_id, weights, tags, about)


def weights_at_hand(folder: Path, result: Mapping[str, Any], limit: int) -> Path | None:
    """Returns a run's folder of weights if it is there, of sound paths, and of at most `limit` bytes."""
    weights = inside(folder, str(result["weights"])) if result.get("weights") else None
    if weights is None:
        return None
    files = list(weights.rglob("*"))
    if any(inside(weights, path.relative_to(weights)) is None for path in files):
        return None
    size = sum(path.stat().st_size for path in files if path.is_file())
    return weights if size <= limit else None


def leading(children: Iterable[Child]) -> Child | None:
    """Returns the best confirm run of the arm with the highest mean quality over subjects.

    A single run of another arm may have a higher quality, by luck or because of its subject. None where no trained arm
    has a confirm run with a quality.
    """
    arms: dict[str, list[Child]] = {}
    for child in children:
        known = child.state == "COMPLETE" and _QUALITY in child.values
        if known and child.key.phase == "confirm" and child.method != BASE:
            arms.setdefault(child.key.arm, []).append(child)
    if not arms:
        return None
    best = max(sorted(arms), key=lambda arm: estimates(arms[arm], arms[arm][0].method)[QUALITY].value or 0.0)
    return max(sorted(arms[best], key=lambda child: child.key), key=lambda child: child.values[_QUALITY])

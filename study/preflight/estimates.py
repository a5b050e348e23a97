"""What a study will take of the disk, roughly, before anything is measured."""

from __future__ import annotations

from pathlib import Path

from study.preflight.machine import concurrency
from study.preflight.method_checks import ends_of_search
from study.preflight.probe import Measured
from study.preflight.workload import images_of
from study.spec.study_spec import StudySpec
from trainables.config.fields import EMBEDDED

_IMAGE_BYTES = 15_000  # a saved sample grid cell, generously
_ADAPTER_SHARE = 0.03  # of the model's size: an adapter of rank 32 with its optimizer state stays below
_TRAINING_SHARE = 3.0  # resume state of a full training: weights and two moments


def rough_bytes(spec: StudySpec) -> int:
    """Returns an upper estimate of the disk that a study takes, from file sizes alone."""
    model = model_bytes(spec)
    total = 0
    for name in spec.arms:
        runs = spec.search_runs_of(name) + len(spec.confirm_keys(name, 0))
        total += runs * run_bytes(spec, name, model, None)
    # Resume states: only runs in progress have one.
    # The best step's weights lie beside, for a moment those of two steps.
    best = spec.evaluation.restore_best is not None
    shares = [
        _TRAINING_SHARE + 2 * best if artifact_kind(spec, name) == "pipeline" else _ADAPTER_SHARE
        for name in spec.arms
    ]
    return total + int(concurrency(spec.resources) * max(shares) * model)


def model_bytes(spec: StudySpec) -> int:
    """Returns the size of the base model's weights on disk; 0 if it is not here yet (a hub id)."""
    from trainables.models.folders import resolve_model

    if Path(spec.model.path).is_file():
        return Path(spec.model.path).stat().st_size
    if spec.model.path != EMBEDDED and not Path(spec.model.path).is_dir():
        return 0
    return sum(path.stat().st_size for path in resolve_model(spec.model).rglob("*.safetensors"))


def artifact_kind(spec: StudySpec, arm: str) -> str:
    """Returns "pipeline", "adapter" or "none": what an arm's runs leave, the larger where they may leave either."""
    from trainables.methods.protocol import artifact_of
    from trainables.methods.registry import get_method

    method = get_method(spec.arms[arm].method)
    if not method.trains:
        return "none"
    kinds = {artifact_of(method, config) for config in ends_of_search(spec, arm)}
    return "pipeline" if "pipeline" in kinds else method.artifact


def run_bytes(spec: StudySpec, arm: str, model: int, cost: Measured | None) -> int:
    """What one run leaves: weights and sample grids."""
    shares = {"pipeline": 1.0, "adapter": _ADAPTER_SHARE, "none": 0.0}
    weights = (
        cost.artifact_bytes
        if cost and cost.artifact_bytes is not None
        else int(shares[artifact_kind(spec, arm)] * model)
    )
    drawn = images_of(spec, "confirm")
    images = drawn.final + drawn.between
    return weights + images * _IMAGE_BYTES + 50_000

"""Which step of a run was best, and its weights where the run restores them.

The weights are one file beside the checkpoints. When a step is better than all before it, its file is written before
the evaluation is recorded, and the file of the step that was best goes after that: a run that is killed finds the file
of the best step that its events tell. What is chosen from are the recorded values, so that a run that was killed
chooses as one that was not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from trainables.errors import TrainingFailure
from trainables.evaluation.choice import best_step
from trainables.evaluation.metrics_table import TOLD_BY
from trainables.events import BEST_WEIGHTS, CHECKPOINTS, Event
from trainables.util.files import replacing

Tensors = Mapping[str, torch.Tensor]

_SUFFIX = ".safetensors"
_STEP, _DIGEST = "step", "sha256"  # of the file's metadata


class BestStep:
    """The evaluations of a run so far, and the weights of the best.

    Args:
        folder: Of the run.
        restored_by: `EvaluationConfig.restore_best`; None for a run that keeps the weights of its end, whose best step
            is told all the same.
        events: Of earlier attempts.
    """

    def __init__(self, folder: Path, restored_by: str | None, events: Iterable[Event]) -> None:
        self._folder = folder / CHECKPOINTS
        self.restores = restored_by is not None
        self._metrics = TOLD_BY if restored_by is None else (restored_by,)
        self._told: dict[str, dict[int, float | None]] = {metric: {} for metric in self._metrics}
        for event in events:
            if event.kind == "evaluation" and event.step is not None:
                self._take(event.step, event.data, final=bool(event.data.get("final")))
        best = self.step
        self._stored = best if best is not None and _read(self._path(best), best) is not None else None

    @property
    def metric(self) -> str:
        """By which a step is best. Where none is restored: quality, or the first of `TOLD_BY` that has a value."""
        known = (
            metric for metric in self._metrics if any(v is not None for v in self._told[metric].values())
        )
        return next(known, self._metrics[0])

    @property
    def _values(self) -> dict[int, float | None]:
        return self._told[self.metric]

    @property
    def step(self) -> int | None:
        """The best step so far; None before a value is known."""
        return best_step(self._values.items(), self.metric)

    def note(self, step: int, metrics: Mapping[str, Any], *, final: bool) -> None:
        """Takes in an evaluation that has been recorded, and removes weights of steps that are not the best any more.

        That of a result which was restored is none of those that are chosen from.
        """
        self._take(step, metrics, final=final)
        if self.restores:
            for path in self._folder.glob(f"{BEST_WEIGHTS}-*{_SUFFIX}"):
                if self.step is None or path != self._path(self.step):
                    path.unlink(missing_ok=True)

    def _take(self, step: int, metrics: Mapping[str, Any], *, final: bool) -> None:
        if not (final and self.restores):
            for metric, values in self._told.items():
                values.setdefault(step, metrics.get(metric))

    def keep_if_best(self, step: int, metrics: Mapping[str, Any], weights: Tensors) -> None:
        """Keeps the weights of an evaluation that is about to be recorded, if it is better than all before it."""
        if (
            self.restores
            and best_step([*self._values.items(), (step, metrics.get(self.metric))], self.metric) == step
        ):
            self._keep(step, weights)

    def keep_again(self, step: int, weights: Tensors) -> None:
        """Keeps the weights of a step that was evaluated by an earlier attempt, if they are the best ones and gone."""
        if self.restores and self.step == step != self._stored:
            self._keep(step, weights)

    def can_go_on_from(self, step: int) -> bool:
        """Whether the weights of the best step are there for a run that goes on after `step`, or will come again."""
        best = self.step
        return not self.restores or best is None or best >= step or best == self._stored

    def restore(self, end: int, weights: Tensors) -> None:
        """Puts the weights of the best step in the place of those of the end.

        Raises:
            TrainingFailure: The file was whole when the attempt began, and is gone or damaged now.
        """
        best = self.step
        if not self.restores or best is None or best == end:
            return
        kept = _read(self._path(best), best)
        if kept is None:
            raise TrainingFailure(
                "best_weights_lost",
                f"the weights of the best step, {best}, are damaged or gone ({self._path(best)}); remove the run's "
                "folder, and it trains again",
            )
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(kept[name])

    def line(self, end: int | None) -> dict[str, Any] | None:
        """Returns what is recorded of the best step; None with fewer than two evaluations that have a value.

        A run that restores its best step says in every case what came of that: where no evaluation had a value, that
        no step was best, and the weights of its end were kept. Where the end was best nothing was restored.

        Args:
            end: The last step, if training has come to it.
        """
        best, known = self.step, sum(value is not None for value in self._values.values())
        if known < 2 and not (self.restores and end is not None):
            return None
        return {
            "best_step": best,
            "value": None if best is None else self._values[best],
            "end_value": self._values.get(end) if end is not None else None,
            "metric": self.metric,
            "evaluations": known,
            "restored": self.restores and end is not None and best not in (None, end),
        }

    def _path(self, step: int) -> Path:
        return self._folder / f"{BEST_WEIGHTS}-{step:08d}{_SUFFIX}"

    def _keep(self, step: int, weights: Tensors) -> None:
        """Writes the file in one step."""
        path = self._path(step)
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {name: weight.detach().cpu().contiguous() for name, weight in weights.items()}
        with replacing(path) as partial:
            save_file(tensors, partial, {_STEP: str(step), _DIGEST: _digest(tensors)})
        self._stored = step


def _read(path: Path, step: int) -> dict[str, torch.Tensor] | None:
    """Returns the weights in a file; None if there is none, or it is damaged or of another step."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        whole = metadata[_DIGEST] == _digest(tensors) and int(metadata[_STEP]) == step
        return tensors if whole else None
    except (OSError, ValueError, KeyError, SafetensorError):
        return None


def _digest(tensors: Tensors) -> str:
    """Hex SHA-256 of names and values; safetensors itself has no checksum."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        total.update(name.encode())
        total.update(tensors[name].contiguous().flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()

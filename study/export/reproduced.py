"""Trains one run of a study again, from its own record alone, and says how far the result lies from the first.

Nothing that the study has computed is used: caches are made anew. On the machine of the first training, with the same
versions, weights and scores are to be the same to the last bit; elsewhere their distance is what is told.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from study.export.trained import complete_run, config_of, weights_of
from study.storage.layout import CACHE, REPRODUCED_FOLDER, Storage
from study.storage.run_result import RunResult, read_result
from study.tracking.run_ids import read_record
from study.util.provenance import git_state, machine, package_versions
from trainables.errors import UserError
from trainables.evaluation.metrics_table import METRICS, metric_names
from trainables.events import is_over, read_events
from trainables.methods.registry import get_method
from trainables.run_config import RunConfig


@dataclass(frozen=True)
class Reproduction:
    """What training a run again came to.

    Attributes:
        run: Its name.
        folder: Where the new one lies.
        same_weights: Whether all tensors are equal to the last bit; None where the run trains nothing.
        distance: Norm of the difference of all weights over the norm of the first ones; None likewise.
        furthest: The tensor with the largest difference, and that; None where there is none.
        metrics: By metric that both have: the first value and the new one.
        apart: What of machine, code and versions is another than then, in words.
    """

    run: str
    folder: Path
    same_weights: bool | None
    distance: float | None
    furthest: tuple[str, float] | None
    metrics: dict[str, tuple[float, float]] = field(default_factory=dict)
    apart: tuple[str, ...] = ()

    @property
    def exact(self) -> bool:
        """Whether weights and scores are the same to the last bit."""
        return self.same_weights is not False and all(one == two for one, two in self.metrics.values())

    @property
    def promised(self) -> bool:
        """Whether it had to be: machine and versions are those of the first training."""
        return not self.apart

    def lines(self) -> list[str]:
        """What a person is told."""
        found = [f"{self.run}, trained again: {self.folder}"]
        if self.exact:
            found.append(
                "the same to the last bit" + ("" if self.same_weights is None else ": weights and scores")
            )
        else:
            if self.same_weights is True:
                found.append("weights: the same to the last bit")
            elif self.distance is not None and self.furthest is not None:
                name, most = self.furthest
                found.append(f"weights: relative distance {self.distance:.2g}; at most {most:.2g}, in {name}")
            changed = {name: abs(two - one) for name, (one, two) in self.metrics.items() if one != two}
            if changed:
                name = max(changed, key=lambda name: changed[name])
                found.append(
                    f"{len(changed)} of {len(self.metrics)} scores differ, {name} by {changed[name]:.2g}"
                )
        found += [f"not as then: {said}" for said in self.apart]
        if self.promised and not self.exact:
            found.append(
                "machine, code and versions are those of the first training, so that it had to be the same"
            )
        return found


def reproduce(storage: Storage, run: str) -> Reproduction:
    """Trains a run again and compares; an earlier try that was broken off goes on, one that has ended is made anew.

    Args:
        run: A run's name or a part of it, or an arm, see `complete_run`.

    Raises:
        UserError: There is no such run, its weights or its base model are gone, or the new run failed.
    """
    first = complete_run(storage, run)
    name = "/".join(first.parts[-3:])
    config = config_of(run, first)
    weights = weights_of(storage, run, first) if get_method(config.method).trains else None
    folder = storage.folder / REPRODUCED_FOLDER / name
    if is_over(folder):
        shutil.rmtree(folder)
    again = RunConfig.model_validate(
        {**config.model_dump(mode="json"), "output_dir": str(folder), "cache_dir": str(folder / CACHE)}
    )

    from trainables.run.execute import execute

    for _ in execute(again):
        pass
    result, before = read_result(folder), read_result(first)
    assert before is not None, "a complete run has a result"
    if result is None or result.state != "COMPLETE":
        said = "it has no result" if result is None else f"{result.reason}: {result.message}"
        raise UserError(f"{name} did not come to its end again ({said}); its folder is {folder}")
    shutil.rmtree(folder / CACHE, ignore_errors=True)
    same, distance, furthest = None, None, None
    if weights is not None:
        same, distance, furthest = _distance(weights, folder / str(result.weights))
    return Reproduction(
        name, folder, same, distance, furthest, _scores(before, result), _apart(storage, first)
    )


def _scores(before: RunResult, after: RunResult) -> dict[str, tuple[float, float]]:
    """Scores of both, and the costs that are counted; seconds and bytes of memory are another's each time."""
    counted = [name for name in metric_names("cost") if METRICS[name].counted]
    found = {}
    for name in (*metric_names("eval"), *counted):
        one, two = before.value(name), after.value(name)
        if one is not None and two is not None:
            found[name] = (one, two)
    return found


def _distance(one: Path, other: Path) -> tuple[bool, float, tuple[str, float] | None]:
    """Compares all tensors of two folders of weights, in double precision.

    Raises:
        UserError: They do not hold the same tensors.
    """
    import torch

    first, second = _tensors(one), _tensors(other)
    if first.keys() != second.keys() or any(first[key].shape != second[key].shape for key in first):
        raise UserError(f"{one} and {other} do not hold the same tensors, so that they cannot be compared")
    same, squares, norm = True, 0.0, 0.0
    furthest: tuple[str, float] | None = None
    for key, value in first.items():
        same = same and torch.equal(value, second[key])
        difference = value.double() - second[key].double()
        squares += float(difference.pow(2).sum())
        norm += float(value.double().pow(2).sum())
        most = float(difference.abs().max()) if difference.numel() else 0.0
        if most > 0 and (furthest is None or most > furthest[1]):
            furthest = key, most
    return same, math.sqrt(squares / norm) if norm else 0.0, furthest


def _tensors(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return {
        f"{path.relative_to(folder).as_posix()}: {key}": value
        for path in sorted(folder.rglob("*.safetensors"))
        for key, value in load_file(path).items()
    }


def _apart(storage: Storage, first: Path) -> tuple[str, ...]:
    """What of machine, code and versions is another than at the launch that trained the run."""
    record = read_record(storage)
    events = read_events(first)
    launch = record.launch_at(events[0].time) if record is not None and events else None
    if launch is None:
        return ("of the first training neither machine nor versions are on record",)
    git = git_state()
    here: dict[str, Any] = {**package_versions(), **machine(), "commit": git.commit if git else None}
    then: Mapping[str, Any] = {**launch.versions, **launch.machine, "commit": launch.git_commit}
    told = [
        f"{name}: {then[name]} then, {here.get(name)} now"
        for name in then
        if name not in ("memory_bytes", "cores") and then[name] != here.get(name)
    ]
    if launch.git_dirty or (git is not None and git.dirty):
        told.append("code that no commit holds, then or now")
    return tuple(told)

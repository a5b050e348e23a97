"""Which classifiers a study trains once its models are fine-tuned, as the run queue takes it.

To the queue a cell of the downstream table is what an arm is: it is searched, and its choice is trained with every
seed. What stands in a subject's place is where its generated images come from: ``real`` for none, ``g0`` for those of
generator seed 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from search_spaces.schema import SearchSpace
from study.spec.downstream import REAL, Cell, cells_of, training_of
from study.spec.downstream_data import ALL_CLASSES, DATA, images_needed
from study.storage.layout import Storage
from study.storage.run_key import DOWNSTREAM, DOWNSTREAM_SEARCH, RunKey
from study.storage.run_result import read_result
from trainables.classifier_run_config import CLASSIFIER, ClassifierRunConfig, GeneratedEntries
from trainables.evaluation.prepared_classes import PreparedClasses, prepared_at
from trainables.events import read_events

if TYPE_CHECKING:
    from study.spec.study_spec import StudySpec

GENERATOR = "g"  # begins what stands in a subject's place


@dataclass(frozen=True)
class CellSearch:
    """How every cell is searched, in the terms of `study.spec.phases.SearchSpec`.

    The space is finite, and every cell tries the same points of it, each once: where each drew its own, some would try
    one point twice and others more.

    Attributes:
        drawn_as: What seeds the choice of points where not all are tried.
    """

    metrics: tuple[str, ...]
    seed: int = 0
    sampler: Literal["grid"] = "grid"
    drawn_as: str = "cells"
    repeats: int = 1
    batch_size: int | None = None
    constraints: tuple[Any, ...] = ()


@dataclass(frozen=True)
class CellArm:
    """A cell where the queue expects an arm."""

    cell: Cell
    method: str = field(default=CLASSIFIER, init=False)


class DownstreamPlan:
    """The downstream runs of a study; raises ValueError for a study without any."""

    def __init__(self, spec: StudySpec) -> None:
        if spec.downstream is None:
            raise ValueError(f"study {spec.name!r} has no section downstream")
        self._spec, self.downstream = spec, spec.downstream
        self.name = spec.name
        cells = cells_of(self.downstream, tuple(spec.arms))
        self.arms: dict[str, CellArm] = {cell.name: CellArm(cell) for cell in cells}
        self.search = CellSearch((f"validation_{self.downstream.score}",), spec.search.seed)

    @cached_property
    def prepared(self) -> PreparedClasses:
        """The data set; raises UserError if it is gone."""
        assert self.downstream.prepared is not None
        return prepared_at(Path(self.downstream.prepared))

    # What the run queue asks

    def space(self, arm: str) -> SearchSpace:
        """What the search of a cell varies: the same for every cell."""
        return self.downstream.space

    def trials_of(self, arm: str) -> int:
        """Trials of a cell's search: 0 where there is nothing to choose."""
        return self.downstream.trials if self.downstream.space.parameters else 0

    def default_params(self, arm: str) -> dict[str, Any]:
        """The first trial."""
        searched = self.downstream.space.parameters
        return {name: value for name, value in self.downstream.default.items() if name in searched}

    def repeat_of(self, arm: str, trial: int) -> int:
        """There is one search of each cell."""
        return 0

    def confirmed_subjects(self, arm: str, repeat: int) -> tuple[str, ...]:
        """Where the generated images of a cell's final runs come from."""
        if self.arms[arm].cell.generator is None:
            return (REAL,)
        return tuple(f"{GENERATOR}{seed}" for seed in self.downstream.generator_seeds)

    def search_keys(self, arm: str, trial: int) -> list[RunKey]:
        """The run of a search trial: with the images of the first generator seed, and a classifier seed of its own."""
        subject = self.confirmed_subjects(arm, 0)[0]
        return [RunKey(DOWNSTREAM_SEARCH, arm, trial, subject, self.downstream.search_seed)]

    def confirm_keys(self, arm: str, trial: int, repeat: int | None = None) -> list[RunKey]:
        """The final runs of a cell: every generator seed with every classifier seed."""
        return [
            RunKey(DOWNSTREAM, arm, trial, subject, seed)
            for subject in self.confirmed_subjects(arm, 0)
            for seed in self.downstream.seeds
        ]

    def run_config(self, key: RunKey, params: Mapping[str, Any], storage: Storage) -> ClassifierRunConfig:
        """Returns the full configuration of one run; the images that it names have been drawn by then."""
        spec, downstream, cell = self._spec, self.downstream, self.arms[key.arm].cell
        seed = int(key.subject.removeprefix(GENERATOR)) if cell.generator is not None else None
        share = downstream.generated_share
        proportional = cell.generator is not None and cell.share > 0 and share == "proportional"
        chance = 0.0 if cell.generator is None else 0.5 if share == "proportional" else float(share)
        contents = {"data": digest} if (digest := spec.digest_of(DATA)) else {}
        return ClassifierRunConfig(
            data=downstream.prepared or "",
            resolution=downstream.resolution,
            source=cell.source,
            real_share=cell.share,
            generator=cell.generator,
            generator_seed=seed,
            generated=tuple(self._generated(cell, seed, storage)) if seed is not None else (),
            ratio=cell.ratio,
            filter=cell.filter,
            proportional=proportional,
            judged=key.phase == DOWNSTREAM,
            training=training_of(downstream, cell, dict(params), chance),
            seed=key.seed,
            device="cuda" if spec.resources.worker_gpus > 0 else "cpu",
            cpu_threads=spec.resources.worker_cpus,
            gpu_share=min(spec.resources.worker_gpus, 1) or 1,
            output_dir=str(storage.run_folder(key)),
            cache_dir=str(storage.cache),
            contents=contents,
        )

    # Generated images

    def _generated(self, cell: Cell, seed: int, storage: Storage) -> Iterable[GeneratedEntries]:
        """Where the images of each class lie, by the events of the runs that drew them."""
        one = self.downstream.models == "one"
        for label in self.prepared.classes:
            if not images_needed(self.downstream, self.prepared, label):
                continue
            subject = ALL_CLASSES if one else self.prepared.names[label]
            assert cell.generator is not None
            yield self._drawn(cell.generator, subject, seed, label, storage)

    def _drawn(self, arm: str, subject: str, seed: int, label: str, storage: Storage) -> GeneratedEntries:
        folder = _run_of(storage, arm, subject, seed)
        if folder is None:
            name = f"confirm/{arm}/....-{subject}-s{seed}"
            return GeneratedEntries(run=name, label=label, missing="it was never trained")
        name = "/".join(folder.parts[-3:])
        result = read_result(folder)
        found = [
            event.data
            for event in read_events(folder)
            if event.kind == "generated" and event.data.get("label") == label
        ]
        if result is None or result.state != "COMPLETE" or not found:
            why = (result.message or result.reason) if result is not None else None
            return GeneratedEntries(
                run=name, label=label, missing=why or "it has drawn no images of the class"
            )
        return GeneratedEntries(
            run=name, label=label, entries=tuple(found[-1]["entries"]), images=int(found[-1]["images"])
        )

    # What plans and status ask

    def planned(self) -> dict[tuple[str, str], int]:
        """Number of runs of each cell and phase, in order; without those of none."""
        counts: dict[tuple[str, str], int] = {}
        for name in self.arms:
            counts[name, DOWNSTREAM_SEARCH] = self.trials_of(name)
            counts[name, DOWNSTREAM] = len(self.confirm_keys(name, 0))
        return {place: count for place, count in counts.items() if count}

    def number_of_runs(self) -> int:
        """Returns the number of all downstream runs."""
        return sum(self.planned().values())


def downstream_plan(spec: StudySpec) -> DownstreamPlan | None:
    """Returns the downstream runs of a study, None if it has none."""
    return None if spec.downstream is None else DownstreamPlan(spec)


def total_runs(spec: StudySpec) -> int:
    """Returns the number of all runs of a study, of fine-tuning and of classifiers, if no early stopping happens."""
    plan = downstream_plan(spec)
    return spec.number_of_runs() + (plan.number_of_runs() if plan is not None else 0)


def _run_of(storage: Storage, arm: str, subject: str, seed: int) -> Path | None:
    """The folder of an arm's confirm run; there is one, whichever trial was chosen."""
    folders = sorted(storage.arm_folder("confirm", arm).glob(f"[0-9]*-{subject}-s{seed}"))
    for folder in folders:
        if RunKey.parse("/".join(folder.parts[-3:])).subject == subject:
            return folder
    return None

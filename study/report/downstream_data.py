"""The classifiers' final runs in order: by what they learn from, classifier and loss, on one set of test images."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from pydantic import ValidationError

from study.report.prepared import Rows, natural_key, section
from study.results.downstream import Downstream, is_probability
from study.spec.downstream import AUGMENTED, REAL, REPEATED, Cell, DownstreamSpec, cells_of
from study.statistics.downstream.images import Floats, LabelledImages, Runs, Unusable
from study.storage.run_key import DOWNSTREAM, DOWNSTREAM_SEARCH

COMPLETE, RUNNING = "COMPLETE", "RUNNING"
_FIRST = (REAL, AUGMENTED, REPEATED)


@dataclass(frozen=True)
class Source:
    """What classifiers learn from; see `study.spec.downstream.Cell`."""

    name: str
    generator: str | None
    ratio: str | None
    filter: str | None
    share: float

    @property
    def adds_images(self) -> bool:
        """Whether it has all real images, and generated ones."""
        return self.generator is not None and self.share > 0

    @property
    def generated_alone(self) -> bool:
        """Whether it has generated images alone: of these the score is a CAS."""
        return self.generator is not None and not self.share

    @property
    def is_subset(self) -> bool:
        """Whether it is another number of real images, of a learning curve."""
        return self.generator is None and self.name.startswith(f"{REAL}-")


@dataclass(frozen=True)
class CellRuns:
    """The complete final runs of one cell.

    Attributes:
        rows: Of these runs, those that `runs` holds.
        runs: What they said of the test images; None where nothing is known.
        missing: Runs that were judged and that `rows` lacks, since another of one of their seeds is missing.
    """

    source: Source
    classifier: str
    loss: str
    rows: pd.DataFrame
    runs: Runs | None
    missing: int = 0

    def mean(self, column: str) -> float | None:
        """Mean of a column of its runs; None where none has it."""
        values = self.rows[column].dropna().astype(float)
        return float(values.mean()) if len(values) else None


@dataclass(frozen=True)
class Phase:
    """All of a study's downstream phase that the report speaks of.

    Attributes:
        spec: Its section of the study file; None where that is not known.
        table: All rows, of searches too.
        images: The test images; None where no run was judged, or no score can be reckoned from them.
        problem: Why not.
        classes: Names.
        cells: In the order of the study file.
        planned: Number of final runs by the study file; None where it is not known.
        others: Final runs whose predictions are missing, or about other images than most.
        with_generated: Names of all real images with generated ones, by the study file; empty where it is not known.
    """

    spec: DownstreamSpec | None
    data: Downstream
    images: LabelledImages | None
    problem: str | None
    classes: tuple[str, ...]
    cells: tuple[CellRuns, ...]
    planned: int | None
    others: tuple[str, ...]
    with_generated: tuple[str, ...] = ()

    @property
    def table(self) -> pd.DataFrame:
        """Rows of all runs."""
        return self.data.runs

    @cached_property
    def final(self) -> pd.DataFrame:
        """Rows of the final runs, in every state."""
        return self.table[self.table["phase"] == DOWNSTREAM]

    @cached_property
    def searched(self) -> pd.DataFrame:
        """Rows of the searches' runs, in every state."""
        return self.table[self.table["phase"] == DOWNSTREAM_SEARCH]

    @property
    def sources(self) -> tuple[Source, ...]:
        """What is learnt from, in the table's order."""
        return tuple(dict.fromkeys(cell.source for cell in self.cells))

    @property
    def recipes(self) -> tuple[tuple[str, str], ...]:
        """Classifiers with losses, in the table's order."""
        return tuple(dict.fromkeys((cell.classifier, cell.loss) for cell in self.cells))

    @property
    def of_losses(self) -> bool:
        """Whether there are several losses."""
        return len({cell.loss for cell in self.cells}) > 1

    @property
    def margin(self) -> float:
        """Differences within it are equivalent."""
        return self.spec.margin if self.spec else float(DownstreamSpec.model_fields["margin"].default)

    @property
    def chosen_by(self) -> str:
        """The score by which searches chose, on validation images."""
        return self.spec.score if self.spec else "balanced_accuracy"

    def cell(self, source: Source, recipe: tuple[str, str]) -> CellRuns | None:
        """The runs of a source with a classifier and a loss."""
        own = (c for c in self.cells if c.source == source and (c.classifier, c.loss) == recipe)
        return next(own, None)


def phase_of(rows: Rows) -> Phase | None:
    """Puts the downstream phase of a study in order; None where it has none."""
    stated = section(rows.meta, "spec").get("downstream")
    data = rows.downstream or Downstream()
    if not stated and data.empty:
        return None
    spec = _spec(stated)
    cells = cells_of(spec, rows.arms) if spec else ()
    judged = _Judged.of(data)
    images, problem = judged.images()
    return Phase(
        spec=spec,
        data=data,
        images=images,
        problem=problem,
        classes=judged.classes,
        cells=tuple(_cells(data.runs, cells, judged.said if images else {})),
        planned=sum(_runs_of(spec, cell) for cell in cells) if spec else None,
        others=judged.others,
        with_generated=tuple(dict.fromkeys(cell.source for cell in cells if cell.generator and cell.share)),
    )


def _spec(stated: Any) -> DownstreamSpec | None:
    """The section of the study file; None where it is another version's."""
    try:
        return DownstreamSpec.model_validate(stated) if isinstance(stated, Mapping) else None
    except ValidationError:
        return None


def _runs_of(spec: DownstreamSpec, cell: Cell) -> int:
    return len(spec.seeds) * (len(spec.generator_seeds) if cell.generator else 1)


# ------------------------------------------------------------------ predictions


@dataclass(frozen=True)
class _Judged:
    """What final runs said of the test images, those alone that were asked about the same images as most.

    Attributes:
        said: Probabilities by run, shape ``(images, classes)``.
    """

    table: pd.DataFrame
    said: dict[str, Floats]
    classes: tuple[str, ...]
    others: tuple[str, ...]

    @classmethod
    def of(cls, data: Downstream) -> _Judged:
        numbers = [name for name in data.predictions.columns if is_probability(str(name))]
        test = data.predictions[data.predictions["part"] == "test"]
        found: dict[str, pd.DataFrame] = {
            str(key): own for key, own in test.groupby("run_key", sort=False, observed=True)
        }
        asked = {
            key: (tuple(own["image"]), tuple(own["label"]), int(own[numbers].iloc[0].notna().sum()))
            for key, own in found.items()
        }
        complete = data.runs[(data.runs["phase"] == DOWNSTREAM) & (data.runs["state"] == COMPLETE)]
        usual = Counter(asked.values()).most_common(1)[0][0] if asked else None
        same = [key for key in found if asked[key] == usual]
        others = tuple(str(key) for key in complete["run_key"] if key not in set(same))
        said = {key: found[key][numbers[: asked[key][2]]].to_numpy(dtype=float) for key in same}
        return cls(found[same[0]] if same else test, said, _classes(complete, usual), others)

    def images(self) -> tuple[LabelledImages | None, str | None]:
        """The test images, or why no score can be reckoned from them."""
        if not self.said:
            return None, None
        labels = self.table["label"].to_numpy(dtype=np.int64)
        try:
            return LabelledImages(labels, len(self.classes), _groups(self.table["group"])), None
        except Unusable as error:
            return None, str(error)


def _groups(names: pd.Series) -> np.ndarray | None:
    """Numbers of the images' groups; one without a name is by itself. None where none has one."""
    known = names.notna()
    if not known.any():
        return None
    own = [str(name) if there else f"\0{k}" for k, (name, there) in enumerate(zip(names, known, strict=True))]
    return np.unique(own, return_inverse=True)[1].astype(np.int64)


def _classes(complete: pd.DataFrame, asked: tuple[Any, Any, int] | None) -> tuple[str, ...]:
    """Names of the classes, by the records; their numbers where those do not say."""
    count = asked[2] if asked else 0
    for text in complete["classes"].dropna():
        names = tuple(map(str, json.loads(text)))
        if len(names) == count or not asked:
            return names
    return tuple(f"class {k}" for k in range(count))


# ------------------------------------------------------------------ cells


def _cells(runs: pd.DataFrame, planned: Sequence[Cell], said: Mapping[str, Floats]) -> Iterable[CellRuns]:
    final = runs[(runs["phase"] == DOWNSTREAM) & (runs["state"] == COMPLETE)]
    order = {cell.name: (k, cell.classifier.label) for k, cell in enumerate(planned)}
    groups = {str(name): own for name, own in final.groupby("cell", sort=False)}

    def place(name: str) -> tuple[Any, ...]:
        source = str(groups[name]["source"].iloc[0])
        first = _FIRST.index(source) if source in _FIRST else len(_FIRST)
        return (order.get(name, (len(order), ""))[0], first, natural_key(name))

    for name in sorted(groups, key=place):
        own = groups[name]
        one = own.iloc[0]
        source = Source(
            str(one["source"]), _text(one["generator"]), _text(one["ratio"]), _text(one["filter"]),
            float(one["real_share"]),
        )  # fmt: skip
        label = order[name][1] if name in order else str(one["classifier"])
        yield _cell(source, label, str(one["loss"]), own, said)


def _text(value: Any) -> str | None:
    return None if pd.isna(value) else str(value)


def _cell(
    source: Source, classifier: str, loss: str, own: pd.DataFrame, said: Mapping[str, Floats]
) -> CellRuns:
    judged = own[own["run_key"].isin(set(said))]
    keys = {
        (None if pd.isna(g) else int(g), int(s)): str(key)
        for g, s, key in zip(judged["generator_seed"], judged["seed"], judged["run_key"], strict=True)
    }
    generators, classifiers = whole_grid(set(keys))
    if not keys:
        return CellRuns(source, classifier, loss, own, None)
    wanted = [[keys[g, s] for s in classifiers] for g in generators]
    values = np.array([[said[key] for key in line] for line in wanted])
    seeds = tuple(g for g in generators if g is not None)
    runs = Runs(classifiers, seeds, probabilities=values if seeds else values[0])
    kept = {key for line in wanted for key in line}
    rows = own[own["run_key"].isin(kept)]
    return CellRuns(source, classifier, loss, rows, runs, len(judged) - len(rows))


def whole_grid(there: set[tuple[int | None, int]]) -> tuple[tuple[int | None, ...], tuple[int, ...]]:
    """The generator and classifier seeds of which every pair is there: those with most gaps are left out, one by one.

    Statistics over crossed seeds need each with each.
    """
    generators = sorted({g for g, _ in there}, key=lambda g: -1 if g is None else g)
    classifiers = sorted({s for _, s in there})
    while len(there) < len(generators) * len(classifiers):
        gaps_of_generators = [
            sum((g, s) not in there for s in classifiers) / len(classifiers) for g in generators
        ]
        gaps_of_classifiers = [
            sum((g, s) not in there for g in generators) / len(generators) for s in classifiers
        ]
        if max(gaps_of_generators) > max(gaps_of_classifiers):
            gone = generators.pop(int(np.argmax(gaps_of_generators)))
            there = {pair for pair in there if pair[0] != gone}
        else:
            lost = classifiers.pop(int(np.argmax(gaps_of_classifiers)))
            there = {pair for pair in there if pair[1] != lost}
    return tuple(generators), tuple(classifiers)

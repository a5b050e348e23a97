"""A downstream study of which the truth is known, as its runs leave it: three classes of points in a space of some
dimensions, classifiers by the density of the points that they learn, and generators of three kinds.

- ``copies`` draws from each class's own distribution: its points teach what real ones do.
- ``noise`` draws points that are like no real ones, and have nothing to do with the class.
- ``wrong`` draws points of the next class.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from PIL import Image

from study.spec.downstream import REPEATED, Cell, DownstreamSpec, cells_of, training_of
from study.storage.layout import STUDY_FILE, Storage
from study.storage.run_key import DOWNSTREAM, DOWNSTREAM_SEARCH, DownstreamPhase, RunKey
from tests.helpers.fake_runs import FakeArm, FakeRun, write_run
from trainables.classifier_run_config import ClassifierRunConfig, GeneratedEntries
from trainables.config.generation import images_of_class
from trainables.events import GENERATED, PREDICTIONS, RECORD, EventLog

Floats = np.ndarray

STUDY = "worth"
CLASSES = ("score-1", "score-2", "score-3")
GENERATORS = ("copies", "noise", "wrong")
STEPS, BATCH = 60, 8
_DIMENSIONS, _APART, _WIDTH = 24, 2.2, 1.5
_TRAIN = (6, 4, 2)  # real images of each class; twice as many are known
_HELD_OUT = {"validation": (12, 9, 6), "test": (60, 50, 40)}

Drawing = Callable[[int, int, np.random.Generator], Floats]


@dataclass(frozen=True)
class World:
    """What is written, and how.

    Attributes:
        generators: Drawings by arm: class, how many, chance.
        spec: The section of the study file.
        steps: Of runs that trained for another time than the others, by the name of their cell.
        failed: Names of runs that failed.
        groups: How many test images of a class are of one group; 0: none is known.
        left_out: Names of runs that never began.
        tried: Learning rates of a search's trials, by the name of its cell; else the first ones of the section.
    """

    generators: Mapping[str, Drawing]
    spec: DownstreamSpec
    steps: Mapping[str, int] = field(default_factory=dict)
    failed: frozenset[str] = frozenset()
    left_out: frozenset[str] = frozenset()
    groups: int = 0
    tried: Mapping[str, Sequence[float]] = field(default_factory=dict)


def means() -> Floats:
    """Of the classes: corners of a simplex."""
    return _APART * np.eye(len(CLASSES), _DIMENSIONS)


def real_points(label: int, count: int, chance: np.random.Generator) -> Floats:
    """Points of a class."""
    return means()[label] + chance.normal(size=(count, _DIMENSIONS))


def noise_points(label: int, count: int, chance: np.random.Generator) -> Floats:
    """Points that are like nothing real, and say nothing of their class."""
    return real_points(0, count, chance) + 20.0


def wrong_points(label: int, count: int, chance: np.random.Generator) -> Floats:
    """Points of another class."""
    return real_points((label + 1) % len(CLASSES), count, chance)


DRAWINGS: dict[str, Drawing] = {"copies": real_points, "noise": noise_points, "wrong": wrong_points}


def spec_of(**fields: Any) -> DownstreamSpec:
    """A section of a study file."""
    stated: dict[str, Any] = {
        "dataset": "photographs",
        "classifiers": ("resnet18",),
        "ratios": (10.0,),
        "controls": (),
        "seeds": (0, 1, 2, 3, 4),
        "generator_seeds": (100, 101, 102),
        "trials": 2,
        "max_train_steps": STEPS,
        "train_batch_size": BATCH,
        "claims": {
            "more-is-better": {
                "says": "Generated images of the classes' own distribution help",
                "source": "known here",
                "predicts": "better",
                "sources": ("copies-x10",),
            },
            "no-use": {
                "says": "Extra images won't change the accuracy",
                "predicts": "equivalent",
                "sources": ("copies-x10",),
                "classifiers": ("resnet18",),
            },
            "wrong-never-helps": {
                "says": "Images of the wrong classes do not help",
                "predicts": "not_better",
                "sources": ("wrong-x10",),
            },
            "copies-beat-wrong": {
                "says": "Images of the right classes are better than those of the wrong ones",
                "predicts": "better",
                "against": "wrong-x10",
                "sources": ("copies-x10",),
            },
        },
    }
    return DownstreamSpec.model_validate(stated | fields)


def world_of(generators: Sequence[str] = GENERATORS, **fields: Any) -> World:
    """The usual world; `fields`: of `World`, or else of its section of the study file."""
    own = {name: fields.pop(name) for name in list(fields) if name in World.__dataclass_fields__}
    return World({name: DRAWINGS[name] for name in generators}, spec_of(**fields), **own)


# ------------------------------------------------------------------ a study's folder


def write_study(root: Path, world: World) -> Storage:
    """Writes all run folders of a study, and its record."""
    with mock.patch("os.fsync"):  # nothing here is to outlive a power cut
        return _write_study(Storage(root.resolve(), STUDY), world)


def _write_study(storage: Storage, world: World) -> Storage:
    storage.folder.mkdir(parents=True)
    arms = {name: {"method": "lora"} for name in world.generators}
    spec = {"name": STUDY, "arms": arms, "downstream": world.spec.model_dump(mode="json")}
    (storage.folder / STUDY_FILE).write_text(json.dumps({"spec": spec, "digest": "d" * 64}))
    for name in world.generators:
        _write_generator(storage, world, name)
    for cell in cells_of(world.spec, list(world.generators)):
        for trial in range(world.spec.trials):
            seed = world.spec.generator_seeds[0] if cell.generator else None
            _write_classifier(storage, world, cell, DOWNSTREAM_SEARCH, seed, world.spec.search_seed, trial)
        for generator_seed in world.spec.generator_seeds if cell.generator else (None,):
            for seed in world.spec.seeds:
                _write_classifier(storage, world, cell, DOWNSTREAM, generator_seed, seed, 1)
    return storage


def _write_generator(storage: Storage, world: World, name: str) -> None:
    arm = FakeArm(name, "lora", "constant", 0.5, 1e-3, 0.1, 1000)
    for label in CLASSES:
        for seed in world.spec.generator_seeds:
            run = FakeRun(RunKey("confirm", name, 0, label, seed), arm, 1e-3, 4)
            folder = write_run(storage, run)
            log = EventLog(folder)
            log.append(
                "generated", 120, label=label, name=label, prompt=f"photo of {label}", entries=["a", "b"], images=24,
                vendi=3.5, vendi_real=3.0, memorisation=0.25, grade_agreement=0.5, seconds=4.0, flops=2e9,
            )  # fmt: skip
            (folder / "samples").mkdir(exist_ok=True)
            path = f"samples/generated-{label}.png"
            Image.new("RGB", (128, 32), (40 * CLASSES.index(label), seed, 90)).save(folder / path)
            log.append("image", 120, key=f"{GENERATED}{label}", path=path)


def _write_classifier(
    storage: Storage,
    world: World,
    cell: Cell,
    phase: DownstreamPhase,
    generator_seed: int | None,
    seed: int,
    trial: int,
) -> None:
    subject = "real" if generator_seed is None else f"g{generator_seed}"
    key = RunKey(phase, cell.name, trial, subject, seed)
    if key.name in world.left_out:
        return
    folder = storage.run_folder(key)
    log = EventLog(folder)
    config = _config(storage, world, cell, key, generator_seed)
    (folder / "run.json").write_text(config.model_dump_json(indent=1))
    log.append("started", attempt=1, resumed_step=0, host="here")
    if key.name in world.failed:
        _end(folder, log, "FAIL", {}, {})
        return
    points, labels, counts = _training_set(world, cell, generator_seed, seed)
    said = {part: _said(points, labels, part, cell, seed) for part in _parts(config)}
    steps = world.steps.get(cell.name, STEPS)
    log.append("progress", steps, loss=0.5, learning_rate=0.001)
    _write_predictions(folder / PREDICTIONS, world, said)
    (folder / RECORD).write_text(json.dumps(_record(cell, steps, counts)))
    evaluation = _evaluation(said)
    log.append("evaluation", steps, **evaluation, final=True)
    cost = {"train_seconds": 2.0, "train_flops": 1e9, "evaluation_seconds": 0.5, "trainable_parameters": 18}
    log.append("cost", steps, **cost)
    _end(folder, log, "COMPLETE", evaluation, cost)


def _config(
    storage: Storage, world: World, cell: Cell, key: RunKey, generator_seed: int | None
) -> ClassifierRunConfig:
    entries = tuple(
        GeneratedEntries(
            run=f"confirm/{cell.generator}/0000-{label}-s{generator_seed}", label=label, entries=("a",)
        )
        for label in CLASSES
    )
    rates = world.tried.get(cell.name, world.spec.learning_rates)
    params = {"learning_rate": rates[key.trial]} if key.phase == DOWNSTREAM_SEARCH else {}
    return ClassifierRunConfig(
        data="/data/prepared",
        resolution=16,
        source=cell.source,
        real_share=cell.share,
        generator=cell.generator,
        generator_seed=generator_seed,
        generated=entries if cell.generator else (),
        ratio=cell.ratio,
        filter=cell.filter,
        judged=key.phase == DOWNSTREAM,
        training=training_of(world.spec, cell, params, 0.5 if cell.generator else 0.0),
        seed=key.seed,
        output_dir=str(storage.run_folder(key)),
        cache_dir=str(storage.cache),
        contents={"data": "a" * 64},
    )


def _parts(config: ClassifierRunConfig) -> tuple[str, ...]:
    return ("validation", "test") if config.judged else ("validation",)


def _end(
    folder: Path, log: EventLog, state: str, evaluation: Mapping[str, Any], cost: Mapping[str, Any]
) -> None:
    reason = "nan_loss" if state == "FAIL" else None
    result = {"state": state, "reason": reason, "attempts": 1, "evaluation": evaluation, "cost": cost}
    (folder / "result.json").write_text(json.dumps({**result, "config_digest": "0" * 64}))
    log.append("finished", state=state, reason=reason)


# ------------------------------------------------------------------ what is learnt


def _training_set(
    world: World, cell: Cell, generator_seed: int | None, seed: int
) -> tuple[Floats, Floats, dict[str, dict[str, int]]]:
    """Points and labels that a run draws from, and how many there are of each class, by where they are from."""
    known = [real_points(k, 2 * n, np.random.default_rng([1, k])) for k, n in enumerate(_TRAIN)]
    points: list[Floats] = []
    labels: list[int] = []
    counts: dict[str, dict[str, int]] = {"real_images": {}, "generated_images": {}, "filtered_out": {}}
    for k, n in enumerate(_TRAIN):
        real = round(cell.share * n)
        chance = np.random.default_rng([2, k, generator_seed or 0])
        drawn = 0 if cell.ratio is None else images_of_class(cell.ratio, n, max(_TRAIN))
        own = (
            world.generators[cell.generator](k, drawn, chance)
            if cell.generator and drawn
            else np.empty((0, _DIMENSIONS))
        )
        whole = np.concatenate([known[k][:real], own])
        which = np.random.default_rng([3, k, seed]).integers(0, len(whole), 4 * len(whole))
        points += [whole[which]]
        labels += [k] * len(which)
        counts["real_images"][CLASSES[k]], counts["generated_images"][CLASSES[k]] = real, drawn
        counts["filtered_out"][CLASSES[k]] = 0
    return np.concatenate(points), np.array(labels), counts


def _said(points: Floats, labels: Floats, part: str, cell: Cell, seed: int) -> tuple[Floats, list[int]]:
    """Probabilities for the held-out images of a part, and their classes: by the density of what was learnt."""
    chance = np.random.default_rng([4, seed, len(cell.classifier.label)])
    learnt = points + 0.2 * chance.normal(size=points.shape)
    asked, truth = [], []
    for k, n in enumerate(_HELD_OUT[part]):
        asked.append(real_points(k, n, np.random.default_rng([5, k, len(part)])))
        truth += [k] * n
    away = ((np.concatenate(asked)[:, None] - learnt) ** 2).sum(-1) / (2 * _WIDTH**2)
    near = np.exp(-(away - away.min(1, keepdims=True)))
    scores = np.stack([near[:, labels == k].mean(1) for k in range(len(CLASSES))], 1) + 1e-6
    return scores / scores.sum(1, keepdims=True), truth


def _write_predictions(path: Path, world: World, said: Mapping[str, tuple[Floats, list[int]]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["part", "image", "group", "label", *(f"p{k}" for k in range(len(CLASSES)))])
        for part, (probabilities, truth) in said.items():
            for k, (row, label) in enumerate(zip(probabilities, truth, strict=True)):
                group = f"{part}-{label}-{k // world.groups}" if world.groups else ""
                name = f"{part}/{CLASSES[label]}/{k:05d}.png"
                writer.writerow([part, name, group, label, *(f"{p:.6g}" for p in row)])


def _record(cell: Cell, steps: int, counts: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    share = 1.0 if cell.share == 0 else 0.5 if cell.generator else 0.0
    drawn = steps * BATCH
    generated = round(drawn * share)
    balanced = cell.source == REPEATED
    training = {
        "seed": 0, "steps": steps, "real": {CLASSES[0]: drawn - generated}, "generated": {CLASSES[1]: generated},
        "train_flops": 10**9, "best_step": steps, "parameters": 18, "notes": [str(balanced)],
    }  # fmt: skip
    made = sum(counts["generated_images"].values())
    near = {"copies": made // 4, "noise": 0}.get(cell.generator or "noise")  # of `wrong` nobody looked
    leaks = {"generated_images": made, "near_copies": near is not None, "generated_near_held_out": near}
    return {"classes": list(CLASSES), "training": training, **counts, "data": "b" * 64, "leak_checked": leaks}


def _evaluation(said: Mapping[str, tuple[Floats, list[int]]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for part, (probabilities, truth) in said.items():
        right = probabilities.argmax(1) == np.array(truth)
        recalls = [float(right[np.array(truth) == k].mean()) for k in range(len(CLASSES))]
        prefix = "validation_" if part == "validation" else ""
        found |= {
            f"{prefix}accuracy": float(right.mean()),
            f"{prefix}balanced_accuracy": float(np.mean(recalls)),
        }
        found |= {f"{prefix}{name}": 0.5 for name in ("macro_f1", "auroc", "ece")}
    return found

"""How long the report of a large study takes: ``python -m benchmarks.study_reports``.

A made-up study of 12 arms and some 2,000 runs with what real ones have: 5 evaluations on the way by every metric, a
curve of the loss, scores of 64 single images and strips of 8 prompts a run. Prints seconds of the clock, which hang on
what else the machine does, those of the processor, and the peak of memory, of the report and of the same report made
again from its own folder, which must have the same bytes. Exits 1 where the limits are missed: 60 seconds of the
processor and 2 GB for each. ``--out FOLDER`` keeps the report, to look at its figures.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from study.report import build_report
from study.results.columns import CURVE_COLUMNS, IMAGE_COLUMNS, MORE_COLUMNS, RUN_COLUMNS, SCORE_RUN
from study.results.csv_files import read_csv
from study.results.frames import Results, frame_of, scores_of, table_of
from trainables.evaluation.metrics_table import METRICS

LIMIT_SECONDS, LIMIT_BYTES = 60.0, 2e9
METHODS = ("lora", "dreambooth", "dreambooth_lora", "textual_inversion", "hypernetwork", "custom_diffusion")
KINDS = ("instance", "class")
STEPS, PLACES, LOSSES = 400, 5, 40
PROMPTS = ("in the snow", "wearing a hat", "in a forest", "at night", "with a balloon", "on a beach", "in a city",
           "wearing a red scarf")  # fmt: skip


@dataclass(frozen=True)
class Size:
    """How large the study is; with 12 arms, 95 trials, 20 subjects and 4 seeds it has 2,005 runs."""

    arms: int = 12
    trials: int = 95
    subjects: int = 20
    seeds: int = 4
    images: int = 64


def main() -> None:
    """Makes the study, reports on it twice, and prints what each took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arms", type=int, default=Size.arms)
    parser.add_argument("--trials", type=int, default=Size.trials)
    parser.add_argument("--subjects", type=int, default=Size.subjects)
    parser.add_argument("--seeds", type=int, default=Size.seeds)
    parser.add_argument("--out", type=Path, help="Where the report stays; default: nowhere.")
    asked = parser.parse_args()
    size = Size(asked.arms, asked.trials, asked.subjects, asked.seeds)
    with tempfile.TemporaryDirectory() as folder:
        results = make_study(size, Path(folder) / "pictures")
        out = asked.out or Path(folder) / "report"
        clocks = [_clocks()]
        build_report(results, out)
        clocks.append(_clocks())
        build_report(read_csv(out), Path(folder) / "again")
        clocks.append(_clocks())
        same = _digests(out) == _digests(Path(folder) / "again")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(
        f"{len(results.frame):,} runs, {size.arms} arms, {len(results.curves):,} points of curves, "
        f"{len(results.image_scores):,} scored images; peak of memory {memory / 1e9:.2f} GB (limit "
        f"{LIMIT_BYTES / 1e9:g}); from its own folder {'the same bytes' if same else 'OTHER BYTES'}\n"
    )
    print("| | seconds | of the processor | share of the limit |\n|---|--:|--:|--:|")
    worked = []
    for name, begin, end in zip(("report", "again, from its folder"), clocks, clocks[1:], strict=False):
        worked.append(end[1] - begin[1])
        print(f"| {name} | {end[0] - begin[0]:.1f} | {worked[-1]:.1f} | {worked[-1] / LIMIT_SECONDS:.2f} |")
    if max(worked) > LIMIT_SECONDS or memory > LIMIT_BYTES or not same:
        sys.exit(1)


def _clocks() -> tuple[float, float]:
    """Seconds of the clock, and of the processor in this process."""
    return time.perf_counter(), time.process_time()


def _digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def make_study(size: Size, pictures: Path) -> Results:
    """Draws the results of a study; the pictures are written into a folder."""
    chance = np.random.default_rng(0)
    arms = dict(_arms(size.arms))
    levels = chance.normal(0, 0.06, size.subjects)
    rows, curves, images, scores = [], [], [], []
    for key in _keys(size, arms):
        row = _row(key, list(arms).index(key["arm"]), levels, chance)
        rows.append(row)
        curves += _course(row, chance)
        scores += _scores(row, size.images, chance)
        if row["phase"] == "confirm":
            images += _pictures(row, pictures, chance)
    named = [*RUN_COLUMNS, *MORE_COLUMNS]
    more = sorted({name for row in rows for name in row} - set(named))
    spec = {
        "name": "large",
        "model": {"path": "embedded"},
        "arms": {a: {"method": m} for a, m in arms.items()},
    }
    search = {"sampler": "tpe", "trials": size.trials, "objective": "quality"}
    return Results(
        frame_of([{name: row.get(name) for name in (*named, *more)} for row in rows]),
        table_of(curves, CURVE_COLUMNS),
        table_of(images, IMAGE_COLUMNS),
        {"study": "large", "spec": {**spec, "search": search}},
        scores_of(scores),
    )


def _arms(count: int) -> Iterator[tuple[str, str]]:
    yield "base", "base"
    for k in range(count - 1):
        method = METHODS[k % len(METHODS)]
        yield f"{method.replace('_', '-')}-{'cosine' if k < len(METHODS) else 'constant'}", method


def _keys(size: Size, arms: dict[str, str]) -> Iterator[dict[str, Any]]:
    for arm, method in arms.items():
        shared = {"study": "large", "arm": arm, "method": method, "state": "COMPLETE"}
        for trial in range(size.trials if method != "base" else 0):
            yield {**shared, "phase": "search", "trial": trial, "subject": "cat-1", "seed": 0}
        for subject in range(size.subjects):
            for seed in range(100, 100 + size.seeds):
                yield {**shared, "phase": "confirm", "trial": 1, "subject": f"dog-{subject}", "seed": seed}


def _row(key: dict[str, Any], place: int, levels: Any, chance: np.random.Generator) -> dict[str, Any]:
    base = key["method"] == "base"
    rate = 0.0 if key["phase"] == "confirm" else float(chance.uniform(-1, 1))
    level = levels[int(key["subject"].split("-")[1])] if key["phase"] == "confirm" else 0.0
    subject = 0.0 if base else 0.35 + 0.02 * place + level - 0.2 * rate**2 + float(chance.normal(0, 0.04))
    prompt = 1.0 if base else 0.95 - 0.2 * subject + float(chance.normal(0, 0.03))
    kept = 1.0 if base else 0.9 - 0.01 * place + float(chance.normal(0, 0.03))
    clipped = [min(1.0, max(0.0, value)) for value in (subject, prompt, kept)]
    others = {
        name: float(chance.uniform(0.1, 0.2)) for name, about in METRICS.items() if about.kind == "eval"
    }
    costs = {
        name: float(chance.uniform(5, 9)) * (1 + place / 4)
        for name, about in METRICS.items()
        if about.kind == "cost"
    }
    costs = {
        name: float(round(value * 1e6)) if METRICS[name].unit != "s" else value
        for name, value in costs.items()
    }
    unlisted = {name for name, about in METRICS.items() if not about.listed}
    schedule = "cosine" if key["arm"].endswith("cosine") else "constant"
    config = {"learning_rate": 1e-3 * 10**rate, "lr_scheduler": schedule, "max_train_steps": STEPS,
              "param.r": 2 ** int(chance.integers(1, 5))}  # fmt: skip
    return {
        **key,
        **{name: value for name, value in {**others, **costs}.items() if name not in unlisted},
        "quality": math.prod(clipped),
        "quality_subject_prompt": math.prod(clipped[:2]),
        "subject_fidelity": 0.2 + 0.6 * subject,
        "prompt_fidelity": 0.2 + 0.1 * prompt,
        "subject_fidelity_scaled": subject,
        "prompt_fidelity_scaled": prompt,
        "class_kept": kept,
        "train_steps": 0.0 if base else float(STEPS),
        "attempts": 1,
        "started": "2026-01-02T03:04:05.000+00:00",
        "ended": "2026-01-02T03:05:05.000+00:00",
        "run_key": f"{key['phase']}/{key['arm']}/{key['trial']:04d}-{key['subject']}-s{key['seed']}",
        **({} if base else config),
    }


def _course(row: dict[str, Any], chance: np.random.Generator) -> list[dict[str, Any]]:
    """Evaluations on the way by every metric that the run has, and its loss; the base model has one evaluation."""
    shared = {name: row.get(name) for name in CURVE_COLUMNS}
    steps = [0] if row["method"] == "base" else [STEPS * (k + 1) // PLACES for k in range(PLACES)]
    names = [name for name, about in METRICS.items() if about.kind == "eval" and name in row]
    found = []
    for step in steps:
        share = 1.0 if step in (0, STEPS) else 1 - math.exp(-3 * step / STEPS)
        found += [
            {**shared, "step": step, "metric": f"eval/{name}", "value": row[name] * share} for name in names
        ]
    losses = [] if row["method"] == "base" else chance.uniform(0.1, 0.2, LOSSES)
    found += [
        {**shared, "step": STEPS * (k + 1) // LOSSES, "metric": "train/loss", "value": float(loss)}
        for k, loss in enumerate(losses)
    ]
    return found


def _scores(row: dict[str, Any], count: int, chance: np.random.Generator) -> list[dict[str, Any]]:
    """Scores of single images: half of the subject, half of its class."""
    run, noise, found = {name: row[name] for name in SCORE_RUN}, chance.normal(0, 0.15, (count, 2)), []
    for k in range(count):
        kind, prompt = KINDS[k % 2], k // 2 % len(PROMPTS)
        subject = row["subject_fidelity_scaled"] + noise[k, 0]
        scaled = {"subject_scaled": subject, "prompt_scaled": row["prompt_fidelity_scaled"] + noise[k, 1],
                  "prompt_similarity": 0.3, "failed": int(subject < 0.2), "copy": 0}  # fmt: skip
        found.append({
            **run, "kind": kind, "prompt": prompt, "template": f"{{subject}} {PROMPTS[prompt]}",
            "image": k // 2 // len(PROMPTS), "noise_seed": str(2**64 + k), "subject_similarity": 0.2 + 0.6 * subject,
            **(scaled if kind == "instance" else {}),
        })  # fmt: skip
    return found


def _pictures(row: dict[str, Any], folder: Path, chance: np.random.Generator) -> list[dict[str, Any]]:
    """A strip of four pictures a prompt, a gradient each."""
    folder.mkdir(exist_ok=True)
    found = []
    for number, prompt in enumerate(PROMPTS):
        strip = Image.new("RGB", (4 * 66 - 2, 64), "white")
        for k in range(4):
            corners = chance.integers(0, 256, (2, 2, 3), dtype=np.uint8)
            strip.paste(Image.fromarray(corners).resize((64, 64), Image.Resampling.BILINEAR), (66 * k, 0))
        path = folder / f"{row['run_key'].replace('/', '_')}-{number}.png"
        strip.save(path)
        found.append(
            {
                "run_key": row["run_key"],
                "step": STEPS,
                "key": f"{number:02d} subject {prompt}",
                "path": str(path),
            }
        )
    return found


if __name__ == "__main__":
    main()

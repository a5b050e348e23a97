"""How far the same run comes apart on other processors: `python -m benchmarks.embedded_processors`.

Floating-point sums depend on the width of a processor's vectors, and training carries the last digit on. Each run is
trained and judged in a process of its own that is told to use narrower vectors than this processor has: PyTorch's own
kernels (ATEN_CPU_CAPABILITY), oneDNN's and MKL's. What a processor has beside that (its caches, its number of cores)
changes nothing here: a run has one thread. Class images and evaluation are those of presets (`PRESET`, `EVALUATION`);
what runs share (class images, anchors) each processor computes for itself, once.

`--settings` asks in which settings full fine-tuning agrees, and adapters beside it: rates, EMA, schedule, prior,
epsilon, batch and steps. A setting agrees where no two processors differ by more than `AGREED` in quality on any
subject.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

# Widest vectors allowed to PyTorch, oneDNN and MKL; None: what the processor has.
PROCESSORS: dict[str, tuple[str, str, str] | None] = {
    "as it is": None,
    "AVX2": ("avx2", "AVX2", "AVX2"),
    "SSE": ("default", "SSE41", "SSE4_2"),
}
VARIABLES = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")
#: The rates at which runs are compared where no settings are asked for.
METHODS = {
    "lora": {"learning_rate": 3e-3, "text_encoder_learning_rate": 1e-3},
    "dreambooth": {"text_encoder_learning_rate": 1e-3},
    "dreambooth_lora": {},
}
PRESET = {"num_class_images": 16, "class_num_inference_steps": 8}
AGREED = 0.02  # of quality
#: Of the subject 64 images and of its class 64: of fewer images chance is larger than what is looked for.
EVALUATION = {"images_per_prompt": 4, "num_class_images": 64, "num_inference_steps": 8}


def _rates(learning_rate: float, text_encoder: float, **fields: Any) -> dict[str, Any]:
    """A setting: the rates of the denoiser and of the text encoder, and what else it states."""
    return {"learning_rate": learning_rate, "text_encoder_learning_rate": text_encoder, **fields}


_AVERAGED = {"use_ema": True, "ema_decay": 0.95}
ADAPTER = "adapters, "  # before the settings of DreamBooth+LoRA
#: With class images unless it says otherwise; the first number is the denoiser's rate.
SETTINGS: dict[str, dict[str, Any]] = {
    "1e-4, text encoder 3e-4": _rates(1e-4, 3e-4),
    "3e-4, text encoder 3e-4": _rates(3e-4, 3e-4),
    "6e-4, text encoder 3e-4": _rates(6e-4, 3e-4),
    "1e-3, text encoder 3e-4": _rates(1e-3, 3e-4),
    "3e-4, text encoder 3e-4, 130 steps": _rates(3e-4, 3e-4, max_train_steps=130),
    "3e-4, text encoder 3e-4, 200 steps": _rates(3e-4, 3e-4, max_train_steps=200),
    "3e-4, text encoder 3e-4, 300 steps": _rates(3e-4, 3e-4, max_train_steps=300),
    "3e-4, text encoder 3e-4, batch of 2": _rates(3e-4, 3e-4, train_batch_size=2),
    "3e-4, text encoder 3e-4, batch of 2, 130 steps": _rates(
        3e-4, 3e-4, train_batch_size=2, max_train_steps=130
    ),
    "3e-4, text encoder 3e-4, prior weight 0.05": _rates(3e-4, 3e-4, prior_loss_weight=0.05),
    "3e-4, text encoder 3e-4, prior weight 2": _rates(3e-4, 3e-4, prior_loss_weight=2.0),
    "3e-4, text encoder 4.5e-4": _rates(3e-4, 4.5e-4),
    "2e-4, text encoder 6e-4": _rates(2e-4, 6e-4),
    "3e-4, text encoder 6e-4, Adam's epsilon 3e-5": _rates(3e-4, 6e-4, adam_epsilon=3e-5),
    "3e-4, text encoder 8e-4, Adam's epsilon 3e-5": _rates(3e-4, 8e-4, adam_epsilon=3e-5),
    "3e-4, text encoder 6e-4, Adam's epsilon 3e-5, 200 steps": _rates(
        3e-4, 6e-4, adam_epsilon=3e-5, max_train_steps=200
    ),
    "1e-4, text encoder 1e-3": _rates(1e-4, 1e-3),
    "3e-4, text encoder 1e-3": _rates(3e-4, 1e-3),
    "3e-4, text encoder 1e-3, EMA .95": _rates(3e-4, 1e-3, **_AVERAGED),
    "3e-4, text encoder 1e-3, cosine, EMA .95": _rates(
        3e-4, 1e-3, lr_scheduler="cosine", lr_warmup_steps=10, **_AVERAGED
    ),
    "3e-4, text encoder 1e-3, Adam's epsilon 1e-6": _rates(3e-4, 1e-3, adam_epsilon=1e-6),
    "3e-4, text encoder 1e-3, Adam's epsilon 1e-5": _rates(3e-4, 1e-3, adam_epsilon=1e-5),
    "3e-4, text encoder 1e-3, Adam's epsilon 3e-5": _rates(3e-4, 1e-3, adam_epsilon=3e-5),
    "3e-4, text encoder 1e-3, Adam's epsilon 3e-5, EMA .95": _rates(
        3e-4, 1e-3, adam_epsilon=3e-5, **_AVERAGED
    ),
    "3e-4, text encoder 1e-3, Adam's epsilon 5e-5": _rates(3e-4, 1e-3, adam_epsilon=5e-5),
    "3e-4, text encoder 1e-3, Adam's epsilon 1e-4": _rates(3e-4, 1e-3, adam_epsilon=1e-4),
    "3e-4, text encoder 1e-3, prior weight 1": _rates(3e-4, 1e-3, prior_loss_weight=1.0),
    "3e-4, text encoder 1e-3, batch of 8": _rates(3e-4, 1e-3, train_batch_size=8),
    "without class images, 3e-5, text encoder 3e-4": _rates(3e-5, 3e-4, with_prior_preservation=False),
    "without class images, 3e-5, text encoder 3e-4, batch of 2, 170 steps": _rates(
        3e-5, 3e-4, with_prior_preservation=False, train_batch_size=2, max_train_steps=170
    ),
    "without class images, 4e-4, text encoder 3e-4": _rates(4e-4, 3e-4, with_prior_preservation=False),
    f"{ADAPTER}2e-3, text encoder 1e-3": _rates(2e-3, 1e-3),
    f"{ADAPTER}3e-3, text encoder 4e-3": _rates(3e-3, 4e-3, prior_loss_weight=0.4),
}
FIGURES = ("quality", "subject_fidelity_scaled", "prompt_fidelity_scaled", "class_kept")


def one_run(method: str, subject: str, training: dict[str, Any], cache: str) -> dict[str, float]:
    """Trains and judges one run in this process; its figures by name."""
    from trainables.run.execute import execute
    from trainables.run_config import RunConfig

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        config = RunConfig.model_validate(
            {
                "method": method,
                "subject": {"name": subject},
                "training": {**PRESET, **METHODS[method], **training},
                "evaluation": EVALUATION,
                "device": "cpu",
                "output_dir": f"{folder}/run",
                "cache_dir": cache,
            }
        )
        for _ in execute(config):
            pass
        result = json.loads(Path(folder, "run", "result.json").read_text())
    if result["state"] != "COMPLETE":
        raise RuntimeError(f"{method} on {subject}: {result}")
    return {name: result["evaluation"][name] for name in FIGURES}


def on_processor(
    name: str, method: str, subject: str, training: dict[str, Any], cache: str
) -> dict[str, float]:
    """The same in a process of its own, with vectors no wider than those of one of `PROCESSORS`."""
    widths = PROCESSORS[name]
    limits = {} if widths is None else dict(zip(VARIABLES, widths, strict=True))
    command = [sys.executable, "-m", __spec__.name, "--subjects", subject]
    command += ["--run", method, "--training", json.dumps(training), "--cache", f"{cache}/{name}"]
    done = subprocess.run(
        command, env=os.environ | limits, stdout=subprocess.PIPE, text=True, check=True, timeout=3600
    )
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def print_settings(subjects: Sequence[str], steps: int, names: Sequence[str], jobs: int) -> None:
    """Prints a Markdown table with a row for each setting.

    Means over subjects and processors, and of quality and its three factors how far processors come apart at most.
    """
    shown = ("quality", "S", "P", "C")
    print(f"| {', '.join(subjects)} | {' | '.join(shown)} | ", end="")
    print(f"{' | '.join(f'{name}, largest difference' for name in shown)} | agrees to {AGREED:g} |")
    print(f"|---|{'--:|' * len(shown) * 2}---|", flush=True)
    with tempfile.TemporaryDirectory() as cache, ThreadPoolExecutor(jobs) as pool:

        def begun(name: str, subject: str) -> list[Future[dict[str, float]]]:
            training = {"max_train_steps": steps, **SETTINGS[name]}
            method = "dreambooth_lora" if name.startswith(ADAPTER) else "dreambooth"
            return [
                pool.submit(on_processor, processor, method, subject, training, cache)
                for processor in PROCESSORS
            ]

        found = {name: {subject: begun(name, subject) for subject in subjects} for name in names}
        for name, by_subject in found.items():
            means, spreads = [], []
            for figure in FIGURES:
                values = [[run.result()[figure] for run in runs] for runs in by_subject.values()]
                means.append(fmean(fmean(of_subject) for of_subject in values))
                spreads.append(max(max(of_subject) - min(of_subject) for of_subject in values))
            verdict = "yes" if spreads[0] <= AGREED else "no"
            cells = [*(f"{mean:.2f}" for mean in means), *(f"{spread:.3f}" for spread in spreads)]
            print(f"| {name} | {' | '.join(cells)} | {verdict} |", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: a Markdown table of figures and of their differences from this processor's."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.embedded_processors", description=__doc__)
    parser.add_argument("--subjects", nargs="+", default=["dog-1"])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument(
        "--settings",
        nargs="*",
        choices=SETTINGS,
        help="whether processors agree; none named: all",
    )
    parser.add_argument("--jobs", type=int, default=2, help="runs of settings at once, each on one thread")
    parser.add_argument("--run", choices=METHODS, help="only this run, in this process; its figures as JSON")
    parser.add_argument("--cache", help="folder of what that run shares with others of its processor")
    parser.add_argument("--training", type=json.loads, default={}, help="JSON; fields of that run")
    given = parser.parse_args(arguments)
    if given.run:
        with tempfile.TemporaryDirectory() as own:
            print(json.dumps(one_run(given.run, given.subjects[0], given.training, given.cache or own)))
        return
    if given.settings is not None:
        print_settings(given.subjects, given.steps, given.settings or list(SETTINGS), given.jobs)
        return
    print(f"| {given.steps} steps | processor | {' | '.join(FIGURES)} | quality, difference |")
    print(f"|---|---|{'--:|' * (len(FIGURES) + 1)}", flush=True)
    with tempfile.TemporaryDirectory() as cache:
        for method, subject in product(("lora", "dreambooth"), given.subjects):
            own_quality: float | None = None
            for name in PROCESSORS:
                figures = on_processor(name, method, subject, {"max_train_steps": given.steps}, cache)
                own_quality = figures["quality"] if own_quality is None else own_quality
                cells = [f"{figures[figure]:.4f}" for figure in FIGURES]
                print(
                    f"| {method}, {subject} | {name} | {' | '.join(cells)} | "
                    f"{figures['quality'] - own_quality:+.1e} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()

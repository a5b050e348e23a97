"""What each end of the embedded model's ranges comes to: `python -m benchmarks.embedded_ranges`.

One dimension at a time, the others at their defaults: LoRA, DreamBooth, the hypernetwork, Custom Diffusion and pivotal
tuning, each without and with prior preservation, the text encoder trained where the method can, and textual inversion,
which has neither. With `--pairs` both rates together, without prior preservation, where the best ones lie far from
those of subject and prompt alone; of other kinds of adapters (``--methods loha oft ...``) the rate alone, without
prior preservation. Ranges and defaults in ``search_spaces/`` name this table. The subjects are those that defaults may
be chosen on; no preset's verdict rests on them.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from benchmarks.support.single_run import FIGURES, one_run

#: Values of each dimension: below, at the ends of, inside and above the range that is searched.
RATES = {
    "lora": (2e-4, 5e-4, 1e-3, 2e-3, 3e-3, 5e-3),
    "dreambooth": (2e-5, 5e-5, 1e-4, 2e-4, 3e-4, 4e-4),
    "hypernetwork": (1e-4, 3e-4, 5e-4, 1e-3, 2e-3, 3e-3),
    "custom_diffusion": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
    "pivotal_tuning": (1e-4, 5e-4, 1e-3, 2e-3, 5e-3),
}
TEXT_ENCODER_RATES = {
    "lora": (1e-4, 3e-4, 1e-3, 3e-3, 5e-3),
    "dreambooth": (5e-5, 1e-4, 3e-4, 1e-3, 2e-3),
}
#: Both rates together, by method.
PAIRS = {
    "lora": ((1e-4, 3e-4, 1e-3, 2e-3), (1e-4, 3e-4, 1e-3)),
    "dreambooth": ((1e-5, 3e-5, 1e-4), (1e-4, 3e-4, 1e-3)),
}
#: Choices that a method has beside its rates, moved without prior preservation alone.
CHOICES: dict[str, dict[str, tuple[Any, ...]]] = {
    "hypernetwork": {
        "attention_layers": ("cross",),
        "layer_structure": ("1,1", "1,2,2,1"),
        "activation_func": ("relu", "swish"),
        "add_layer_norm": (True,),
        "weight_initialization": ("normal",),
    },
    "custom_diffusion": {
        "embedding_learning_rate": (1e-3, 1e-2, 1e-1),
        "num_vectors": (1,),
        "freeze_model": ("crossattn",),
    },
    "pivotal_tuning": {
        "embedding_learning_rate": (3e-3, 1e-1),
        "train_text_encoder_ti_frac": (0.25, 0.75),
    },
}
WEIGHTS = (0.05, 0.3, 1.0, 2.0)
#: The same for kinds of adapters, each with the method `lora`.
ADAPTER_RATES = {
    "rslora": (3e-4, 1e-3, 3e-3),
    "dora": (1e-3, 3e-3, 5e-3),
    "loha": (3e-3, 1e-2, 3e-2),
    "lokr": (3e-3, 1e-2, 3e-2),
    "oft": (1e-3, 3e-3, 1e-2),
    "boft": (1e-3, 3e-3, 1e-2),
    "hra": (1e-3, 3e-3, 1e-2),
    "ia3": (1e-2, 3e-2, 1e-1),
}
#: The same of methods that train no text encoder and have no prior; a default's own row is that of its rate.
ALONE: dict[str, dict[str, tuple[Any, ...]]] = {
    "textual_inversion": {
        "learning_rate": (3e-3, 1e-2, 3e-2, 1e-1, 3e-1),
        "num_vectors": (1, 2, 8),
        "keep_class_noun": (False,),
        "preserve_norm": (True,),
    }
}


EVALUATION = {"images_per_prompt": 2, "num_class_images": 32, "num_inference_steps": 8}


@dataclass(frozen=True)
class Point:
    """A configuration: a method with or without class images, and the fields that are moved."""

    method: str
    prior: bool
    moved: dict[str, Any]
    adapter: str | None = None

    @property
    def label(self) -> str:
        """The first column of the table."""
        fields = (f"{field} {_shown(value)}" for field, value in self.moved.items())
        return ", ".join([self.adapter or self.method, *fields])

    def training(self, steps: int) -> dict[str, Any]:
        """The training fields that differ from the method's defaults."""
        common = {
            "max_train_steps": steps,
            "train_batch_size": 2,
            "lr_warmup_steps": 5,
            **self.moved,
        }
        if self.method in ALONE:
            return common
        return {
            **common,
            "train_text_encoder": True,
            "with_prior_preservation": self.prior,
            "num_class_images": 16,
            "class_num_inference_steps": 8,
            **({"adapter": self.adapter} if self.adapter else {}),
        }


def points(methods: Sequence[str], pairs: bool = False) -> Iterator[Point]:
    """All configurations of the table, in its order."""
    rate, text_encoder = "learning_rate", "text_encoder_learning_rate"
    named = [method for method in methods if method in RATES]
    if pairs:
        for method in [method for method in named if method in PAIRS]:
            for values in itertools.product(*PAIRS[method]):
                yield Point(method, False, dict(zip((rate, text_encoder), values, strict=True)))
        return
    for adapter in [method for method in methods if method in ADAPTER_RATES]:
        for value in ADAPTER_RATES[adapter]:
            yield Point("lora", False, {rate: value}, adapter)
    for method in [method for method in methods if method in ALONE]:
        for field, choices in ALONE[method].items():
            yield from (Point(method, False, {field: value}) for value in choices)
    for method, prior in itertools.product(named, (False, True)):
        for value in RATES[method]:
            yield Point(method, prior, {rate: value})
        for value in TEXT_ENCODER_RATES.get(method, ()):
            yield Point(method, prior, {text_encoder: value})
        for value in WEIGHTS if prior else ():
            yield Point(method, prior, {"prior_loss_weight": value})
        for field, values in CHOICES.get(method, {}).items() if not prior else ():
            for value in values:
                yield Point(method, prior, {field: value})


def measured(job: tuple[Point, str, int, str]) -> dict[str, float]:
    """Trains and judges one run; its figures by name."""
    point, subject, steps, cache = job
    evaluation = one_run(point.method, subject, point.training(steps), EVALUATION, seed=0, cache=cache)
    return {name: evaluation.get(name, float("nan")) for name in FIGURES}


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: a Markdown table with a row for each configuration, means over the subjects."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.embedded_ranges", description=__doc__)
    parser.add_argument("--subjects", nargs="+", default=["dog-1", "bird-1"])
    parser.add_argument(
        "--methods", nargs="+", choices=[*RATES, *ADAPTER_RATES, *ALONE], default=[*RATES, *ALONE]
    )
    parser.add_argument("--fields", nargs="+", help="only these dimensions")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--jobs", type=int, default=2, help="runs at once, each on one thread")
    parser.add_argument(
        "--pairs", action="store_true", help="both rates together, without prior preservation"
    )
    given = parser.parse_args(arguments)
    table = [
        point
        for point in points(given.methods, given.pairs)
        if not given.fields or set(given.fields) & set(point.moved)
    ]
    print(f"| {given.steps} steps, {', '.join(given.subjects)} | prior | {' | '.join(FIGURES)} |")
    print(f"|---|---|{'--:|' * len(FIGURES)}", flush=True)
    with (
        tempfile.TemporaryDirectory() as cache,
        multiprocessing.get_context("spawn").Pool(given.jobs) as pool,
    ):
        jobs = [(point, subject, given.steps, cache) for point in table for subject in given.subjects]
        results = pool.imap(measured, jobs)
        for point in table:
            found = [next(results) for _ in given.subjects]
            cells = [f"{fmean(one[name] for one in found):.2f}" for name in FIGURES]
            prior = "yes" if point.prior else "no"
            print(
                f"| {point.label} | {prior} | {' | '.join(cells)} |",
                flush=True,
            )


if __name__ == "__main__":
    main()

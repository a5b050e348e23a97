"""Measure the embedded model and print a table: `python -m benchmarks.embedded_model`.

Each line names what is measured, the value, its bar and whether it is reached. Everything is drawn
from fixed seeds, on identities and combinations that pre-training never saw.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from benchmarks.pretraining.common import to_tensor
from benchmarks.pretraining.judge import read
from benchmarks.pretraining.pool import PART_NAMES, PARTS, VIEWS, Pool, draw_pool
from trainables import embedded
from trainables.embedded import world
from trainables.embedded.captions import full_caption
from trainables.embedded.render import render

if TYPE_CHECKING:
    from trainables.run.resident import Resident

SEED = 7
SOLVER_STEPS = 20
GUIDANCE = 3.0
JUDGE_BAR = 0.97
PROMPT_BARS = {"class": 0.97, "colour": 0.97, "scene": 0.99, "accessory": 0.85}


@dataclass(frozen=True)
class Line:
    """One measured figure; `bar` is what it must reach (None: only reported)."""

    what: str
    value: float
    bar: float | None = None
    note: str = ""
    at_most: bool = False

    @property
    def reached(self) -> bool:
        """Whether the bar is reached; a figure without a bar always is."""
        if self.bar is None:
            return True
        return self.value <= self.bar if self.at_most else self.value >= self.bar

    def __str__(self) -> str:
        verdict = ""
        if self.bar is not None:
            sign = "<=" if self.at_most else ">="
            verdict = f"{sign} {self.bar:g}".ljust(10)
            verdict += "reached" if self.reached else f"MISS by {abs(self.value - self.bar):.3g}"
        return f"{self.what:<44} {self.value:>9.4g}  {verdict:<28} {self.note}".rstrip()


@dataclass(frozen=True)
class Settings:
    """Where the weights are and how many pictures each part of the benchmark draws."""

    weights: Path = embedded.WEIGHTS
    prompts: int = 300
    kid: int = 1000
    guidance: float = GUIDANCE
    subjects: int = 4
    seeds: int = 2


def load(settings: Settings, name: str) -> torch.nn.Module:
    """An encoder or the judge, by its folder's name, in float32."""
    from transformers import AutoModel, AutoModelForImageClassification

    kind = AutoModelForImageClassification if name == "judge" else AutoModel
    model = kind.from_pretrained(settings.weights / name, dtype=torch.float32)
    return model.eval().to(memory_format=torch.channels_last)


def measure_size(settings: Settings) -> list[Line]:
    files = [file for file in settings.weights.rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files) / 1e6
    return [Line("all weights, MB", size, 32, at_most=True)]


@torch.no_grad()
def measure_autoencoder(settings: Settings) -> list[Line]:
    """PSNR in dB (peak 255): the mean over pictures of identities never seen."""
    from diffusers import AutoencoderKL

    model = AutoencoderKL.from_pretrained(settings.weights / "generator", subfolder="vae").eval()
    model.to(memory_format=torch.channels_last)
    values = []
    for part in to_tensor(draw_pool(64, SEED, "held_out").images).split(64):
        output = model.decode(model.encode(part).latent_dist.mode()).sample.clamp(-1, 1)
        values += (10 * torch.log10(4 / (output - part).square().mean((1, 2, 3)))).tolist()
    return [Line("autoencoder PSNR on held-out renders, dB", float(np.mean(values)), 30)]


def measure_judge(settings: Settings) -> list[Line]:
    """Accuracy on 2,048 renders of identities never seen."""
    pool = draw_pool(512, SEED, "held_out")
    right = (read(load(settings, "judge"), pool.images) == pool.labels).mean(0)
    return [
        Line(f"judge on held-out renders: {name}", float(value), JUDGE_BAR)
        for name, value in zip(PART_NAMES, right, strict=True)
    ]


class Sampler:
    """Draws pictures from the stock pipeline, a batch of prompts at a time."""

    def __init__(self, settings: Settings) -> None:
        from diffusers import StableDiffusionPipeline

        self.pipeline = StableDiffusionPipeline.from_pretrained(settings.weights / "generator")
        self.pipeline.set_progress_bar_config(disable=True)
        self.pipeline.unet.to(memory_format=torch.channels_last)
        self.pipeline.vae.to(memory_format=torch.channels_last)
        self.guidance = settings.guidance

    def __call__(self, prompts: Sequence[str], seed: int, batch: int = 50) -> np.ndarray:
        """uint8 [n, 64, 64, 3]; noise i depends on the seed and on i alone."""
        images = []
        for start in range(0, len(prompts), batch):
            part = list(prompts[start : start + batch])
            noise = [torch.Generator().manual_seed(seed * 1_000_003 + start + i) for i in range(len(part))]
            output = self.pipeline(
                part, num_inference_steps=SOLVER_STEPS, guidance_scale=self.guidance,
                generator=noise, output_type="np",
            ).images  # fmt: skip
            images.append((output * 255).round().astype(np.uint8))
        return np.concatenate(images)


def measure_prompts(settings: Settings) -> list[Line]:
    """Read 300 pictures of prompts whose combination of four attributes was never seen."""
    combinations = world.held_out_combinations()
    order = np.random.default_rng(SEED).permutation(len(combinations))[: settings.prompts]
    wanted = [combinations[int(i)] for i in order]
    began = time.perf_counter()
    images = Sampler(settings)([full_caption(*names) for names in wanted], SEED)
    seconds = (time.perf_counter() - began) / len(wanted)
    labels = np.array([[p.index(v) for p, v in zip(PARTS, n, strict=True)] for n in wanted])
    right = (read(load(settings, "judge"), images) == labels).mean(0)
    lines = [
        Line(f"prompt following: {name}", float(value), PROMPT_BARS[name])
        for name, value in zip(PART_NAMES, right, strict=True)
    ]
    note = f"{SOLVER_STEPS} steps, guidance {settings.guidance:g}"
    return [*lines, Line("seconds an image", seconds, note=note)]


@torch.no_grad()
def features(model: torch.nn.Module, images: np.ndarray) -> np.ndarray:
    """Class tokens of the image encoder as unit vectors, float64 [n, d]."""
    parts = [model(pixel_values=part).last_hidden_state[:, 0] for part in to_tensor(images).split(256)]
    return torch.nn.functional.normalize(torch.cat(parts), dim=1).double().numpy()


def kid(a: np.ndarray, b: np.ndarray) -> float:
    """Unbiased squared MMD with the kernel (x.y + 1)^3 of unit vectors (Binkowski et al. 2018)."""
    n, m = len(a), len(b)
    aa, bb, ab = ((x @ y.T + 1) ** 3 for x, y in ((a, a), (b, b), (a, b)))
    within = (aa.sum() - np.trace(aa)) / (n * (n - 1)) + (bb.sum() - np.trace(bb)) / (m * (m - 1))
    return float(within - 2 * ab.mean())


def kid_interval(a: np.ndarray, b: np.ndarray, subsets: int = 100, size: int = 250) -> tuple[float, ...]:
    """Mean and 95 % interval of that mean over random subsets, as KID is usually given."""
    rng = np.random.default_rng(SEED)
    size = min(size, len(a), len(b))
    values = [
        kid(a[rng.choice(len(a), size, False)], b[rng.choice(len(b), size, False)]) for _ in range(subsets)
    ]
    half = 1.96 * float(np.std(values)) * (size / min(len(a), len(b))) ** 0.5
    middle = float(np.mean(values))
    return middle, middle - half, middle + half


def measure_kid(settings: Settings) -> list[Line]:
    """Pictures of captions of held-out renders against other held-out renders; x 1000."""
    count = settings.kid
    # One view an identity: several would make the renders of one half alike, which KID would count.
    views = draw_pool(2 * count, SEED, "held_out")
    pool = Pool(views.images[::VIEWS], views.labels[::VIEWS])
    captions = [full_caption(*pool.names(i)) for i in range(count)]
    model = load(settings, "image_encoder")
    real, other = features(model, pool.images[:count]), features(model, pool.images[count:][:count])
    drawn = features(model, Sampler(settings)(captions, SEED + 1))
    lines = []
    for what, x in (("samples", drawn), ("other renders", real)):
        middle, low, high = kid_interval(x, other)
        note = f"95 % interval {low * 1000:.2f} to {high * 1000:.2f}, {count} each"
        lines.append(Line(f"KID x 1000, {what} against renders", middle * 1000, note=note))
    return lines


def _two_views(class_name: str, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    views: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for index in range(first, first + count):
        rng = world.generator(SEED, "held_out", 10**6 + index)
        identity = world.draw_identity(rng, class_name)
        one = world.draw_setting(rng, identity)
        other = one
        while other.scene == one.scene:
            other = world.draw_setting(rng, identity)
        for view, setting in zip(views, (one, other), strict=True):
            view.append(np.asarray(render(identity, setting)))
    return np.stack(views[0]), np.stack(views[1])


def measure_image_encoder(settings: Settings) -> list[Line]:
    """Among 20 identities of one class: is the nearest picture of another scene the same one?"""
    model = load(settings, "image_encoder")
    right, same, different = [], [], []
    for number, class_name in enumerate(world.CLASSES):
        for group in range(4):
            views = _two_views(class_name, 1000 * number + 20 * group, 20)
            cosine = features(model, views[0]) @ features(model, views[1]).T
            right += list(cosine.argmax(1) == np.arange(20))
            same.append(np.diag(cosine).mean())
            different.append((cosine.sum() - np.trace(cosine)) / 380)
    return [
        Line("image encoder: same identity among 20", float(np.mean(right)), 0.95),
        Line("  cosine of one identity, other scene", float(np.mean(same))),
        Line("  cosine of two identities of a class", float(np.mean(different))),
    ]


@torch.no_grad()
def measure_clip(settings: Settings) -> list[Line]:
    """Is the right one of 50 different full captions the nearest to its picture?"""
    from transformers import AutoTokenizer

    model = load(settings, "clip")
    tokenizer = AutoTokenizer.from_pretrained(settings.weights / "clip")
    pool = draw_pool(512, SEED, "held_out")
    rng, right = np.random.default_rng(SEED), []
    for _ in range(10):
        chosen: dict[str, int] = {}
        for row in rng.permutation(len(pool.images)):
            chosen.setdefault(full_caption(*pool.names(int(row))), int(row))
            if len(chosen) == 50:
                break
        tokens = tokenizer(list(chosen), padding=True, return_tensors="pt")
        pixels = to_tensor(pool.images[list(chosen.values())])
        scores = model(pixel_values=pixels, **tokens).logits_per_image
        right += (scores.argmax(1) == torch.arange(50)).tolist()
    return [Line("CLIP: right caption among 50", float(np.mean(right)), 0.9)]


@dataclass(frozen=True)
class Arm:
    """A method and the fields of its configuration that differ from the defaults."""

    name: str
    method: str
    training: dict[str, Any]


FIDELITY_BAR = 0.75  # of the way from the base model to real images; only of the default configurations
PROMPTS_BAR = 0.8  # of every arm, the one without prior too
SECONDS_BAR = 30
PRIOR_BAR = 0.5  # of the similarity that class images have without prior
_FIGURES = (
    "subject_fidelity_scaled",
    "prompt_fidelity_scaled",
    "prior_preservation",
    "train_seconds",
)
# With and without class images at the same rates, those of training with them: what is measured is what the images do.
ARMS = (
    Arm("LoRA", "lora", {"learning_rate": 3e-3}),
    Arm("DreamBooth", "dreambooth", {}),
    Arm(
        "DreamBooth without prior",
        "dreambooth",
        {"with_prior_preservation": False, "learning_rate": 3e-4, "text_encoder_learning_rate": 1e-3},
    ),
)


def fine_tune(
    settings: Settings, arm: Arm, subject: str, seed: int, folder: Path, resident: Resident
) -> dict[str, float]:
    """Train and evaluate one run with the project's own code; its figures by name."""
    from trainables.run.execute import execute
    from trainables.run_config import RunConfig

    own = settings.weights == embedded.WEIGHTS
    run = folder / f"{arm.method}-{len(arm.training)}-{subject}-{seed}"
    config = RunConfig.model_validate(
        {
            "method": arm.method,
            "model": {"path": "embedded" if own else str(settings.weights / "generator")},
            "subject": {"name": subject},
            "training": arm.training,
            "evaluation": {"num_class_images": 16},
            "seed": seed,
            "device": "cpu",
            "output_dir": str(run),
            "cache_dir": str(folder / "cache"),
        }
    )
    for _ in execute(config, resident):
        pass
    result = json.loads((run / "result.json").read_text())
    if result["state"] != "COMPLETE":
        raise RuntimeError(f"{run.name}: {result['reason']}: {result['message']}")
    return {**result["evaluation"], **result["cost"]}


def measure_fine_tuning(settings: Settings) -> list[Line]:
    """Default runs on held-out subjects: how far they get from the base model to real images.

    Fidelity gained is 0 for the base model and 1 for real held-out images; prompt fidelity kept is 0 for pictures
    of other prompts and 1 for the base model; class drift is the similarity (cosine) of pictures of class prompts
    to the subject. Bars are on the means over subjects and seeds; the note gives the lowest mean of a subject.
    """
    from trainables.run.resident import Resident

    lines, drift, resident = [], {}, Resident()
    subjects = embedded.subject_names()[: settings.subjects]
    with tempfile.TemporaryDirectory() as folder:
        for arm in ARMS:
            runs = [
                [
                    fine_tune(settings, arm, subject, seed, Path(folder), resident)
                    for seed in range(settings.seeds)
                ]
                for subject in subjects
            ]
            table = {name: np.array([[run[name] for run in of_one] for of_one in runs]) for name in _FIGURES}
            drift[arm.name] = float(table["prior_preservation"].mean())
            lines += _arm_lines(arm, table)
    share = drift["DreamBooth"] / drift["DreamBooth without prior"]
    return [*lines, Line("class drift left by prior preservation", share, PRIOR_BAR, at_most=True)]


def _arm_lines(arm: Arm, table: dict[str, np.ndarray]) -> list[Line]:
    """One arm's figures; the arrays have shape (subjects, seeds)."""
    gain, kept, drift, seconds = (table[name] for name in _FIGURES)
    default = not arm.training

    def lowest(values: np.ndarray) -> str:
        return f"lowest subject {values.mean(axis=1).min():.2f}, lowest run {values.min():.2f}"

    return [
        Line(f"{arm.name}: fidelity gained", gain.mean(), FIDELITY_BAR if default else None, lowest(gain)),
        Line(f"{arm.name}: prompts kept", kept.mean(), PROMPTS_BAR, lowest(kept)),
        Line(f"{arm.name}: class drift", drift.mean()),
        Line(
            f"{arm.name}: slowest training, s",
            seconds.max(),
            SECONDS_BAR if default else None,
            f"{gain.size} runs, one thread",
            at_most=True,
        ),
    ]


SECTIONS: dict[str, Callable[[Settings], list[Line]]] = {
    "size": measure_size,
    "autoencoder": measure_autoencoder,
    "judge": measure_judge,
    "image_encoder": measure_image_encoder,
    "clip": measure_clip,
    "prompts": measure_prompts,
    "kid": measure_kid,
    "fine_tuning": measure_fine_tuning,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: the sections asked for (default all), one line a figure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.embedded_model", description=__doc__)
    parser.add_argument("sections", nargs="*", help=f"of {', '.join(SECTIONS)}; default all")
    parser.add_argument("--weights", type=Path, default=embedded.WEIGHTS)
    parser.add_argument("--prompts", type=int, default=300)
    parser.add_argument("--kid", type=int, default=1000, help="pictures on each side")
    parser.add_argument("--guidance", type=float, default=GUIDANCE)
    parser.add_argument("--subjects", type=int, default=4, help="subjects to fine-tune on")
    parser.add_argument("--seeds", type=int, default=2)
    given = vars(parser.parse_args(arguments))
    sections = given.pop("sections") or list(SECTIONS)
    unknown = sorted(set(sections) - set(SECTIONS))
    if unknown:
        parser.error(f"no section {', '.join(unknown)}; there are: {', '.join(SECTIONS)}")
    torch.set_num_threads(1)
    settings = Settings(**given)
    for section in sections:
        for line in SECTIONS[section](settings):
            print(line, flush=True)


if __name__ == "__main__":
    main()

"""Does the ranking of methods depend on who judges? `python -m benchmarks.embedded_encoders`.

The embedded image encoder is graded: its second stage pulls cosines to the share of traits that two creatures have in
common. So the same images are scored by four judges: that encoder, the image tower of the embedded CLIP (trained by
contrast of images and captions, and never graded), and the true traits, read off each picture by drawing it again
(`embedded_traits`), weighed as in grading and weighed equally. A fifth is the encoder's own first stage, contrast
alone. Its weights are not shipped; `python -m benchmarks.pretrain --out DIR --stage image_encoder` makes them, and
`--contrastive DIR/state/image_encoder` takes them.

For every judge S, C and quality follow from its own similarities as in `trainables/evaluation/quality.py`: S is 0 for
the base model and 1 for real pictures, C is 0 where pictures of the class look like the subject and 1 where they look
as the base model's do, and quality is S x P x C, each clipped to 0..1, with the same P (by CLIP) for all.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from scipy.stats import kendalltau

from benchmarks.embedded_model import Sampler
from benchmarks.embedded_model import Settings as ModelSettings
from benchmarks.embedded_traits import read_identities, shared_traits
from trainables import embedded
from trainables.evaluation import metrics
from trainables.evaluation.encoders import Clip, ImageEncoder, load_clip, load_image_encoder
from trainables.evaluation.prompts import fill

if TYPE_CHECKING:
    from trainables.embedded.subjects import EmbeddedSubject
    from trainables.run.resident import Resident

SEED = 23
GRADED, CONTRAST, TOWER = "graded encoder", "contrast alone", "CLIP image tower"
TRAITS = ("traits, as visible", "traits, all alike")
Embed = Callable[[Sequence[Image.Image]], np.ndarray]
Images = list[Image.Image]
Scores = dict[str, np.ndarray]


@dataclass(frozen=True)
class Arm:
    """A method and the fields of its configuration that differ from the defaults."""

    name: str
    method: str
    training: dict[str, Any]


# The text encoder trains in all of them, as in the presets: what differs is what a method's name says.
ARMS = (
    Arm("LoRA", "lora", {"train_text_encoder": True}),
    Arm("LoRA with prior", "dreambooth_lora", {"train_text_encoder": True}),
    Arm("DreamBooth without prior", "dreambooth", {"with_prior_preservation": False}),
    Arm("DreamBooth", "dreambooth", {}),
)


@dataclass(frozen=True)
class Settings:
    """How much is trained and drawn.

    Attributes:
        subjects: So many of the embedded subjects.
        steps: Of training.
        images: Of each of the 16 evaluation prompts.
        class_images: Of the class prompt.
    """

    subjects: int = 4
    steps: int = 100
    images: int = 1
    class_images: int = 8


@dataclass(frozen=True)
class Result:
    """One model on one subject; by judge.

    Attributes:
        subject: S, not clipped.
        quality: S x P x C, each clipped to 0..1.
    """

    subject: dict[str, float]
    quality: dict[str, float]


@dataclass(frozen=True)
class Panel:
    """The judges of one subject's pictures, with what real pictures of it score.

    Attributes:
        embed: The judges that embed pictures, by name.
        references: Of the subject, embedded by each of these.
        real: Score of real pictures, by judge.
        texts: Embeddings of the prompts, one row a prompt.
    """

    subject: EmbeddedSubject
    embed: Mapping[str, Embed]
    clip: Clip
    references: dict[str, np.ndarray]
    real: dict[str, float]
    texts: np.ndarray

    @classmethod
    def of(cls, subject: EmbeddedSubject, encoders: Mapping[str, ImageEncoder], clip: Clip) -> Panel:
        """Embeds and reads the real pictures."""
        real, training = subject.reference_images(), subject.training_images()
        embed = {name: encoder.embed for name, encoder in encoders.items()} | {TOWER: clip.embed_images}
        references = {judge: features(real) for judge, features in embed.items()}
        scores: dict[str, float] = {}
        for judge, features in embed.items():
            alike = metrics.real_similarity(references[judge], features(training))
            assert alike is not None
            scores[judge] = alike
        visible, equal = shared_traits(read_identities(real), subject.identity)
        scores |= {TRAITS[0]: float(visible.mean()), TRAITS[1]: float(equal.mean())}
        templates = embedded.evaluation_prompts()
        texts = clip.embed_texts([fill(template, subject.class_prompt) for template in templates])
        return cls(subject, embed, clip, references, scores, texts)

    def scores(self, images: Images) -> Scores:
        """How much of the subject each picture shows, by judge."""
        found = {
            judge: metrics.cosines(features(images), self.references[judge]).mean(axis=1)
            for judge, features in self.embed.items()
        }
        visible, equal = shared_traits(read_identities(images), self.subject.identity)
        return found | {TRAITS[0]: visible, TRAITS[1]: equal}

    def prompt(self, images: Images, prompt_of_image: Sequence[int]) -> tuple[float, float]:
        """Mean cosine with the image's own prompt and with all others."""
        features = self.clip.embed_images(images)
        own = metrics.paired_cosine(features, self.texts[list(prompt_of_image)])
        other = metrics.mismatched_prompt_fidelity(features, self.texts, prompt_of_image)
        assert own is not None
        assert other is not None
        return own, other


def first_stage(folder: Path, graded: ImageEncoder) -> ImageEncoder:
    """The encoder as it was before grading, from the folder that `benchmarks.pretrain` keeps it in."""
    from transformers import ViTModel

    model = ViTModel.from_pretrained(folder, add_pooling_layer=False).eval().requires_grad_(False)
    return replace(graded, model=model)


def trained(arm: Arm, subject: str, settings: Settings, folder: Path, resident: Resident) -> Any:
    """Trains one run with the project's own code and returns it as a stock pipeline."""
    from diffusers import StableDiffusionPipeline

    from trainables.events import WEIGHTS
    from trainables.methods.registry import get_method
    from trainables.run.execute import execute
    from trainables.run_config import RunConfig

    run = folder / f"{arm.name.replace(' ', '-')}-{subject}"
    config = RunConfig.model_validate(
        {
            "method": arm.method,
            "subject": {"name": subject},
            "training": {"max_train_steps": settings.steps, **arm.training},
            # What is scored is drawn below.
            "evaluation": {"num_prompts": 2, "images_per_prompt": 1, "num_class_images": 2, "num_inference_steps": 2},
            "device": "cpu",
            "output_dir": str(run),
            "cache_dir": str(folder / "cache"),
        }
    )  # fmt: skip
    ending = [event for event in execute(config, resident) if event.kind == "finished"][-1]
    if ending.data["state"] != "COMPLETE":
        raise RuntimeError(f"{run.name}: {ending.data}")
    pipeline = StableDiffusionPipeline.from_pretrained(embedded.GENERATOR)
    return get_method(arm.method).load(pipeline, run / WEIGHTS)


def draw(pipeline: Any, prompts: Sequence[str], seed: int) -> Images:
    """Draws one image a prompt; noise i depends on the seed and on i alone."""
    sampler = Sampler(ModelSettings())
    if pipeline is not None:
        pipeline.set_progress_bar_config(disable=True)
        sampler.pipeline = pipeline
    return [Image.fromarray(array) for array in sampler(prompts, seed)]


def measure_subject(
    name: str,
    settings: Settings,
    folder: Path,
    resident: Resident,
    encoders: Mapping[str, ImageEncoder],
    clip: Clip,
) -> dict[str, Result]:
    """Trains all arms on a subject and scores their pictures; by arm."""
    subject = embedded.load_subject(name)
    panel = Panel.of(subject, encoders, clip)
    templates = [one for one in embedded.evaluation_prompts() for _ in range(settings.images)]
    groups = [number // settings.images for number in range(len(templates))]
    of_class = [subject.class_prompt] * settings.class_images
    # The base model knows nothing of the rare token.
    images = draw(None, [fill(one, subject.class_prompt) for one in templates], SEED)
    base, (prompt_base, prompt_floor) = panel.scores(images), panel.prompt(images, groups)
    base_class = panel.scores(draw(None, of_class, SEED + 1))
    found = {}
    for arm in ARMS:
        began = time.perf_counter()
        pipeline = trained(arm, name, settings, folder, resident)
        images = draw(pipeline, [fill(one, subject.instance_prompt) for one in templates], SEED)
        scores, class_scores = panel.scores(images), panel.scores(draw(pipeline, of_class, SEED + 1))
        prompt = _between(panel.prompt(images, groups)[0], prompt_floor, prompt_base)
        alike, quality = {}, {}
        for judge, real in panel.real.items():
            alike[judge] = _between(scores[judge].mean(), base[judge].mean(), real)
            kept = _between(class_scores[judge].mean(), real, base_class[judge].mean())
            quality[judge] = float(np.prod(np.clip([alike[judge], prompt, kept], 0, 1)))
        found[arm.name] = Result(alike, quality)
        print(f"{name}, {arm.name}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    return found


def _between(value: float, zero: float, one: float) -> float:
    return float((value - zero) / (one - zero))


def table(results: Sequence[dict[str, Result]]) -> str:
    """Markdown: each arm's mean and rank under every judge, for S and for quality, and how far the judges agree."""
    lines: list[str] = []
    judges = list(results[0][ARMS[0].name].subject)
    others = [judge for judge in judges if judge != GRADED]
    for what in ("subject", "quality"):
        # Shape (subjects, arms, judges).
        values = np.array(
            [
                [[getattr(of_one[arm.name], what)[judge] for judge in judges] for arm in ARMS]
                for of_one in results
            ]
        )
        means = values.mean(axis=0)
        ranks = (-means).argsort(axis=0).argsort(axis=0) + 1
        title = "S" if what == "subject" else "quality"
        lines += [f"| {title}, mean (rank) | {' | '.join(judges)} |", f"|---|{'--:|' * len(judges)}"]
        for number, arm in enumerate(ARMS):
            cells = [f"{m:.2f} ({r})" for m, r in zip(means[number], ranks[number], strict=True)]
            lines.append(f"| {arm.name} | {' | '.join(cells)} |")
        for label, flat in (("the means", means), ("all runs", values.reshape(-1, len(judges)))):
            of_judge = dict(zip(judges, flat.T, strict=True))
            taus = {judge: kendalltau(of_judge[GRADED], of_judge[judge]).statistic for judge in others}
            cells = ["" if judge == GRADED else f"{taus[judge]:.2f}" for judge in judges]
            lines.append(f"| Kendall's tau with the graded encoder, {label} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: trains, scores, prints the table."""
    from trainables.run.resident import Resident

    parser = argparse.ArgumentParser(prog="python -m benchmarks.embedded_encoders", description=__doc__)
    parser.add_argument("--subjects", type=int, default=4)
    parser.add_argument("--steps", type=int, default=100, help="of training")
    parser.add_argument("--images", type=int, default=1, help="of each prompt")
    parser.add_argument("--class-images", type=int, default=8)
    parser.add_argument(
        "--contrastive", type=Path, metavar="DIR", help="weights of the encoder's first stage"
    )
    given = vars(parser.parse_args(arguments))
    contrastive: Path | None = given.pop("contrastive")
    settings = Settings(**given)
    torch.set_num_threads(1)
    clip, resident = load_clip("embedded"), Resident()
    encoders = {GRADED: load_image_encoder("embedded")}
    if contrastive:
        encoders[CONTRAST] = first_stage(contrastive, encoders[GRADED])
    with tempfile.TemporaryDirectory() as folder:
        results = [
            measure_subject(name, settings, Path(folder), resident, encoders, clip)
            for name in embedded.subject_names()[: settings.subjects]
        ]
    print(table(results))


if __name__ == "__main__":
    main()

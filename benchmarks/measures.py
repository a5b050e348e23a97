"""Whether the measures that need no model see what they are for, and nothing else: `python -m benchmarks.measures`.

Copies of training images must be found and other scenes of the same creature must not; diversity must not reward a
model for drawing another creature each time; KID and CMMD of the base model against itself must be near nothing. Each
line names a figure, its bar and whether it is reached; the command exits with 1 where one is not. Everything is drawn
from fixed seeds. With `--photos FOLDER` (a folder of photographs for each subject) the copy detector and the measure of
blur are tried on those too.
"""

from __future__ import annotations

import argparse
import functools
import io
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter

from benchmarks.embedded_model import Line
from trainables import embedded
from trainables.data.images import read_image, square
from trainables.data.sharpness import LARGE, blur_limit, blur_of
from trainables.embedded import world
from trainables.embedded.render import render
from trainables.embedded.subjects import TRAINING_SETTINGS, EmbeddedSubject
from trainables.evaluation import metrics, perceptual
from trainables.evaluation.checks import MIN_DISTRIBUTION_IMAGES
from trainables.evaluation.copies import SIDE, copied
from trainables.evaluation.encoders import load_clip, load_image_encoder
from trainables.evaluation.prompts import fill

SEED = 11
COPIES_BAR, OTHERS_BAR = (
    0.95,
    0.05,
)  # share of copies that must be found; of other scenes that may be taken for one
DIVERSITY_BAR = (
    0.5  # of the value of pictures of different creatures: what perfect pictures of one must reach
)
MANY, POOL = 200, 800  # images of a large set, and of the pool that sets are drawn from
PHOTO_SIDES = (64, 512, 1024)  # pixels
BLUR_SIDES = (64, 128, 256, 512)  # pixels
NOISE = 5.0  # of 255, standard deviation
Images = list[Image.Image]


@dataclass(frozen=True)
class Settings:
    """How much is drawn.

    Attributes:
        subjects: Names of embedded subjects.
        views: Pictures of each setting.
        photos: Folder with one folder of photographs for each subject; None leaves them out.
        repeats: Pairs of sets for the spread of KID and CMMD.
    """

    subjects: tuple[str, ...] = ()
    views: int = 4
    photos: Path | None = None
    repeats: int = 40


def shifted(image: Image.Image, right: float, down: float) -> Image.Image:
    """Moves a picture by so many pixels of 64, rounded to its own; the border is continued."""
    across, along = round(right * image.width / SIDE), round(down * image.height / SIDE)
    margin = max(abs(across), abs(along))
    wide = np.pad(np.asarray(image), ((margin, margin), (margin, margin), (0, 0)), mode="edge")
    top, left = margin - along, margin - across
    return Image.fromarray(wide[top : top + image.height, left : left + image.width])


def _mapped(image: Image.Image, change: Callable[[np.ndarray], np.ndarray]) -> Image.Image:
    return Image.fromarray(change(np.asarray(image, dtype=float)).clip(0, 255).round().astype(np.uint8))


def _recompressed(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=75)
    return Image.open(file).convert("RGB")


def mirrored(image: Image.Image) -> Image.Image:
    """The mirror image."""
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


@functools.cache
def _autoencoder() -> torch.nn.Module:
    from diffusers import AutoencoderKL

    return AutoencoderKL.from_pretrained(embedded.GENERATOR, subfolder="vae").eval()


@torch.no_grad()
def decoded(images: Images) -> Images:
    """What the embedded autoencoder makes of 64x64 pictures."""
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2)
    model = _autoencoder()
    output = model.decode(model.encode(pixels / 127.5 - 1).latent_dist.mode()).sample
    arrays = ((output.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(array) for array in arrays]


def near_copies(images: Images, seed: int, autoencoder: bool = True) -> Iterator[tuple[str, Images]]:
    """Every kind of copy of some pictures, by name."""
    rng = np.random.default_rng(seed)
    yield "exact", images
    yield "mirrored", [mirrored(image) for image in images]
    for right, down in ((2, 0), (-2, 1), (1, -2), (0.5, 1.5)):
        yield (
            f"shifted by {right:g}, {down:g} px of {SIDE}",
            [shifted(image, right, down) for image in images],
        )
    yield "JPEG, quality 75", [_recompressed(image) for image in images]
    yield "5 % brighter", [_mapped(image, lambda values: values * 1.05) for image in images]
    yield "5 % darker", [_mapped(image, lambda values: values * 0.95) for image in images]
    yield (
        f"noise of {NOISE:g} / 255",
        [_mapped(image, lambda values: values + rng.normal(0, NOISE, values.shape)) for image in images],
    )
    if autoencoder:
        yield "through the autoencoder", decoded(images)
        yield "the same, mirrored and shifted", [shifted(mirrored(one), 2, -1) for one in decoded(images)]


def renders_of_templates(subject: EmbeddedSubject, views: int, seed: int) -> Images:
    """Perfect pictures of the evaluation prompts; scenes and accessories that a prompt leaves open are drawn."""
    rng = np.random.default_rng([seed, *subject.name.encode()])
    images = []
    for template in embedded.evaluation_prompts():
        for _ in range(views):
            scene, accessory = setting_of(template, rng)
            images.append(render(subject.identity, world.Setting(scene, accessory, int(rng.integers(2**31)))))
    return images


def setting_of(template: str, rng: np.random.Generator) -> tuple[str, str]:
    """Scene and accessory that a template names; an accessory that it does not name is none, a scene is drawn."""
    words = fill(template, "")
    scenes = [scene for scene in world.SCENES if scene in words]
    accessories = [one for one in world.ACCESSORIES if one != "none" and one in words]
    scene = scenes[0] if scenes else world.SCENES[int(rng.integers(len(world.SCENES)))]
    return scene, accessories[0] if accessories else "none"


def measure_copies(settings: Settings) -> list[Line]:
    """Shares of copies that are found, and of other pictures of the same creature that are taken for copies."""
    found: dict[str, list[bool]] = {}
    others: dict[str, list[bool]] = {}
    for number, name in enumerate(settings.subjects):
        subject = embedded.load_subject(name)
        training = subject.training_images()
        for kind, images in near_copies(training, SEED + number):
            found.setdefault(kind, []).extend(copied(images, training))
        again = [
            render(subject.identity, world.Setting(*setting, 10**6 + number * 1000 + 10 * index + view))
            for index, setting in enumerate(TRAINING_SETTINGS)
            for view in range(settings.views)
        ]
        for kind, images in (
            ("reference images", subject.reference_images()),
            ("renders of the evaluation prompts", renders_of_templates(subject, settings.views, SEED)),
            ("scenes of the training images, other detail", again),
        ):
            others.setdefault(kind, []).extend(copied(images, training))
    lines = _copy_lines("copies found", found)
    for kind, values in others.items():
        bar = None if "training" in kind else OTHERS_BAR
        lines.append(Line(f"taken for copies: {kind}", float(np.mean(values)), bar, f"{len(values)}", True))
    return lines + (measure_photos(settings.photos) if settings.photos else [])


def _copy_lines(what: str, found: dict[str, list[bool]]) -> list[Line]:
    return [
        Line(f"{what}: {kind}", float(np.mean(values)), COPIES_BAR, f"{len(values)}")
        for kind, values in found.items()
    ]


def measure_photos(folder: Path) -> list[Line]:
    """The same on photographs: each is held out once against the others of its subject, at 64 to 1024 pixels."""
    found: dict[str, list[bool]] = {}
    held_out: list[bool] = []
    for side in PHOTO_SIDES:
        for place in sorted(path for path in folder.iterdir() if path.is_dir()):
            files = sorted(path for path in place.iterdir() if path.suffix in (".jpg", ".png"))
            images = [Image.open(path).convert("RGB").resize((side, side)) for path in files]
            for kind, copies in near_copies(images, SEED, autoencoder=False):
                found.setdefault(kind, []).extend(copied(copies, images))
            for index in range(len(images)):
                held_out += list(copied([images[index]], images[:index] + images[index + 1 :]))
    return [
        *_copy_lines("photographs", found),
        Line(
            "taken for copies: held-out photographs",
            float(np.mean(held_out)),
            OTHERS_BAR,
            f"{len(held_out)}",
            True,
        ),
    ]


def measure_diversity(settings: Settings) -> list[Line]:
    """Diversity of perfect pictures of one creature against pictures of a different creature each time."""
    encoder = load_image_encoder("embedded")
    kinds = ("one creature", "a different one each time", "repeats")
    values: dict[str, list[float]] = {kind: [] for kind in kinds}
    cosine: dict[str, list[float]] = {kind: [] for kind in kinds}
    for name in settings.subjects:
        subject = embedded.load_subject(name)
        rng = np.random.default_rng([SEED, *name.encode()])
        one, different, groups = [], [], []
        for group, template in enumerate(embedded.evaluation_prompts()):
            scene, accessory = setting_of(template, rng)
            for _ in range(settings.views):
                setting = world.Setting(scene, accessory, int(rng.integers(2**31)))
                one.append(render(subject.identity, setting))
                different.append(render(world.draw_identity(rng, subject.class_name), setting))
                groups.append(group)
        repeats = [one[settings.views * group] for group in groups]
        for kind, images in zip(kinds, (one, different, repeats), strict=True):
            values[kind].append(_number(perceptual.diversity(images, groups)))
            cosine[kind].append(_cosine_diversity(encoder.embed(images), groups))
    ours, theirs = ({kind: float(np.mean(v)) for kind, v in table.items()} for table in (values, cosine))
    note = str(perceptual.provenance()["distance"])
    ratio, old = (table[kinds[0]] / table[kinds[1]] for table in (ours, theirs))
    return [
        *(Line(f"diversity: {kind}", ours[kind], note=note) for kind in kinds[:2]),
        Line("diversity: repeats", ours["repeats"], 0.0, at_most=True),
        Line("diversity: one creature / different ones", ratio, DIVERSITY_BAR),
        Line("  the same ratio of 1 - cosine of the encoder", old),
    ]


def _cosine_diversity(features: np.ndarray, groups: Sequence[int]) -> float:
    """Mean over prompts of the mean pairwise 1 - cosine: what `perceptual.diversity` is compared with."""
    groups = np.asarray(groups)
    means = []
    for group in np.unique(groups):
        table = metrics.cosines(features[groups == group], features[groups == group])
        means.append(1 - table[np.triu_indices(len(table), k=1)].mean())
    return float(np.mean(means))


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def measure_distributions(settings: Settings) -> list[Line]:
    """KID and CMMD of the base model's class images against its own with other noise.

    Pairs of disjoint sets out of one pool of images of "a cat", four times as large as the largest set, so that sets
    of different pairs have little in common.
    """
    from benchmarks.embedded_model import Sampler
    from benchmarks.embedded_model import Settings as ModelSettings

    images = [Image.fromarray(array) for array in Sampler(ModelSettings())(["a cat"] * POOL, SEED)]
    encoder, clip = load_image_encoder("embedded"), load_clip("embedded")
    lines = []
    for name, kernel, features in (
        ("KID", metrics.polynomial_kernel, encoder.embed(images)),
        ("CMMD", metrics.gaussian_kernel, clip.embed_images(images)),
    ):
        rng = np.random.default_rng(SEED)
        for count in (8, MIN_DISTRIBUTION_IMAGES, MANY):
            pairs = [np.split(rng.permutation(len(images))[: 2 * count], 2) for _ in range(settings.repeats)]
            values = [metrics.mmd(features[a], features[b], kernel) for a, b in pairs]
            note = f"mean {np.mean(values):.3g}"
            if count == MIN_DISTRIBUTION_IMAGES:
                note += f"; 0 in {_coverage(features, pairs, kernel):.0%} of the 95 % intervals"
            lines.append(
                Line(
                    f"{name} of the base to itself, {count} images: sd",
                    float(np.std(values, ddof=1)),
                    note=note,
                )
            )
    return lines


def _coverage(features: np.ndarray, pairs: Sequence[Sequence[np.ndarray]], kernel: metrics.Kernel) -> float:
    """Share of the intervals that hold 0, the true distance."""
    inside = 0
    for number, (a, b) in enumerate(pairs):
        low, high = metrics.mmd_interval(features[a], features[b], kernel, seed=number)
        inside += low <= 0 <= high
    return inside / len(pairs)


def measure_blur(settings: Settings) -> list[Line]:
    """Shares of sharp pictures that are taken for blurred, and of blurred ones that are found."""
    renders = [
        picture for name in settings.subjects for picture in embedded.load_subject(name).training_images()
    ]
    lines = _blur_lines("renders", renders, 2)
    if settings.photos is None:
        return lines
    for side in BLUR_SIDES:
        photos = [
            square(read_image(path), side)
            for path in sorted(settings.photos.glob("*/*"))
            if path.suffix in (".jpg", ".png")
        ]
        lines += _blur_lines(f"photographs of {side} px", photos, 2 if side < LARGE else 3)
    return lines


def _blur_lines(what: str, images: Images, radius: int) -> list[Line]:
    blurred = [image.filter(ImageFilter.GaussianBlur(radius)) for image in images]
    taken, found = (
        float(np.mean([blur_of(image) > blur_limit(image) for image in each])) for each in (images, blurred)
    )
    highest = max(map(blur_of, images))
    return [
        Line(f"taken for blurred: {what}", taken, 0.0, f"{len(images)}, at most {highest:.2f}", True),
        Line(f"blurred by {radius} px: {what}", found, COPIES_BAR, f"least {min(map(blur_of, blurred)):.2f}"),
    ]


SECTIONS: dict[str, Callable[[Settings], list[Line]]] = {
    "blur": measure_blur,
    "copies": measure_copies,
    "diversity": measure_diversity,
    "distributions": measure_distributions,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: the sections asked for (default all), one line a figure; exits with 1 where a bar is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.measures", description=__doc__)
    parser.add_argument("sections", nargs="*", help=f"of {', '.join(SECTIONS)}; default all")
    parser.add_argument("--subjects", type=int, default=16, help="embedded subjects")
    parser.add_argument("--photos", type=Path, help="folder with a folder of photographs for each subject")
    given = parser.parse_args(arguments)
    sections = given.sections or list(SECTIONS)
    if unknown := sorted(set(sections) - set(SECTIONS)):
        parser.error(f"no section {', '.join(unknown)}; there are: {', '.join(SECTIONS)}")
    torch.set_num_threads(1)
    settings = Settings(embedded.subject_names()[: given.subjects], photos=given.photos)
    missed = 0
    for section in sections:
        for line in SECTIONS[section](settings):
            print(line, flush=True)
            missed += not line.reached
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()

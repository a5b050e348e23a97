"""Whether graded lesions can be judged and learnt: `python -m benchmarks.graded_lesions`.

Section `judge`: how often the reader of lesions (`trainables/embedded/lesion_judge.py`) reads the right score off fresh
renders, and off what the embedded autoencoder makes of them, beside what the drawn looks themselves tell. Section
`learning`: balanced accuracy of a logistic regression on the lower half at 32x16 pixels, trained on more and more
animals and tested on others; scores 1 and 4 must be easier to tell apart than 2 and 3. Exits with 1 where a bar is
missed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.embedded_model import Line
from trainables.embedded.graded_lesions import (
    GRADED_LESIONS,
    LesionPicture,
    further_pictures,
    lesion_pictures,
)
from trainables.embedded.lesion_judge import Reading, read_lesions
from trainables.embedded.lesions import SCORES, score_of

RENDER_BAR, DECODED_BAR, NEAR_BAR = 0.85, 0.8, 0.99  # shares of right scores; of scores at most one off
CHANCE = 1 / len(SCORES)
LEARNT_BAR = 0.75  # balanced accuracy of four scores with all training animals
ANIMALS = (15, 30, 60, 120, 240)  # to train on
PICTURES_AN_ANIMAL, TEST_ANIMALS = 10, 120


@dataclass(frozen=True)
class Settings:
    """Which sets, and how much of each is drawn.

    Attributes:
        names: Of `GRADED_LESIONS`.
        pictures: Fresh ones of each score for the judge.
        animals: To train on, ascending.
        test_animals: To test on.
    """

    names: tuple[str, ...] = ("graded-lesions",)
    pictures: int = 60
    animals: tuple[int, ...] = ANIMALS
    test_animals: int = TEST_ANIMALS


def measure_judge(settings: Settings) -> list[Line]:
    """Shares of right scores, all four weighed the same."""
    from benchmarks.measures import decoded

    lines = []
    for name in settings.names:
        shown = [one for score in SCORES for one in further_pictures(name, score, settings.pictures)]
        images = [one.draw() for one in shown]
        looks = [(one.lesion.size + one.lesion.colour + one.lesion.raggedness) / 3 for one in shown]
        told = float(np.mean([score_of(look) == one.score for look, one in zip(looks, shown, strict=True)]))
        lines.append(Line(f"{name}: the looks tell the score", told))
        for kind, pictures, bar in (
            ("renders", images, RENDER_BAR),
            ("through the autoencoder", decoded(images), DECODED_BAR),
        ):
            read = read_lesions(pictures, GRADED_LESIONS[name])
            lines += _judged(f"{name}, {kind}", shown, read, bar)
    return lines


def _judged(what: str, shown: Sequence[LesionPicture], read: Sequence[Reading], bar: float) -> list[Line]:
    off = np.array([abs((one.score or 0) - true.score) for one, true in zip(read, shown, strict=True)])
    seen = np.array([one.score is not None for one in read])
    error = np.abs([one.severity - true.severity for one, true in zip(read, shown, strict=True)])
    scores = np.array([one.score for one in shown])
    each = ", ".join(f"{float((off[scores == score] == 0).mean()):.2f}" for score in SCORES)
    return [
        Line(f"{what}: right score", float((off == 0).mean()), bar, f"scores 1 to 4: {each}"),
        Line(f"{what}: at most one off", float(((off <= 1) & seen).mean()), NEAR_BAR),
        Line(f"{what}: severity, mean error", float(error.mean())),
    ]


def measure_learning(settings: Settings) -> list[Line]:
    """The learning curve by animals, and two pairs of scores."""
    lines = []
    for name in settings.names:
        most = max(settings.animals)
        total = most + settings.test_animals
        pictures = lesion_pictures(name, total * PICTURES_AN_ANIMAL, total)
        x, y = features([one.draw() for one in pictures]), np.array([one.score for one in pictures])
        animal = np.array([int(one.animal.rsplit("-", 1)[1]) for one in pictures])
        test = animal >= most
        curve = []
        for animals in settings.animals:
            train = animal < animals
            curve.append(balanced_accuracy(x[train], y[train], x[test], y[test]))
            lines.append(
                Line(f"{name}: balanced accuracy, {animals} animals", curve[-1], note=f"{train.sum()} images")
            )
        rises = float(np.polyfit(np.log2(settings.animals), curve, 1)[0])
        lines.append(Line(f"{name}: the same, all animals", curve[-1], LEARNT_BAR, f"chance is {CHANCE:g}"))
        lines.append(Line(f"{name}: gain with twice the animals", rises, 0.01))
        train = animal < most
        far, near = (
            balanced_accuracy(*_of(x, y, train, pair), *_of(x, y, test, pair)) for pair in ((1, 4), (2, 3))
        )
        lines += [Line(f"{name}: score 1 against 4", far), Line(f"{name}: score 2 against 3", near)]
        lines.append(Line(f"{name}: how much easier the former is", far - near, 0.05))
    return lines


def _of(
    x: NDArray[np.float64], y: NDArray[np.int64], where: NDArray[np.bool_], scores: tuple[int, ...]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    kept = where & np.isin(y, scores)
    return x[kept], y[kept]


def features(images: Sequence[Image.Image]) -> NDArray[np.float64]:
    """The lower half, where the belly is, at 32x16 pixels: shape (images, 1536), in 0..1."""
    small = [image.crop((0, 32, 64, 64)).resize((32, 16), Image.Resampling.BOX) for image in images]
    return np.stack([np.asarray(one, dtype=np.float64).reshape(-1) / 255 for one in small])


def balanced_accuracy(
    x: NDArray[np.float64], y: NDArray[np.int64], test_x: NDArray[np.float64], test_y: NDArray[np.int64]
) -> float:
    """Mean recall of a logistic regression whose loss weighs all classes the same."""
    from sklearn.linear_model import LogisticRegression  # mlflow requires scikit-learn
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(
        StandardScaler(), LogisticRegression(C=0.003, class_weight="balanced", max_iter=300)
    )
    return float(balanced_accuracy_score(test_y, model.fit(x, y).predict(test_x)))


SECTIONS: dict[str, Callable[[Settings], list[Line]]] = {"judge": measure_judge, "learning": measure_learning}


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: the sections asked for (default all), one line a figure; exits with 1 where a bar is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.graded_lesions", description=__doc__)
    parser.add_argument("sections", nargs="*", help=f"of {', '.join(SECTIONS)}; default all")
    parser.add_argument("--sets", nargs="+", choices=GRADED_LESIONS, default=["graded-lesions"])
    given = parser.parse_args(arguments)
    sections = given.sections or list(SECTIONS)
    if unknown := sorted(set(sections) - set(SECTIONS)):
        parser.error(f"no section {', '.join(unknown)}; there are: {', '.join(SECTIONS)}")
    missed = 0
    for section in sections:
        for line in SECTIONS[section](Settings(tuple(given.sets))):
            print(line, flush=True)
            missed += not line.reached
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()

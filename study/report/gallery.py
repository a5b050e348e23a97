"""The sample gallery: which pictures of which runs a report shows, and each of them once, small, as WebP.

What is shown: of each confirm subject the arms by prompts by seeds, the first image of a prompt, with which all arms
have the same noise, beside the base model's and the subject's held-out references. At most `MOST_SUBJECTS` subjects,
`MOST_SEEDS` seeds and `MOST_PROMPTS` prompts, in their order, and no more than `MOST_PICTURES` pictures, each at most
`SIDE` pixels high: `limits` says what gives way. A picture of 64 x 64 pixels takes about 1 kB, so that folder and page
take about 1 MB for all of them.

A picture that is such a small WebP already is taken as it is, so that a report that is made from another's folder has
its bytes.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from study.report.formatting import fixed
from study.report.prepared import Rows, distinct, natural_key, value_or_none
from study.report.tables import Table
from trainables.events import GENERATED
from trainables.methods.registry import BASE

MOST_SUBJECTS, MOST_SEEDS, MOST_PROMPTS = 4, 2, 8
MOST_PICTURES = 160
SIDE = 128  # pixels: height of a picture
OVERVIEW = 640  # pixels: width of a run's whole picture, which is shown where there are no strips
LINKED = frozenset({"summary", "arms", "details", "runs"})  # tables whose lines lead to the gallery
_QUALITY = 85  # of WebP
_SUBJECTS, _SEEDS, _PROMPTS = range(3)
_REFERENCES = "references"
_OVERVIEWS = frozenset({"grid", "samples"})
_OTHERS = frozenset({"class"})

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Picture:
    """A WebP file; width and height in pixels."""

    content: bytes
    width: int
    height: int

    @property
    def uri(self) -> str:
        """The picture in a page itself."""
        return f"data:image/webp;base64,{base64.b64encode(self.content).decode()}"

    @property
    def pixels(self) -> Pixels:
        """As RGB, of shape (height, width, 3)."""
        with Image.open(io.BytesIO(self.content)) as image:
            return np.asarray(image.convert("RGB"), dtype=np.uint8)


@dataclass(frozen=True)
class Shot:
    """A picture of one run and prompt; `scores`: of this very image, empty where unknown."""

    key: str
    step: int | None
    picture: Picture
    scores: str = ""


@dataclass(frozen=True)
class Line:
    """What one run drew: a place for each prompt, None where a picture is missing; `anchor` names the line in a
    page.
    """

    arm: str
    run_key: str
    seed: int
    is_base: bool
    shots: tuple[Shot | None, ...]
    anchor: str


@dataclass(frozen=True)
class SeedLines:
    """All arms with one seed, the base model first; their noise is the same, prompt by prompt."""

    seed: int
    lines: tuple[Line, ...]

    @property
    def base(self) -> Line | None:
        """The base model's line."""
        return next((line for line in self.lines if line.is_base), None)


@dataclass(frozen=True)
class SubjectGallery:
    """The pictures of one subject.

    Attributes:
        keys: Of the pictures in each line, such as "03 subject on a beach".
        references: Its held-out images side by side, which belong to no prompt, and the run that left them.
    """

    subject: str
    keys: tuple[str, ...]
    groups: tuple[SeedLines, ...]
    references: tuple[str, Shot] | None = None

    @property
    def prompts(self) -> tuple[str, ...]:
        """The columns' prompts, as templates."""
        return tuple(prompt_of(key) for key in self.keys)

    @property
    def reference_picture(self) -> Picture | None:
        """The references' picture."""
        return None if self.references is None else self.references[1].picture


@dataclass(frozen=True)
class Gallery:
    """What a report shows.

    Attributes:
        overviews: Whether a line holds one run's whole picture, in place of one picture a prompt.
    """

    subjects: tuple[SubjectGallery, ...] = ()
    overviews: bool = False
    of_data_sets: bool = False
    anchors: Mapping[str, str] = field(default_factory=dict)  # by name of an arm, and by run

    @property
    def words(self) -> str:
        """What the pictures are and how they were chosen: the same for a report that is made from this one's folder."""
        unit, prompt = ("data set", "held-out caption") if self.of_data_sets else ("subject", "prompt")
        what = "the whole picture of each run" if self.overviews else f"the first image of each {prompt}"
        return (
            f"Arm by {prompt} by seed, {what}: within a seed all arms have the same noise. A click enlarges a picture "
            "and puts the base model's with the same noise and the held-out references beside it; a second one closes "
            f"it. Shown are the first {MOST_SUBJECTS} {unit}s, {MOST_SEEDS} seeds and {MOST_PROMPTS} {prompt}s, or "
            f"fewer, so that there are at most {MOST_PICTURES} pictures; storage and MLflow hold the others."
        )

    def kept(self) -> Iterator[tuple[str, Shot]]:
        """Every picture with its run, which the report's folder keeps."""
        for one in self.subjects:
            if one.references is not None:
                yield one.references
            seen = set()  # the base model's line may serve several seeds
            for group in one.groups:
                for line in group.lines:
                    if line.run_key not in seen:
                        yield from ((line.run_key, shot) for shot in line.shots if shot is not None)
                    seen.add(line.run_key)


def limits(arms: int, subjects: int, seeds: int, prompts: int) -> tuple[int, int, int]:
    """How many subjects, seeds and prompts are shown of so many.

    Where `MOST_PICTURES` does not suffice, subjects give way down to two, then prompts down to four, then seeds, and
    then subjects and prompts again, each down to one. Every arm is shown.
    """
    shown = [min(subjects, MOST_SUBJECTS), min(seeds, MOST_SEEDS), min(prompts, MOST_PROMPTS)]
    for place, least in ((_SUBJECTS, 2), (_PROMPTS, 4), (_SEEDS, 1), (_SUBJECTS, 1), (_PROMPTS, 1)):
        while arms * int(np.prod(shown)) > MOST_PICTURES and shown[place] > least:
            shown[place] -= 1
    return shown[_SUBJECTS], shown[_SEEDS], shown[_PROMPTS]


def compute_gallery(rows: Rows) -> Gallery:
    """Chooses and reads the pictures; an empty gallery without any."""
    images = rows.images
    images = images[(images["phase"] == "confirm") & (images["state"] == "COMPLETE")]
    images = images[np.array([Path(path).is_file() for path in images["path"]], dtype=bool)]
    samples, overviews = _samples(images)
    if samples.empty:
        return Gallery()
    is_base = samples["arm"].map(rows.methods) == BASE
    seeded = samples if is_base.all() else samples[~is_base]
    by_subject = seeded.groupby("subject")
    seeds, prompts = (int(by_subject[name].nunique().max()) for name in ("seed", "key"))
    shown = limits(samples["arm"].nunique(), samples["subject"].nunique(), seeds, prompts)
    scores = _scores(rows)
    found: list[SubjectGallery] = []
    for subject in distinct(samples["subject"]):
        if len(found) < shown[_SUBJECTS]:
            own = images[(images["subject"] == subject) & (images["key"] == _REFERENCES)]
            one = _of_subject(
                rows, samples[samples["subject"] == subject], own, shown, overviews, len(found) + 1, scores
            )
            found += [one] if one.groups else []
    lines = [line for one in found for group in one.groups for line in group.lines]
    anchors: dict[str, str] = {}
    for line in lines:
        anchors.setdefault(line.arm, line.anchor)
        anchors.setdefault(line.run_key, line.anchor)
    return Gallery(tuple(found), overviews, rows.of_data_sets, anchors)


def linked(table: Table, gallery: Gallery) -> Table:
    """The table with links from its arms, or runs, to their lines in the gallery; only tables in `LINKED`."""
    place = {column.key: k for k, column in enumerate(table.columns)}
    named = next((name for name in ("run_key", "arm") if name in place), None)
    if table.key not in LINKED or named is None:
        return table
    k = place[named]
    rows = tuple(
        (*row[:k], replace(row[k], anchor=gallery.anchors.get(str(row[k].value), "")), *row[k + 1 :])
        for row in table.rows
    )
    return replace(table, rows=rows)


def prompt_of(key: str) -> str:
    """The template in a key: "03 subject on a beach" is "{subject} on a beach", since keys hold no braces."""
    found = re.fullmatch(r"\d+ (.*)", key)
    return key if found is None else re.sub(r"\bsubject\b", "{subject}", found[1], count=1)


# ------------------------------------------------------------------ which pictures


def _samples(images: pd.DataFrame) -> tuple[pd.DataFrame, bool]:
    """Each run's pictures at its last step, and whether these are overviews, since there are no strips."""
    of_classes = images["key"].astype(str).str.startswith(GENERATED)  # which the downstream section shows
    samples = images[~images["key"].isin({_REFERENCES} | _OTHERS) & ~of_classes]
    of_runs = samples["key"].isin(_OVERVIEWS)
    overviews = bool(len(samples)) and bool(of_runs.all())
    samples = samples if overviews else samples[~of_runs]
    steps = samples["step"].fillna(0)
    return samples[steps == steps.groupby(samples["run_key"]).transform("max")], overviews


def _of_subject(
    rows: Rows,
    samples: pd.DataFrame,
    references: pd.DataFrame,
    shown: tuple[int, int, int],
    overviews: bool,
    number: int,
    scores: Mapping[tuple[str, int], str],
) -> SubjectGallery:
    """The gallery of one subject, the `number`-th of the report; without groups where no picture can be read."""
    keys = tuple(sorted({str(key) for key in samples["key"]}, key=natural_key)[: shown[_PROMPTS]])
    is_base = samples["arm"].map(rows.methods) == BASE
    seeded = samples if is_base.all() else samples[~is_base]
    counts = seeded.groupby("seed")["arm"].nunique()
    by_count = zip(counts.index.tolist(), counts.tolist(), strict=True)
    most = sorted((-count, int(seed)) for seed, count in by_count)[: shown[_SEEDS]]
    seeds = sorted(seed for _, seed in most)
    by_run = {
        (str(own["arm"].iloc[0]), int(own["seed"].iloc[0])): own
        for _, own in samples.groupby(["arm", "seed"])
    }
    lines: dict[tuple[str, int], Line | None] = {}
    groups = []
    for place, seed in enumerate(seeds, start=1):
        found = []
        for k, arm in enumerate(sorted(rows.arms, key=lambda name: rows.methods.get(name) != BASE)):
            base = rows.methods.get(arm) == BASE
            # The base model does not depend on the seed of training: another of its runs is better than none.
            others = [other for name, other in sorted(by_run) if name == arm] if base else []
            drawn = seed if (arm, seed) in by_run else next(iter(others), None)
            if drawn is None:
                continue
            if (arm, drawn) not in lines:
                anchor = f"sample-{number}-{place}-{k}"
                lines[arm, drawn] = _line(by_run[arm, drawn], keys, overviews, anchor, base, scores)
            line = lines[arm, drawn]
            found += [] if line is None else [replace(line, anchor=f"sample-{number}-{place}-{k}")]
        groups += [SeedLines(seed, tuple(found))] if found else []
    subject = str(samples["subject"].iloc[0])
    return SubjectGallery(subject, keys, tuple(groups), _references(references))


def _references(images: pd.DataFrame) -> tuple[str, Shot] | None:
    for row in images.to_dict("records"):
        picture = read_picture(row["path"])
        if picture is not None:
            return str(row["run_key"]), Shot(_REFERENCES, _step(row["step"]), picture)
    return None


def _line(
    images: pd.DataFrame,
    keys: tuple[str, ...],
    overviews: bool,
    anchor: str,
    base: bool,
    scores: Mapping[tuple[str, int], str],
) -> Line | None:
    """The line of one run; None where none of its pictures can be read."""
    first = images.drop_duplicates("key")
    first = first[first["run_key"] == first["run_key"].iloc[0]].set_index("key")
    run = str(first["run_key"].iloc[0])
    shots: list[Shot | None] = []
    for key in keys:
        row = first.loc[key] if key in first.index else None
        picture = None if row is None else read_picture(row["path"], first=not overviews, overview=overviews)
        number = re.match(r"\d+", key)
        said = scores.get((run, int(number[0])), "") if number else ""
        shots.append(None if row is None or picture is None else Shot(key, _step(row["step"]), picture, said))
    if not any(shots):
        return None
    return Line(str(first["arm"].iloc[0]), run, int(first["seed"].iloc[0]), base, tuple(shots), anchor)


def _step(value: object) -> int | None:
    known = value_or_none(value)
    return None if known is None else int(known)


def _scores(rows: Rows) -> dict[tuple[str, int], str]:
    """What the first image of each run and prompt scored, in words."""
    table = rows.image_scores
    own = table[(table["kind"] == "instance") & (table["image"] == 0) & table["prompt"].notna()]
    found = {}
    columns = (own[name] for name in ("run_key", "prompt", "subject_scaled", "prompt_scaled", "failed"))
    for run, prompt, subject, prompted, failed in zip(*columns, strict=True):
        parts = [
            f"{name} {fixed(value, 2)}"
            for name, value in (("subject fidelity", subject), ("prompt fidelity", prompted))
            if value_or_none(value) is not None
        ]
        found[str(run), int(prompt)] = ", ".join(parts + (["a failed image"] if failed == 1 else []))
    return found


# ------------------------------------------------------------------ one picture


def read_picture(path: str | Path, *, first: bool = False, overview: bool = False) -> Picture | None:
    """Reads a picture as a small WebP; None where it is missing or broken.

    Args:
        first: Of a strip of square images side by side, the first alone.
        overview: Whether it is a run's whole picture: at most `OVERVIEW` pixels wide, else at most `SIDE` high.
    """
    try:
        content = Path(path).read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            width = min(image.size) if first else image.width
            scale = min(1.0, OVERVIEW / width if overview else SIDE / image.height)
            if image.format == "WEBP" and width == image.width and scale == 1.0:
                image.load()
                return Picture(content, image.width, image.height)
            small = image.crop((0, 0, width, image.height)).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    if scale < 1.0:
        size = max(1, round(small.width * scale)), max(1, round(small.height * scale))
        small = small.resize(size, Image.Resampling.LANCZOS)
    file = io.BytesIO()
    small.save(file, "WEBP", quality=_QUALITY, method=6, use_sharp_yuv=True)
    return Picture(file.getvalue(), small.width, small.height)

"""What the study asked of its runs: subjects, seeds, prompts, images and searches of each phase."""

from __future__ import annotations

from dataclasses import dataclass

from study.report.measures import ANCHOR_ERRORS
from study.report.prepared import Rows, distinct, section, value_or_none
from study.report.searches import repeats_of
from study.storage.run_key import PHASES
from trainables.config.fields import images_on_the_way
from trainables.evaluation.metrics_table import HELD_OUT_LOSS

ANCHOR_IMAGES = 64  # of the base model, at least, where newer scales begin, unless the study says otherwise


@dataclass(frozen=True)
class PhaseDesign:
    """One phase; numbers of images are those of a run's last evaluation, None where unknown.

    Attributes:
        images_between, class_images_between: Of each evaluation on the way.
        anchors: Images of the base model, at least, that the scales begin at; None where unknown.
        searches: Independent searches of each arm; of the confirm phase, over how many they are dealt out.
    """

    phase: str
    subjects: tuple[str, ...]
    seeds: tuple[int, ...]
    prompts: int | None
    images: int | None
    class_images: int | None
    images_between: int | None
    class_images_between: int | None
    anchors: int | None
    searches: int


def design_of(rows: Rows) -> tuple[PhaseDesign, ...]:
    """The phases that have runs, the search first."""
    found = (_phase(rows, phase) for phase in PHASES)
    return tuple(phase for phase in found if phase is not None)


def confirm_design(rows: Rows) -> PhaseDesign | None:
    """The confirm phase, None without a run of it."""
    return _phase(rows, "confirm")


def _phase(rows: Rows, phase: str) -> PhaseDesign | None:
    own = rows.frame[rows.frame["phase"] == phase]
    if own.empty:
        return None
    prompts, images, classes = _drawn(rows, phase)
    some, of_class = _between(rows, images, classes)
    return PhaseDesign(
        phase,
        tuple(distinct(own["subject"])),
        tuple(int(seed) for seed in distinct(own["seed"])),
        prompts,
        images,
        classes,
        some,
        of_class,
        _anchors(rows) if own[list(ANCHOR_ERRORS)].notna().any(axis=None) else None,
        repeats_of(rows) if len(rows.search) else 0,
    )


def _anchors(rows: Rows) -> int:
    stated = value_or_none(section(rows.meta, "spec", "evaluation").get("anchor_images"))
    return ANCHOR_IMAGES if stated is None else int(stated)


def _drawn(rows: Rows, phase: str) -> tuple[int | None, int | None, int | None]:
    """Prompts, images and class images of a run: as they were scored, or else as the study file states them."""
    if phase in rows.drawn:
        seen = rows.drawn[phase]
        return seen.prompts, seen.images, seen.class_images
    stated = section(rows.meta, "spec", "evaluation")
    if phase == "search":
        stated = section(stated, "search")
    prompts = stated.get("prompts")
    most = value_or_none(stated.get("num_prompts"))
    count = len(prompts) if isinstance(prompts, (list, tuple)) else None
    each, classes = (value_or_none(stated.get(name)) for name in ("images_per_prompt", "num_class_images"))
    if most is not None and count is not None:
        count = min(count, int(most))
    images = int(count * each) if count is not None and each is not None else None
    return count, images, None if classes is None else int(classes)


def _between(rows: Rows, images: int | None, classes: int | None) -> tuple[int | None, int | None]:
    """Images of an evaluation on the way: `evaluation.images_between` of the subject's, and the same share of the
    class images, at least eight, or all where the end has fewer.
    """
    if section(rows.meta, "spec", "evaluation").get("restore_best") not in (None, HELD_OUT_LOSS):
        return None, None  # of the search's prompts, however many there are
    some = value_or_none(section(rows.meta, "spec", "evaluation").get("images_between"))
    if some is None or images is None:
        return images, classes
    drawn, of_class = images_on_the_way(images, classes or 0, int(some))
    return drawn, None if classes is None else of_class

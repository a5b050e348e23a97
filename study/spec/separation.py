"""What search and confirm must not share, and how budgets and subjects are dealt out over searches.

A search tunes on what it sees. Results on the same subjects or prompts would in part measure how well it did that.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pydantic import ValidationError

from study.spec.phases import ConfirmSpec, SearchSpec
from study.spec.sections import Budget, arm_space, code_of
from trainables.config.fields import MASKS, ModelConfig, SubjectConfig
from trainables.config.messages import Loc
from trainables.util.process import expanded
from trainables.util.text import some, without_case

if TYPE_CHECKING:
    from study.spec.sound_sections import Sections

ASKED_FOR = "or set search.allow_overlap: true, which makes results look better than they are, as the report then says"


def default_subjects(
    subjects: tuple[SubjectConfig, ...], search: SearchSpec, confirm: ConfirmSpec
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns the names for search and confirm: by default one subject for each search, and all the others.

    If that leaves none for the confirm phase, it has all of them (see `shared_subjects`).
    """
    names = tuple(subject.name for subject in subjects)
    searched = search.subjects if search.subjects is not None else names[: search.repeats]
    others = tuple(name for name in names if name not in searched) or names
    return searched, confirm.subjects if confirm.subjects is not None else others


def searched_methods(sections: Sections) -> list[str]:
    """Returns the method of each arm that has something to search (see `study.spec.sections.code_of`)."""
    training, budget = sections.training or {}, sections.budget or Budget()
    found = []
    for arm in (sections.arms or {}).values():
        try:
            space = arm_space(arm, training, budget, sections.model or ModelConfig())
        except ValidationError:
            continue  # told by other rules
        if space.parameters:
            found.append(code_of(arm.method))
    return found


def dealt_out(sections: Sections) -> Iterator[tuple[Loc, str]]:
    """Every search has as many subjects as the others."""
    search, subjects = sections.search, sections.subjects
    if search is None or search.repeats == 1 or subjects is None:
        return
    repeats = search.repeats
    names = default_subjects(subjects, search, sections.confirm or ConfirmSpec())[0]
    if search.subjects is None and len(names) < repeats:
        yield (
            ("search", "repeats"),
            f"is {repeats}, and each search has a subject of its own, but the study has only {len(names)}; add "
            f"subjects, or take at most {len(names)} searches",
        )
    elif names and len(names) % repeats:
        more = repeats * (len(names) // repeats + 1)
        yield (
            ("search", "subjects" if search.subjects is not None else "repeats"),
            f"{len(names)} subjects cannot be dealt out evenly over {repeats} searches (search.repeats); name "
            f"{more} subjects, or take another number of searches",
        )


def choices_confirmed(sections: Sections) -> Iterator[tuple[Loc, str]]:
    """What a search chooses is confirmed on at least one subject."""
    search, confirm = sections.search, sections.confirm
    if search is None or confirm is None or sections.subjects is None or not confirm.seeds:
        return
    searched, names = default_subjects(sections.subjects, search, confirm)
    if confirm.subjects is None and set(names) & set(searched) and not search.allow_overlap:
        return  # told by `shared_subjects`
    if 0 < len(names) < search.repeats and searched_methods(sections):
        yield (
            ("confirm", "subjects") if confirm.subjects is not None else ("subjects",),
            f"there are {search.repeats} searches (search.repeats), but {len(names)} confirm "
            f"subject{'s' * (len(names) > 1)} to be dealt out over their choices; take at least {search.repeats} "
            "confirm subjects, or fewer searches",
        )


def trials_per_method(sections: Sections) -> Iterator[tuple[Loc, str]]:
    """Every arm that searches gets a trial of its method's."""
    trials = sections.search.trials_per_method if sections.search is not None else None
    if trials is None:
        return
    for method, arms in Counter(searched_methods(sections)).items():
        if trials < arms:
            yield (
                ("search", "trials_per_method"),
                f"is {trials}, but {arms} arms of method {method} search, and each needs at least one trial; "
                f"set it to at least {arms}",
            )


def shared_subjects(sections: Sections) -> Iterator[tuple[Loc, str]]:
    """No subject is in both phases."""
    search, confirm, subjects = sections.search, sections.confirm, sections.subjects
    if search is None or confirm is None or not subjects or not _both_phases(sections):
        return
    names = {subject.name for subject in subjects}
    searched, confirmed = default_subjects(subjects, search, confirm)
    if len(names) < len(subjects) or not names.issuperset((*searched, *confirmed)):
        return  # told by other rules
    shared = [name for name in confirmed if name in searched]
    if not shared:
        yield from _shared_folders(subjects, searched, confirmed)
        return
    unit = "data set" if any(subject.is_data_set for subject in subjects) else "subject"
    if confirm.subjects is None:  # none was left
        needed = len(set(searched)) + search.repeats
        has = f"the study has {len(subjects)} {unit}{'s' * (len(subjects) > 1)}"
        needs = f"search and confirm together need at least {needed}, because none may be in both"
        yield ("subjects",), f"{has}, but {needs}; add {needed - len(subjects)} more, {ASKED_FOR}"
        return
    place = unit if len(shared) == 1 else f"{unit}s"
    yield (
        ("confirm", "subjects"),
        f"{place} {', '.join(shared)} {'is' if len(shared) == 1 else 'are'} also searched on (search.subjects: "
        f"{', '.join(searched)}), which favours what the search chose by luck; take other {unit}s, {ASKED_FOR}",
    )


def _shared_folders(
    subjects: Sequence[SubjectConfig], searched: Sequence[str], confirmed: Sequence[str]
) -> Iterator[tuple[Loc, str]]:
    """Photographs under two names are still the same."""
    folders = {
        subject.name: {
            os.path.realpath(expanded(place))
            for field, place in subject.folders.items()
            if field not in MASKS
        }
        for subject in subjects
    }
    for name in confirmed:
        for other in searched:
            if same := folders[name] & folders[other]:
                yield (
                    ("confirm", "subjects"),
                    f"{name} has photographs of {other}, which is searched on ({min(same)}); take other "
                    f"photographs, {ASKED_FOR}",
                )


def shared_prompts(sections: Sections) -> Iterator[tuple[Loc, str]]:
    """No prompt is in both phases, whatever its case and spaces; the built-in lists share none.

    Of data sets prompts that are stated are compared with each other, also where one data set is allowed in both
    phases; with its held-out captions they are compared when it is read (``study/preflight/data_set_checks.py``).
    """
    evaluation = sections.evaluation
    of_data_sets = any(subject.is_data_set for subject in sections.subjects or ())
    if evaluation is None or not sections.subjects or not _both_phases(sections, allowed=of_data_sets):
        return
    search, confirm = evaluation.of_phase("search"), evaluation.of_phase("confirm")
    stated = [settings.prompts is not None for settings in (search, confirm)]
    if not (all(stated) if of_data_sets else any(stated)):
        return
    from trainables.evaluation.choice import plain_template
    from trainables.evaluation.prompts import templates_of

    shared: dict[str, None] = {}
    plain = plain_template if of_data_sets else without_case
    for embedded in {subject.images is None for subject in sections.subjects}:
        seen = {plain(template) for template in templates_of(embedded, search)}
        shared |= dict.fromkeys(text for text in templates_of(embedded, confirm) if plain(text) in seen)
    if shared:
        named = some([repr(template) for template in shared], 1)
        yield (
            ("evaluation", "search", "prompts")
            if evaluation.search.prompts is not None
            else ("evaluation", "prompts"),
            f"{named} would judge both search and confirm, which favours what the search chose by luck; "
            f"take other prompts in one of them{'' if of_data_sets else f', {ASKED_FOR}'}",
        )


def _both_phases(sections: Sections, *, allowed: bool = False) -> bool:
    """Whether there is anything to share, and nobody has asked for it (`allowed`: whoever has)."""
    search, confirm = sections.search, sections.confirm
    if search is None or confirm is None or (search.allow_overlap and not allowed):
        return False
    return bool(confirm.seeds) and confirm.subjects != () and bool(searched_methods(sections))

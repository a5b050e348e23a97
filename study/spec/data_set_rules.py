"""Rules of studies on data sets: what a study must not mix, and what has no meaning without a subject."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from study.spec.effects import values_of
from study.spec.sections import Arm, Budget
from study.storage.run_key import Phase
from trainables.config.fields import ModelConfig
from trainables.config.messages import Loc
from trainables.evaluation.metrics_table import data_set_metrics
from trainables.methods.data_set_fit import (
    ONLY_DATA_SETS,
    json_word,
    obstacle_on_data_sets,
    refused_on_data_sets,
)
from trainables.methods.registry import BASE, method_config_class

if TYPE_CHECKING:
    from study.spec.sound_sections import Sections

_CAPTIONS = "captions"


def one_kind_of_subjects(sections: Sections) -> Iterator[tuple[Loc, str]]:
    """A study compares on subjects, or on data sets: their scores are different measures, with one name or none."""
    subjects = sections.subjects or ()
    sets = [subject.name for subject in subjects if subject.is_data_set]
    others = [subject.name for subject in subjects if not subject.is_data_set]
    if sets and others:
        yield (
            ("subjects",),
            f"mixes data sets ({', '.join(sets)}) and subjects ({', '.join(others)}), which are judged by different "
            "measures, so that no mean over them means anything; write a study for each kind",
        )


def fields_of_one_kind(sections: Sections) -> Iterator[tuple[Loc, str]]:
    """No arm has a method, or a field, that means nothing for what it is trained on."""
    subjects = sections.subjects or ()
    on_data_sets = any(subject.is_data_set for subject in subjects)
    if not subjects or (on_data_sets and not all(subject.is_data_set for subject in subjects)):
        return  # mixed, which is told
    for name, arm in (sections.arms or {}).items():
        if arm.method == BASE:
            continue
        if on_data_sets and (obstacle := obstacle_on_data_sets(arm.method)) is not None:
            yield ("arms", name, "method"), obstacle
            continue
        fields = refused_on_data_sets(subjects) if on_data_sets else ONLY_DATA_SETS
        for field, (value, reason) in fields.items():
            if "method" in method_config_class(arm.method).needs_of(field):
                continue
            if value in _values(field, arm, sections):
                yield (
                    _loc(field, name, arm, sections),
                    f"{field}: {json_word(value)} {_by_default(field, arm, sections)}{reason}",
                )
        stated = on_data_sets and _is_stated(_CAPTIONS, arm, sections)
        if stated and "instance_prompt" in _values(_CAPTIONS, arm, sections):
            yield (
                _loc(_CAPTIONS, name, arm, sections),
                "captions: instance_prompt, but a data set is trained on the captions of its images (captions: files "
                "is implied); remove it",
            )


def measures_of_one_kind(sections: Sections) -> Iterator[tuple[Loc, str]]:
    """Nothing that is measured of data sets alone decides a study of subjects."""
    subjects, search, evaluation = sections.subjects or (), sections.search, sections.evaluation
    if not subjects or any(subject.is_data_set for subject in subjects):
        return
    found: list[tuple[Loc, str]] = []
    if search is not None:
        place = "objectives" if search.objectives else "objective"
        bounds = (bound.metric for bound in search.constraints)
        found += [(("search", place), name) for name in (*search.metrics, *bounds)]
    if evaluation is not None and evaluation.restore_best is not None:
        found.append((("evaluation", "restore_best"), evaluation.restore_best))
    for loc, name in found:
        if name in data_set_metrics():
            yield (
                loc,
                f"{name} is measured of data sets alone, and this is a study of subjects: no run would have a value; "
                "take for example quality or subject_fidelity",
            )


def prompts_of_one_kind(sections: Sections) -> Iterator[tuple[Loc, str]]:
    """No prompt for subjects asks for the characters of a data set."""
    subjects, evaluation = sections.subjects or (), sections.evaluation
    if evaluation is None or not subjects or any(subject.is_data_set for subject in subjects):
        return
    from trainables.evaluation.held_out_captions import characters_of_subjects

    phases: tuple[tuple[Phase, Loc], ...] = (
        ("search", ("evaluation", "search", "prompts")),
        ("confirm", ("evaluation", "prompts")),
    )
    told = dict.fromkeys(
        (loc if evaluation.search.prompts is not None else ("evaluation", "prompts"), problem)
        for phase, loc in phases
        for problem in characters_of_subjects(evaluation.of_phase(phase))
    )
    yield from told


def _values(field: str, arm: Arm, sections: Sections) -> list[object]:
    training, budget = sections.training or {}, sections.budget or Budget()
    return list(values_of(field, arm, training, budget, sections.model or ModelConfig()))


def _is_stated(field: str, arm: Arm, sections: Sections) -> bool:
    return field in arm.fixed or field in (arm.search_space or {}) or field in (sections.training or {})


def _by_default(field: str, arm: Arm, sections: Sections) -> str:
    return "" if _is_stated(field, arm, sections) else f"(the default of {arm.method}) "


def _loc(field: str, name: str, arm: Arm, sections: Sections) -> Loc:
    """Where the value stands in the file; the arm, if it is a default."""
    if field in (arm.search_space or {}):
        return ("arms", name, "search_space", field)
    if field in arm.fixed:
        return ("arms", name, field)
    return ("training", field) if field in (sections.training or {}) else ("arms", name)

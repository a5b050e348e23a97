"""Whether the data sets of a study can be judged as it says, and how many prompts they are asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from trainables.config.fields import EvaluationConfig, SubjectConfig
from trainables.run.held_out_checks import check_held_out, held_out_notes, templates_asked

if TYPE_CHECKING:
    from study.spec.study_spec import StudySpec

_SECTIONS: dict[Literal["search", "confirm"], str] = {"search": "evaluation.search", "confirm": "evaluation"}


def check_data_sets(spec: StudySpec) -> list[str]:
    """Returns what keeps the study's data sets from being judged in the phases in which they are, one message each."""
    problems = [
        problem
        for phase, section in _SECTIONS.items()
        for subject in _subjects(spec, phase)
        for problem in check_held_out(subject, spec.evaluation.of_phase(phase), _searched_by(spec), section)
    ]
    return list(dict.fromkeys(problems))


def data_set_notes(spec: StudySpec) -> list[str]:
    """Returns what of the study's data sets cannot be measured, though nothing goes by it."""
    return [
        note
        for subject in _subjects(spec, "confirm")
        for note in held_out_notes(subject, spec.evaluation.of_phase("confirm"), _searched_by(spec))
    ]


def prompt_count(subject: SubjectConfig, config: EvaluationConfig, *, chooses: bool = False) -> int:
    """Returns the number of prompts that the result of a run on a subject or data set is judged on.

    Args:
        config: Of the run.
        chooses: Those that choose its step instead; 0 where images choose none.
    """
    return next(map(len, templates_asked(subject, config)[chooses:]), 0)


def _subjects(spec: StudySpec, phase: Literal["search", "confirm"]) -> list[SubjectConfig]:
    section = spec.search if phase == "search" else spec.confirm
    used = _searches(spec) if phase == "search" else bool(spec.confirm.seeds)
    found = [spec.subject(name) for name in section.subjects or ()] if used else []
    return [subject for subject in found if subject.is_data_set]


def _searches(spec: StudySpec) -> bool:
    return any(spec.trials_of(arm) for arm in spec.arms)


def _searched_by(spec: StudySpec) -> tuple[str, ...]:
    """Metrics by which configurations are chosen; none where nothing is searched."""
    bounds = (bound.metric for bound in spec.search.constraints)
    return (*spec.search.metrics, *bounds) if _searches(spec) else ()

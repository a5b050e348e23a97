"""Whether the data sets of a study can be judged as it says, and how many prompts they are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from study.storage.run_key import Phase
from trainables.config.fields import EvaluationConfig, SubjectConfig
from trainables.run.held_out_checks import check_held_out, held_out_notes, templates_asked
from trainables.util.text import some

if TYPE_CHECKING:
    from study.spec.study_spec import StudySpec

_SECTIONS: dict[Phase, str] = {"search": "evaluation.search", "confirm": "evaluation"}


def check_data_sets(spec: StudySpec) -> list[str]:
    """Returns what keeps the study's data sets from being judged in the phases in which they are, one message each."""
    problems = [
        problem
        for phase, section in _SECTIONS.items()
        for subject in _data_sets(spec, phase)
        for problem in check_held_out(subject, spec.evaluation.of_phase(phase), _searched_by(spec), section)
    ]
    return list(dict.fromkeys([*problems, *_shared_captions(spec)]))


def _shared_captions(spec: StudySpec) -> Iterator[str]:
    """Prompts that a study states for one phase are no held-out captions that the other is judged by.

    Captions of two data sets are not compared with each other, nor prompts that are stated for both phases, which
    `study.spec.separation.shared_prompts` does.
    """
    from trainables.evaluation.choice import plain_template

    search, confirm = spec.evaluation.of_phase("search"), spec.evaluation.of_phase("confirm")
    if (search.prompts is None) == (confirm.prompts is None):
        return
    for searched in _data_sets(spec, "search"):
        seen = {plain_template(one) for asked in templates_asked(searched, search) for one in asked}
        for confirmed in _data_sets(spec, "confirm"):
            asked = next(iter(templates_asked(confirmed, confirm)), ())
            shared = [template for template in asked if plain_template(template) in seen]
            if shared:
                place, captioned, judged = (
                    ("evaluation.search.prompts", confirmed, "confirm runs are")
                    if confirm.prompts is None
                    else ("evaluation.prompts", searched, "the search is")
                )
                named = some([repr(template) for template in shared], 1)
                yield (
                    f"{place}: {named} is a held-out caption of data set {captioned.name!r}, by which "
                    f"{judged} judged, and would judge both search and confirm, which favours what the search chose by "
                    "luck; take other prompts"
                )


def data_set_notes(spec: StudySpec) -> list[str]:
    """Returns what of the study's data sets cannot be measured, though nothing goes by it."""
    return [
        note
        for subject in _data_sets(spec, "confirm")
        for note in held_out_notes(subject, spec.evaluation.of_phase("confirm"), _searched_by(spec))
    ]


def prompt_count(subject: SubjectConfig, config: EvaluationConfig, *, chooses: bool = False) -> int:
    """Returns the number of prompts that the result of a run on a subject or data set is judged on.

    Args:
        config: Of the run.
        chooses: Those that choose its step instead; 0 where images choose none.
    """
    return next(map(len, templates_asked(subject, config)[chooses:]), 0)


def _data_sets(spec: StudySpec, phase: Phase) -> list[SubjectConfig]:
    return [subject for subject in spec.subjects_in(phase) if subject.is_data_set]


def _searched_by(spec: StudySpec) -> dict[str, str]:
    """Metrics by which configurations are chosen, with where the study names them; none where nothing is searched."""
    if not spec.subjects_in("search"):
        return {}
    place = "search.objectives" if spec.search.objectives else "search.objective"
    bounds = {bound.metric: "search.objective.subject_to" for bound in spec.search.constraints}
    return bounds | dict.fromkeys(spec.search.metrics, place)

"""Whether the hypotheses of a study file can be asked of its arms."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from study.spec.effects import values_of
from study.spec.hypotheses import Hypothesis, LevelsOf, Operand, agrees
from study.spec.sound_sections import Problem, Sections
from trainables.config.messages import did_you_mean
from trainables.methods.registry import method_config_class


def levels_in(sections: Sections) -> LevelsOf:
    """Returns what gives the values of a field, or ``method``, in an arm of a study."""
    arms = sections.arms or {}

    def levels(arm: str, field: str) -> Sequence[Any]:
        method = arms[arm].method
        if field == "method":
            return [method]
        if "method" in method_config_class(method).needs_of(field):  # it does not read it
            return []
        if sections.training is None or sections.budget is None or sections.model is None:
            return []
        return values_of(field, arms[arm], sections.training, sections.budget, sections.model)

    return levels


def answerable(sections: Sections) -> Iterator[Problem]:
    """A hypothesis names arms that there are, conditions that some arm meets, and inference steps that are drawn."""
    arms = list(sections.arms or {})
    whole = None not in (sections.training, sections.budget, sections.model) and bool(arms)
    drawn = sections.evaluation.inference_steps if sections.evaluation is not None else ()
    for name, hypothesis in (sections.hypotheses or {}).items():
        steps = hypothesis.inference_steps
        if steps is not None and sections.evaluation is not None and steps not in drawn:
            yield (
                ("hypotheses", name, "inference_steps"),
                f"{steps} is none of evaluation.inference_steps ({list(drawn)}); add it there",
            )
        for place, operand in _placed(hypothesis):
            for arm in operand.named:
                if arms and arm not in arms:
                    near = did_you_mean(arm, arms)
                    yield (
                        ("hypotheses", name, *place),
                        f"no arm is called {arm!r}; {near}arms: {', '.join(arms)}",
                    )
            if operand.where is not None and whole:
                levels = levels_in(sections)
                if not any(agrees(arm, operand.where, levels) for arm in arms):
                    yield ("hypotheses", name, *place, "where"), _nowhere(operand.where, arms, levels)


def _nowhere(where: Mapping[str, Any], arms: Sequence[str], levels: LevelsOf) -> str:
    there = {
        field: list(
            dict.fromkeys(json.dumps(found[0]) for arm in arms if len(found := levels(arm, field)) == 1)
        )
        for field in where
    }
    said = "; ".join(
        f"{field}: {', '.join(values) or 'no value of its own in any arm'}" for field, values in there.items()
    )
    return f"no arm has all of that; there are {said}"


def _placed(hypothesis: Hypothesis) -> Iterator[tuple[tuple[str | int, ...], Operand]]:
    several = len(hypothesis.operands) > 1
    for position, operand in enumerate(hypothesis.operands):
        yield (hypothesis.statistic, *((position,) if several else ())), operand

"""What a plan says of a study's hypotheses: each as it was read, and whether the confirm phase can decide it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from study.preflight.detectable import assumed_spread

if TYPE_CHECKING:
    from study.spec.hypotheses import Operand, Statement
    from study.spec.study_spec import StudySpec

_NAMED = 3  # arms of a mean
_BETWEEN = {"difference": " less ", "ratio": " over ", "value": ""}


def hypothesis_lines(spec: StudySpec) -> list[str]:
    """Returns a line for each hypothesis, and lines on what decides those on quality; none without hypotheses."""
    stated = spec.statements
    if not stated:
        return []
    many = "hypotheses, which are judged together" if len(stated) > 1 else "hypothesis"
    return [f"{len(stated)} {many}:", *(f"  {one.name}: {words_of(one)}" for one in stated), *_decided(spec)]


def words_of(statement: Statement) -> str:
    """A hypothesis in the names that the study file has, such as "quality of a less b is more than 0"."""
    if statement.statistic == "arithmetic":
        return f"arithmetic, {_number(statement.number)} {_expected(statement)}"
    what = _BETWEEN[statement.statistic].join(map(_operand, statement.operands))
    steps = "" if statement.inference_steps is None else f" at {statement.inference_steps} inference steps"
    return f"{statement.measure}{steps} of {what} {_expected(statement)}"


def _operand(operand: Operand) -> str:
    if operand.predicted is not None:
        return _number(operand.predicted)
    named = operand.named
    more = f" and {len(named) - _NAMED + 1} more" if len(named) > _NAMED else ""
    names = ", ".join(named[: _NAMED - 1] if more else named) + more
    if operand.each_of is not None:
        return f"each of ({', '.join(named)})"
    return names if len(operand.named) == 1 else f"the mean of ({names})"


def _number(value: float | str | None) -> str:
    from study.spec.hypotheses import number_of

    return "nothing" if value is None else f"{number_of(value):.12g}"


def _expected(statement: Statement) -> str:
    expect = statement.expect
    within = f" (within {statement.margin:g} as good as equal)" if statement.margin else ""
    if expect.between is not None:
        return f"is between {' and '.join(map(_number, expect.between))}"
    if expect.equal_to is not None:
        return f"is {_number(expect.equal_to)}" + (
            f" within {statement.margin:g}" if statement.margin else ""
        )
    if expect.more_than is not None:
        return f"is more than {_number(expect.more_than)}{within}"
    return f"is less than {_number(expect.less_than)}{within}"


def _decided(spec: StudySpec) -> list[str]:
    """What the number of confirm subjects can decide of differences in quality, with the level that each has."""
    from study.statistics.power import (
        MIN_SUBJECTS,
        MOST_SUBJECTS,
        SIGNIFICANCE,
        smallest_effect,
        subjects_to_show_inside,
    )

    asked = [one for one in spec.statements if one.statistic != "arithmetic"]
    of_quality = [one for one in asked if (one.measure, one.statistic) == ("quality", "difference")]
    subjects = len(spec.confirm.subjects or ())
    if not of_quality or not spec.confirm.seeds:
        return []
    if subjects < MIN_SUBJECTS:
        return [f"  fewer than {MIN_SUBJECTS} confirm subjects decide none of them"]
    alpha, spread = SIGNIFICANCE / len(asked), assumed_spread(spec)
    found = smallest_effect(subjects, alpha) * spread
    lines = [
        f"  {subjects} subjects decide in 80 % of studies what is {found:.2f} or more of quality away from its limit, "
        f"if differences vary by {spread:.2f}"
    ]
    margins = [one.margin for one in of_quality if one.expect.equal_to is not None and one.margin]
    if margins:
        least = min(margins)
        needed = subjects_to_show_inside(0.0, spread, least, alpha / 2)
        about = f"about {needed}" if needed is not None else f"more than {MOST_SUBJECTS}"
        lines.append(f"  that what is equal is so within {least:g} takes {about} subjects")
    return lines

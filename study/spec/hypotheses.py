"""Hypotheses: claims that a study file states before there are results, and that the report judges.

Each compares arms by one measure, or checks arithmetic. What the report and the ledger hold is a `Statement`: the same
with the arms that its conditions mean, so that nothing can be read into it later.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BeforeValidator, Field, field_validator, model_validator

from study.spec.arithmetic import MOST_CHARACTERS, value_of
from trainables.config.frozen import Frozen
from trainables.config.messages import Loc, did_you_mean
from trainables.config.yaml_reader import RuleError
from trainables.evaluation.metrics_table import AT_INFERENCE_STEPS, METRICS
from trainables.util.text import is_blank

#: Sums of a run's costs that the report makes (`study.report.measures`), beside what runs themselves measure.
MADE_BY_REPORT = ("total_seconds", "total_flops", "dollars")

Statistic = Literal["difference", "ratio", "value", "arithmetic"]
STATISTICS: tuple[Statistic, ...] = get_args(Statistic)


def _expression(value: Any) -> Any:
    """A number, or arithmetic that comes to one."""
    if isinstance(value, str):
        if len(value) > MOST_CHARACTERS:
            raise ValueError(f"has {len(value)} characters; at most {MOST_CHARACTERS} are read")
        value_of(value)
    elif isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r} is neither a number nor arithmetic in a text")
    return value


Number = Annotated[float | str, BeforeValidator(_expression)]


def number_of(value: float | str) -> float:
    """Returns what a stated number or arithmetic comes to."""
    return value_of(value) if isinstance(value, str) else float(value)


class Operand(Frozen):
    """What is compared: the mean of arms, of all arms that agree with conditions, each of several, or a prediction.

    Attributes:
        arms: By name; in the study file one arm may stand by itself.
        each_of: Arms by name, of each of which the claim is made, such as one to be better than all of them.
        where: Fields of training, or ``method``, with the value that all arms meant here have; fields that an arm
            searches have none.
        predicted: A number, or arithmetic that comes to it.
    """

    arms: tuple[str, ...] | None = None
    each_of: tuple[str, ...] | None = None
    where: dict[str, Any] | None = None
    predicted: Number | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        names = ("arms", "each_of", "where", "predicted")
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give one of {', '.join(names)}; got {' and '.join(given) or 'none'}")
        if self.arms is not None and (not self.arms or len({*self.arms}) < len(self.arms)):
            raise ValueError("arms: name at least one, and none twice")
        if self.each_of is not None and not 1 < len({*self.each_of}) == len(self.each_of):
            raise ValueError("each_of: name at least two arms, and none twice")
        if self.where is not None and not self.where:
            raise ValueError("where: name at least one field and its value, such as {lr_scheduler: cosine}")
        return self

    @property
    def named(self) -> tuple[str, ...]:
        """All arms that stand by name."""
        return self.arms or self.each_of or ()


def _operand(value: Any) -> Any:
    """One arm by its name, several in a list, and numbers stand by themselves."""
    if isinstance(value, str):
        return {"arms": [value]}
    if isinstance(value, list | tuple):
        return {"arms": value}
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {"predicted": value}
    return value


AnOperand = Annotated[Operand, BeforeValidator(_operand)]


class Expectation(Frozen):
    """What the statistic is expected to be; one of the four.

    Attributes:
        more_than, less_than: A limit on one side.
        equal_to: A value, within the hypothesis' margin.
        between: Both ends.
    """

    more_than: Number | None = None
    less_than: Number | None = None
    equal_to: Number | None = None
    between: tuple[Number, Number] | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        names = ("more_than", "less_than", "equal_to", "between")
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give one of {', '.join(names)}; got {' and '.join(given) or 'none'}")
        if self.between is not None and not number_of(self.between[0]) < number_of(self.between[1]):
            raise ValueError(
                f"between: {self.between[0]} is not below {self.between[1]}; give the lower end first"
            )
        return self

    @property
    def is_one_sided(self) -> bool:
        """Whether there is one limit."""
        return self.more_than is not None or self.less_than is not None


class Claim(Frozen):
    """What study file and ledger have in common.

    Attributes:
        claim: The sentence.
        source: Who claims it, and where.
        measure: A metric of runs (``study ls metrics``), or one of `MADE_BY_REPORT`; none for arithmetic.
        inference_steps: Of the measure's images: one of ``evaluation.inference_steps``; None: as runs are judged.
        expect: What the statistic is expected to be.
        margin: How far from the expected value is as good as that value; in units of the statistic.
    """

    claim: str
    source: str = ""
    measure: str | None = None
    inference_steps: int | None = Field(default=None, ge=1)
    expect: Expectation
    margin: float | None = Field(default=None, ge=0)


class Hypothesis(Claim):
    """One hypothesis of a study file: a claim, and one of four statistics.

    Attributes:
        difference: First minus second, in the measure.
        ratio: First over second, of a measure that is above 0.
        value: The measure itself.
        arithmetic: An expression that is compared with what is expected; no run is looked at.
    """

    difference: tuple[AnOperand, AnOperand] | None = None
    ratio: tuple[AnOperand, AnOperand] | None = None
    value: AnOperand | None = None
    arithmetic: Number | None = None

    @field_validator("claim")
    @classmethod
    def _said(cls, claim: str) -> str:
        if is_blank(claim):
            raise ValueError("is empty; write the sentence that is claimed")
        return claim

    @model_validator(mode="after")
    def _whole(self) -> Self:
        problems: list[tuple[Loc, str]] = []
        given = [name for name in STATISTICS if getattr(self, name) is not None]
        if len(given) != 1:
            got = " and ".join(given) or "none"
            problems.append(((), f"give one of {', '.join(STATISTICS)}; got {got}"))
        elif (given == ["arithmetic"]) != (self.measure is None):
            problems.append(
                (("measure",), "arithmetic has none; remove it")
                if self.measure is not None
                else (("measure",), "is missing: the metric in which the arms are compared, such as quality")
            )
        if self.measure is not None and self.measure not in (known := (*METRICS, *MADE_BY_REPORT)):
            near = did_you_mean(self.measure, known)
            problems.append(
                (("measure",), f"no metric is called {self.measure!r}; {near}see `study ls metrics`")
            )
        if self.inference_steps is not None and self.measure not in AT_INFERENCE_STEPS:
            problems.append(
                (
                    ("inference_steps",),
                    f"{self.measure or 'arithmetic'} is not measured at other numbers of inference steps; take "
                    + " or ".join(AT_INFERENCE_STEPS),
                )
            )
        if self.expect.equal_to is not None and self.margin is None:
            problems.append(
                (("margin",), "is missing: how far from the value is still equal to it (0: not at all)")
            )
        if self.expect.between is not None and self.margin is not None:
            problems.append((("margin",), "the ends of `between` say how far; remove it"))
        if self.ratio is not None and any(end <= 0 for end in self._limits()):
            problems.append(
                (("expect",), "a ratio is above 0, and so must be what is expected of it, less the margin")
            )
        if given == ["value"] and self.value is not None and self.value.predicted is not None:
            problems.append(
                (("value",), "is a number; name arms, or write `arithmetic` in the place of `value`")
            )
        if any(one.each_of for one in self.operands) and not self.expect.is_one_sided:
            problems.append(
                (("expect",), "what is claimed of each of several arms is more_than or less_than a limit")
            )
        for name in ("difference", "ratio"):
            pair = getattr(self, name)
            if pair is not None and all(one.predicted is not None for one in pair):
                problems.append(((name,), "compares two numbers; name arms in one of the two places"))
        if problems:
            raise RuleError(problems)
        return self

    def _limits(self) -> list[float]:
        """The ends of all that is expected or equal to it."""
        if self.expect.between is not None:
            return [number_of(end) for end in self.expect.between]
        ends = (self.expect.more_than, self.expect.less_than, self.expect.equal_to)
        return [number_of(end) - (self.margin or 0) for end in ends if end is not None]

    @property
    def statistic(self) -> Statistic:
        """Which of the four is given."""
        return next(name for name in STATISTICS if getattr(self, name) is not None)

    @property
    def operands(self) -> tuple[Operand, ...]:
        """What is compared, in order; none for arithmetic."""
        single = None if self.value is None else (self.value,)
        return self.difference or self.ratio or single or ()


class Statement(Claim):
    """A hypothesis as the ledger holds it: complete, and without conditions.

    Attributes:
        operands: Two for a difference or ratio, one for a value; each is a mean of arms, each of several, or a number.
        number: What arithmetic comes to.
    """

    name: str
    statistic: Statistic
    operands: tuple[Operand, ...] = ()
    number: float | None = None

    def as_json(self) -> dict[str, Any]:
        """What is stated, for records; `model_validate` reads it again."""
        return self.model_dump(mode="json", exclude_none=True)

    @property
    def digest(self) -> str:
        """The hex SHA-256 of all that is stated."""
        fields = self.model_dump(mode="json")
        # As statements were digested that had no such fields.
        if self.inference_steps is None:
            del fields["inference_steps"]
        for operand in fields["operands"]:
            if operand["each_of"] is None:
                del operand["each_of"]
        content = json.dumps(fields, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(content.encode()).hexdigest()


LevelsOf = Callable[[str, str], Sequence[Any]]  # arm, field -> values that the field may have in it


def statement_of(name: str, hypothesis: Hypothesis, arms: Sequence[str], levels: LevelsOf) -> Statement:
    """Returns a hypothesis with its conditions resolved to arms, and its numbers computed.

    Args:
        arms: All arms of the study.
        levels: See `LevelsOf`.
    """

    def resolved(operand: Operand) -> Operand:
        if operand.predicted is not None:
            return Operand(predicted=number_of(operand.predicted))
        # The order of arms means nothing, and records do not keep it.
        if operand.each_of is not None:
            return Operand(each_of=tuple(sorted(operand.each_of)))
        where = operand.where or {}
        meant = operand.arms or [arm for arm in arms if agrees(arm, where, levels)]
        return Operand(arms=tuple(sorted(meant)))

    expected = {
        key: [number_of(end) for end in value] if key == "between" else number_of(value)
        for key, value in hypothesis.expect.model_dump(exclude_none=True).items()
    }
    return Statement(
        name=name,
        claim=hypothesis.claim,
        source=hypothesis.source,
        measure=hypothesis.measure,
        inference_steps=hypothesis.inference_steps,
        expect=Expectation.model_validate(expected),
        margin=hypothesis.margin,
        statistic=hypothesis.statistic,
        operands=tuple(map(resolved, hypothesis.operands)),
        number=None if hypothesis.arithmetic is None else number_of(hypothesis.arithmetic),
    )


def agrees(arm: str, where: Mapping[str, Any], levels: LevelsOf) -> bool:
    """Whether an arm has these values, and can have no others."""
    return all(list(levels(arm, field)) == [value] for field, value in where.items())

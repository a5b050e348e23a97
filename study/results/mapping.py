"""What the columns of somebody else's results mean: a small YAML file, options of the command line, or both."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from trainables.config.frozen import Frozen
from trainables.config.messages import did_you_mean
from trainables.config.yaml_reader import Document, RuleError, load_document, validate
from trainables.errors import UserError

Direction = Literal["max", "min", "none"]
Role = Literal["quality", "cost", "other"]

_DIRECTIONS: dict[str, Direction] = {"higher": "max", "lower": "min", "none": "none"}
# Of names that say their unit themselves.
_UNITS = {"_seconds": "s", "_bytes": "B", "_flops": "FLOP"}


def _listed(value: Any) -> Any:
    """A single name is a list of one."""
    return [] if value is None else [value] if isinstance(value, str) else value


Text = Annotated[str, Field(min_length=1)]
Names = Annotated[tuple[Text, ...], BeforeValidator(_listed)]


class MetricWords(Frozen):
    """How a metric is shown.

    Attributes:
        unit: Shown beside the title. Seconds (``s``), bytes (``B``), ``FLOP`` and ``count`` are scaled to read well.
        better: Which way is better; by default higher of a quality, lower of a cost, neither of others.
    """

    title: str = ""
    unit: str = ""
    better: Literal["higher", "lower", "none"] | None = None
    description: str = ""


def _words_of(value: Any) -> Any:
    """A metric without words may be left empty: it is then only shown."""
    if isinstance(value, Mapping):
        return {name: {} if words is None else words for name, words in value.items()}
    return {} if value is None else value


class ResultMapping(Frozen):
    """Which tags, params, metrics or columns of a data source are the arms, subjects, seeds and measures.

    Attributes:
        name: Titles the report and names its folder; by default what the results are called where they are.
        arm, subject, seed: Tags, params or columns; several are put together to one name.
        quality: Metrics that tell how good a run is; arms are ranked by the first.
        cost: Metrics that tell what a run took; lower is better.
        lower_is_better: Whether lower is better of the only quality, or the names of the metrics of which it is.
        metrics: Words on metrics; those that are no quality and no cost are shown, too.
        margin: Differences of the first quality within it count as equivalent; None: equivalence is not asked.
    """

    name: str | None = None
    arm: Names = ()
    quality: Names = ()
    cost: Names = ()
    subject: Names = ()
    seed: Names = ()
    lower_is_better: bool | Names = False
    metrics: Annotated[dict[str, MetricWords], BeforeValidator(_words_of)] = Field(default_factory=dict)
    margin: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> ResultMapping:
        problems: list[tuple[tuple[str | int, ...], str]] = []
        if not self.arm:
            problems.append(
                ((), "nothing says what the arms are; name tags, params or columns: --arm, or `arm:`")
            )
        if not self.quality:
            problems.append(
                ((), "nothing says what a run is judged by; name a metric: --quality, or `quality:`")
            )
        for field in ("arm", "quality", "cost", "subject", "seed"):
            names = getattr(self, field)
            if twice := sorted({name for name in names if names.count(name) > 1}):
                problems.append(((field,), f"{', '.join(twice)} stands there twice; leave one out"))
        if both := sorted({*self.quality} & {*self.cost}):
            problems.append(
                (("cost",), f"{', '.join(both)} cannot be a quality and a cost; leave it out of one")
            )
        if self.lower_is_better is True and len(self.quality) > 1:
            names = ", ".join(self.quality)
            problems.append((
                ("lower_is_better",),
                f"there are several qualities ({names}); name those of which lower is better, as in a --mapping with "
                f"`lower_is_better: [{self.quality[0]}]`",
            ))  # fmt: skip
        if isinstance(self.lower_is_better, tuple):
            for name in self.lower_is_better:
                if name not in self.shown:
                    hint = did_you_mean(name, self.shown)
                    problems.append((
                        ("lower_is_better",),
                        f"{name!r} is no quality, cost or metric of this mapping; {hint}known: {', '.join(self.shown)}",
                    ))  # fmt: skip
                elif self._words(name).better == "higher":
                    problems.append(
                        (("metrics", name, "better"), f"{name!r} is in `lower_is_better`, too; remove one")
                    )
        for name in self.cost:
            if self._words(name).better == "higher":
                problems.append(
                    (("metrics", name, "better"), "of a cost lower is better; make it a quality instead")
                )
        if self.quality and self.direction(self.quality[0]) == "none":
            at = ("metrics", self.quality[0], "better")
            problems.append((at, "arms are ranked by the first quality; say higher or lower"))
        if problems:
            raise RuleError(problems)
        return self

    @property
    def shown(self) -> tuple[str, ...]:
        """Every metric that the report shows: qualities, costs, others."""
        return tuple(dict.fromkeys((*self.quality, *self.cost, *self.metrics)))

    def role(self, name: str) -> Role:
        """What a metric is."""
        return "quality" if name in self.quality else "cost" if name in self.cost else "other"

    def direction(self, name: str) -> Direction:
        """Which way is better of a metric."""
        stated = self._words(name).better
        if stated is not None:
            return _DIRECTIONS[stated]
        low = self.lower_is_better
        if name in self.cost or (name in low if isinstance(low, tuple) else low and name in self.quality):
            return "min"
        return "max" if name in self.quality else "none"

    def title(self, name: str) -> str:
        """What a metric is called in tables and figures: by default its own name."""
        return self._words(name).title or name

    def unit(self, name: str) -> str:
        """Its unit; of a name such as ``train_seconds`` the one that it says."""
        told = next((unit for end, unit in _UNITS.items() if name.lower().endswith(end)), "")
        return self._words(name).unit or told

    def description(self, name: str) -> str:
        """What it is, in the words of whoever wrote the mapping."""
        return self._words(name).description

    def _words(self, name: str) -> MetricWords:
        return self.metrics.get(name, MetricWords())


def is_given(value: Any) -> bool:
    """Whether an option says something: a margin of 0 does, and is then refused."""
    return value is not None and value is not False and value != [] and value != ()


def mapping_of(path: Path | None, options: Mapping[str, Any]) -> ResultMapping:
    """Makes a mapping of a file and of options, which win.

    Args:
        path: A YAML file with the fields of `ResultMapping`, or None.
        options: The same fields; those that are None or empty were not given. ``metrics`` may be a list of names,
            which are added to the file's.

    Raises:
        UserError: All that is wrong with file and options, with the lines of the file.
    """
    document = Document(None, {}) if path is None else load_document(path)
    stated = document.data
    if not isinstance(stated, dict):
        raise UserError(
            f"{path} must be a mapping with the keys {', '.join(ResultMapping.model_fields)}; it begins with `arm:` "
            "and `quality:`"
        )
    given = {name: value for name, value in options.items() if is_given(value)}
    more = dict.fromkeys(given.pop("metrics", ()))
    data = {**stated, **given}
    known = stated.get("metrics") or {}
    if more and isinstance(known, dict):
        data["metrics"] = {**more, **known}
    # A problem of what an option said has no line in the file.
    lines = {loc: line for loc, line in document.lines.items() if not loc or loc[0] not in given}
    return validate(Document(document.path, data, lines), ResultMapping)

"""Rules of a study that concern several of its sections at once.

Each rule asks only for the sections that it needs, so that a misspelt key in one section hides no problem
elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from pydantic import ValidationError

from search_spaces.loader import check_space
from search_spaces.schema import SearchSpace
from study.spec.data_set_rules import (
    fields_of_one_kind,
    measures_of_one_kind,
    one_kind_of_subjects,
    prompts_of_one_kind,
)
from study.spec.effects import duplicate_arms, fields_without_effect, values_of
from study.spec.hypothesis_rules import answerable
from study.spec.sections import (
    LENGTHS,
    SHARE,
    Arm,
    Budget,
    arm_space,
    merged_training,
)
from study.spec.separation import (
    choices_confirmed,
    dealt_out,
    shared_prompts,
    shared_subjects,
    trials_per_method,
)
from study.spec.sound_sections import Problem, Sections
from trainables.config.fields import ModelConfig, TrainingConfig
from trainables.config.messages import Loc, describe, did_you_mean, unknown_key
from trainables.config.yaml_reader import real_loc
from trainables.methods.registry import BASE, method_config_class


def broken_rules(sections: Sections, *, recorded: bool = False) -> list[Problem]:
    """Returns every broken rule as a location in the file and a message.

    Args:
        recorded: The study has been launched: only what must hold for it to be read is asked.
    """
    problems: list[Problem] = []
    for rule in RULES if recorded else (*RULES, *RULES_OF_FILES):
        problems += rule(sections)
    return list(dict.fromkeys(problems))


def _subjects(sections: Sections) -> Iterator[Problem]:
    if sections.subjects is None:
        return
    names = [subject.name for subject in sections.subjects]
    for index, name in enumerate(names):
        if name in names[:index]:
            yield ("subjects", index), f"subject {name!r} occurs twice; give each subject a name of its own"
    for phase, section in (("search", sections.search), ("confirm", sections.confirm)):
        chosen = section.subjects if section is not None else None
        if chosen is None:
            continue
        if not chosen and phase == "search":
            yield (phase, "subjects"), f"is empty; name at least one of: {', '.join(names)}"
        for index, name in enumerate(chosen):
            if name not in names:
                hint = did_you_mean(name, names)
                yield (
                    (phase, "subjects", index),
                    f"no subject {name!r}; {hint}Subjects here: {', '.join(names)}",
                )
            elif name in chosen[:index]:
                yield (
                    (phase, "subjects", index),
                    f"subject {name!r} is named twice; each pair of subject and seed is one run",
                )


def _seeds(sections: Sections) -> Iterator[Problem]:
    if sections.search is None or sections.confirm is None:
        return
    shared = sorted(set(sections.search.seeds) & set(sections.confirm.seeds))
    if shared:
        yield (
            ("confirm", "seeds"),
            f"seeds of the search are used again ({', '.join(map(str, shared))}), which would favour what "
            "the search chose by luck; take others, for example [100, 101, 102]",
        )


def _early_stopping(sections: Sections) -> Iterator[Problem]:
    search, evaluation = sections.search, sections.evaluation
    if search is None or search.scheduler is None:
        return
    runs = len(search.subjects or ()) // search.repeats * len(search.seeds) or len(search.seeds)
    if runs > 1:
        yield (
            ("search", "scheduler"),
            f"asha stops runs one by one, but a trial has {runs} runs here; use one subject a search and one "
            "seed, or no scheduler",
        )
    if search.constraints:
        yield (
            ("search", "scheduler"),
            "asha judges runs by the objective alone, and would keep those that miss subject_to; remove one of the two",
        )
    looks = evaluation.of_phase("search").at if evaluation is not None else (search.scheduler.grace_fraction,)
    if not any(search.scheduler.grace_fraction <= at < 1 for at in looks):
        grace = search.scheduler.grace_fraction
        own = evaluation is not None and evaluation.search.at is not None
        at = f"at: [{grace:g}, 0.5]"
        yield (
            ("search", "scheduler"),
            f"asha needs evaluations during training, at {grace:g} of the steps or later, but "
            f"evaluation{'.search' if own else ''}.at has none; write for example evaluation: "
            f"{{{f'search: {{{at}}}' if own else at}}}",
        )


def _stopped_at_equal_cost(sections: Sections) -> Iterator[Problem]:
    search, budget = sections.search, sections.budget
    if (
        search is not None
        and search.scheduler is not None
        and budget is not None
        and budget.tuned_from is not None
    ):
        yield (
            ("search", "scheduler"),
            "asha compares runs at equal shares of their training, and budget.tuned_from gives them different lengths, "
            "so that short runs would be judged at a lower cost; remove one of the two",
        )


def _training(sections: Sections) -> Iterator[Problem]:
    """Common training fields, judged by themselves (with the arms they are judged again, as a whole)."""
    names = list(TrainingConfig.model_fields)
    for key in sections.training or {}:
        if key == SHARE:
            yield ("training", key), "the length of training is the same for all arms; write a smaller budget"
        elif key in LENGTHS:
            yield (
                ("training", key),
                f"the length of training is the same for all arms; write budget.{LENGTHS[key]}",
            )
        elif key not in names:
            yield ("training", key), unknown_key(key, names)


def _arms(sections: Sections) -> Iterator[Problem]:
    for name, arm in (sections.arms or {}).items():
        yield from _arm(name, arm, sections)


def _arm(name: str, arm: Arm, sections: Sections) -> Iterator[Problem]:
    place: Loc = ("arms", name)
    fields = method_config_class(arm.method)
    known = list(fields.model_fields)
    own = arm.search_space or {}
    for key in arm.fixed:
        if key not in known:
            yield (*place, key), unknown_key(key, [*known, "search_space"])
        elif own.get(key) is not None:
            yield (
                (*place, "search_space", key),
                f"{key} is also fixed ({arm.fixed[key]!r}); remove one of the two",
            )
    for key, dimension in own.items():
        for parent in (dimension.when or {}) if dimension is not None else ():
            if parent not in known:
                yield (*place, "search_space", key, "when"), f"names an {unknown_key(parent, known)}"
    if arm.method == BASE and own:
        yield (
            (*place, "search_space"),
            "the base model is not trained, so there is nothing to search; remove it",
        )
        return
    training, budget, model = (
        sections.training or {},
        sections.budget or Budget(),
        sections.model or ModelConfig(),
    )
    common = {key: value for key, value in training.items() if key in TrainingConfig.model_fields}
    fixed = {key: value for key, value in arm.fixed.items() if key in known}
    try:
        space = arm_space(arm, common, budget, model)
    except ValidationError as error:
        yield (
            (*place, "search_space"),
            "; ".join(str(entry["msg"]) for entry in error.errors()).removeprefix("Value error, "),
        )
        return
    yield from _fields(place, fields, common, budget, fixed, space)
    yield from _length(place, fixed, space, budget)
    if arm.method != BASE and arm.searched and not space.parameters:
        fix = "remove fixed fields, add dimensions, or write `search_space: fixed` to confirm it unsearched"
        yield (*place, "search_space"), f"empty search space: nothing is left to search in this arm; {fix}"
    elif own == {} and arm.search_space is not None and arm.method != BASE:
        whole = (
            f"leave it out for the space of {arm.method}, or write `search_space: fixed` to search nothing"
        )
        yield (*place, "search_space"), f"empty search space: it names no dimension; {whole}"


def _fields(
    place: Loc,
    fields: type[TrainingConfig],
    common: dict[str, Any],
    budget: Budget,
    fixed: dict[str, Any],
    space: SearchSpace,
) -> Iterator[Problem]:
    """Fixed fields, and every end of every dimension, by trial validation."""
    start = next(space.corners()) if space.parameters else {}
    start = {key: value for key, value in start.items() if key in fields.model_fields}

    def wrong(values: dict[str, Any]) -> ValidationError | None:
        try:
            fields.model_validate(merged_training(common, budget, fixed, values))
        except ValidationError as error:
            return error
        return None

    def valid(changes: dict[str, Any]) -> ValidationError | None:
        return wrong({**start, **changes})

    error = valid({})
    for entry in error.errors(include_url=False) if error else []:
        field = str(entry["loc"][0]) if entry["loc"] else None
        if field in start:
            continue  # told by check_space
        message = describe(entry, fields)
        if field in fixed or field in common:
            stated = {**common, **fixed}
            at = real_loc(stated, entry["loc"], entry["type"] == "extra_forbidden")
            yield (*(place if field in fixed else ("training",)), *at), message
        elif wrong({}) is None and (searched := [name for name in start if wrong({name: start[name]})]):
            name = searched[0]  # what the arm states is sound by itself
            yield (*place, "search_space", name), f"{start[name]!r} is in the range, but {message}"
        else:
            yield place, message
    for dimension, message in check_space(space, fields, valid).items():
        yield (*place, "search_space", dimension), message


def _length(place: Loc, fixed: dict[str, Any], space: SearchSpace, budget: Budget) -> Iterator[Problem]:
    """No arm may train longer than the others may, in the currency of the budget."""
    field, most = list(budget.fields.items())[-1]
    unit = {"max_train_steps": "steps", "max_train_flops": "FLOPs", "max_train_seconds": "seconds"}[field]
    rule = f"all arms have the same budget of {most:.15g} {unit} (budget.{LENGTHS[field]})"
    stated = fixed.get(field)
    if isinstance(stated, int | float) and stated > most:
        yield (*place, field), f"{rule}, got {stated:.15g}; take fewer here or raise the budget"
    if field in fixed and stated is None:
        yield (*place, field), f"{rule}, which null takes away; remove it"
    searched = space.parameters.get(field)
    if searched is not None:
        longest = max((value for value in searched.probes() if isinstance(value, int | float)), default=0)
        if longest > most:
            at = (*place, "search_space", field)
            yield at, f"{rule}, got up to {longest:.15g}; search fewer or raise the budget"


def _names_of_arms(sections: Sections) -> Iterator[Problem]:
    folded: dict[str, str] = {}
    for name in sections.arms or {}:
        if name.casefold() in folded:
            other = folded[name.casefold()]
            yield (
                ("arms", name),
                f"differs from {other!r} only in case, which some file systems do not tell apart; rename one",
            )
        folded.setdefault(name.casefold(), name)


def _grid(sections: Sections) -> Iterator[Problem]:
    if sections.search is None or sections.search.sampler != "grid":
        return
    training, budget, model = (
        sections.training or {},
        sections.budget or Budget(),
        sections.model or ModelConfig(),
    )
    for name, arm in (sections.arms or {}).items():
        try:
            space = arm_space(arm, training, budget, model)
        except ValidationError:
            continue
        for dimension in space.infinite():
            yield (
                ("arms", name, "search_space", dimension),
                "a grid search needs finitely many values; give choices or a step, or use another sampler",
            )


def _workers(sections: Sections) -> Iterator[Problem]:
    """Every worker of a run needs a part of every batch."""
    workers = sections.resources.num_workers if sections.resources is not None else 1
    if workers == 1:
        return
    training, budget = sections.training or {}, sections.budget or Budget()
    model, name = sections.model or ModelConfig(), "train_batch_size"
    least: dict[str, float] = {}
    for arm_name, arm in (sections.arms or {}).items():
        if arm.method == BASE:
            continue
        values = values_of(name, arm, training, budget, model)
        least[arm_name] = min((value for value in values if isinstance(value, int | float)), default=workers)
    smallest = min(least, key=lambda arm_name: least[arm_name], default=None)
    if smallest is not None and least[smallest] < workers:
        most = f"{least[smallest]:g}"
        yield (
            ("resources", "num_workers"),
            f"is {workers}, but arm {smallest!r} trains on batches of {most} images ({name}, the whole batch "
            f"of a run), and each worker needs at least one of them; take {most} workers or fewer, or "
            f"batches of at least {workers}",
        )


def _strategy(sections: Sections) -> Iterator[Problem]:
    """What is dealt out must be computed part by part: Adam's steps are, other optimizers' are not."""
    if sections.resources is None or not sections.resources.sharded:
        return
    if sections.model is not None and sections.model.quantization is not None:
        yield (
            ("resources", "parallel_strategy"),
            "is fsdp, which deals out weights that can be computed with, but model.quantization: "
            f"{sections.model.quantization} keeps codes in their place; take parallel_strategy: ddp, or leave "
            "quantization out",
        )
    training, budget = sections.training or {}, sections.budget or Budget()
    for arm_name, arm in (sections.arms or {}).items():
        if arm.method == BASE:
            continue
        values = values_of("optimizer", arm, training, budget, sections.model or ModelConfig())
        for value in sorted({str(value) for value in values if value != "adamw"}):
            yield (
                ("resources", "parallel_strategy"),
                f"is fsdp, which trains with adamw, but arm {arm_name!r} has optimizer: {value}; take adamw, whose "
                "state is dealt out to the workers, or parallel_strategy: ddp",
            )
        targets = [
            values_of(name, arm, training, budget, sections.model or ModelConfig())
            for name in ("with_prior_preservation", "prior_preservation_target")
        ]
        unread = "method" in method_config_class(arm.method).needs_of("with_prior_preservation")
        if not unread and True in targets[0] and "base" in targets[1]:
            yield (
                ("resources", "parallel_strategy"),
                f"is fsdp, but arm {arm_name!r} has prior_preservation_target: base, for which each worker needs the "
                "base model's own weights beside those that train, and fsdp deals them out; take parallel_strategy: "
                "ddp, or prior_preservation_target: images",
            )


RULES: tuple[Callable[[Sections], Iterator[Problem]], ...] = (
    _subjects,
    dealt_out,
    _seeds,
    _early_stopping,
    _training,
    _arms,
    _names_of_arms,
    _grid,
    _workers,
    _strategy,
)
# What is refused in a study file, but not in the record of a study that an earlier version has accepted.
RULES_OF_FILES = (
    _stopped_at_equal_cost,
    fields_without_effect,
    duplicate_arms,
    trials_per_method,
    choices_confirmed,
    answerable,
    shared_subjects,
    shared_prompts,
    one_kind_of_subjects,
    fields_of_one_kind,
    measures_of_one_kind,
    prompts_of_one_kind,
)

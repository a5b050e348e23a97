"""The two prompts of each class of a data set: the one that names it with a rare token, and the one without.

They come from a template, as ``photo of {token} {class}`` (DreamBooth's instance prompt); the class prompt is the same
without the token. Nothing here needs torch.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trainables.util.text import is_blank, same_name, some, without_case

TEMPLATE = "photo of {token} {class}"
TOKEN = "sks"


@dataclass(frozen=True)
class ClassPrompts:
    """How a class is called in prompts.

    Attributes:
        instance_prompt: With the token, for what is trained: "photo of sks cat".
        class_prompt: Without it, for class images and the base model: "photo of cat".
    """

    instance_prompt: str
    class_prompt: str


def class_prompts(
    classes: Sequence[str],
    template: str = TEMPLATE,
    token: str | Mapping[str, str] = TOKEN,
    class_template: str | None = None,
    words: Mapping[str, str] | None = None,
) -> tuple[dict[str, ClassPrompts], list[str]]:
    """Returns the prompts of each class, and everything that is wrong with them.

    Args:
        classes: Names; their underscores are read as spaces.
        template: Of instance prompts, with ``{token}`` and ``{class}``.
        token: One for all classes, as a model for each class has it, or one for each.
        class_template: Of class prompts, with ``{class}``; None: `template` without ``{token}``.
        words: What classes are called in prompts in place of their names, for such as "3".
    """
    without = class_template if class_template is not None else template.replace("{token}", "")
    problems = _template_problems(template, ("token", "class"), "the template of instance prompts")
    if class_template is not None or not problems:
        problems += _template_problems(without, ("class",), "the template of class prompts")
    tokens = dict(token) if isinstance(token, Mapping) else dict.fromkeys(classes, token)
    for what, given in (("tokens", tokens), ("words", words or {})):
        unknown = [repr(label) for label in given if label not in classes]
        problems += [f"prompts: {what} of classes that are not there: {some(unknown)}"] if unknown else []
    lacking = [repr(label) for label in classes if is_blank(tokens.get(label, ""))]
    problems += [f"prompts: classes without a token: {some(lacking)}; give each one"] if lacking else []
    called = {label: _cleaned((words or {}).get(label, label)) for label in classes}
    problems += _word_problems(called)
    if problems:
        return {}, problems
    return {
        label: ClassPrompts(
            _filled(template, {"token": tokens[label].strip(), "class": name}),
            _filled(without, {"class": name}),
        )
        for label, name in called.items()
    }, []


def _template_problems(template: str, needed: Sequence[str], what: str) -> list[str]:
    try:
        parsed = [part for part in string.Formatter().parse(template) if part[1] is not None]
    except ValueError as error:
        return [f"prompts: {what}, {template!r}, cannot be read ({error}); write placeholders as {{class}}"]
    found = [name for _, name, _, _ in parsed]
    listed = " and ".join(f"{{{name}}}" for name in needed)
    if sorted(map(str, found)) != sorted(needed) or any(form or kind for _, _, form, kind in parsed):
        has = ", ".join(f"{{{name}}}" for name in found) or "none"
        return [
            f"prompts: {what}, {template!r}, must have {listed}, each once, and no other placeholder; it has {has}"
        ]
    return []


def _word_problems(called: Mapping[str, str]) -> list[str]:
    """Classes that have no words, and those that have the same but for case and spaces."""
    same: dict[str, list[str]] = {}
    for label, name in called.items():
        same.setdefault(without_case(name), []).append(repr(label))
    empty = same.pop("", [])
    problems = (
        [f"prompts: classes whose names have no words: {some(empty)}; name them in words"] if empty else []
    )
    return problems + [
        f"prompts: {' and '.join(labels)} are both {name!r} in prompts, so that one model would be taught both; rename "
        "one, or name them in words"
        for name, labels in same.items()
        if len(labels) > 1
    ]


def _cleaned(name: str) -> str:
    return re.sub(r"[_\s]+", " ", same_name(name)).strip()


def _filled(template: str, values: Mapping[str, str]) -> str:
    return " ".join(string.Formatter().vformat(template, (), values).split())

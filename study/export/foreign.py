"""Weights that were trained elsewhere, judged by a study's frozen plan of evaluation and filed beside its runs.

A file NAME.safetensors is filed as the arm ``foreign/NAME``: ``runs/foreign/NAME/0000-<subject>-s<seed>``, with all
that a run leaves. MLflow has them, and the report shows them in a table of their own, beside the study's arms on the
same subject. They are no part of its design and of no verdict: they had no equal budget, and perhaps saw the held-out
photographs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from study.spec.launched import stored_spec
from study.spec.study_spec import StudySpec
from study.storage.layout import Storage, unportable
from study.storage.run_key import FOREIGN, RunKey, is_sound_name
from study.storage.run_result import RunResult, read_result
from trainables.config.messages import placeholders_in
from trainables.data.subjects import prompts_of
from trainables.errors import UserError
from trainables.evaluation.metrics_table import QUALITY
from trainables.events import is_over
from trainables.methods.foreign import ForeignConfig
from trainables.methods.foreign_files import ForeignFile, inspect
from trainables.methods.foreign_pipelines import WHOLE, no_replacement
from trainables.methods.registry import BASE
from trainables.models.folders import local_folder, native_resolution, resolve_model
from trainables.run.run_folder import read_begun
from trainables.run_config import RunConfig

COLUMNS = ("arm", "subject", "seed", "state", QUALITY, "subject_fidelity_scaled", "prompt_fidelity_scaled",
           "class_kept", "sha256", "message")  # fmt: skip


@dataclass(frozen=True)
class _Asked:
    """One file with its arm."""

    file: ForeignFile
    name: str


def evaluate_files(
    storage: Storage,
    files: Sequence[Path],
    *,
    name: str | None = None,
    subject: str | None = None,
    prompt: str | None = None,
    on_note: Callable[[str], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """Judges files on the confirm prompts of a study with the noise of each of its confirm seeds.

    The base model, the prompts, the held-out references, the solver and the metric models are those that the study was
    launched with; so is the resolution, where that of all arms is one, or else it is the base model's own. A file that
    has been judged is not judged again.

    Args:
        files: See `trainables.methods.foreign_files.inspect`.
        name: Of the arm, instead of the file's name; for one file alone.
        subject: Which of the study's confirm subjects the files show; None: the only one.
        prompt: What the files call the subject, or of a data set their trigger; None: the study's own.
        on_note: Is told what a user should know of how they are judged, one note each.

    Returns:
        A row a run, with `COLUMNS`.

    Raises:
        UserError: Before anything is drawn or filed: a file is of no known layout, does not fit the base model, or its
            name is that of another file.
    """
    spec = stored_spec(storage)
    chosen = _subject(spec, subject)
    if problem := _unsound(prompt):
        raise UserError(problem)
    paths = [Path(path).absolute() for path in files]
    base = _base_folder(spec, paths)
    asked = _named([inspect(path, base) for path in paths], name)
    of_data_set = spec.subject(chosen).is_data_set
    problems = [problem for one in asked if (problem := _unspoken(one.file, prompt, of_data_set))]
    if (bits := spec.model.quantization) is not None:
        problems += [no_replacement(one.file.path, bits) for one in asked if one.file.layout in WHOLE]
    if problems:
        raise UserError(*problems)
    side = _resolution(spec, storage, chosen, base, on_note)
    planned = [
        (one, seed, _in_words_of_before(_config(spec, storage, one, chosen, seed, prompt, side)))
        for one in asked
        for seed in spec.confirm.seeds
    ]
    problems = [problem for one, _, config in planned if (problem := _taken(one, config))]
    if problems:
        raise UserError(*dict.fromkeys(problems))

    from trainables.run.execute import execute
    from trainables.run.foreign_checks import find_misfits
    from trainables.run.resident import Resident

    resident = Resident()
    tried: dict[str, RunConfig] = {}  # the first run of each file that is not over
    for one, _, config in planned:
        if not is_over(Path(config.output_dir)):
            tried.setdefault(one.name, config)
    if problems := [problem for config in tried.values() for problem in find_misfits(config, resident)]:
        raise UserError(*dict.fromkeys(problems))
    rows = []
    for one, seed, config in planned:
        for _ in execute(config, resident):
            pass
        result = read_result(Path(config.output_dir))
        rows.append(_row(storage, one, chosen, seed, result))
    return rows


def _subject(spec: StudySpec, asked: str | None) -> str:
    known = spec.confirm.subjects or ()
    if asked is None and len(known) == 1:
        return known[0]
    if asked not in known:
        what = "has several confirm subjects" if asked is None else f"has no confirm subject {asked!r}"
        raise UserError(
            f"study {spec.name} {what}; name by --subject which one the files show: {', '.join(known)}"
        )
    return asked


def _named(files: Sequence[ForeignFile], name: str | None) -> list[_Asked]:
    if name is not None and len(files) != 1:
        raise UserError(f"--name is for one file, and {len(files)} are given; leave it out")
    asked: dict[str, ForeignFile] = {}
    for file in files:
        given = name or re.sub(r"[^A-Za-z0-9_.-]+", "-", file.path.stem).strip("-.")[:64]
        if not is_sound_name(given) or unportable(given):
            raise UserError(
                f"{given!r} cannot be the name of an arm, because names become folders; give another by --name"
            )
        if given in asked:
            raise UserError(
                f"{asked[given].path} and {file.path} would both be {FOREIGN}/{given}; evaluate "
                "them one by one, with --name"
            )
        asked[given] = file
    return [_Asked(file, given) for given, file in asked.items()]


def _base_folder(spec: StudySpec, paths: Sequence[Path]) -> Path | None:
    """Returns the base model's folder, by whose tokenizers a pipeline's own words are told.

    It is downloaded where a pipeline is to be judged and it is not on this machine.
    """
    found = local_folder(spec.model)
    if found is None and any((path / "model_index.json").is_file() for path in paths):
        return resolve_model(spec.model)
    return found


def _resolution(
    spec: StudySpec, storage: Storage, subject: str, base: Path | None, on_note: Callable[[str], None]
) -> int | None:
    """Returns the side at which files are judged; None: the base model's own."""
    arms = [name for name, arm in spec.arms.items() if arm.method != BASE] or list(spec.arms)
    seed = next(iter(spec.confirm.seeds), 0)
    stated = {
        name: spec.run_config(RunKey("confirm", name, 0, subject, seed), {}, storage).training.resolution
        for name in arms
    }
    if len({*stated.values()}) == 1:
        return stated[arms[0]]
    own = None if base is None else native_resolution(base)
    sides = {name: side or own for name, side in stated.items()}
    if len({*sides.values()}) > 1:
        said = ", ".join(f"{name}: {side or 'not stated'}" for name, side in sides.items())
        on_note(
            f"the study's arms have several resolutions ({said}); files are judged at the base model's own"
            f"{'' if own is None else f', {own}'}"
        )
    return None


def _config(
    spec: StudySpec,
    storage: Storage,
    one: _Asked,
    subject: str,
    seed: int,
    prompt: str | None,
    side: int | None,
) -> RunConfig:
    """The configuration of a confirm run of the study, with the file in the place of the training.

    A prompt that says what the study says is none, so that it is the same file with and without.
    """
    arm = next(iter(spec.arms))
    like = spec.run_config(RunKey("confirm", arm, 0, subject, seed), {}, storage)
    contents = {field: digest for field, digest in like.contents.items() if field != "subject.captions"}
    training = {
        "file": one.file.path.name,
        "sha256": one.file.sha256,
        "layout": one.file.layout,
        "prompt": prompt,
        "word": one.file.word,
        "vectors": one.file.vectors,
        "resolution": side,
    }
    run = RunKey(FOREIGN, one.name, 0, subject, seed)
    config = RunConfig.model_validate(
        {
            **like.model_dump(mode="json"),
            "method": FOREIGN,
            "training": training,
            "contents": contents,
            "device": "auto",  # this machine's, wherever the study ran
            "path_map": {one.file.path.name: str(one.file.path)},
            "output_dir": str(storage.run_folder(run)),
        }
    )
    unworded = _with_prompt(config, None) if prompt is not None and not one.file.vectors else config
    return unworded if _spoken(unworded) == _spoken(config) else config


def _spoken(config: RunConfig) -> str:
    """Returns what stands in the placeholder's place when images are drawn."""
    instance, of_class = prompts_of(config.subject)
    return config.training.for_subject(instance, of_class).reword(instance)


def _with_prompt(config: RunConfig, prompt: str | None) -> RunConfig:
    return config.model_copy(update={"training": config.training.model_copy(update={"prompt": prompt})})


def _in_words_of_before(config: RunConfig) -> RunConfig:
    """Returns a configuration with the prompt that its folder was begun with, where the same is drawn by both."""
    begun = read_begun(Path(config.output_dir))
    if begun is None or begun.method != FOREIGN:
        return config
    before = _with_prompt(config, getattr(begun.training, "prompt", None))
    return before if _spoken(before) == _spoken(config) else config


def _unsound(prompt: str | None) -> str | None:
    """Returns what is wrong with a prompt that takes the place of the study's own words for its subject."""
    if prompt is None:
        return None
    if not prompt.strip(" ,"):
        return (
            f"--prompt {prompt!r} is empty; write what the files call the subject, or leave --prompt out for the "
            "study's own words"
        )
    if found := placeholders_in(prompt):
        return (
            f"--prompt {prompt!r} has the placeholder {found[0]}, and is itself what takes the place of {{subject}} in "
            "the study's prompts; write what the files call the subject, such as a sks cat"
        )
    return None


def _unspoken(file: ForeignFile, prompt: str | None, of_data_set: bool) -> str | None:
    """Returns why nothing of an embedding would show in the images: no prompt holds its word."""
    if not file.vectors:
        return None
    word = file.word
    if prompt is not None and ForeignConfig.word_pattern(word).search(prompt):
        return None
    what = "is" if file.layout == "embedding" else "holds"
    such = word if of_data_set else f"a photo of {word}"
    return (
        f"{file.path} {what} an embedding, which shows where a prompt has its word, {word!r}; name the subject by it, "
        f'such as --prompt "{such}"' + ("" if prompt is None else f"; got {prompt!r}")
    )


def _taken(one: _Asked, config: RunConfig) -> str | None:
    begun = read_begun(Path(config.output_dir))
    if begun is None:
        return None
    if begun.comes_to() == config.model_copy(update={"contents": begun.contents}).comes_to():
        return None
    return (
        f"{FOREIGN}/{one.name} is another file, or the same with another --prompt (sha256 "
        f"{getattr(begun.training, 'sha256', '')[:12]}, here {one.file.sha256[:12]}); give this one another "
        "name by --name"
    )


def _row(storage: Storage, one: _Asked, subject: str, seed: int, result: RunResult | None) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    row |= {"arm": f"{FOREIGN}/{one.name}", "subject": subject, "seed": seed, "sha256": one.file.sha256[:12]}
    if result is not None:
        row |= {name: result.value(name) for name in COLUMNS[4:8]}
        row |= {"state": result.state, "message": result.message}
        if result.state != "COMPLETE":  # a run's end is final
            row["message"] = (
                f"{result.message}; it is not tried again: for another try name another arm by --name, or remove "
                f"{storage.runs / FOREIGN / one.name}"
            )
    return row

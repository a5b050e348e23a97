"""What can be known before a study starts: images, models, metrics, disk, devices, servers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from study.cluster.ray_cluster import HERE, check_cluster
from study.preflight.class_checks import check_classes_of
from study.preflight.data_set_checks import check_data_sets, data_set_notes, prompt_count
from study.preflight.machine import check_disk, check_resources
from study.preflight.method_checks import check_methods, ends_of_search, has_words, methods_with_words
from study.spec.separation import ASKED_FOR
from study.spec.study_spec import StudySpec
from study.storage.layout import root_and_url, sqlite_file_problem
from study.storage.run_key import PHASES
from study.tracking.reachable import tracking_problems
from trainables.config.fields import EMBEDDED, MASKS, TrainingConfig
from trainables.errors import UserError
from trainables.evaluation.checks import ENOUGH_IMAGES
from trainables.methods.registry import BASE
from trainables.training.optim import missing_package
from trainables.util.text import is_utf8, shown

if TYPE_CHECKING:
    from trainables.run.prompt_checks import Findings


def check_study(
    spec: StudySpec,
    storage: str | Path | None = None,
    *,
    address: str | None = None,
    tracking_uri: str | None = None,
) -> list[str]:
    """Returns every problem that would stop the study, one message each; writes nothing and loads no weights but, for
    data sets, those of the embedded CLIP.

    Args:
        spec: A validated study.
        storage: The storage folder, whose disk must have room, or a URL, which is tried with a small object;
            None leaves the storage out.
        address: Of a Ray cluster; CPUs and GPUs of a cluster are only known after joining it.
        tracking_uri: MLflow; None: MLFLOW_TRACKING_URI, or else that of the study file.
    """
    return [
        *_folder_names(spec, storage),
        *check_images(spec),
        *leaks(spec),
        *shared_photographs(spec),
        *_models(spec),
        *dict.fromkeys(problem for found in check_prompts(spec) for problem in found.problems),
        *check_methods(spec),
        *_metric_models(spec),
        *check_data_sets(spec),
        *check_classes_of(spec),
        *_optimizers(spec),
        *_precision(spec),
        *(check_resources(spec.resources) if address in HERE else []),
        *check_cluster(address),
        *tracking_problems(tracking_uri, spec.tracking.uri),
        *_ledger(spec),
        *(_storage(spec, storage) if storage is not None else []),
    ]


def check_images(spec: StudySpec) -> list[str]:
    """Tells what is wrong with the photographs that a study names."""
    from trainables.data.subjects import check_subject

    captions: Any = "files" if "files" in spec.values_of("captions") else "instance_prompt"
    resolution = _largest_resolution(spec)
    masked = True in spec.values_of("masked_loss")
    return [
        problem
        for subject in spec.subjects
        for problem in check_subject(subject, resolution, captions, masked=masked)
    ]


def leaks(spec: StudySpec) -> list[str]:
    """Tells which held-out photographs are nearly those that are trained on: fidelity to them would be memory."""
    from trainables.run.data_set import leaks as leaks_of

    resolution = _largest_resolution(spec)
    return [problem for subject in spec.subjects for problem in leaks_of(subject, resolution)]


def data_notes(spec: StudySpec) -> list[str]:
    """Returns what is allowed of the photographs and of the words that name a subject, but probably not meant."""
    from trainables.run.data_set import data_set_notes
    from trainables.run.prompt_checks import find_broken_words
    from trainables.run.split_notes import split_notes

    judged_by = spec.evaluation.of_phase("confirm"), spec.evaluation.of_phase("search")
    resolution = _largest_resolution(spec)
    buckets = _buckets_of_all_arms(spec, resolution)
    own_words = {name for name, arm in spec.arms.items() if arm.method == BASE or has_words(spec, name)}
    named = own_words != set(spec.arms)  # some arm trains by the words of the instance prompt
    return [
        note
        for subject in spec.subjects
        for note in (
            *data_set_notes(subject, resolution, buckets if subject.is_data_set else ()),
            *split_notes(subject, *judged_by),
            *(find_broken_words(spec.model, subject) if named else []),
        )
    ]


def _buckets_of_all_arms(spec: StudySpec, resolution: int | None) -> tuple[tuple[int, int], ...]:
    """The aspect-ratio buckets of a resolution; none where some arm trains on squares, or the model is not here."""
    from trainables.models.folders import image_buckets, local_folder

    folder = local_folder(spec.model)
    if folder is None or resolution is None or spec.values_of("aspect_ratio_buckets") != {True}:
        return ()
    return image_buckets(folder, resolution)


def _largest_resolution(spec: StudySpec) -> int | None:
    return max((value for value in spec.values_of("resolution") if value), default=_native(spec))


def shared_photographs(spec: StudySpec) -> list[str]:
    """Tells which photographs judge a confirm run after a search was tuned on them, whatever their files are called."""
    if spec.search.allow_overlap or not spec.confirm.seeds or not any(map(spec.trials_of, spec.arms)):
        return []
    searched, confirmed = (
        _photographs(spec, section.subjects or ()) for section in (spec.search, spec.confirm)
    )
    return [
        f"confirm.subjects: {', '.join(map(str, confirmed[digest]))} is also {', '.join(map(str, files))}, which is "
        f"searched on; take other photographs, {ASKED_FOR}"
        for digest, files in searched.items()
        if digest in confirmed
    ]


def _photographs(spec: StudySpec, subjects: Iterable[str]) -> dict[str, list[Path]]:
    """The photographs of some subjects by their SHA-256; without those that cannot be read, which others tell."""
    from trainables.data.path_map import folder_of
    from trainables.run.contents import data_set_contents, image_contents

    found: dict[str, list[Path]] = {}
    named = (spec.subject(name) for name in subjects)
    folders = {
        (folder, data_set_contents if one.is_data_set else image_contents)
        for one in named
        for field, folder in one.folders.items()
        if field not in MASKS
    }
    for name_of_folder, contents in sorted(folders, key=lambda each: each[0]):
        folder = folder_of(name_of_folder)
        with suppress(OSError, UserError):
            for name, digest in contents(folder).items():
                found.setdefault(digest, []).append(folder / name)
    return found


def _folder_names(spec: StudySpec, storage: Path | str | None) -> list[str]:
    """Ray, SQLite and MLflow take paths as text; photographs below such a folder may have any names."""
    folders = [folder for subject in spec.subjects for folder in subject.folders.values()]
    paths = dict.fromkeys(map(str, (Path.cwd(), *folders, storage or "")))
    return [
        f"{shown(path)}: the path is not UTF-8, which Ray and the databases need; rename it, or work in another"
        for path in paths
        if not is_utf8(path)
    ]


def check_prompts(spec: StudySpec) -> list[Findings]:
    """Returns what is said of each subject's prompts in its phases; nothing, if the model's tokenizer is not on this
    machine.
    """
    from trainables.run.prompt_checks import find_cut_prompts

    # Captions that are files of other arms need not hold the words that a method has of its own.
    read = (*_captions_read(spec), *((config.captions, config) for config in methods_with_words(spec)))
    return [
        find_cut_prompts(spec.model, subject, settings, texts, training)
        for subject in spec.subjects
        for settings in dict.fromkeys(
            spec.evaluation.of_phase(phase) for phase in PHASES if subject in spec.subjects_in(phase)
        )
        for texts, training in read
    ]


def _captions_read(spec: StudySpec) -> list[tuple[Any, TrainingConfig | None]]:
    """Which captions are read in the words of the study, and with which order of their tags; None: as written."""
    of_files: list[TrainingConfig | None] = []
    for name, arm in spec.arms.items():
        for config in ends_of_search(spec, name) if arm.method != BASE else ():
            if config.captions == "files" and not config.added_words:
                order = {"captions": "files", "shuffle_captions": True, "keep_tokens": config.keep_tokens}
                of_files.append(TrainingConfig.model_validate(order) if config.shuffle_captions else None)
    return [("files", order) for order in dict.fromkeys(of_files)] or [("instance_prompt", None)]


def evaluation_notes(spec: StudySpec) -> list[str]:
    """Returns what is allowed of the evaluation, but makes results that say little."""
    settings = spec.evaluation.of_phase("confirm")
    of_data_sets = any(subject.is_data_set for subject in spec.subjects)
    fewest = (
        min(
            (prompt_count(spec.subject(name), settings) for name in spec.confirm.subjects or ()),
            default=ENOUGH_IMAGES,
        )
        * settings.images_per_prompt
    )
    if not spec.confirm.seeds:
        return []
    found = data_set_notes(spec)
    if fewest < ENOUGH_IMAGES:
        found.append(
            f"each confirm run is judged on {fewest} {'image' if fewest == 1 else 'images'} of its "
            f"{'held-out captions' if of_data_sets else 'subject'}, and a result of few images is noise: take at least "
            f"{ENOUGH_IMAGES} (16 {'captions' if of_data_sets else 'prompts'} with evaluation.images_per_prompt: 4)"
        )
    if settings.num_class_images < ENOUGH_IMAGES:
        found.append(
            f"whether {'what the model drew before' if of_data_sets else 'the class'} was kept is judged on "
            f"{settings.num_class_images} images{'' if of_data_sets else ' of it'} (evaluation.num_class_images), and "
            f"quality is multiplied with that: take at least {ENOUGH_IMAGES}"
        )
    if settings.restore_best is not None:
        found.append(
            f"restore_best: the evaluations on the way choose each run's step by {settings.restore_best}; they are no "
            "part of its budget, and their time is told as selection_seconds; half of each "
            f"{'data set' if of_data_sets else 'subject'}'s held-out images choose, and the other half judges every arm"
        )
    if settings.anchor_images < ENOUGH_IMAGES:
        found.append(
            f"all scales begin at {settings.anchor_images} images of the base model (evaluation.anchor_images), whose "
            f"noise is then in every score: take at least {ENOUGH_IMAGES}"
        )
    return found


def _native(spec: StudySpec) -> int | None:
    """The model's own resolution, if the model is here and sound."""
    from trainables.models.folders import check_model, native_resolution, resolve_model

    here = spec.model.path == EMBEDDED or Path(spec.model.path).is_dir()
    return native_resolution(resolve_model(spec.model)) if here and not check_model(spec.model) else None


def _models(spec: StudySpec) -> list[str]:
    from trainables.models.folders import check_model, check_quantization

    sizes = sorted(value for value in spec.values_of("resolution") if value) or [None]
    problems = [problem for resolution in sizes for problem in check_model(spec.model, resolution)]
    return list(dict.fromkeys([*problems, *check_quantization(spec.model)]))


def _metric_models(spec: StudySpec) -> list[str]:
    from trainables.evaluation.checks import check_evaluation
    from trainables.run.choice_checks import check_choice

    metrics = (*spec.search.metrics, *(bound.metric for bound in spec.search.constraints))
    sections = {"search": "evaluation.search", "confirm": "evaluation"}
    problems = [
        problem
        for phase in PHASES
        for problem in check_evaluation(spec.evaluation.of_phase(phase), metrics, sections[phase])
    ]
    problems += [
        problem
        for phase in PHASES
        for subject in spec.subjects_in(phase)
        for problem in check_choice(spec.evaluation.of_phase(phase), subject, sections[phase])
    ]
    return list(dict.fromkeys(problems))


def _optimizers(spec: StudySpec) -> Iterator[str]:
    for name in sorted(map(str, spec.values_of("optimizer"))):
        if (missing := missing_package(name)) is not None:
            package, install = missing
            yield f"optimizer {name!r} needs the package {package}; install it ({install}) or take adamw"


def _precision(spec: StudySpec) -> Iterator[str]:
    from trainables.run.checks import fp16_needs_a_gpu

    if spec.resources.worker_gpus == 0 and "fp16" in spec.values_of("mixed_precision"):
        yield fp16_needs_a_gpu(", but the runs get none (resources.gpus_per_run, gpus_per_worker)")


def _ledger(spec: StudySpec) -> list[str]:
    problem = sqlite_file_problem(spec.storage.ledger_url or "")
    return [f"storage.ledger_url: {problem}; choose another file"] if problem else []


def _storage(spec: StudySpec, storage: str | Path) -> list[str]:
    from study.preflight.estimates import rough_bytes
    from study.remote.object_store import store_problem

    try:
        root, url = root_and_url(storage)
    except UserError as error:
        return list(error.problems)
    if url is None:
        return check_disk(root, rough_bytes(spec))
    problem = store_problem(url)
    # The working copy holds records and images; weights and checkpoints stay in the store.
    return ([problem] if problem else []) + check_disk(root, 0)

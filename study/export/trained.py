"""A complete run: found by its name, its weights fetched, its base model the one that it was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from study.storage.layout import Storage
from study.storage.run_key import FOREIGN, RunKey
from study.storage.run_names import find_run, known_runs, runs_named
from study.storage.run_result import read_result
from study.storage.safe_paths import inside
from trainables.classifier_run_config import ClassifierRunConfig, parse_run_config
from trainables.errors import UserError
from trainables.evaluation.metrics_table import TOLD_BY
from trainables.events import RUN_FILE
from trainables.run.contents import contents_of, digests
from trainables.run_config import RunConfig


def complete_run(storage: Storage, name: str) -> Path:
    """Returns the folder of a complete run, given its name, a part of it with a slash, or the name of an arm.

    A word alone is no part of a run's name: it might mean another arm, of which nothing is there yet. Of an arm it is
    the best confirm run by quality; where none has one, as on data sets whose prompts cannot be told apart, by subject
    fidelity.

    Raises:
        UserError: There is none, or several of which none is known to be the best; the message lists what there is.
    """
    known = known_runs(storage)
    run = _run_of(name, known)
    if run is not None:
        folder = storage.run_folder(run)
        if not _is_complete(folder):
            raise UserError(
                f"run {run.name!r} is not complete; `{storage.command('trials')}` shows the state of each run"
            )
        return folder
    of_arm = [key for key in known if key.arm == name and _is_complete(storage.run_folder(key))]
    confirm = [key for key in of_arm if key.phase == "confirm"] or of_arm
    if not confirm:
        arms = sorted({key.arm for key in known})
        raise UserError(
            f"{name!r} is neither a run (phase/arm/0000-subject-s0) nor an arm with a complete run; "
            f"arms with runs: {', '.join(arms) or 'none'}"
        )
    return _best(name, [storage.run_folder(key) for key in confirm])


def _run_of(name: str, known: Sequence[RunKey]) -> RunKey | None:
    """Returns the run that a name or a part of one with a slash means; None where it means none.

    Raises:
        UserError: It means several, or weights from elsewhere.
    """
    try:
        key = RunKey.parse(name)
        if key.phase == FOREIGN:
            raise UserError(f"{name} was trained elsewhere: its weights are in the file that was judged")
        return key
    except ValueError:
        return find_run(name, known) if "/" in name and runs_named(name, known) else None


def config_of(run: str, folder: Path) -> RunConfig:
    """Returns the configuration of a run.

    Raises:
        UserError: Its base model is another one by now than it was trained on, or it trained a classifier.
    """
    config = parse_run_config((folder / RUN_FILE).read_text(encoding="utf-8"))
    if isinstance(config, ClassifierRunConfig):
        raise UserError(
            f"{run} trained a classifier: it has no weights of a diffusion model; name a confirm run"
        )
    _require_same_model(run, config)
    return config


def weights_of(storage: Storage, run: str, folder: Path) -> Path:
    """Returns the folder of a run's weights, fetched from the storage's URL if need be.

    Raises:
        UserError: They are gone, or lead out of the run's folder: what is read here is published.
    """
    result = read_result(folder)
    weights = result.weights if result is not None else None
    if storage.url is not None and weights:
        from study.remote.working_copy import fetch_weights

        fetch_weights(storage, "/".join(folder.parts[-3:]))
    if inside(storage.folder, folder.relative_to(storage.folder)) is None:
        raise UserError(
            f"{folder} leads out of the study's folder by a link; remove it, or put back the run's folder"
        )
    place = inside(folder, weights) if weights else None
    if place is None or not place.is_dir():
        raise UserError(f"the weights of {run!r} are gone: {folder / str(weights)} does not exist")
    if outside := sorted(path for path in place.rglob("*") if inside(place, path.relative_to(place)) is None):
        raise UserError(
            f"{outside[0]} is a link that leads out of the weights of {run!r}, or nowhere; remove it, or put back the "
            "run's own file"
        )
    return place


def _require_same_model(run: str, config: RunConfig) -> None:
    """Weights mean something on the base model that they were trained on alone."""
    held, here = config.contents.get("model"), digests(contents_of(None, config.model)).get("model")
    if held is not None and here is not None and held != here:
        raise UserError(
            f"run {run!r} was trained on another base model than lies in {config.model.path!r} now; put back the "
            "model's files of that time"
        )


def _is_complete(folder: Path) -> bool:
    result = read_result(folder)
    return result is not None and result.state == "COMPLETE"


def _best(arm: str, folders: Sequence[Path]) -> Path:
    """Returns the best of an arm's runs by the first metric that any of them has."""
    results = {folder: read_result(folder) for folder in folders}
    for metric in TOLD_BY:
        values = {
            folder: value
            for folder, result in results.items()
            if result is not None and (value := result.value(metric)) is not None
        }
        if values:
            return max(values, key=lambda folder: values[folder])
    if len(folders) > 1:
        runs = ", ".join("/".join(folder.parts[-3:]) for folder in folders)
        raise UserError(
            f"arm {arm!r} has {len(folders)} complete runs, and none has {' or '.join(TOLD_BY)}, by which the best "
            f"would be taken; name one of them: {runs}"
        )
    return folders[0]

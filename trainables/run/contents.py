"""What the files that a run reads hold: of each folder the files' names and SHA-256.

The content, and not the path, belongs to the identity of a run: photographs that were added, exchanged or taken away
between two launches make another run of it, and equal files under another path do not. Nothing here needs torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from trainables.classifier_run_config import Config
from trainables.config.fields import EMBEDDED, REVISION, ModelConfig, SubjectConfig
from trainables.config.paths import is_hub_id
from trainables.data.image_folders import folder_files
from trainables.data.images import list_images
from trainables.data.path_map import folder_of
from trainables.data.subjects import training_captions
from trainables.errors import InputsChanged, UserError
from trainables.evaluation.prepared_classes import prepared_at, read_prepared
from trainables.models.families import family_in
from trainables.models.folders import (
    file_digest,
    hub_is_reachable,
    local_folder,
    part_files,
    single_file,
)
from trainables.run_config import RunConfig
from trainables.util.files import replacing
from trainables.util.text import name_bytes, same_name, some

#: Of one folder: names of files, relative and in NFC, and the hex SHA-256 of each.
Contents = dict[str, str]

_COMMIT = "/commit"  # of a hub's snapshot, for all its files; no file's name, which is relative
_LISTINGS = "contents"  # in the cache
_SHOWN = 10  # file names in a message


def image_contents(folder: Path) -> Contents:
    """Returns the photographs of a folder."""
    return _hashed(folder, list_images(folder)[0])


def caption_contents(subject: SubjectConfig) -> Contents:
    """Returns the captions of a subject's training images as they are read, by the name of the image without suffix."""
    return {
        Path(file).stem: hashlib.sha256(text.encode()).hexdigest()
        for file, text in training_captions(subject).items()
    }


def data_set_contents(folder: Path) -> Contents:
    """Returns the captioned images of a folder, and the files that caption them."""
    return _hashed(folder, folder_files(folder))


def model_contents(folder: Path) -> Contents:
    """Returns the files of a base model (diffusers' layout) that loading may read."""
    parts = family_in(folder).parts
    files = [folder / "model_index.json", *(path for part in parts for path in part_files(folder, part))]
    return _hashed(folder, files)


def single_file_contents(path: Path, configs: Path | None) -> Contents:
    """Returns a base model in one file, and the configurations beside it if they are on this machine."""
    beside = model_contents(configs) if configs is not None else {}
    return {**beside, **_hashed(path.parent, [path])}


def metric_model_contents(folder: Path) -> Contents:
    """Returns the files of a metric model in transformers' layout that loading may read."""
    return _hashed(folder, part_files(folder, "."))


def contents_of(
    subject: SubjectConfig | None,
    model: ModelConfig | None = None,
    metric_models: Mapping[str, str] | None = None,
    *,
    captions: bool = False,
) -> dict[str, Contents]:
    """Returns what lies in the folders that a configuration names, by the name of the field.

    What cannot be found here (a hub id that has not been fetched yet) is left out.

    Args:
        metric_models: Field of `EvaluationConfig` to ``embedded``, a folder or a hub id.
        captions: Whether captions are read from files.
    """
    found: dict[str, Contents] = {}
    if subject is not None and subject.dataset is not None:
        for field, name in subject.folders.items():
            if folder_of(name).is_dir():
                found[f"subject.{field}"] = data_set_contents(folder_of(name))
    if subject is not None and subject.images is not None and folder_of(subject.images).is_dir():
        found["subject.images"] = image_contents(folder_of(subject.images))
        if captions:
            found["subject.captions"] = caption_contents(subject)
        if subject.references is not None and folder_of(subject.references).is_dir():
            found["subject.references"] = image_contents(folder_of(subject.references))
        if (masks := subject.folders.get("masks")) is not None and folder_of(masks).is_dir():
            found["subject.masks"] = image_contents(folder_of(masks))
    file = single_file(model) if model is not None else None
    if file is not None:
        found["model"] = single_file_contents(*file)
    elif model is not None and (folder := local_folder(model)) is not None:
        found["model"] = model_contents(folder) if _is_local(model.path) else _snapshot(folder)
    for field, name in (metric_models or {}).items():
        if (folder := _metric_model_folder(field, name)) is not None:
            found[f"evaluation.{field}"] = _of_network(name, folder)
    return found


def weights_contents(name: str) -> Contents | None:
    """Returns the files that a classifier's weights are loaded from; None of a hub id that has not been fetched yet."""
    folder = folder_of(name)
    place = folder if folder.is_dir() else _cached(name) if is_hub_id(name) else None
    return None if place is None else _of_network(name, place)


def contents_of_run(config: RunConfig) -> dict[str, Contents]:
    """Returns what lies in the folders that a run reads; see `contents_of`."""
    metric_models = {"image_encoder": config.evaluation.image_encoder, "clip": config.evaluation.clip}
    captions = config.training.captions == "files"
    return contents_of(config.subject, config.model, metric_models, captions=captions)


def digests(found: Mapping[str, Contents]) -> dict[str, str]:
    """Returns one hex SHA-256 a field; of a hub's snapshot its commit, as ``revision:<commit>``."""
    return {
        field: f"{REVISION}:{contents[_COMMIT]}"
        if is_revision(contents)
        else hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()
        for field, contents in found.items()
    }


def is_revision(contents: Mapping[str, str]) -> bool:
    """Whether contents are those of a hub's snapshot, which its id and its commit name on every machine."""
    return _COMMIT in contents


def sealed(config: RunConfig) -> RunConfig:
    """Returns a run's configuration with what it reads, having made sure that this is what it is said to be.

    A configuration that says nothing of it takes what there is now.

    Raises:
        InputsChanged: Naming the folders, and the files where the cache knows what they held; also files of the data
            set of classes, of which the run draws some, that are not those that were split.
        UserError: Something cannot be read.
    """
    try:
        found = contents_of_run(config)
    except OSError as error:
        raise UserError(
            f"{error.filename}: cannot be read ({error.strerror}); change its permissions"
        ) from None
    config = checked(config, found, _names(config))
    if config.generation is not None and config.generation.classes is not None:
        require_as_split(config.generation.classes)
    return config


def require_as_split(folder: str) -> None:
    """Raises InputsChanged, naming the files, unless a prepared data set of classes has those that were split."""
    try:
        read_prepared(prepared_at(Path(folder)))
    except UserError as error:
        raise InputsChanged(*error.problems) from None


def checked(config: Config, found: Mapping[str, Contents], names: Mapping[str, str | None]) -> Config:
    """Returns a configuration with what it reads, which is `found`, having made sure that this is what it says.

    Args:
        names: What each field of `found` names, for messages.

    Raises:
        InputsChanged: As `sealed`.
    """
    here = digests(found)
    listings = Path(config.cache_dir) / _LISTINGS
    problems = [
        _changed(names[field], field, _listing(listings, config.contents[field]), found[field])
        for field in here
        if config.contents.get(field, here[field]) != here[field]
    ]
    if problems:
        raise InputsChanged(*problems)
    for field, digest in here.items():
        _remember(listings, digest, found[field])
    return config.model_copy(update={"contents": {**config.contents, **here}})


def changes(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    """Names the files in which two contents of a folder differ, e.g. ``added 04.jpg; changed 01.jpg``."""
    if is_revision(before) or is_revision(after):
        return f"revision {before.get(_COMMIT, 'of a folder')} -> {after.get(_COMMIT, 'of a folder')}"
    kinds = {
        "added": sorted(after.keys() - before.keys()),
        "removed": sorted(before.keys() - after.keys()),
        "changed": sorted(name for name in before.keys() & after.keys() if before[name] != after[name]),
    }
    return "; ".join(f"{kind} {some(names, _SHOWN)}" for kind, names in kinds.items() if names)


def _hashed(folder: Path, files: Iterable[Path]) -> Contents:
    found = {
        name_bytes(same_name(str(path.relative_to(folder)))).decode(errors="backslashreplace"): path
        for path in files
    }
    return {name: file_digest(found[name]) for name in sorted(found)}


def fetch_commit(name: str) -> None:
    """Fetches the small configuration of a metric model of the hub, so that its commit is known before a run needs it.

    Does nothing for a folder, for what is in the hub's cache, and where the hub cannot be had.
    """
    if _is_local(name) or not is_hub_id(name) or _cached(name) is not None or not hub_is_reachable():
        return
    from huggingface_hub import hf_hub_download

    with contextlib.suppress(Exception):  # loading it will say what is wrong
        hf_hub_download(name, "config.json")


def _of_network(name: str, folder: Path) -> Contents:
    return metric_model_contents(folder) if _is_local(name) else _snapshot(folder)


def _is_local(name: str) -> bool:
    return name == EMBEDDED or folder_of(name).is_dir()


def _snapshot(folder: Path) -> Contents:
    """The commit of a hub's snapshot, which stands for all its files, fetched or not yet."""
    return {_COMMIT: folder.name}


def _metric_model_folder(field: str, name: str) -> Path | None:
    if name == EMBEDDED:
        from trainables import embedded

        return Path(getattr(embedded, field.upper()))
    folder = folder_of(name)
    if folder.is_dir() or not is_hub_id(name):
        return folder if folder.is_dir() else None
    return _cached(name)


def _cached(name: str) -> Path | None:
    """The snapshot of a metric model of the hub that is in its cache."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, "config.json")
    return Path(found).parent if isinstance(found, str) else None


def _names(config: RunConfig) -> dict[str, str | None]:
    """What a run's configuration names, by the field of `contents_of_run`."""
    return {
        **{f"subject.{name}": folder for name, folder in config.subject.folders.items()},
        "subject.captions": config.subject.images,
        "model": config.model.path,
        "evaluation.image_encoder": config.evaluation.image_encoder,
        "evaluation.clip": config.evaluation.clip,
    }


def _changed(named: str | None, field: str, before: Contents | None, after: Contents) -> str:
    what = f": {changes(before, after)}" if before is not None else ""
    return (
        f"{field} {named!r} does not hold what this run was begun with{what}; put the files back, or begin a new "
        "run with those that are there now"
    )


def _remember(folder: Path, digest: str, contents: Contents) -> None:
    """Keeps a listing, so that a later change can be told file by file; harmless to lose."""
    path = folder / f"{digest}.json"
    if path.exists():
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(path, durable=False) as partial:
            partial.write_text(json.dumps(contents, indent=0), encoding="utf-8")
    except OSError:  # best effort: a storage that fails is reported where the run needs it
        return


def _listing(folder: Path, digest: str) -> Contents | None:
    try:
        content = json.loads((folder / f"{digest}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None

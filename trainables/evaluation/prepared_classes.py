"""A class data set, split once and written where every run finds the same: a folder whose name is its content's.

Generators are given sub-folders of ``train`` and nothing else of it, so that no held-out image can reach one. Layout::

    classes.json            classes in order, their folders, counts, notes, what it was made from
    metadata.csv            file_name, class, group, split of every image
    train/CLASS/00000.png    also with metadata.csv: file_name, text (captions for one model of all classes)
    validation/..., test/...; left_out/...: what an imbalance leaves out, further real images of a learning curve
    references/CLASS/...    validation images that nearly show no training image of their class, where such are allowed:
                            what a generator's fidelity is measured against

Images are stored whole, as PNG: what a decoder makes of a JPEG may hang on its version, what it made once does not.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from trainables.config.class_data import ClassDataConfig
from trainables.data.class_prompts import ClassPrompts, class_prompts
from trainables.data.labelled_images import LabelledImage, LabelledSet, labelled
from trainables.data.labelled_metadata import LabelColumns
from trainables.data.path_map import folder_of
from trainables.embedded.class_sets import CLASS_SETS, DIGITS, load_class_set
from trainables.errors import UserError
from trainables.util.process import expanded

if TYPE_CHECKING:  # study files are read without numpy
    from trainables.evaluation.class_data_sets import ClassDataSet

CLASSES_FILE, METADATA_FILE = "classes.json", "metadata.csv"
LEFT_OUT = "left_out"
REFERENCES = "references"
FOLDERS = ("train", "validation", "test", LEFT_OUT)

_VERSION = 2  # of the layout
_UNSOUND = re.compile(r"[^A-Za-z0-9_.-]+")


@dataclass(frozen=True)
class PreparedClasses:
    """What is known of a prepared data set without reading its images.

    Attributes:
        folder: Where it lies.
        classes: Names, in the order of their numbers.
        names: Of each class the name of its folders, which is a sound name of a subject.
        counts: By part (`FOLDERS`) and class.
        notes: What is to be known of the split.
        prompts: Of each class.
        digest: Hex SHA-256 of classes and pixels, `ClassDataSet.digest`.
        near_copies: What was done about them; with ``allow`` only equal pixels are leaks.
        source: The set's name if it comes with the project; None: somebody's folder.
        grouped: Whether training images have groups.
    """

    folder: Path
    classes: tuple[str, ...]
    names: dict[str, str]
    counts: dict[str, dict[str, int]]
    notes: tuple[str, ...]
    prompts: dict[str, ClassPrompts]
    digest: str
    near_copies: str
    source: str | None = None
    grouped: bool = False

    def references_of(self, label: str) -> Path:
        """The folder of the held-out images that a generator of a class is measured against."""
        return self.images_of(REFERENCES if self.near_copies == "allow" else "validation", label)

    def images_of(self, part: str, label: str) -> Path:
        """The folder of the images of a class in a part."""
        return self.folder / part / self.names[label]


def cache_folder() -> Path:
    """Where prepared data sets lie: ``STUDY_CACHE``, or the user's cache folder (XDG)."""
    named = os.environ.get("STUDY_CACHE")
    base = expanded(named) if named else expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return Path(base).absolute() / ("" if named else "diffusion-study") / "class-data"


@dataclass(frozen=True)
class SplitClasses:
    """A data set that is read and split, and not written yet.

    Attributes:
        prepared: What is known of it, with the folder where it will lie.
    """

    prepared: PreparedClasses
    data: ClassDataSet

    def write(self) -> PreparedClasses:
        """Writes it, unless it is there already; what is there and damaged is replaced.

        Raises:
            UserError: It cannot be written there.
        """
        folder = self.prepared.folder
        try:
            prepared_at(folder)
        except UserError:
            _write_in_one_step(self)
        return self.prepared


def prepare_classes(
    config: ClassDataConfig, resolution: int | None = None, folder: Path | None = None
) -> PreparedClasses:
    """Reads, splits and writes a data set; see `split_classes` for arguments and errors."""
    return split_classes(config, resolution, folder).write()


def split_classes(
    config: ClassDataConfig, resolution: int | None = None, folder: Path | None = None
) -> SplitClasses:
    """Reads and splits a data set; writes nothing.

    Args:
        resolution: Side in pixels that images will be resized to, for rules and notes on sizes.
        folder: That holds prepared data sets; None: `cache_folder`.

    Raises:
        UserError: Everything that is wrong with folder, split and prompts.
    """
    data, near_copies, problems = _read(config, resolution)
    prompts: dict[str, ClassPrompts] = {}
    if data is not None:
        prompts, more = class_prompts(
            data.classes, config.template, config.token, config.class_template, config.words
        )
        problems += more
    if problems or data is None:
        raise UserError(*problems)
    said: dict[str, Any] = {
        "version": _VERSION,
        "near_copies": near_copies,
        "prompts": {label: [one.instance_prompt, one.class_prompt] for label, one in prompts.items()},
        "groups": sorted({image.group for image in data.held_out if image.group}),
        "left_out": sorted(image.digest for image in data.left_out),
        "source": config.path if config.path in CLASS_SETS else None,
    }
    digest = hashlib.sha256(json.dumps([data.digest, said], sort_keys=True).encode()).hexdigest()
    prepared = PreparedClasses(
        folder=(folder or cache_folder()) / digest[:32],
        classes=tuple(data.classes),
        names=folder_names(data.classes),
        counts={
            part: {label: sum(one.label == label for one in images) for label in data.classes}
            for part, images in _parts(data).items()
        },
        notes=data.notes,
        prompts=prompts,
        digest=data.digest,
        near_copies=near_copies,
        source=said["source"],
        grouped=any(image.group for image in data.train),
    )
    return SplitClasses(prepared, data)


def _parts(data: ClassDataSet) -> dict[str, tuple[LabelledImage, ...]]:
    return {
        "train": data.train,
        "validation": data.validation,
        "test": data.test,
        LEFT_OUT: data.left_out,
    }


def prepared_at(folder: Path) -> PreparedClasses:
    """Returns what is known of a prepared data set; raises UserError if it is none."""
    place = folder_of(str(folder))
    try:
        content = json.loads((place / CLASSES_FILE).read_text(encoding="utf-8"))
        return PreparedClasses(
            place,
            tuple(content["classes"]),
            dict(content["names"]),
            {part: dict(counts) for part, counts in content["counts"].items()},
            tuple(content["notes"]),
            {label: ClassPrompts(*texts) for label, texts in content["prompts"].items()},
            str(content["digest"]),
            str(content["near_copies"]),
            content.get("source"),
            bool(content["grouped"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{place} is no prepared data set of classes ({error}); run `study launch` with the study's file again, "
            "which prepares it anew"
        ) from None


def read_prepared(prepared: PreparedClasses) -> ClassDataSet:
    """Returns the images of a prepared data set, in the order of their digests within each part.

    Raises:
        UserError: Files cannot be read, or are not those that were prepared.
    """
    from trainables.evaluation.class_data_sets import ClassDataSet

    lines = _lines(prepared.folder / METADATA_FILE)
    parts: dict[str, list[LabelledImage]] = {part: [] for part in FOLDERS}
    problems: list[str] = []
    for line in lines:
        path = prepared.folder / line["file_name"]
        try:
            image = labelled(path, line["file_name"], line["class"], line["group"])
        except UserError as error:
            problems += error.problems
            continue
        if image.digest != line["digest"]:
            problems.append(
                f"{path} has other pixels than when the data set was split; remove {prepared.folder}, and "
                "it is prepared anew"
            )
        parts[line["split"]].append(image)
    extra = _unknown_files(prepared.folder, {line["file_name"] for line in lines})
    if extra:
        problems.append(
            f"{prepared.folder} has images that were not split into it: {', '.join(extra[:5])}; remove them"
        )
    if problems:
        raise UserError(*problems)
    taken = {
        part: tuple(sorted(images, key=lambda one: (one.digest, one.name))) for part, images in parts.items()
    }
    return ClassDataSet(
        prepared.classes,
        taken["train"],
        taken["validation"],
        taken["test"],
        taken[LEFT_OUT],
        prepared.notes,
    )


def prepared_contents(folder: Path) -> dict[str, str]:
    """Returns what identifies a prepared data set, by the name of a file: digests of pixels, as it was split."""
    return {line["file_name"]: line["digest"] for line in _lines(folder_of(str(folder)) / METADATA_FILE)}


def _read(config: ClassDataConfig, resolution: int | None) -> tuple[ClassDataSet | None, str, list[str]]:
    from trainables.data.labelled_split import Shares
    from trainables.evaluation.class_data_sets import read_class_data_set, split_class_data_set

    shares = Shares(config.train, config.validation, config.test)
    if config.path in CLASS_SETS:
        near = config.near_copies or ("allow" if config.path == DIGITS else "refuse")
    else:
        near = config.near_copies or "refuse"
    common: dict[str, Any] = {
        "shares": shares,
        "seed": config.split_seed,
        "imbalance": config.imbalance,
        "resolution": resolution,
        "near_copies": near,
    }
    try:
        if config.path in CLASS_SETS:
            stated = [
                name
                for name in ("class_column", "group_column", "split_column", "classes")
                if getattr(config, name) is not None
            ]
            if stated:
                return (
                    None,
                    near,
                    [
                        f"{', '.join(stated)}: {config.path!r} comes with the project and brings its own; leave out"
                    ],
                )
            return split_class_data_set(_shipped(config.path), **common), near, []
        columns = LabelColumns(config.class_column, config.group_column, config.split_column)
        place = folder_of(config.path)
        if not place.is_dir():
            names = ", ".join(CLASS_SETS)
            return (
                None,
                near,
                [f"{config.path}: no such folder, and no data set that comes with the project ({names})"],
            )
        return read_class_data_set(place, columns=columns, classes=config.classes, **common), near, []
    except UserError as error:
        return None, near, list(error.problems)


def _shipped(name: str) -> LabelledSet:
    try:
        found = load_class_set(name)
    except (ValueError, ModuleNotFoundError) as error:
        raise UserError(str(error)) from None
    images = tuple(
        labelled(picture, one.name, one.class_name, one.group or "")
        for one, picture in zip(found.pictures, found.images(), strict=True)
    )
    return LabelledSet(images, found.class_names)


def _write_in_one_step(split: SplitClasses) -> None:
    target = split.prepared.folder
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise UserError(
            f"{error.filename}: the data set cannot be prepared there ({error.strerror}); set STUDY_CACHE to a folder "
            "that can be written"
        ) from None
    try:
        _write(split, made)
        made.chmod(0o755)
        if target.exists():  # and cannot be read
            shutil.rmtree(target)
        os.replace(made, target)
    except OSError as error:
        if not (target / CLASSES_FILE).exists():  # else another process was faster
            raise UserError(
                f"{target}: the data set cannot be prepared ({error.strerror}); remove this folder, or set STUDY_CACHE "
                "to another place"
            ) from None
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _write(split: SplitClasses, folder: Path) -> None:
    data, prepared = split.data, split.prepared
    rows: list[list[str]] = []
    for part, images in _parts(data).items():
        numbers = dict.fromkeys(data.classes, 0)
        captions = []
        for image in images:
            name = f"{prepared.names[image.label]}/{numbers[image.label]:05d}.png"
            numbers[image.label] += 1
            place = folder / part / name
            place.parent.mkdir(parents=True, exist_ok=True)
            _save(image.open(), place)
            rows.append([f"{part}/{name}", image.label, image.group, part, image.digest])
            captions.append([name, prepared.prompts[image.label].class_prompt, image.group])
        if part in ("train", "validation"):
            head = ["file_name", "text", "group"]
            columns = len(head) if prepared.grouped else len(head) - 1
            _write_csv(
                folder / part / METADATA_FILE, head[:columns], [caption[:columns] for caption in captions]
            )
    if prepared.near_copies == "allow":
        _write_references(data, prepared.names, folder)
    _write_csv(folder / METADATA_FILE, ["file_name", "class", "group", "split", "digest"], rows)
    content = {
        "version": _VERSION,
        "classes": prepared.classes,
        "names": prepared.names,
        "counts": prepared.counts,
        "notes": prepared.notes,
        "prompts": {
            label: [one.instance_prompt, one.class_prompt] for label, one in prepared.prompts.items()
        },
        "digest": prepared.digest,
        "near_copies": prepared.near_copies,
        "source": prepared.source,
        "grouped": prepared.grouped,
    }
    (folder / CLASSES_FILE).write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")


def _write_references(data: ClassDataSet, names: Mapping[str, str], folder: Path) -> None:
    """Writes the validation images of each class that nearly show none of its training images."""
    from trainables.evaluation.near_copies import near_pairs

    for label in data.classes:
        trained = [one.look().small for one in data.train if one.label == label]
        held_out = [one for one in data.validation if one.label == label]
        copies = {
            column for _, column in near_pairs(trained, [one.look().small for one in held_out]).tolist()
        }
        place = folder / REFERENCES / names[label]
        place.mkdir(parents=True)
        for number, image in enumerate(held_out):
            if number not in copies:
                _save(image.open(), place / f"{number:05d}.png")


def folder_names(classes: Sequence[str]) -> dict[str, str]:
    """Returns a sound and unique folder name for each class: its own where that is sound."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for number, label in enumerate(classes):
        name = _UNSOUND.sub("-", label).strip("-._")[:48] or f"class-{number}"
        if not name[0].isalnum():
            name = f"class-{name}"
        if name.casefold() in taken:
            name = f"{name}-{number}"
        taken.add(name.casefold())
        names[label] = name
    return names


def _save(image: Image.Image, place: Path) -> None:
    image.save(place, format="PNG", compress_level=1)


def _write_csv(path: Path, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(head)
        writer.writerows(rows)


def _lines(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def _unknown_files(folder: Path, known: set[str]) -> list[str]:
    return sorted(
        name
        for part in FOLDERS
        for path in (folder / part).rglob("*")
        if not path.is_dir() and path != folder / part / METADATA_FILE
        if (name := path.relative_to(folder).as_posix()) not in known
    )

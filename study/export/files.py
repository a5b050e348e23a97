"""Writes the weights of a complete run for another program, beside a model card, all or nothing."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from study.export.card import Card, write_card
from study.export.trained import complete_run, config_of, weights_of
from study.storage.layout import Storage
from study.storage.run_key import RunKey
from study.storage.run_result import RunResult, read_result
from study.storage.safe_paths import inside
from trainables.config.fields import EMBEDDED
from trainables.errors import UserError
from trainables.events import Event, read_events
from trainables.methods.exporting import About, Format, Request, export, files_in, obstacle
from trainables.methods.registry import get_method
from trainables.models.families import family_in
from trainables.models.folders import local_folder
from trainables.run_config import RunConfig


@dataclass(frozen=True)
class ExportedRun:
    """What was written.

    Attributes:
        files: All of it, in order.
        notes: What a user should know of how the files are read, one note each.
    """

    folder: Path
    files: tuple[Path, ...]
    notes: tuple[str, ...]


def export_run(
    storage: Storage, run: str, form: Format, out: Path, *, author: str = "", license: str = ""
) -> ExportedRun:
    """Writes a run's weights in a format, and ``README.md``, a model card with samples.

    The same run gives the same bytes, at any time and on any machine with the same versions of the libraries.

    Args:
        run: Name of a run or an arm, see `complete_run`.
        out: A folder that does not exist, or is empty; it is written in one step at the end.
        author: Of the weights, for metadata and card; empty: it is not stated. `license` likewise.

    Raises:
        UserError: There is no such run, its method cannot be had in this format, or the folder holds something,
            is a link or cannot be written.
    """
    folder = complete_run(storage, run)
    config = config_of(run, folder)
    method = get_method(config.method)
    known = local_folder(config.model)
    if known is not None and (problem := obstacle(method, family_in(known), config.training, form)):
        raise UserError(problem)
    out = out.absolute()
    _check_target(out)
    weights = weights_of(storage, run, folder)

    from trainables.data.subjects import prompts_of
    from trainables.models.loading import load_backbone

    backbone = load_backbone(config.model.whole)  # what is exported is for the model's own weights
    if problem := obstacle(method, backbone.family, config.training, form):
        raise UserError(problem)
    side = config.training.resolution or backbone.resolution
    instance, of_class = prompts_of(config.subject)
    training = config.training.for_subject(instance, of_class)
    recorded = _Recorded.of(storage, folder, config)
    # Of a data set its trigger, without the comma that joins it to captions.
    about = recorded.about(side, training.reword(instance).removesuffix(", "), author, license)
    request = Request(form, recorded.name, about)
    with _whole(out) as made:
        written = export(method, backbone, training, weights, request, made)
        notes = (*written.notes, *(() if license else (_NO_LICENSE,)))
        # What people are told is how prompts of the program are written that reads the files.
        told = about if written.trigger is None else replace(about, trigger=written.trigger)
        card = Card(told, form, method.title, method.name, recorded.settings, recorded.evaluation, written)
        write_card(made, card, recorded.hub_id, recorded.samples)
    return ExportedRun(out, tuple(out / path for path in files_in(out)), notes)


def _check_target(out: Path) -> None:
    """Raises UserError if a folder cannot be written, or holds something; leaves nothing behind."""
    try:
        if out.is_symlink():
            raise UserError(f"--out {out} is a link to {os.readlink(out)}; name the folder itself")
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(
                f"--out {out} holds something already; name a folder that does not exist, or empty it"
            )
        parent = next(folder for folder in out.parents if folder.exists())
        os.rmdir(tempfile.mkdtemp(prefix=_WORK, dir=parent))  # only trying tells
    except OSError as error:
        raise UserError(_unwritable(out, error)) from None


@contextmanager
def _whole(out: Path) -> Iterator[Path]:
    """Gives an empty folder, which becomes `out` at the end; where that fails, nothing is left behind.

    Raises:
        UserError: A file cannot be read or written.
    """
    missing = [folder for folder in out.parents if not folder.exists()]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=_WORK, dir=out.parent))
        try:
            made = work / out.name
            made.mkdir()
            yield made
            os.replace(made, out)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        raise UserError(_unwritable(out, error)) from error
    finally:
        for folder in missing:  # those that are empty
            with suppress(OSError):
                folder.rmdir()


def _unwritable(out: Path, error: Exception) -> str:
    return f"the export to {out} cannot be written ({error}); mend that, or name a folder at another place by --out"


_WORK = ".export-"
_NO_LICENSE = "no licence is stated; give one by --license, and mind the base model's own"


@dataclass(frozen=True)
class _Recorded:
    """What the records of a run say of it, and nothing of where it lies or of when it is exported."""

    storage: Storage
    folder: Path
    config: RunConfig
    result: RunResult
    events: tuple[Event, ...]

    @classmethod
    def of(cls, storage: Storage, folder: Path, config: RunConfig) -> _Recorded:
        result = read_result(folder)
        assert result is not None  # it is complete
        return cls(storage, folder, config, result, tuple(read_events(folder)))

    @property
    def key(self) -> RunKey:
        return RunKey.parse("/".join(self.folder.parts[-3:]))

    @property
    def name(self) -> str:
        """Of files."""
        return f"{self.storage.study}-{self.key.arm}-{self.folder.name}"

    @property
    def base(self) -> str:
        """The base model's name: a hub's id, or of a folder its last name, since paths are this machine's."""
        path = self.config.model.path
        return path if self.hub_id or path == EMBEDDED else Path(path).name

    @property
    def hub_id(self) -> str:
        path = self.config.model.path
        return "" if path == EMBEDDED or Path(path).is_absolute() or path.startswith((".", "~")) else path

    @property
    def settings(self) -> dict[str, Any]:
        bits = self.config.model.quantization
        over = {} if bits is None else {"base_model_quantization": bits}
        return dict(sorted({**json.loads(json.dumps(self.config.training.effective())), **over}.items()))

    @property
    def evaluation(self) -> dict[str, float | None]:
        return dict(sorted(self.result.evaluation.items()))

    @property
    def samples(self) -> dict[str, Path]:
        """Prompt -> strip of images of the last evaluation. What shows the owner's photographs is left out.

        So is what leads out of the run's folder: these files are published.
        """
        found: dict[str, Path | None] = {}
        for event in self.events:
            key = str(event.data.get("key", ""))
            if event.kind == "phase" and event.data.get("name") == "evaluate":
                found = {}  # another one begins: its prompts, and its weights, may be others
            if event.kind == "image" and key[:2].isdigit() and key[2:3] == " ":
                found[key] = inside(self.folder, str(event.data.get("path", "")))
        return {key: path for key, path in sorted(found.items()) if path is not None}

    def about(self, side: int, trigger: str, author: str, license: str) -> About:
        key, config = self.key, self.config
        ended = [event.time for event in self.events if event.kind == "finished"]
        own = {
            "study": self.storage.study,
            "run": key.name,
            "method": config.method,
            "subject": key.subject,
            "seed": config.seed,
            "base_model": self.base,
            "base_model_sha256": config.contents.get("model", ""),
            "config_digest": self.result.config_digest or config.digest(),
            "train_steps": self.result.cost.get("train_steps"),
            "training": self.settings,
            "evaluation": self.evaluation,
            "versions": _versions(self.events),
        }
        return About(
            title=f"{self.storage.study} {key.arm} {self.folder.name}",
            description=f"{get_method(config.method).title} on the base model {self.base}, trained on {key.subject!r}.",
            date=datetime.fromtimestamp(int(ended[-1]), UTC).isoformat() if ended else "",
            resolution=side,
            trigger=trigger,
            captioned=config.subject.is_data_set,
            base=self.base,
            author=author,
            license=license,
            own={name: _text(value) for name, value in own.items() if value not in (None, "")},
        )


def _versions(events: tuple[Event, ...]) -> Mapping[str, Any]:
    started = [event.data.get("versions") for event in events if event.kind == "started"]
    return dict(sorted((started[-1] or {}).items())) if started else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)

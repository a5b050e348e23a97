"""What one run leaves in MLflow: its tags, images, artifacts and description."""

from __future__ import annotations

import io
import json
import re
import tempfile
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from study.storage.layout import WEIGHTS_NOTE_FILE
from study.storage.run_key import FOREIGN, RunKey
from study.storage.run_result import best_words
from study.storage.safe_paths import inside
from study.tracking.event_metrics import ImageFile
from study.tracking.mlflow_store import MlflowStore
from study.tracking.run_ids import Launch
from study.tracking.ui_defaults import IMAGE_SECTION
from trainables.data.images import MAX_PIXELS
from trainables.evaluation.metrics_table import QUALITY
from trainables.events import (
    GENERATED,
    IMAGE_SCORES,
    PREDICTIONS,
    RECORD,
    RESULT_FILE,
    Event,
    read_events,
)
from trainables.methods.registry import BASE
from trainables.run_config import config_digest
from trainables.util.files import sha256_of

if TYPE_CHECKING:
    from PIL.Image import Image

PREVIEW_PIXELS = 256
SCORES = "image_scores"  # the tag of a run whose images' scores are an artifact
DRAWN = "generated"  # the tag of a run that drew images for classifiers
DRAWN_FILE = "generated.json"  # its artifact: what is known of them


def run_tags(
    key: RunKey, document: Mapping[str, Any], study: str, study_id: str, launch: Launch | None
) -> dict[str, str]:
    """Returns the tags that a run has from its beginning."""
    tags = {
        "kind": "run",
        "study": study,
        "study_id": study_id,
        "run_key": key.name,
        "arm": key.arm,
        "method": str(document["method"]),
        "phase": key.phase,
        "trial": str(key.trial),
        "subject": key.subject,
        "seed": str(key.seed),
        "state": "RUNNING",
        "config_digest": config_digest(document),
        "last_event": "0",
        "mlflow.note.content": describe(key, document),
    }
    if key.trains_classifier:
        tags |= {
            "source": str(document["source"]),
            "generator": str(document["generator"] or ""),
            "network": str(document["training"]["network"]),
            "loss": str(document["training"]["loss"]),
        }
    if launch is not None:
        tags["versions"] = json.dumps(launch.versions, sort_keys=True)
        if launch.git_commit is not None:
            tags["git_commit"] = tags["mlflow.source.git.commit"] = launch.git_commit
            tags["git_dirty"] = str(launch.git_dirty).lower()
    return tags


def end_tags(key: RunKey, document: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, str]:
    """Returns the tags that tell how a run ended."""
    tags = {
        "state": str(result["state"]),
        "attempt": str(result.get("attempts") or 1),
        "mlflow.note.content": describe(key, document, result),
    }
    for name in ("reason", "message", "config_digest"):
        if result.get(name):
            tags[name] = str(result[name])
    missing = sorted(name for name, value in (result.get("evaluation") or {}).items() if value is None)
    if missing:  # MLflow cannot hold "no value"; an earlier evaluation may have had one
        tags["missing"] = ",".join(missing)
    return tags


def log_image(store: MlflowStore, run_id: str, folder: Path, image: ImageFile, prefix: str) -> None:
    """Uploads an image as `MlflowClient.log_image` does, but under a name that repeating gives again."""
    source = inside(folder, image.path)
    picture = _decoded(source.read_bytes()) if source is not None else None
    if picture is None:
        return
    name = uuid.uuid5(uuid.NAMESPACE_URL, f"{prefix}/{image.number}")
    # MLflow's page makes a section of what stands before the slash, and writes the slash as ~ in file names.
    key = re.sub(r"[^\w\-. ]", "_", image.key.removeprefix(GENERATED), flags=re.ASCII)
    key = GENERATED.replace("/", "~") + key if image.key.startswith(GENERATED) else key
    stem = f"{IMAGE_SECTION}~{key}+step+{image.step}+timestamp+{image.time}+{name}"
    with tempfile.TemporaryDirectory() as temporary:
        picture.save(Path(temporary) / f"{stem}.png")
        preview = picture.convert("RGB")
        preview.thumbnail((PREVIEW_PIXELS, PREVIEW_PIXELS))
        preview.save(Path(temporary) / f"{stem}+compressed.webp")
        store.log_folder(run_id, Path(temporary), "images")


def _decoded(content: bytes) -> Image | None:
    """The picture in a file, None if it is damaged, none at all, or so large that decoding it could fill the memory."""
    from PIL import Image

    try:
        picture = Image.open(io.BytesIO(content))
        if picture.width * picture.height > MAX_PIXELS:
            return None
        picture.load()
    except MemoryError:
        raise
    except Exception:  # a decoder raises nearly anything; the run's numbers matter more than one picture
        return None
    return picture


def drawn_in(events: Iterable[Event]) -> list[dict[str, Any]]:
    """Returns the data of a run's events of kind ``generated``, the last of each class, without names of files."""
    found: dict[str, dict[str, Any]] = {}
    for event in events:
        if event.kind == "generated":
            told = {name: value for name, value in event.data.items() if name != "entries"}
            found[str(told.get("label", ""))] = told
    return list(found.values())


def log_artifacts(
    store: MlflowStore, run_id: str, folder: Path, result: Mapping[str, Any], weights_limit: int
) -> dict[str, str]:
    """Uploads what a run left, weights above `weights_limit` bytes by path and hash; returns tags."""
    if inside(folder, RESULT_FILE) is not None:
        store.log_file(run_id, folder / RESULT_FILE)
    if result.get("traceback"):
        store.log_text(run_id, str(result["traceback"]), "traceback.txt")
    _log_classifier(store, run_id, folder)
    return (
        _log_scores(store, run_id, folder)
        | _log_drawn(store, run_id, folder)
        | _log_weights(store, run_id, folder, result, weights_limit)
    )


def _log_classifier(store: MlflowStore, run_id: str, folder: Path) -> None:
    """Uploads what a classifier said of held-out images, and the record of its training."""
    for name in (PREDICTIONS, RECORD):
        if inside(folder, name) is not None:
            store.log_file(run_id, folder / name)


def _log_drawn(store: MlflowStore, run_id: str, folder: Path) -> dict[str, str]:
    """Uploads what is known of the images that a run drew for classifiers; MLflow has no place for such events."""
    drawn = drawn_in(read_events(folder))
    if not drawn:
        return {}
    store.log_text(run_id, json.dumps(drawn, indent=1, sort_keys=True), DRAWN_FILE)
    return {DRAWN: "artifact"}


def _log_scores(store: MlflowStore, run_id: str, folder: Path) -> dict[str, str]:
    """Uploads the scores of single images, under the name that uploading them again replaces."""
    if inside(folder, IMAGE_SCORES) is None:
        return {}
    store.log_file(run_id, folder / IMAGE_SCORES)
    return {SCORES: "artifact"}


def _log_weights(
    store: MlflowStore, run_id: str, folder: Path, result: Mapping[str, Any], weights_limit: int
) -> dict[str, str]:
    weights = inside(folder, str(result["weights"])) if result.get("weights") else None
    if weights is None:
        # Of a storage at a URL, weights stay there.
        elsewhere = inside(folder, WEIGHTS_NOTE_FILE)
        if not result.get("weights") or elsewhere is None:
            return {}
        store.log_text(run_id, elsewhere.read_text(encoding="utf-8"), WEIGHTS_NOTE_FILE)
        return {"weights": "reference"}
    if any(inside(weights, path.relative_to(weights)) is None for path in weights.rglob("*")):
        return {"weights": "refused: leads out of the run's folder"}
    files = sorted(path for path in weights.rglob("*") if path.is_file())
    size = sum(path.stat().st_size for path in files)
    if size <= weights_limit:
        store.log_folder(run_id, weights, "weights")
        return {"weights": "artifact"}
    listed = [
        {"file": str(path.relative_to(weights)), "bytes": path.stat().st_size, "sha256": sha256_of(path)}
        for path in files
    ]
    reference = {"path": str(weights.absolute()), "bytes": size, "files": listed}
    store.log_text(run_id, json.dumps(reference, indent=1), WEIGHTS_NOTE_FILE)
    return {"weights": "reference"}


def describe(key: RunKey, document: Mapping[str, Any], result: Mapping[str, Any] | None = None) -> str:
    """A few lines of Markdown for the head of the run's page in the MLflow UI."""
    training = document.get("training", {})
    if key.trains_classifier:
        return _describe_classifier(key, document, result)
    lines = [
        f"**{key.arm}** ({document['method']}), {key.phase} phase, trial {key.trial}: "
        f"subject {key.subject}, seed {key.seed}"
    ]
    if key.phase == FOREIGN:
        lines.append(
            f"weights from elsewhere: {training.get('file')} (SHA-256 {str(training.get('sha256'))[:12]})"
        )
    elif document["method"] != BASE:
        lines.append(
            f"learning rate {training.get('learning_rate', 0):.3g}, {training.get('lr_scheduler')} schedule, "
            f"{_length(training, result)}"
        )
    if result is not None and result["state"] == "COMPLETE":
        quality = (result.get("evaluation") or {}).get(QUALITY)
        seconds = (result.get("cost") or {}).get("train_seconds")
        scores = [f"quality {quality:.3f}"] if quality is not None else []
        scores += [f"trained in {seconds:.1f} s"] if seconds is not None else []
        lines.append(", ".join(scores))
        lines.append(best_words(result.get("best"), result.get("cost") or {}) or "")
    elif result is not None:
        reasons = [str(result[name]) for name in ("reason", "message") if result.get(name)]
        lines.append(f"**{result['state']}** {': '.join(reasons)}")
    return "\n\n".join(line for line in lines if line)


def _describe_classifier(key: RunKey, document: Mapping[str, Any], result: Mapping[str, Any] | None) -> str:
    training = document["training"]
    lines = [
        f"**{training['network']}** learns from **{document['source']}** ({key.phase}), images of {key.subject}, "
        f"seed {key.seed}",
        f"{training['optimizer']}, learning rate {training['learning_rate']:.3g}, loss {training['loss']}, "
        f"{training['max_train_steps']} steps",
    ]
    if result is not None and result["state"] == "COMPLETE":
        scores = result.get("evaluation") or {}
        shown = {
            "test accuracy": scores.get("accuracy"),
            "balanced": scores.get("balanced_accuracy"),
            "on validation images": scores.get("validation_balanced_accuracy"),
        }
        lines.append(", ".join(f"{name} {value:.3f}" for name, value in shown.items() if value is not None))
    elif result is not None:
        reasons = [str(result[name]) for name in ("reason", "message") if result.get(name)]
        lines.append(f"**{result['state']}** {': '.join(reasons)}")
    return "\n\n".join(line for line in lines if line)


def _length(training: Mapping[str, Any], result: Mapping[str, Any] | None) -> str:
    """How long a run trains, in words: the steps that it did, or what ends it."""
    done = ((result or {}).get("cost") or {}).get("train_steps")
    if done is not None:
        return f"{done} steps"
    for name, unit in (("max_train_flops", "FLOPs"), ("max_train_seconds", "s")):
        if training.get(name) is not None:
            return f"{training[name]:g} {unit} of training"
    return f"{training.get('max_train_steps')} steps"

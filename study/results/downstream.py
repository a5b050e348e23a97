"""The runs of the downstream phase as tables: what each classifier learnt from and came to, what it said of each
held-out image, and what each generator drew.

They are no rows of ``runs.csv``: there every run fine-tunes, and arms are what is compared.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from study.results.downstream_columns import (
    EVENT_NAMES,
    GENERATED_COLUMNS,
    GENERATED_MEASURES,
    PREDICTION_COLUMNS,
    RUN_COLUMNS,
    RUN_COSTS,
    RUN_SCORES,
    typed,
)
from study.storage.layout import Storage
from study.storage.run_key import DOWNSTREAM_PHASES, RunKey
from study.storage.run_result import result_of
from study.storage.safe_paths import inside
from study.tracking.event_metrics import final_metrics
from study.tracking.params import flat_fields
from study.tracking.run_ids import read_record
from study.tracking.run_writer import drawn_in
from trainables.events import EVENTS_FILE, PREDICTIONS, RECORD, RUN_FILE, read_events

if TYPE_CHECKING:
    from pandas import DataFrame

MOST_BYTES = 64 * 2**20  # of one run's file; beyond it something else lies there
_HEAD = ["part", "image", "group", "label"]
_COMPLETE = "COMPLETE"


@dataclass(frozen=True)
class Downstream:
    """All that is known of a study's downstream phase.

    Attributes:
        runs: One row a classifier's run, `RUN_COLUMNS`.
        predictions: One row an image that a final run was asked about: `PREDICTION_COLUMNS`, then ``p0``, ``p1``, ...
        generated: One row a class that a generator's run drew: `GENERATED_COLUMNS`.
    """

    runs: DataFrame = field(default_factory=lambda: typed([], RUN_COLUMNS))
    predictions: DataFrame = field(default_factory=lambda: typed([], PREDICTION_COLUMNS))
    generated: DataFrame = field(default_factory=lambda: typed([], GENERATED_COLUMNS))

    @property
    def empty(self) -> bool:
        """Whether there is nothing of it."""
        return self.runs.empty and self.generated.empty


def made_of(
    runs: Iterable[dict[str, Any]],
    predictions: Mapping[str, Sequence[dict[str, Any]]],
    generated: Iterable[dict[str, Any]],
) -> Downstream:
    """Puts rows in order, wherever they come from.

    Args:
        predictions: By the run's key.
    """
    ordered = sorted(
        runs,
        key=lambda row: (DOWNSTREAM_PHASES.index(row["phase"]), row["cell"], row["trial"], row["run_key"]),
    )
    said = [row for run in ordered for row in predictions.get(run["run_key"], ())]
    drawn = sorted(generated, key=lambda row: (row["generator"], row["subject"], row["seed"], row["label"]))
    numbers = sorted({name for row in said for name in row if is_probability(name)}, key=lambda p: int(p[1:]))
    return Downstream(
        typed(ordered, RUN_COLUMNS),
        typed(said, (*PREDICTION_COLUMNS, *numbers)),
        typed(drawn, GENERATED_COLUMNS),
    )


def is_probability(name: str) -> bool:
    """Whether a column holds the probability of a class."""
    return name[:1] == "p" and name[1:].isdecimal()


def local_downstream(storage: Storage, confirm: Iterable[Mapping[str, Any]]) -> Downstream:
    """Reads it from the run folders.

    Args:
        confirm: Rows of the study's other runs, of which those that drew images are looked at.
    """
    record = read_record(storage)
    runs, predictions = [], {}
    for path in sorted(storage.runs.glob(f"downstream*/*/*/{EVENTS_FILE}")):
        key = _key_of(path.parent)
        row = None if key is None else _local_row(key, path.parent)
        if key is None or row is None:
            continue
        runs.append({**row, "mlflow_run_id": record.mlflow_run_id(key) if record else None})
        if is_final(row):
            predictions[key.name] = read_predictions(path.parent, key.name)
    generated: list[dict[str, Any]] = []
    for one in confirm:
        if one["phase"] == "confirm" and one["state"] == _COMPLETE:
            key = RunKey.parse(one["run_key"])
            generated += generated_rows(key, drawn_in(read_events(storage.run_folder(key))))
    return made_of(runs, predictions, generated)


def is_final(row: Mapping[str, Any]) -> bool:
    """Whether a run is one of those that the comparison is made from."""
    return row["phase"] == "downstream" and row["state"] == _COMPLETE


def _key_of(folder: Path) -> RunKey | None:
    try:
        key = RunKey.parse("/".join(folder.parts[-3:]))
    except ValueError:
        return None
    return key if key.trains_classifier else None


def _local_row(key: RunKey, folder: Path) -> dict[str, Any] | None:
    events = read_events(folder)
    if not events or not (folder / RUN_FILE).exists():
        return None
    result = result_of(folder) or {}
    return downstream_row(
        key,
        flat_fields(json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))),
        str(result.get("state", "RUNNING")),
        result.get("reason"),
        final_metrics(events, result),
        read_record_of(folder),
    )


def read_record_of(folder: Path) -> dict[str, Any]:
    """Returns the ``record.json`` of a classifier's run; empty where it left none that can be read."""
    path = inside(folder, RECORD)
    try:
        if path is None or path.stat().st_size > MOST_BYTES:
            return {}
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


# ------------------------------------------------------------------ one run


def downstream_row(
    key: RunKey,
    fields: Mapping[str, Any],
    state: str,
    reason: str | None,
    metrics: Mapping[str, float],
    record: Mapping[str, Any],
) -> dict[str, Any]:
    """The row of one run, from wherever its parts come.

    Args:
        fields: Its configuration, flattened (`flat_fields`).
        metrics: Under MLflow's names.
        record: What it did; lengths are those that were counted, not those that were configured.
    """
    source, loss = str(fields.get("source", "")), str(fields.get("training.loss", "cross_entropy"))
    network = str(fields.get("training.network", ""))
    scores = {name: metrics.get(f"eval/{name}") for name in RUN_SCORES}
    costs = {name: metrics.get(f"cost/{name}") for name in RUN_COSTS}
    return {
        "run_key": key.name,
        "phase": key.phase,
        "cell": key.arm,
        "source": source,
        "generator": fields.get("generator"),
        "ratio": _ratio(fields.get("ratio")),
        "filter": fields.get("filter.kind"),
        "real_share": float(fields.get("real_share", 1.0)),
        "classifier": classifier_of(key.arm, source, loss, network),
        "network": network,
        "loss": loss,
        "generator_seed": fields.get("generator_seed"),
        "seed": key.seed,
        "trial": key.trial,
        "state": state,
        "reason": reason,
        "learning_rate": fields.get("training.learning_rate"),
        "optimizer": fields.get("training.optimizer"),
        "weight_decay": fields.get("training.weight_decay"),
        **_recorded(record),
        **{name: value for name, value in (scores | costs).items() if value is None or math.isfinite(value)},
        "mlflow_run_id": None,
    }


def classifier_of(cell: str, source: str, loss: str, network: str) -> str:
    """The classifier's name, from that of its cell (`study.spec.downstream.Cell.name`); its network's where the cell's
    name was cut.
    """
    if not cell.startswith(f"{source}."):
        return network.replace(":", "-")
    return cell.removeprefix(f"{source}.").removesuffix(f".{loss}")


def _ratio(value: Any) -> str | None:
    return f"{value:g}" if isinstance(value, int | float) else value


def _recorded(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a run counted; None where it did not come so far."""
    training = _mapping(record.get("training"))
    real, generated = (_total(training.get(name)) for name in ("real", "generated"))
    drawn = None if real is None or generated is None else real + generated
    leaks = record.get("leak_checked")
    return {
        "steps": training.get("steps"),
        "images_drawn": drawn,
        "generated_share": None if not drawn or generated is None else generated / drawn,
        "best_step": training.get("best_step"),
        **{name: _total(record.get(name)) for name in ("real_images", "generated_images", "filtered_out")},
        "classes": json.dumps(record["classes"], ensure_ascii=False) if record.get("classes") else None,
        "data": record.get("data"),
        "leak_checked": None if leaks is None else json.dumps(leaks, sort_keys=True, ensure_ascii=False),
        "generated_near_held_out": _mapping(leaks).get("generated_near_held_out"),
    }


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _total(counts: Any) -> int | None:
    return sum(int(count) for count in counts.values()) if isinstance(counts, Mapping) else None


# ------------------------------------------------------------------ predictions


def read_predictions(folder: Path, run_key: str) -> list[dict[str, Any]]:
    """Returns what a run's classifier said, in the order of its file; nothing where it left none that can be read."""
    path = inside(folder, PREDICTIONS)
    try:
        if path is None or path.stat().st_size > MOST_BYTES:
            return []
        with path.open(newline="", encoding="utf-8") as file:
            return _predictions(csv.reader(file), run_key)
    except (OSError, ValueError, csv.Error):  # a damaged file: the report says whose predictions are missing
        return []


def _predictions(lines: Iterable[list[str]], run_key: str) -> list[dict[str, Any]]:
    import numpy as np

    rows = iter(lines)
    head = next(rows, [])
    names = head[len(_HEAD) :]
    if head[: len(_HEAD)] != _HEAD or names != [f"p{k}" for k in range(len(names))] or not names:
        raise ValueError("another table")
    found = []
    for part, image, group, label, *numbers in rows:
        # As float32, which holds the six digits in half of the bytes.
        values = np.asarray(numbers, dtype=np.float32).astype(float).tolist()
        told = dict(zip(names, values, strict=True))
        if not all(map(math.isfinite, values)):
            raise ValueError("a probability is no number")
        found.append(
            {
                "run_key": run_key,
                "part": part,
                "image": image,
                "group": group or None,
                "label": int(label),
                **told,
            }
        )
    return found


# ------------------------------------------------------------------ generated images


def generated_rows(key: RunKey, drawn: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows of one generator's run."""
    rows = []
    for told in drawn:
        numbers = {name: _number(told.get(EVENT_NAMES.get(name, name))) for name in GENERATED_MEASURES}
        images = _number(told.get("images"))
        rows.append(
            {
                "run_key": key.name,
                "generator": key.arm,
                "subject": key.subject,
                "seed": key.seed,
                "label": str(told.get("label", "")),
                "prompt": told.get("prompt"),
                "images": None if images is None else round(images),
                **numbers,
            }
        )
    return rows


def _number(value: Any) -> float | None:
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if known else None

"""How a run ended: ``result.json`` in its folder, whose existence means that the run is over."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from study.storage.run_key import END_WORDS, State
from study.util.json_files import write_json
from trainables.classifier_run_config import AnyRunConfig, parse_run_config
from trainables.events import EVENTS_FILE, RESULT_FILE, RUN_FILE, EventLog, read_events, sum_up


@dataclass(frozen=True)
class RunResult:
    """The content of ``result.json``.

    Attributes:
        reason: A short stable word, such as ``nan_loss`` or ``worker_died``; None for a complete run.
        evaluation: Metrics under bare names; None where a metric could not be computed.
        cost: Likewise.
        weights: Path relative to the run's folder.
        best: Which of its evaluations was best: the data of the event ``best``; empty where there was one alone.
    """

    state: State
    reason: str | None = None
    message: str | None = None
    traceback: str | None = None
    evaluation: dict[str, float | None] = field(default_factory=dict)
    cost: dict[str, Any] = field(default_factory=dict)
    weights: str | None = None
    attempts: int = 1
    config_digest: str = ""
    best: dict[str, Any] = field(default_factory=dict)

    def value(self, metric: str) -> float | None:
        """A metric of evaluation or cost; None if it is missing or not finite."""
        value = self.evaluation.get(metric, self.cost.get(metric))
        return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def best_words(best: Mapping[str, Any] | None, cost: Mapping[str, Any]) -> str | None:
    """Returns what is said of the best of a run's evaluations, e.g. "best by quality at step 50 of 150 (0.61; 0.58 at
    the end), whose weights it has"; None where there was one alone.

    Of a run that was to restore its best step and had no value to choose by, that it has the weights of its end.
    """
    if not best:
        return None
    if best.get("best_step") is None:
        return (
            f"no best step: none of its evaluations had a value of {best.get('metric')} (evaluation.restore_best), so "
            "that it has the weights of its end"
        )
    number, end = best.get("value"), best.get("end_value")
    values = [f"{number:.4g}"] if number is not None else []
    values += [f"{end:.4g} at the end"] if end is not None else []
    kept = ", whose weights it has" if best.get("restored") else ""
    steps = cost.get("train_steps")
    return (
        f"best by {best.get('metric')} at step {best.get('best_step')}{f' of {steps}' if steps else ''} "
        f"({'; '.join(values)}){kept}"
    )


def read_result(folder: Path) -> RunResult | None:
    """Returns the result of the run in `folder`, or None while it has none (or an unreadable one)."""
    try:
        content = json.loads((folder / RESULT_FILE).read_text(encoding="utf-8"))
        names = [name for name in RunResult.__dataclass_fields__ if content.get(name) is not None]
        result = RunResult(**{name: content[name] for name in names})
    except (OSError, ValueError, TypeError, AttributeError):
        return None
    return result if result.state in END_WORDS else None


def mend_result(folder: Path) -> RunResult | None:
    """Returns the result of a run; one that is damaged or missing is written anew from the run's own events.

    None if the events do not tell an end either: then the run is to be gone on with.
    """
    result = read_result(folder)
    if result is not None or not (folder / EVENTS_FILE).exists():
        return result
    digest = ""
    with contextlib.suppress(OSError, ValueError):
        digest = parse_run_config((folder / RUN_FILE).read_text(encoding="utf-8")).digest()
    content = sum_up(folder, digest)
    if content is not None:
        write_json(folder / RESULT_FILE, content)
    return read_result(folder)


def write_failure(
    folder: Path,
    *,
    reason: str,
    message: str,
    config: AnyRunConfig,
    traceback: str | None = None,
    attempts: int = 1,
) -> RunResult:
    """Ends a run that left no result of its own, because its worker died: event first, then ``result.json``.

    The cost is what the run itself last reported, at its newest checkpoint at the latest. Of a run that never began its
    configuration is written, too: reports and MLflow count it as failed like any other.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / RUN_FILE).exists():
        write_json(folder / RUN_FILE, config.model_dump(mode="json"))
    log = EventLog(folder)
    cost: dict[str, Any] = {}
    for event in read_events(folder):
        if event.kind == "cost":
            cost = event.data
    log.append("finished", state="FAIL", reason=reason, message=message, traceback=traceback)
    result = RunResult("FAIL", reason, message, traceback, {}, cost, None, attempts, config.digest())
    write_json(folder / RESULT_FILE, asdict(result))
    return result


def result_of(folder: Path) -> dict[str, Any] | None:
    """Returns how the run in `folder` ended, None if it did not."""
    result = read_result(folder)
    return None if result is None else asdict(result)

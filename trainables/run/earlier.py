"""What the events of earlier attempts at a run tell the next one."""

from __future__ import annotations

from collections.abc import Iterable

from trainables.config.classifiers import ClassifierConfig
from trainables.config.fields import TrainingConfig
from trainables.events import Event, settled_steps


def spans(events: Iterable[Event]) -> list[float]:
    """Returns how many seconds each earlier attempt ran, as far as its events tell."""
    found: list[float] = []
    begin = 0.0
    for event in events:
        if event.kind == "started":
            found.append(0.0)
            begin = event.time
        elif found:
            found[-1] = max(found[-1], event.time - begin)
    return found


def length_of(events: Iterable[Event], training: TrainingConfig | ClassifierConfig) -> int | None:
    """Returns the number of optimizer steps of a run if that is known: stated, or settled by an earlier attempt."""
    settled = [steps for event in events if (steps := settled_steps(event)) is not None]
    return settled[-1] if settled else training.stated_steps

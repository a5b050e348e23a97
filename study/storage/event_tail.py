"""Reads the new events of a run's file incrementally; an unchanged file costs one stat call."""

from __future__ import annotations

import os
from pathlib import Path

from trainables.events import EVENTS_FILE, Event, parse_event


class EventTail:
    """Returns the events of a run as they come.

    A file that has become shorter than what was read (it was made anew) is read from its beginning again. A torn
    last line waits until it is whole, or until the run's next attempt has cut it off.

    Attributes:
        read: Bytes of whole lines that have been returned; 0 before the first event.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / EVENTS_FILE
        self.read = 0

    def skip_to_last(self, size: int) -> None:
        """Leaves out all but the last so many bytes; the line that is cut so is no event and is passed over."""
        self.read = max(0, os.stat(self.path).st_size - size)

    def new(self) -> list[Event]:
        """Returns the events that were not returned before."""
        try:
            size = os.stat(self.path).st_size
        except FileNotFoundError:
            return []
        if size == self.read:
            return []
        if size < self.read:
            self.read = 0
        with self.path.open("rb") as file:
            file.seek(self.read)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self.read += len(whole)
        events = []
        for line in whole.split(b"\n")[:-1]:
            event = parse_event(line)
            if event is not None:
                events.append(event)
        return events

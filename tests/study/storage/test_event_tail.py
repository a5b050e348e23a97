"""Following event files."""

from __future__ import annotations

from pathlib import Path

from study.storage.event_tail import EventTail
from trainables.events import EVENTS_FILE, EventLog


def test_each_event_comes_once(tmp_path: Path) -> None:
    tail = EventTail(tmp_path)
    assert tail.new() == []
    log = EventLog(tmp_path)
    first = log.append("started", attempt=1)
    assert tail.new() == [first]
    assert tail.new() == []
    more = [log.append("progress", step, loss=1.0) for step in (1, 2)]
    assert tail.new() == more


def test_a_torn_line_waits_until_it_is_whole_or_cut_off(tmp_path: Path) -> None:
    log, tail = EventLog(tmp_path), EventTail(tmp_path)
    log.append("started", attempt=1)
    whole = (tmp_path / EVENTS_FILE).read_bytes()
    with (tmp_path / EVENTS_FILE).open("ab") as file:
        file.write(b'{"number":2,"ti')
    assert [event.number for event in tail.new()] == [1]
    assert tail.new() == []
    again = EventLog(tmp_path)  # the next attempt cuts the torn line off
    assert (tmp_path / EVENTS_FILE).read_bytes() == whole
    again.append("started", attempt=2)
    assert [event.number for event in tail.new()] == [2]


def test_a_file_that_was_made_anew_is_read_from_its_beginning(tmp_path: Path) -> None:
    log, tail = EventLog(tmp_path), EventTail(tmp_path)
    for step in range(5):
        log.append("progress", step)
    assert len(tail.new()) == 5
    (tmp_path / EVENTS_FILE).unlink()
    assert tail.new() == []
    EventLog(tmp_path).append("started", attempt=1)
    assert [event.kind for event in tail.new()] == ["started"]

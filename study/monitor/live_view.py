"""The live view of a study in the terminal: a table on a terminal, plain lines elsewhere.

Like every follower it reads the runs' event files; it shows, and decides nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from study.spec.sections import MOST_STEPS
from study.storage.event_tail import EventTail
from study.util.units import short_duration
from trainables.events import Event, settled_steps

if TYPE_CHECKING:
    from study.storage.planned_run import PlannedRun
    from study.storage.run_key import RunKey

POLL_SECONDS = 0.5
PLAIN_LINE_SECONDS = 20.0
MOST_ROWS, MOST_FAILURES = 16, 3


@dataclass
class RunView:
    """What is known of one run so far.

    Attributes:
        steps: Optimizer steps of the whole run; None where they are settled when it begins, and not yet.
        tail: Its event file; None when it has ended.
        host: Where its latest attempt runs, and which `attempt` that is.
    """

    key: RunKey
    steps: int | None
    tail: EventTail | None
    seen: int = 0
    phase: str = "waiting"
    step: int = 0
    loss: float | None = None
    quality: float | None = None
    state: str = "RUNNING"
    reason: str | None = None
    host: str | None = None
    attempt: int = 1

    def update(self, event: Event) -> None:
        """Takes in one event."""
        self.seen = event.number
        self.steps = settled_steps(event) or self.steps
        if event.kind == "started":
            self.state, self.phase, self.step = "RUNNING", "prepare", event.data.get("resumed_step") or 0
            self.host, self.attempt = event.data.get("host"), int(event.data.get("attempt") or 1)
        elif event.kind == "phase":
            self.phase = str(event.data.get("name", self.phase))
        elif event.kind == "progress":
            self.step, self.loss = event.step or 0, event.data.get("loss")
        elif event.kind == "evaluation":
            self.quality = event.data.get("quality")
        elif event.kind == "finished":
            self.state, self.reason = str(event.data["state"]), event.data.get("reason")


@dataclass
class Snapshot:
    """The state of the whole study at one moment, computed apart from its drawing.

    Attributes:
        waiting: Runs that were given out and have not begun: there is no room for them yet.
        failed: Runs that failed since this launch began.
    """

    total: int
    ended: dict[str, int] = field(default_factory=lambda: {"COMPLETE": 0, "PRUNED": 0, "FAIL": 0})
    running: list[RunView] = field(default_factory=list)
    waiting: int = 0
    failed: list[RunView] = field(default_factory=list)
    best: dict[str, float] = field(default_factory=dict)
    elapsed: float = 0.0
    left: float | None = None

    @property
    def hosts(self) -> set[str]:
        """Machines that runs are under way on."""
        return {view.host for view in self.running if view.host}

    @property
    def done(self) -> int:
        """Runs that have ended, in whatever way."""
        return sum(self.ended.values())


def snapshot(views: list[RunView], total: int, already_done: int, elapsed: float) -> Snapshot:
    """Summarises the views; the time left extrapolates the share of runs that this launch has done.

    Args:
        already_done: Runs that had ended before this launch, which say nothing about its speed.
    """
    shot = Snapshot(total=total, elapsed=elapsed)
    partial = 0.0
    for view in views:
        key = view.key
        if view.state == "RUNNING" and not view.seen:
            shot.waiting += 1
        elif view.state == "RUNNING":
            shot.running.append(view)
            partial += 0.8 * min(1.0, view.step / max(1, view.steps or MOST_STEPS))
        else:
            shot.ended[view.state] = shot.ended.get(view.state, 0) + 1
            if view.state == "FAIL":
                shot.failed.append(view)
        if view.quality is not None and key.phase == "search":
            shot.best[key.arm] = max(view.quality, shot.best.get(key.arm, view.quality))
    shot.ended["COMPLETE"] += already_done
    fresh = shot.done - already_done + partial
    if fresh >= 1:
        shot.left = elapsed * max(0.0, total - already_done - fresh) / fresh
    return shot


def draw(shot: Snapshot, name: str) -> Group:
    """Draws a snapshot for `rich.live.Live`."""
    head = Text.assemble(
        (name, "bold"),
        f"  {shot.done}/{shot.total} runs",
        f"  {len(shot.running)} running" + (f" on {len(shot.hosts)} nodes" if len(shot.hosts) > 1 else ""),
        f"  {shot.waiting} waiting" if shot.waiting else "",
        (f"  {shot.ended['FAIL']} failed", "red") if shot.ended["FAIL"] else "",
        f"  {shot.ended['PRUNED']} pruned" if shot.ended["PRUNED"] else "",
        f"  {short_duration(shot.elapsed)} gone, {short_duration(shot.left)} left",
    )
    table = Table(box=None, padding=(0, 1, 0, 0), show_edge=False, header_style="dim")
    nodes = len(shot.hosts) > 1
    table.add_column("running", overflow="fold", ratio=1)
    if nodes:
        table.add_column("node", overflow="ellipsis", no_wrap=True, max_width=16)
    table.add_column("now", no_wrap=True)
    table.add_column("step", justify="right")
    table.add_column("loss", justify="right")
    for view in shot.running[:MOST_ROWS]:
        loss = f"{view.loss:.4f}" if view.loss is not None else "--"
        where = [_short(view.host)] if nodes else []
        again = f" (attempt {view.attempt})" if view.attempt > 1 else ""
        table.add_row(view.key.name + again, *where, view.phase, f"{view.step}/{view.steps or '?'}", loss)
    if len(shot.running) > MOST_ROWS:
        table.add_row(f"and {len(shot.running) - MOST_ROWS} more")
    parts: list[RenderableType] = [
        head,
        # Padding ends the bar's line, which the bar itself does not.
        Padding(ProgressBar(total=max(1, shot.total), completed=shot.done, width=60), 0),
    ]
    if shot.running:
        parts.append(table)
    for view in shot.failed[-MOST_FAILURES:]:
        parts.append(Text(f"failed: {view.key.name}  {_why(view)}", style="red"))
    if len(shot.failed) > MOST_FAILURES:
        parts.append(Text(f"and {len(shot.failed) - MOST_FAILURES} failed before: study status", style="red"))
    if shot.best:
        best = ", ".join(
            f"{arm} {quality:.3f}" for arm, quality in sorted(shot.best.items(), key=lambda x: -x[1])
        )
        parts.append(Text(f"best quality in search: {best}", style="dim"))
    return Group(*parts)


def _short(host: str | None) -> str:
    """The host without its domain, for a narrow column; an address as it is."""
    head = (host or "--").partition(".")[0]
    return head if not head.isdigit() else str(host)


def _why(view: RunView) -> str:
    """Reason, place and attempt of a failure; a driver that gave up a run knows no more than its last attempt."""
    where = f", on {view.host}, attempt {view.attempt}" if view.host else ", before it began"
    return f"{view.reason or 'unknown'}{where}"


def _view(run: PlannedRun) -> RunView:
    return RunView(run.key, run.config.training.stated_steps, EventTail(run.folder))


class ProgressView:
    """A `study.storage.planned_run.RunListener` that draws.

    Args:
        name: The study's name.
        total: Runs of the whole study.
        already_done: Runs that had ended before.
        console: Where to draw; a live table if it is a terminal, else a line an event that matters.
    """

    def __init__(self, name: str, total: int, already_done: int = 0, console: Console | None = None) -> None:
        self._name, self._total, self._already_done = name, total, already_done
        self._console = console or Console(stderr=True)
        self._views: dict[str, RunView] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._start = time.monotonic()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Starts to draw, in a thread of its own."""
        loop = self._live_loop if self._console.is_terminal else self._plain_loop
        self._thread = threading.Thread(target=loop, name="console", daemon=True)
        self._thread.start()

    def follow(self, run: PlannedRun) -> None:
        """Adds a run to the view."""
        with self._lock:
            self._views.setdefault(run.key.name, _view(run))

    def close(self) -> None:
        """Draws the last state and stops."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _poll(self, on_end: Callable[[RunView], None] | None = None) -> Snapshot:
        with self._lock:
            views = list(self._views.values())
        for view in views:
            if view.state != "RUNNING":
                continue
            for event in view.tail.new() if view.tail is not None else ():
                if event.number > view.seen:
                    view.update(event)
            if view.state != "RUNNING":
                view.tail = None
                if on_end is not None:
                    on_end(view)
        return snapshot(views, self._total, self._already_done, time.monotonic() - self._start)

    def _live_loop(self) -> None:
        with Live(console=self._console, refresh_per_second=4, transient=False) as live:
            while not self._stop.wait(POLL_SECONDS):
                live.update(draw(self._poll(), self._name))
            live.update(draw(self._poll(), self._name))

    def _plain_loop(self) -> None:
        last = 0.0
        while True:
            stopping = self._stop.wait(POLL_SECONDS)
            shot = self._poll(self._say_ended)
            now = time.monotonic()
            if stopping or now - last >= PLAIN_LINE_SECONDS:
                last = now
                best = max(shot.best.values(), default=None)
                places = f" on {len(shot.hosts)} nodes" if len(shot.hosts) > 1 else ""
                self._say(
                    f"{shot.done}/{shot.total} runs, {len(shot.running)} running{places}, "
                    + (f"{shot.waiting} waiting, " if shot.waiting else "")
                    + f"{shot.ended['FAIL']} failed, "
                    f"{short_duration(shot.elapsed)} gone, {short_duration(shot.left)} left"
                    + (f", best quality in search {best:.3f}" if best is not None else "")
                )
            if stopping:
                return

    def _say_ended(self, view: RunView) -> None:
        quality = f"quality {view.quality:.3f}" if view.quality is not None else "no quality"
        detail = (
            _why(view)
            if view.state == "FAIL"
            else quality
            if view.state == "COMPLETE"
            else view.reason or quality
        )
        self._say(f"{view.state:<8} {view.key.name}  {detail}")

    def _say(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

"""The live view of a study that is launched: a table on a terminal, plain lines elsewhere.

It draws what `study.monitor.status.StatusReader` says, as `study status` does; it shows, and decides nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from study.monitor.run_status import RunStatus
from study.monitor.status import StatusReader, StudyStatus
from study.storage.run_key import END_WORDS, RunKey
from study.util.units import short_duration

POLL_SECONDS, AT_ONCE_SECONDS = 1.0, 2.0
# That looking may take; in a study of thousands of runs a look takes long, and comes less often.
MOST_OF_A_CORE = 0.02
PLAIN_LINE_SECONDS = 20.0
_FIDELITY = "subject_fidelity_scaled"
MOST_ROWS, MOST_FAILURES = 16, 3


def draw(status: StudyStatus, losses: Mapping[str, float], failed: Sequence[Mapping[str, Any]]) -> Group:
    """Draws a study for `rich.live.Live`.

    Args:
        losses: Training loss of the runs that are under way and have one, by name.
        failed: Rows of `StudyStatus.failed` to tell of, in the order in which the runs failed.
    """
    queue, running = status.queue, _running(status)
    nodes = len(_nodes(running)) > 1
    head = Text.assemble(
        (status.study, "bold"),
        f"  {_ended(queue)}/{queue['planned']} runs",
        f"  {queue['running']} running{_on(running)}",
        f"  {queue['pending']} pending" if queue["pending"] else "",
        (f"  {queue['failed']} failed", "red") if queue["failed"] else "",
        f"  {queue['pruned']} pruned" if queue["pruned"] else "",
        f"  {_times(status)}",
    )
    parts: list[RenderableType] = [
        head,
        # Padding ends the bar's line, which the bar itself does not.
        Padding(ProgressBar(total=max(1, queue["planned"]), completed=_ended(queue), width=60), 0),
    ]
    if running:
        parts.append(_table(running, losses, nodes=nodes))
    for row in failed[-MOST_FAILURES:]:
        parts.append(Text(f"failed: {row['run']}  {_why(row)}", style="red"))
    if len(failed) > MOST_FAILURES:
        parts.append(Text(f"and {len(failed) - MOST_FAILURES} failed before: study status", style="red"))
    if best := _best(status):
        told = ", ".join(f"{arm} {quality:.3f}" for arm, quality in sorted(best.items(), key=lambda x: -x[1]))
        parts.append(Text(f"best quality in search: {told}", style="dim"))
    return Group(*parts)


def line(status: StudyStatus) -> str:
    """The same in one line."""
    queue, best = status.queue, _best(status)
    return (
        f"{_ended(queue)}/{queue['planned']} runs, {queue['running']} running{_on(_running(status))}, "
        + (f"{queue['pending']} pending, " if queue["pending"] else "")
        + f"{queue['failed']} failed, {_times(status)}"
        + (f", best quality in search {max(best.values()):.3f}" if best else "")
    )


def _running(status: StudyStatus) -> list[dict[str, Any]]:
    return [row for row in status.running if row["state"] == "running"]


def _nodes(running: Sequence[Mapping[str, Any]]) -> set[str]:
    return {row["node"] for row in running if row["node"]}


def _on(running: Sequence[Mapping[str, Any]]) -> str:
    return f" on {len(_nodes(running))} nodes" if len(_nodes(running)) > 1 else ""


def _ended(queue: Mapping[str, int]) -> int:
    return sum(queue[state] for state in END_WORDS.values())


def _times(status: StudyStatus) -> str:
    since, over = status.driver["since"], _ended(status.queue) >= status.queue["planned"]
    gone = max(0.0, status.at - since) if since is not None else None
    return f"{short_duration(gone)} gone, {short_duration(0.0 if over else status.left.seconds)} left"


def _best(status: StudyStatus) -> dict[str, float]:
    return {row["arm"]: row["best_quality"] for row in status.arms if row["best_quality"] is not None}


def _table(running: Sequence[Mapping[str, Any]], losses: Mapping[str, float], *, nodes: bool) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), show_edge=False, header_style="dim")
    table.add_column("running", overflow="fold", ratio=1)
    if nodes:
        table.add_column("node", overflow="ellipsis", no_wrap=True, max_width=16)
    table.add_column("now", no_wrap=True)
    table.add_column("step", justify="right")
    table.add_column("loss", justify="right")
    for row in running[:MOST_ROWS]:
        name, loss = row["run"], losses.get(row["run"])
        again = f" (attempt {row['attempt']})" if row["attempt"] > 1 else ""
        table.add_row(
            name + again,
            *([_short(row["node"])] if nodes else []),
            row["doing"] or "starts",
            f"{row['step']}/{row['steps'] or '?'}",
            f"{loss:.4f}" if loss is not None else "--",
        )
    if len(running) > MOST_ROWS:
        table.add_row(f"and {len(running) - MOST_ROWS} more")
    return table


def _short(host: str | None) -> str:
    """The host without its domain, for a narrow column; an address, and a Ray node's id behind it, as they are."""
    name, slash, node = (host or "--").partition("/")
    head = name.partition(".")[0]
    return (name if head.isdigit() else head) + slash + node


def _why(row: Mapping[str, Any]) -> str:
    """Reason, node and attempt of a failure; a driver that gave up a run knows no more than its last attempt."""
    where = f", on {row['node']}, attempt {row['attempt']}" if row["node"] else ", before it began"
    return f"{row['reason'] or 'unknown'}{where}"


class ProgressView:
    """Draws a study while it is launched, in a thread of its own.

    Args:
        reader: Looks at the study; nobody else may use it meanwhile.
        console: Where to draw; a live table if it is a terminal, else a line a run that ends, and one now and then.
    """

    def __init__(self, reader: StatusReader, console: Console | None = None) -> None:
        self._reader = reader
        self._console = console or Console(stderr=True)
        self._told: set[RunKey] = set()  # runs whose end is known: before this launch, or told since
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Starts to draw; runs that have ended by now are not told of one by one."""
        self._told = self._reader.ended()
        loop = self._table_loop if self._console.is_terminal else self._line_loop
        self._thread = threading.Thread(target=loop, name="console", daemon=True)
        self._thread.start()

    def close(self, *, at_once: bool = False) -> None:
        """Draws the last state and stops; `at_once` does not wait for a storage that is slow to answer."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(AT_ONCE_SECONDS if at_once else None)
            self._thread = None

    def _looks(self) -> Iterator[tuple[StudyStatus, list[RunStatus], bool]]:
        """The study again and again, the runs that have ended since the last look, and whether it is the last one."""
        pause, last = POLL_SECONDS, False
        while not last:
            last = self._stop.wait(pause)
            begin = time.monotonic()
            try:
                status, known = self._reader.look(), self._reader.known
            except OSError:  # a storage that is away: the next look may find it
                continue
            ended = [run for key, run in known.items() if run.result is not None and key not in self._told]
            self._told.update(run.key for run in ended)
            pause = min(max(POLL_SECONDS, (time.monotonic() - begin) / MOST_OF_A_CORE), PLAIN_LINE_SECONDS)
            yield status, ended, last

    def _table_loop(self) -> None:
        failed: list[Mapping[str, Any]] = []
        with Live(console=self._console, refresh_per_second=4, transient=False) as live:
            for status, ended, _ in self._looks():
                fresh = {run.key.name for run in ended}
                failed += [row for row in status.failed if row["run"] in fresh]
                known = self._reader.known.items()
                losses = {key.name: run.loss for key, run in known if run.loss is not None}
                live.update(draw(status, losses, failed))

    def _line_loop(self) -> None:
        told_at = 0.0
        for status, ended, last in self._looks():
            failed = {row["run"]: row for row in status.failed}
            for run in ended:
                self._say(_end_of(run, failed.get(run.key.name)))
            now = time.monotonic()
            if last or now - told_at >= PLAIN_LINE_SECONDS:
                told_at = now
                self._say(line(status))

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


def _end_of(run: RunStatus, failed: Mapping[str, Any] | None) -> str:
    """One line of a run that has ended."""
    assert run.result is not None
    fidelity = run.result.value(_FIDELITY)
    quality = f"quality {run.quality:.3f}" if run.quality is not None else "no quality"
    if run.key.trains_classifier:
        quality = f"balanced accuracy {run.score:.3f}" if run.score is not None else "no score"
        quality += " (validation)" if run.key.searches else ""
    if run.quality is None and fidelity is not None:  # of data sets whose captions CLIP does not read
        quality += f", {_FIDELITY} {fidelity:.3f}"
    if failed is not None:
        detail = _why(failed)
    else:
        detail = quality if run.result.state == "COMPLETE" else run.result.reason or quality
    return f"{run.result.state:<8} {run.key.name}  {detail}"

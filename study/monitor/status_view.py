"""How a study's status looks in a terminal: one glance, made to fit 80 columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from study.util.printing import cell
from study.util.units import short_duration

if TYPE_CHECKING:
    from study.monitor.status import StudyStatus

MOST_ROWS = 12  # of running and of failed runs, in a glance; `--section` shows all
_STYLES = {
    "alive": "green",
    "ended": "",
    "dead": "red",
    "none": "",
    "interrupted": "yellow",
    "pending": "dim",
}


def glance(status: StudyStatus, *, rows: int = MOST_ROWS) -> Group:
    """Draws everything on one screen: head, arms, nodes, runs under way, failures."""
    parts: list[RenderableType] = [_head(status), Text(), arms_table(status.arms)]
    if status.nodes:
        parts += [Text(), nodes_table(status.nodes[:rows]), *_more(len(status.nodes) - rows, "nodes")]
    if status.running:
        parts += [Text(), runs_table(status.running[:rows]), *_more(len(status.running) - rows, "running")]
    if status.failed:
        parts += [Text(), failed_table(status.failed[:rows]), *_more(len(status.failed) - rows, "failed")]
    return Group(*parts)


def section(status: StudyStatus, name: str) -> RenderableType:
    """Draws one section in full."""
    if name == "summary":
        return _head(status)
    tables = {"arms": arms_table, "nodes": nodes_table, "running": runs_table, "failed": failed_table}
    found: Sequence[Mapping[str, Any]] = getattr(status, name)
    return tables[name](found) if found else Text(f"{status.study}: no {name}", style="dim")


def _more(count: int, name: str) -> list[RenderableType]:
    return [Text(f"... and {count} more: --section {name}", style="dim")] if count > 0 else []


def _head(status: StudyStatus) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row(status.study, _driver(status))
    queue = status.queue
    ended = queue["complete"] + queue["pruned"] + queue["failed"]
    parts = [f"{ended} of {queue['planned']} ended"]
    parts += [f"{queue[name]} {name}" for name in ("pruned", "failed") if queue[name]]
    under_way = [
        f"{queue[name]} {name}" for name in ("running", "pending", "interrupted", "waiting") if queue[name]
    ]
    table.add_row("runs", "; ".join(filter(None, [", ".join(parts), ", ".join(under_way)])))
    rate = status.rate
    speed = "unknown" if rate.runs_per_hour is None else f"{rate.runs_per_hour:.3g} runs an hour"
    window = f" ({rate.ended} in the last {short_duration(rate.seconds)})" if rate.seconds else ""
    table.add_row("rate", speed + window)
    left = "unknown" if status.left.seconds is None else f"about {short_duration(status.left.seconds)}"
    table.add_row("left", f"{left} ({status.left.basis})")
    table.add_row("cost", _cost(status.cost))
    table.add_row("MLflow", _mlflow(status.mlflow))
    return table


def _driver(status: StudyStatus) -> Text:
    driver = status.driver
    who = f"{driver['host']}, process {driver['pid']}" if driver["host"] else "an unknown process"
    if driver["state"] == "alive":
        since = (
            f" since {_clock(driver['since'])} ({short_duration(status.at - driver['since'])})"
            if driver["since"]
            else ""
        )
        beat = f", heartbeat {short_duration(driver['silent'])} ago" if driver["silent"] is not None else ""
        return Text(f"driven by {who}{since}{beat}", style=_STYLES["alive"])
    if driver["state"] == "ended":
        return Text(f"no driver; the last one ended {_clock(driver['ended'])}: {driver['how']}")
    if driver["state"] == "dead":
        return Text(
            f"no driver: {who} died, last heartbeat {short_duration(driver['silent'])} ago; "
            "launch it again to go on",
            style=_STYLES["dead"],
        )
    return Text("no driver was seen; launch it again to go on")


def _clock(seconds: float | None) -> str:
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M") if seconds else "--"


def _cost(cost: Mapping[str, float]) -> str:
    parts = [
        f"{name} {short_duration(cost[name])}"
        for name in ("train", "evaluation", "preparation", "lost")
        if cost[name]
    ]
    parts += [f"under way {short_duration(cost['under_way'])}"] if cost["under_way"] else []
    return f"{short_duration(sum(cost.values()))} of device time" + (f": {', '.join(parts)}" if parts else "")


def _mlflow(state: Mapping[str, Any]) -> str:
    remedy = f"; run: {state['remedy']}" if state["remedy"] else ""
    runs = f"{state['behind']} run{'s' * (state['behind'] != 1)}"
    if state["state"] == "behind":
        return f"behind by {runs}" + (f": {state['problem']}" if state["problem"] else "") + remedy
    if state["state"] == "silent":
        return "no news from its writer"
    return "up to date" if state["state"] == "up_to_date" else f"nothing written yet{remedy}"


def _table(*columns: str, left: int = 1) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), show_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        table.add_column(
            column, justify="left" if index < left else "right", overflow="fold", no_wrap=index >= left
        )
    return table


def arms_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A row per arm and phase; columns of states that no run is in are left out.

    Quality is that of the best run in the rows of a search, and the mean in those of confirm runs: each says which.
    """
    states = ["complete", "pruned", "failed", "running", "pending", "interrupted"]
    shown = [state for state in states if state == "complete" or any(row[state] for row in rows)]
    heads = ["inter-\nrupted" if state == "interrupted" else state for state in shown]
    table = _table("arm", "phase", "planned", *heads, "quality", left=2)
    for row in rows:
        numbers = [str(row[state]) if row[state] else "·" for state in shown]
        table.add_row(row["arm"], row["phase"], str(row["planned"]), *numbers, _quality(row))
    return table


def _quality(row: Mapping[str, Any]) -> str:
    name, word = ("best_quality", "best") if row["phase"] == "search" else ("mean_quality", "mean")
    return "--" if row[name] is None else f"{cell(row[name])} {word}"


def nodes_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A row per node that has worked, or that the cluster has now."""
    table = _table("node", "now", "running", "ended", "lost", "last sign", left=2)
    for row in rows:
        there = {
            True: Text("up", style="green"),
            False: Text("gone", style="red"),
            None: Text("--", style="dim"),
        }
        numbers = [str(row[name]) if row[name] else "·" for name in ("running", "ended", "lost")]
        table.add_row(row["node"], there[row["alive"]], *numbers, _age(row["last_sign"]))
    return table


def runs_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A row per run that is under way, waits for room, or was interrupted."""
    nodes = any(row["node"] for row in rows)
    columns = ["run", *(["node"] if nodes else []), "now", "try", "step", "%", "/s", "sign"]
    table = _table(*columns, left=2 + nodes)
    for row in rows:
        now = row["doing"] or ("starts" if row["state"] == "running" else row["state"])
        step = "--" if row["step"] is None else f"{row['step']}/{row['steps'] or '?'}"
        cells = [
            row["run"],
            *([row["node"] or "--"] if nodes else []),
            Text(now, style=_STYLES.get(row["state"], "")),
            cell(row["attempt"]),
            step,
            "--" if row["percent"] is None else f"{row['percent']:.0f}",
            cell(row["steps_per_second"]),
            _age(row["last_sign"]),
        ]
        table.add_row(*cells)
    return table


def all_runs_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A row per run that has begun: what `study logs` can show; with best steps, where some are known."""
    known = any(row["best_step"] is not None for row in rows)
    table = _table("run", "node", "state", "tries", *(["best step"] if known else []), "last sign", left=3)
    for row in rows:
        style = {"failed": "red", "interrupted": "yellow", "running": "green"}.get(row["state"], "")
        state = Text(row["state"] + (f": {row['reason']}" if row["reason"] else ""), style=style)
        step = [cell(row["best_step"])] if known else []
        table.add_row(
            row["run"], row["node"] or "--", state, str(row["attempts"]), *step, _age(row["last_sign"])
        )
    return table


def failed_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A row per failed run, with where and why."""
    table = _table("failed run", "node", "try", "reason", left=2)
    table.columns[-1].justify = "left"
    table.columns[-1].no_wrap = False
    for row in rows:
        reason = Text(str(row["reason"] or "unknown"), style="red")
        if row["message"]:
            first = str(row["message"]).strip().splitlines()[0]
            reason.append(f": {first[:160]}", style="default")
        table.add_row(row["run"], row["node"] or "--", str(row["attempt"]), reason)
    return table


def _age(seconds: float | None) -> str:
    return "--" if seconds is None else short_duration(seconds)


def show(renderable: RenderableType, console: Console | None = None) -> None:
    """Prints to the standard output."""
    (console or Console(highlight=False)).print(renderable)

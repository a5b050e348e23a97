"""`study status`: where every run stands while a driver works and after it died, at a glance and for programs."""

from __future__ import annotations

import csv
import io
import json
import time
from dataclasses import replace
from pathlib import Path
from socket import gethostname
from typing import Any

import pytest
from rich.console import Console

from study.api import status_reader, study_status
from study.driver.claim import claimed
from study.driver.heartbeat import Heartbeat
from study.monitor.run_status import RunStatus
from study.monitor.status_view import arms_table, glance
from study.monitor.status_watch import watch_status
from study.storage.layout import Storage
from study.storage.run_key import RunKey
from study.tracking.progress import write_state
from tests.helpers.begun_runs import (
    COMPLETE,
    FAILED,
    KILLED,
    LEFT,
    PENDING,
    RUNNING,
    begun_study,
    driven,
    give_up,
)
from tests.helpers.command_line import run
from tests.helpers.small_studies import small_study
from trainables.events import EVENTS_FILE, RESULT_FILE, EventLog


def shown(found: Any, width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO(), highlight=False)
    console.print(found)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_while_a_driver_works(fast_path: Path) -> None:
    spec, storage = begun_study(fast_path)
    with driven(spec, storage):
        status = study_status(storage)
        text = shown(glance(status))
    assert status.driver["state"] == "alive"
    assert status.driver["limit"] == 2
    assert status.queue == {
        "planned": spec.number_of_runs(),
        "complete": 2,
        "pruned": 0,
        "failed": 1,
        "running": 1,
        "pending": 1,
        "interrupted": 1,
        "waiting": spec.number_of_runs() - 6,
    }
    under_way = {row["run"]: row for row in status.running}
    assert list(under_way) == [RUNNING.name, PENDING.name, LEFT.name]
    moving = under_way[RUNNING.name]
    assert (moving["state"], moving["attempt"], moving["doing"]) == ("running", 1, "train")
    assert (moving["step"], moving["steps"], moving["percent"]) == (4, 8, 50.0)
    assert moving["steps_per_second"] > 0
    assert moving["last_sign"] < 60
    assert under_way[PENDING.name]["state"] == "pending"
    assert under_way[LEFT.name]["state"] == "interrupted"

    (failed,) = status.failed
    assert (failed["run"], failed["attempt"], failed["reason"]) == (FAILED.name, 1, "exception")
    assert "a mistake of the method" in failed["message"]
    nodes = {row["node"].rpartition("/")[2]: row for row in status.nodes}
    assert len(nodes) == 4  # two Ray nodes on one host are told apart, and one has not worked yet
    assert (nodes["aaaa1111"]["alive"], nodes["aaaa1111"]["ended"], nodes["aaaa1111"]["lost"]) == (
        False,
        2,
        1,
    )
    assert (nodes["bbbb2222"]["alive"], nodes["bbbb2222"]["running"], nodes["bbbb2222"]["gpus"]) == (
        True,
        1,
        1.0,
    )
    assert nodes["dddd4444"]["alive"]
    assert nodes["dddd4444"]["last_sign"] is None

    assert status.left.seconds is not None
    assert "mean of 2 complete runs" in status.left.basis
    assert status.cost["train"] > 0
    assert status.cost["under_way"] > 0
    assert max(len(line) for line in text.splitlines()) <= 80
    for word in ("driven by", "pending", "interrupted", FAILED.name, "a mistake of the method"):
        assert word in text


def test_after_the_driver_died_nothing_is_running(fast_path: Path) -> None:
    spec, storage = begun_study(fast_path)
    with driven(spec, storage):
        said = (storage.folder / "driver.json").read_bytes()
    (storage.folder / "driver.json").write_bytes(said)  # as a killed driver leaves it
    status = study_status(storage)
    assert status.driver["state"] == "dead"
    assert (status.queue["running"], status.queue["pending"], status.queue["interrupted"]) == (0, 0, 2)
    assert status.left.seconds is None
    assert status.left.basis == "no driver runs"
    assert status.rate.runs_per_hour is None
    assert {row["alive"] for row in status.nodes} == {None}
    assert "died" in shown(glance(status))


def test_an_ended_driver_says_why(fast_path: Path) -> None:
    spec, storage = begun_study(fast_path)
    with driven(spec, storage):
        pass
    status = study_status(storage)
    assert (status.driver["state"], status.driver["how"]) == ("ended", "finished")
    assert status.queue["waiting"] == 0  # it said that nothing was left to begin
    assert "the last one ended" in shown(glance(status))


def test_a_run_whose_workers_died_costs_what_it_lived(fast_path: Path) -> None:
    spec, storage = begun_study(fast_path)
    before = study_status(storage)
    assert before.cost["lost"] == 0
    give_up(storage, LEFT)
    status = study_status(storage)
    assert status.cost["lost"] > 0
    assert status.cost["under_way"] == 0
    assert [row["reason"] for row in status.failed] == ["worker_died", "exception"]
    assert status.failed[0]["node"].rpartition("/")[0] == status.failed[1]["node"].rpartition("/")[0]
    assert spec.number_of_runs() == status.queue["planned"]


def test_a_second_look_reads_only_what_is_new(fast_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, storage = begun_study(fast_path)
    taken: list[str] = []
    real = RunStatus._take

    def counted(self: RunStatus, event: dict[str, Any]) -> None:
        taken.append(self.key.name)
        real(self, event)

    monkeypatch.setattr(RunStatus, "_take", counted)
    with driven(spec, storage):
        look = status_reader(storage)
        first = look()
        assert set(taken) == {key.name for key in (COMPLETE, FAILED, KILLED, LEFT, RUNNING)}
        taken.clear()
        EventLog(storage.run_folder(RUNNING)).append("progress", 7, loss=0.1, steps_per_second=3.5)
        second = look()
    assert taken == [RUNNING.name]
    assert (second.running[0]["step"], second.running[0]["steps_per_second"]) == (7, 3.5)
    assert first.queue == second.queue


def test_a_torn_line_is_read_when_it_is_whole(fast_path: Path) -> None:
    folder = fast_path / "run"
    EventLog(folder).append("started", attempt=1, resumed_step=0)
    line = EventLog(folder).append("progress", 3, loss=1.0)
    content = (folder / EVENTS_FILE).read_bytes()
    (folder / EVENTS_FILE).write_bytes(content[:-5])
    view = RunStatus(RunKey.parse("search/a/0000-s-s0"), folder)
    view.refresh()
    assert view.step == 0
    (folder / EVENTS_FILE).write_bytes(content)
    view.refresh()
    assert (view.step, view.last_sign) == (3, line.time)


def test_mlflow_behind_is_named_with_the_remedy(fast_path: Path) -> None:
    _, storage = begun_study(fast_path)
    assert study_status(storage).mlflow["state"] == "none"
    write_state(storage, "http://mlflow", 2, "connection refused")
    found = study_status(storage).mlflow
    assert (found["state"], found["behind"], found["problem"]) == ("behind", 2, "connection refused")
    assert found["remedy"] == storage.command("sync", "--tracking-uri", "http://mlflow")
    write_state(storage, "http://mlflow", 0, None)
    assert study_status(storage).mlflow["state"] == "up_to_date"
    time.sleep(1.1)  # what is newer by less may be the same write
    EventLog(storage.run_folder(LEFT)).append("progress", 7)
    found = study_status(storage).mlflow
    assert (found["state"], found["behind"]) == ("behind", 1)


def test_rows_of_the_search_tell_its_best_run_and_confirm_rows_their_mean(fast_path: Path) -> None:
    def look() -> tuple[dict[tuple[str, str], dict[str, Any]], list[list[str]]]:
        status = study_status(storage)
        lines = [line.split() for line in shown(arms_table(status.arms)).splitlines()]
        return {(row["arm"], row["phase"]): row for row in status.arms}, lines

    _, storage = begun_study(fast_path)
    rows, lines = look()
    assert rows["base", "confirm"]["mean_quality"] is None
    assert next(line for line in lines if line[:2] == ["base", "confirm"])[-1] == "--"
    best = rows["cosine", "search"]["best_quality"]
    assert next(line for line in lines if line[:2] == ["cosine", "search"])[-2:] == [f"{best:.3g}", "best"]

    for key, value in ((LEFT, 0.2), (PENDING, 0.4), (replace(LEFT, subject="bird-1"), 0.9)):
        document = {"state": "COMPLETE", "attempts": 1, "evaluation": {"quality": value}, "cost": {}}
        storage.run_folder(key).mkdir(parents=True, exist_ok=True)
        (storage.run_folder(key) / RESULT_FILE).write_text(json.dumps(document))
    rows, lines = look()
    assert rows["base", "confirm"]["mean_quality"] == pytest.approx(((0.2 + 0.4) / 2 + 0.9) / 2), (
        "over subjects"
    )
    assert rows["base", "confirm"]["best_quality"] is None
    assert rows["cosine", "search"]["mean_quality"] is None
    assert next(line for line in lines if line[:2] == ["base", "confirm"])[-2:] == ["0.6", "mean"]


def test_formats_and_sections(fast_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, storage = begun_study(fast_path)
    place = ["small", "--storage", str(storage.root)]
    code, out, _ = run(capsys, "status", *place, "--format", "json")
    assert code == 0
    rows = json.loads(out)
    old = ["arm", "phase", "planned", "complete", "running", "pruned", "failed", "best_quality"]
    assert list(rows[0])[: len(old)] == old
    assert {(row["arm"], row["phase"]): row["complete"] for row in rows}["cosine", "search"] == 1
    _, out, _ = run(capsys, "status", *place, "--format", "csv")
    assert [row["arm"] for row in csv.DictReader(io.StringIO(out))] == [row["arm"] for row in rows]

    _, out, _ = run(capsys, "status", *place, "--format", "json", "--section", "all")
    document = json.loads(out)
    assert {"driver", "queue", "rate", "left", "cost", "mlflow", "arms", "nodes", "running", "failed"} <= set(
        document
    )
    for section in ("nodes", "running", "failed"):
        _, out, _ = run(capsys, "status", *place, "--format", "csv", "--section", section)
        assert len(list(csv.DictReader(io.StringIO(out)))) == len(document[section])
        code, out, _ = run(capsys, "status", *place, "--section", section)
        assert code == 0
        assert out.strip()
    code, _, err = run(capsys, "status", *place, "--format", "csv", "--section", "all")
    assert code == 2
    assert "nodes" in err
    code, _, err = run(capsys, "status", *place, "--format", "json", "--watch")
    assert code == 2
    assert "--watch" in err


@pytest.mark.parametrize("terminal", [True, False])
def test_watch_draws_until_it_is_over(fast_path: Path, terminal: bool) -> None:
    spec, storage = begun_study(fast_path)
    console = Console(width=80, height=30, file=io.StringIO(), force_terminal=terminal)
    with driven(spec, storage):
        watch_status(status_reader(storage), "all", 0.01, console=console, looks=3)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert text.count("driven by") >= (1 if terminal else 3)


def test_a_study_that_has_not_begun_a_run(fast_path: Path) -> None:
    spec = small_study()
    storage = Storage(fast_path, spec.name)
    storage.folder.mkdir(parents=True)
    (storage.folder / "study.json").write_text(json.dumps(spec.record()))
    status = study_status(storage)
    assert status.driver["state"] == "none"
    assert status.queue["waiting"] == spec.number_of_runs()
    assert not status.nodes + status.running + status.failed
    assert "no driver" in shown(glance(status))


def test_a_local_cluster_is_known_by_its_host_before_anything_ran(fast_path: Path) -> None:
    spec = small_study()
    storage = Storage(fast_path, spec.name)
    with claimed(spec, storage), Heartbeat(storage, lambda reason: None) as heartbeat:
        heartbeat.describe = lambda: {
            "driver_id": "s",
            "nodes": [{"name": "127.0.0.1/aaaa1111", "cpus": 2.0}],
        }
        heartbeat.beat()
        status = study_status(storage)
        text = shown(glance(status))
    assert [(row["node"], row["alive"], row["cpus"]) for row in status.nodes] == [(gethostname(), True, 2.0)]
    assert "cost    0s of device time\n" in "".join(f"{line.rstrip()}\n" for line in text.splitlines())

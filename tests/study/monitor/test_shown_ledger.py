"""What optuna-dashboard shows beside a trial: commands for its runs, and their grids of samples; nothing is written."""

from __future__ import annotations

import hashlib
import json
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.artifacts import get_all_artifact_meta
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna_dashboard import get_note, save_note

from benchmarks.support.ports import free_port
from study.dispatch.run_queue import RunQueue
from study.ledger.database import open_storage
from study.ledger.ledger import Ledger
from study.monitor import ui_server as ui
from study.monitor.dashboards import arm_pages, optuna_command
from study.monitor.shown_ledger import ShownLedger
from study.storage.layout import Storage
from study.storage.planned_run import PlannedRun
from study.storage.run_key import RunKey
from tests.helpers.fake_runs import STEPS, write_run
from tests.helpers.small_studies import small_study, storage_of
from tests.helpers.tracked_runs import ONE


@pytest.fixture
def begun(fast_path: Path) -> tuple[Storage, RunKey, RunKey]:
    """A study with a complete run of two evaluations, and one that has only begun."""
    spec = small_study()
    storage = storage_of(fast_path, spec)
    ledger = Ledger(storage.ledger_url, spec.name)
    queue = RunQueue(spec, storage, ledger)
    keys: list[RunKey] = []
    while len(keys) < 2:
        given = queue.next()
        assert isinstance(given, PlannedRun)
        keys += [given.key] if given.key.phase == "search" else []
    for key, state in zip(keys, ("COMPLETE", "RUNNING"), strict=True):
        ledger.update_run(ledger.trials(key.arm)[key.trial], key, state=state)
    first, second = keys
    write_run(storage, replace(ONE, key=first))
    return storage, first, second


def read(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=60) as found:
        content: bytes = found.read()
        return content


def shown_trial(storage: Storage, key: RunKey) -> tuple[ShownLedger, optuna.Study, Any]:
    shown = ShownLedger(open_storage(storage.ledger_url), storage)
    study = optuna.load_study(study_name=f"{storage.study}/{key.arm}", storage=shown)
    (trial,) = [one for one in study.get_trials() if key.name in one.user_attrs["runs"]]
    return shown, study, optuna.trial.Trial(study, trial._trial_id)


def test_a_complete_trial_has_its_commands_and_the_grid_of_each_evaluation(
    begun: tuple[Storage, RunKey, RunKey],
) -> None:
    storage, first, second = begun
    file = Path(storage.ledger_url.removeprefix("sqlite:///"))
    before = hashlib.sha256(file.read_bytes()).hexdigest()
    shown, study, trial = shown_trial(storage, first)
    note = get_note(trial)
    assert f"**{first.name}** COMPLETE" in note
    assert storage.lasting_command("reproduce", first.name) in note
    assert storage.lasting_command("logs", first.name) in note
    (frozen,) = [one for one in study.get_trials() if one.number == trial.number]
    grids = get_all_artifact_meta(frozen, storage=shown)
    assert [grid.filename for grid in grids] == [
        f"{first.subject} s{first.seed} step {step:06d}.png" for step in (STEPS // 2, STEPS)
    ]
    with shown.open_reader(grids[-1].artifact_id) as file_shown:
        kept = storage.run_folder(first) / "samples" / f"grid-{STEPS:06d}.png"
        assert file_shown.read() == kept.read_bytes()

    _, _, waiting = shown_trial(storage, second)
    note = get_note(waiting)
    assert "reproduce" not in note
    assert storage.lasting_command("logs", second.name) in note
    assert hashlib.sha256(file.read_bytes()).hexdigest() == before


def test_what_others_wrote_is_shown_and_nothing_else_is_opened_or_written(
    begun: tuple[Storage, RunKey, RunKey],
) -> None:
    storage, first, _ = begun
    shown, _, trial = shown_trial(storage, first)
    ledger = open_storage(storage.ledger_url)
    own = optuna.load_study(study_name=f"{storage.study}/{first.arm}", storage=ledger)
    save_note(optuna.trial.Trial(own, trial._trial_id), "mine")
    assert get_note(trial) == "mine"
    with pytest.raises(PermissionError, match="not changed"):
        save_note(trial, "overwritten")
    with pytest.raises(ArtifactNotFound):
        shown.open_reader("../../../etc/passwd")
    other = optuna.create_study(study_name="somebody-elses", storage=ledger)
    other.add_trial(optuna.trial.create_trial(value=1.0, user_attrs={"runs": "ten"}))
    assert len(optuna.load_study(study_name="somebody-elses", storage=shown).trials) == 1


def test_a_path_that_leads_out_of_the_runs_folder_is_passed_over(
    begun: tuple[Storage, RunKey, RunKey],
) -> None:
    storage, first, _ = begun
    events = storage.run_folder(first) / "events.jsonl"
    events.write_text(events.read_text().replace('"path":"samples/', '"path":"../../../../'))
    shown, study, trial = shown_trial(storage, first)
    (frozen,) = [one for one in study.get_trials() if one.number == trial.number]
    assert get_all_artifact_meta(frozen, storage=shown) == []


def test_the_dashboard_serves_notes_and_grids(begun: tuple[Storage, RunKey, RunKey], tmp_path: Path) -> None:
    storage, first, _ = begun
    command = optuna_command(storage, storage.ledger_url, port=free_port())
    process = ui.start(command, tmp_path / "ui.log")
    try:
        assert ui.wait_until_up(command, process), (tmp_path / "ui.log").read_text()
        page = dict(arm_pages(storage.ledger_url, storage.study, command.base))[
            f"{storage.study}/{first.arm}"
        ]
        number = page.rsplit("/", 1)[1]
        content = read(f"{command.base}/api/studies/{number}?after=0")
        (trial,) = [one for one in json.loads(content)["trials"] if first.name in str(one["note"])]
        assert f"study reproduce {storage.study} {first.name}" in trial["note"]["body"]
        (_, last) = trial["artifacts"]
        picture = f"{command.base}/artifacts/{number}/{trial['trial_id']}/{last['artifact_id']}"
        assert read(picture)[:4] == b"\x89PNG"
    finally:
        ui.stop(process)

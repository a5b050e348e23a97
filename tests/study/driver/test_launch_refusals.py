"""What a launch refuses, and what it decides before Ray is asked; no cluster is started here."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path

import pytest

from study.cluster.ray_cluster import cluster
from study.driver.launch import Outcome, Workers, launch
from study.spec.study_spec import StudySpec
from study.storage.layout import Storage
from tests.helpers.small_studies import RESIDENT, RUNNER, small_study, storage_of
from trainables.errors import UserError


def run(spec: StudySpec, storage: Storage) -> Outcome:
    return launch(spec, storage, workers=Workers(RUNNER, RESIDENT))


def test_a_changed_study_is_refused_with_the_difference(fast_path: Path) -> None:
    spec = small_study(arms={"base": {"method": "base"}}, confirm={"seeds": []})
    storage = storage_of(fast_path, spec)
    assert not run(spec, storage).interrupted  # nothing to do, so no Ray either
    before = (storage.folder / "study.json").read_bytes()
    changed = small_study(arms={"base": {"method": "base"}}, confirm={"seeds": []}, search={"trials": 5})
    with pytest.raises(UserError, match=r"has changed.*\n  search.trials: 3 -> 5\n.*another name"):
        run(changed, storage)
    assert (storage.folder / "study.json").read_bytes() == before
    other_machine = small_study(
        arms={"base": {"method": "base"}}, confirm={"seeds": []}, resources={"cpus_per_run": 2}
    )
    assert not run(other_machine, storage).interrupted


def test_a_second_driver_is_refused(fast_path: Path) -> None:
    spec = small_study(arms={"base": {"method": "base"}}, confirm={"seeds": []})
    storage = storage_of(fast_path, spec)
    run(spec, storage)
    with (storage.folder / "lock").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(
            UserError, match=rf"is being run by process {os.getpid()} on .*study status small"
        ):
            run(spec, storage)
    run(spec, storage)


def test_no_disk_is_refused_before_anything_is_written(
    fast_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = small_study()
    usage = shutil.disk_usage(fast_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2**20))
    with pytest.raises(
        UserError, match=r"the study needs about 268 MB in .*, but 1.05 MB are free; make room, or choose"
    ):
        run(spec, Storage(fast_path, spec.name))
    assert list(fast_path.iterdir()) == []


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", "no Ray cluster answers at 127.0.0.1:1"),
        ("nonsense", "the Ray address 'nonsense' is not of the form host:port"),
        ("ray://127.0.0.1:10001", "Ray Client .* is not supported"),
    ],
)
def test_an_address_that_does_not_answer_is_a_user_error(address: str, message: str) -> None:
    with pytest.raises(UserError, match=message), cluster(address):
        pass

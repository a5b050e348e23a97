"""A real cluster of two nodes, of which one sees an empty disk where the storage is: a mount namespace of its own."""

import contextlib
import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from benchmarks.support.ports import free_port
from study.cluster.node_check import Question
from study.cluster.ray_cluster import cluster
from study.driver.launch import Workers, launch
from study.util.network import connection_problem
from tests.helpers.ray_nodes import OBJECT_STORE_BYTES
from tests.helpers.small_studies import RESIDENT, RUNNER, small_study, storage_of
from tests.helpers.waiting import wait_for
from trainables.errors import UserError

ROOT = Path(__file__).resolve().parents[3]
MAY_MOUNT = (
    shutil.which("unshare") is not None
    and subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode == 0
)


def nodes_at(address: str) -> int:
    with cluster(address) as joined:
        return len(joined.nodes)


@pytest.fixture
def half_blind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """The address of a cluster, and the folder that its second node does not see."""
    shared, session = tmp_path / "shared", Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    shared.mkdir()
    address = f"127.0.0.1:{free_port()}"
    settings = {
        "RAY_AUTH_MODE": "disabled",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",  # Ray's name for: several nodes, also on loopback
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": str(ROOT),
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    start = f"{sys.executable} -m ray.scripts.scripts start --block --num-cpus=1"
    start += f" --object-store-memory={OBJECT_STORE_BYTES}"
    head = f"{start} --head --port={address.rpartition(':')[2]} --node-ip-address=127.0.0.1 "
    head += f"--include-dashboard=false --temp-dir={session}"
    blind = f"mount -t tmpfs none {shared}; until {start} --address={address}; do sleep 1; done"
    nodes = []
    try:
        for command in (["bash", "-c", f"exec {head}"], ["unshare", "-m", "bash", "-c", blind]):
            nodes.append(
                subprocess.Popen(
                    command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
            )
        wait_for(lambda: connection_problem("127.0.0.1", int(address.rpartition(":")[2])) is None, 240)
        wait_for(lambda: nodes_at(address) == 2, 240)
        yield address, shared
    finally:
        for node in reversed(nodes):
            os.killpg(node.pid, signal.SIGTERM)
        psutil.wait_procs([psutil.Process(node.pid) for node in nodes], timeout=3)
        for node in nodes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(node.pid, signal.SIGKILL)
            node.wait()
        shutil.rmtree(session, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.skipif(not MAY_MOUNT, reason="a mount namespace needs the rights for it")
def test_a_node_that_sees_another_disk(half_blind: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    address, shared = half_blind
    spec = small_study(arms={"base": {"method": "base"}}, confirm={"seeds": [100, 101, 102]})
    # Long enough for the other node to begin one as well, however slowly its worker starts.
    storage = storage_of(shared, spec, {"": {"step_seconds": 1.0}})
    monkeypatch.setattr(
        "study.driver.node_preparation.is_one_machine", lambda: False
    )  # by their addresses they could be
    monkeypatch.setattr("study.driver.node_preparation.Question", functools.partial(Question, patience=1.0))
    with pytest.raises(UserError, match=r"1 of 2 nodes cannot use the storage(.|\n)*does not see"):
        launch(spec, storage, address=address, workers=Workers(RUNNER, RESIDENT))
    assert not list(storage.folder.glob("runs/*/*/*"))
    # As if the node had come later: its run is put back and done by the other.
    monkeypatch.setattr("study.driver.node_preparation.is_one_machine", lambda: True)
    outcome = launch(spec, storage, address=address, workers=Workers(RUNNER, RESIDENT))
    assert (outcome.complete, outcome.total) == (3, 3)
    assert any("was put back" in note and "does not see" in note for note in outcome.notes), outcome.notes

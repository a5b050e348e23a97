"""`study launch --address` against a real head that was started by `ray start`, with and without its token."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.support.ports import free_ports
from study.cluster.connection_check import look
from tests.helpers.mlflow_stores import copied_template
from tests.helpers.ray_head import DEADLINE, Head, ray_head, user_environment
from tests.helpers.small_studies import RESIDENT, RUNNER, small_study

pytestmark = pytest.mark.slow

JOINED = """
import sys
from pathlib import Path
import study.driver.launch as launch

launch.Workers.__init__.__defaults__ = (%r, %r, 5.0, '')  # the fake runner, so that a run takes milliseconds
from study.cli.main import main
main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with ray_head() as running:
        yield running


@pytest.fixture
def study_file(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(small_study().to_yaml())
    return path


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


def launches(
    file: Path, storage: Path, *environments: dict[str, str], more: tuple[str, ...] = ()
) -> list[Done]:
    """Launches a study in each environment, at the same time."""
    words = ["launch", str(file), "--storage", str(storage), "--no-report", *more]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", JOINED % (RUNNER, RESIDENT), *words],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=file.parent,
        )
        for environment in environments
    ]  # fmt: skip
    said = [process.communicate(timeout=DEADLINE) for process in processes]
    return [Done(process.returncode, *texts) for process, texts in zip(processes, said, strict=True)]


def launch(file: Path, storage: Path, environment: dict[str, str], *more: str) -> Done:
    (done,) = launches(file, storage, environment, more=more)
    return done


def test_a_study_runs_on_a_cluster_that_it_joins(head: Head, study_file: Path, tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    copied_template(storage)
    done = launch(study_file, storage, head.environment, "--address", "auto")
    assert done.returncode == 0, done.stdout + done.stderr
    results = [json.loads(path.read_text()) for path in storage.glob("*/runs/*/*/*/result.json")]
    assert len(results) == small_study().number_of_runs()
    assert {result["state"] for result in results} == {"COMPLETE"}
    assert head.token not in done.stdout + done.stderr
    # The head lives on, and the same command finds nothing left to do.
    again = launch(study_file, storage, {**head.environment, "RAY_ADDRESS": head.address})
    assert again.returncode == 0, again.stdout + again.stderr


def refused(done: Done, storage: Path) -> str:
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert not storage.exists(), "nothing may be written"
    return " ".join(done.stderr.split())


def test_no_token_and_a_wrong_one_are_told_apart(head: Head, study_file: Path, tmp_path: Path) -> None:
    storage, home = tmp_path / "storage", tmp_path / "home"
    home.mkdir()
    stranger = user_environment(home)
    knowing = {**stranger, "RAY_AUTH_MODE": "token"}
    wrong = {**knowing, "RAY_AUTH_TOKEN": "0" * 64}
    done = launches(study_file, storage, stranger, knowing, wrong, more=("--address", head.address))
    told = [refused(one, storage) for one in done]
    assert "asks for a token, and there is none here: copy the cluster's into ~/.ray/auth_token" in told[0]
    assert "asks for a token, and there is none here" in told[1]
    assert "does not take our token: the token in RAY_AUTH_TOKEN is not that of the cluster" in told[2]
    assert "0" * 64 not in told[2]


def test_a_stale_address_says_where_it_comes_from(study_file: Path, tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_ports(1)[0]}"
    environment = user_environment(tmp_path / "home", RAY_ADDRESS=address)
    message = refused(launch(study_file, tmp_path / "storage", environment), tmp_path / "storage")
    assert f"no Ray cluster answers at {address} (connection refused)" in message
    assert "RAY_ADDRESS: `unset RAY_ADDRESS`" in message


def question(head: Head, code: str) -> Any:
    """Runs code in a process of the head's user; it prints JSON."""
    done = subprocess.run(
        [sys.executable, "-c", code], env=head.environment, capture_output=True, text=True, timeout=DEADLINE
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


OTHER_VERSIONS = [
    ({"ray_version": "2.9.3", "python_version": "3.11.7"}, "runs Ray 2.9.3 on Python 3.11.7, here it is Ray"),
    ({"ray_version": "here", "python_version": "3.8.1"}, "in Python 3.8"),
    ({"ray_version": "here", "python_version": "patch"}, "RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL=minor"),
]


def test_a_cluster_of_other_versions_is_refused_with_the_way_to_match_it(head: Head) -> None:
    """The head's own record of its versions is changed while this asks, and put back."""
    code = f"""
import json, sys
import ray
from ray._private.grpc_utils import init_grpc_channel
from ray.core.generated import gcs_service_pb2 as pb, gcs_service_pb2_grpc as rpc
from study.cluster.ray_cluster import check_cluster
here = ".".join(map(str, sys.version_info[:2]))
store = rpc.InternalKVGcsServiceStub(init_grpc_channel({head.address!r}))
name = dict(key=b"CLUSTER_METADATA", namespace=b"cluster")
before = store.InternalKVGet(pb.InternalKVGetRequest(**name)).value
found = []
for wanted in {[metadata for metadata, _ in OTHER_VERSIONS]!r}:
    put = {{key: {{"here": ray.__version__, "patch": here + ".99"}}.get(value, value) for key, value in wanted.items()}}
    store.InternalKVPut(pb.InternalKVPutRequest(value=json.dumps(put).encode(), overwrite=True, **name))
    try:
        found.append(check_cluster({head.address!r}))
    finally:
        store.InternalKVPut(pb.InternalKVPutRequest(value=before, overwrite=True, **name))
print(json.dumps([found, check_cluster({head.address!r})]))
"""
    found, afterwards = question(head, code)
    for problems, (_, message) in zip(found, OTHER_VERSIONS, strict=True):
        assert len(problems) == 1
        assert message in problems[0]
    assert afterwards == []


def test_a_machine_that_is_no_node_is_told_what_to_do(head: Head) -> None:
    code = f"""
import json
from ray._private import services
services.find_node_ids = lambda: set()
from study.cluster.ray_cluster import check_cluster
print(json.dumps(check_cluster({head.address!r})))
"""
    (message,) = question(head, code)
    assert "this machine is no node of the cluster" in message
    assert "study submit FILE" in message


def test_what_is_not_the_head_of_a_cluster_even_after_a_local_one_in_the_same_process() -> None:
    """A local cluster leaves nothing of its token and its loopback in the process that had it."""
    import socket
    import threading

    import ray._private.ray_constants as constants

    from study.cluster.ray_cluster import cluster

    may_leave_loopback = constants.ENABLE_RAY_CLUSTER
    with cluster(cpus=1):
        pass
    assert may_leave_loopback == constants.ENABLE_RAY_CLUSTER

    def answer(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(100)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=answer, args=(server,), daemon=True).start()
        (message,) = look(f"127.0.0.1:{server.getsockname()[1]}", "disabled")
    assert "is not the head of a Ray cluster, perhaps its dashboard" in message

"""What a study needs of the machine, of files and of servers; each refusal says what to do."""

from __future__ import annotations

import http.server
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from study.cluster.connection_check import check_address
from study.preflight import machine
from study.preflight.checks import check_study
from study.preflight.machine import check_disk, check_resources, concurrency, count_gpus
from study.spec.sections import Resources
from study.spec.study_spec import StudySpec
from study.tracking.reachable import tracking_problems
from study.util.units import size
from tests.helpers.study_files import study_dict


def closed_port() -> int:
    """A port on loopback on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture
def server() -> Iterator[str]:
    """An HTTP server that answers /health with the status in the path before it."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(int(self.path.split("/")[1]))
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CUDA_VISIBLE_DEVICES", "MLFLOW_TRACKING_URI", "RAY_ADDRESS", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)


def test_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_disk(tmp_path / "not" / "yet", 0) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 0, 10**9))
    assert check_disk(tmp_path, 0) == []
    (message,) = check_disk(tmp_path, 10**9)
    assert "needs about 1.27 GB" in message
    assert "1 GB are free" in message
    assert "--storage" in message
    assert list(tmp_path.iterdir()) == []


def test_a_storage_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.os, "access", lambda *_: False)
    (message,) = check_disk(tmp_path, 0)
    assert "cannot be written" in message


def has(monkeypatch: pytest.MonkeyPatch, cpus: int, gpus: int = 0) -> None:
    """This machine has so many."""
    monkeypatch.setattr(machine, "usable_cpus", lambda: cpus)
    monkeypatch.setattr(machine, "count_gpus", lambda: gpus)


def test_resources_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    has(monkeypatch, 2)
    assert check_resources(Resources()) == []
    (message,) = check_resources(Resources(gpus_per_run=1))
    assert message.startswith(
        "each run asks for 1 GPU, but this machine has none; set resources.gpus_per_run to 0"
    )
    (message,) = check_resources(Resources(cpus_per_run=4))
    assert "asks for 4 CPUs, but this machine has 2" in message
    has(monkeypatch, 64, 1)
    (message,) = check_resources(Resources(gpus_per_run=2, cpus_per_run=8))
    assert "asks for 2 GPUs, but this machine has 1; lower resources.gpus_per_run" in message


def test_resources_of_runs_with_several_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    worker_group = Resources(num_workers=4, cpus_per_worker=2, gpus_per_worker=1)
    has(monkeypatch, 8, 4)
    assert check_resources(worker_group) == []
    has(monkeypatch, 7, 3)
    cpus, gpus = check_resources(worker_group)
    assert "asks for 8 CPUs (4 workers with 2 each), but this machine has 7; lower resources.num_w" in cpus
    assert "asks for 4 GPUs (4 workers with 1 each), but this machine has 3" in gpus
    has(monkeypatch, 8)
    (message,) = check_resources(worker_group)
    assert "but this machine has none; set resources.gpus_per_worker to 0" in message


@pytest.mark.parametrize(
    ("resources", "cpus", "gpus", "runs"),
    [
        ({}, 2, 0, 2),
        ({"cpus_per_run": 2}, 3, 0, 1),
        ({"max_concurrent_runs": 3}, 8, 0, 3),
        ({"max_concurrent_runs": 30}, 8, 0, 8),
        ({"gpus_per_run": 1}, 64, 4, 4),
        ({"gpus_per_run": 0.5}, 64, 4, 8),
        ({"gpus_per_run": 0.4}, 64, 2, 4),
        ({"gpus_per_run": 2}, 64, 5, 2),
        ({"gpus_per_run": 0.1, "cpus_per_run": 4}, 8, 1, 2),
        ({"num_workers": 2}, 5, 0, 2),
        ({"num_workers": 4, "cpus_per_worker": 2, "gpus_per_worker": 1}, 64, 11, 2),
        ({"gpus_per_run": 1}, 64, 0, 1),  # that it fits nowhere is told elsewhere
    ],
)
def test_how_many_runs_fit_at_once(
    monkeypatch: pytest.MonkeyPatch, resources: dict[str, Any], cpus: int, gpus: int, runs: int
) -> None:
    has(monkeypatch, cpus, gpus)
    assert concurrency(Resources(**resources)) == runs


@pytest.mark.parametrize(
    ("visible", "count"), [("", 0), ("-1", 0), ("0", 1), ("0,1", 2), ("0,1,2,3", 2), (None, 2)]
)
def test_gpus_are_counted_as_cuda_would_see_them(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, count: int
) -> None:
    monkeypatch.setattr(machine.Path, "glob", lambda *_: iter([Path("/dev/nvidia0"), Path("/dev/nvidia1")]))
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert count_gpus() == count


def test_a_driver_that_fails_means_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.Path, "glob", lambda *_: iter([]))
    monkeypatch.setattr(machine.shutil, "which", lambda _: "/bin/false")
    assert count_gpus() == 0


def test_ray_addresses() -> None:
    for fine in (None, "", "local", "auto"):
        assert check_address(fine) == []
    address = f"127.0.0.1:{closed_port()}"
    (message,) = check_address(address)
    assert message.startswith(f"no Ray cluster answers at {address} (connection refused); start it")
    assert "not of the form host:port" in check_address("somewhere")[0]
    assert "not of the form host:port" in check_address("host:notaport")[0]
    assert "Ray Client (ray://head:10001) is not supported" in check_address("ray://head:10001")[0]
    with socket.create_server(("127.0.0.1", 0)) as listening:
        assert check_address(f"127.0.0.1:{listening.getsockname()[1]}") == []


def test_mlflow_servers(server: str) -> None:
    assert tracking_problems(None) == []
    assert tracking_problems(f"{server}/200") == []
    assert tracking_problems(f"{server}/401") == [], "it is there, and wants credentials"
    assert "it says 503" in tracking_problems(f"{server}/503")[0]
    (message,) = tracking_problems(f"http://user:secret@127.0.0.1:{closed_port()}")
    assert "MLflow server http://127.0.0.1" in message
    assert "connection refused" in message
    assert "secret" not in message


def test_mlflow_stores(tmp_path: Path) -> None:
    assert tracking_problems(f"sqlite:///{tmp_path}/mlflow.db") == []
    assert "write sqlite:////" in tracking_problems("sqlite:///mlflow.db")[0]
    for folder in ("mlruns", "./mlruns", f"file://{tmp_path}", str(tmp_path)):
        assert "no runs in plain folders" in tracking_problems(folder)[0]
    (message,) = tracking_problems(f"postgresql+psycopg2://user:secret@127.0.0.1:{closed_port()}/mlflow")
    assert "database" in message
    assert "secret" not in message


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (123_456, "123 kB"), (2.5e9, "2.5 GB"), (3e12, "3 TB")],
)
def test_sizes(count: float, text: str) -> None:
    assert size(count) == text


# ---------------------------------------------------------------------- check_study


def photos(folder: Path, count: int = 4) -> Path:
    folder.mkdir()
    for index in range(count):
        Image.new("RGB", (96, 80), (40 * index, 90, 30)).save(folder / f"{index}.png")
    return folder


def with_photos(folder: Path, **changes: Any) -> StudySpec:
    mug = {"name": "mug", "images": str(folder), "instance_prompt": "a sks mug", "class_prompt": "a mug"}
    return StudySpec.model_validate(study_dict(subjects=["cat-1", mug], **changes))


def test_a_sound_study_has_no_problems_and_nothing_is_written(tmp_path: Path) -> None:
    assert check_study(with_photos(photos(tmp_path / "mug")), tmp_path / "storage") == []
    assert [path.name for path in tmp_path.iterdir()] == ["mug"]


def test_images(tmp_path: Path) -> None:
    assert "no such folder" in check_study(with_photos(tmp_path / "nowhere"))[0]
    empty = photos(tmp_path / "empty", 0)
    assert "no images" in check_study(with_photos(empty))[0]
    broken = photos(tmp_path / "broken")
    (broken / "torn.jpg").write_bytes(b"\xff\xd8\xff\xe0 this is no picture")
    assert "torn.jpg" in check_study(with_photos(broken))[0]


def test_unknown_embedded_subjects(tmp_path: Path) -> None:
    (message,) = check_study(StudySpec.model_validate(study_dict(subjects=["cta-1", "dog-1"])))
    assert "did you mean 'cat-1'" in message


def test_models_and_resolutions(tmp_path: Path) -> None:
    missing = StudySpec.model_validate(study_dict(model=str(tmp_path / "no-such-model")))
    assert "no-such-model" in check_study(missing)[0]
    odd = StudySpec.model_validate(study_dict(training={"resolution": 50}))
    (message,) = check_study(odd)
    assert "resolution 50 does not fit" in message
    assert "multiple of" in message
    per_arm = study_dict(arms={"lora": {"method": "lora", "resolution": 50}})
    assert "resolution 50" in check_study(StudySpec.model_validate(per_arm))[0]


def test_metric_models(tmp_path: Path) -> None:
    spec = StudySpec.model_validate(study_dict(evaluation={"clip": str(tmp_path / "clip")}))
    (message,) = check_study(spec)
    assert "evaluation.clip" in message


def test_precision_and_optimizers_that_this_machine_has_not(monkeypatch: pytest.MonkeyPatch) -> None:
    fp16 = StudySpec.model_validate(study_dict(training={"mixed_precision": "fp16"}))
    assert any("fp16 needs a GPU" in problem for problem in check_study(fp16))
    monkeypatch.setattr("trainables.training.optim.importlib.util.find_spec", lambda _: None)
    choices = {"optimizer": {"type": "categorical", "choices": ["adamw", "prodigy"]}}
    searched = study_dict(arms={"lora": {"method": "lora", "search_space": choices}})
    (message,) = check_study(StudySpec.model_validate(searched))
    assert "optimizer 'prodigy' needs the package prodigyopt; install it" in message


def test_servers_and_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = StudySpec.model_validate(study_dict(resources={"gpus_per_run": 1}))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "GPU" in check_study(spec)[0]
    address = f"127.0.0.1:{closed_port()}"
    (message,) = check_study(spec, address=address)
    assert "no Ray cluster answers" in message, "a cluster may have GPUs that this machine has not"
    quiet = StudySpec.model_validate(study_dict())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{address}")
    assert "MLflow server" in check_study(quiet)[0]
    named = StudySpec.model_validate(study_dict(tracking={"uri": "http://127.0.0.1:9"}))
    assert address in check_study(named)[0], "the variable goes before the study file, as in a launch"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert "tracking.uri" in check_study(named)[0]


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    (message,) = check_study(StudySpec.model_validate(study_dict()), tmp_path / "storage")
    assert "are free" in message
    assert check_study(StudySpec.model_validate(study_dict())) == [], (
        "without a storage folder it is not asked"
    )


def test_values_of_a_field_over_all_arms() -> None:
    spec = StudySpec.model_validate(study_dict(training={"resolution": 64}))
    assert spec.values_of("lr_scheduler") == {"cosine", "constant"}
    assert spec.values_of("resolution") == {64}


def test_checking_a_study_loads_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; from study.spec.loading import load_study; from study.preflight.checks import check_study;"
        f"problems = check_study(load_study('quickstart'), __import__('pathlib').Path({str(tmp_path)!r}));"
        "print(problems, [m for m in ('torch', 'ray', 'mlflow', 'optuna', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] []"

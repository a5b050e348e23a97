"""cluster.yaml is valid for Ray's own autoscaler, and free of the mistakes that its schema does not see."""

from __future__ import annotations

import copy
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from study.cli.main import main
from study.lint import lint_file
from study.lint.ray_up import lint_cluster
from trainables.config.yaml_reader import Document

ROOT = Path(__file__).resolve().parents[3]
HEAD, WORKER = "head_start_ray_commands", "worker_start_ray_commands"
HEAD_TYPE, SPOT, FIRM = (f"available_node_types/{name}" for name in ("head", "gpu_spot", "gpu_on_demand"))


@pytest.fixture(autouse=True)
def _python_of_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """The files name one Python; the tests run on either."""
    monkeypatch.setattr("study.lint.findings.installed", lambda: (version("ray"), "311"))


@pytest.fixture(scope="module")
def shipped() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


def rules(data: Any, fatal: bool | None = None) -> set[str]:
    faults = lint_cluster(Document(Path("cluster.yaml"), data))
    return {fault.rule for fault in faults if fatal is None or fault.fatal == fatal}


def changed(data: dict[str, Any], path: str, value: Any = None) -> dict[str, Any]:
    """A copy with the value at a dotted path replaced, or removed by None."""
    data = copy.deepcopy(data)
    *parents, last = [int(part) if part.isdigit() else part for part in path.split("/")]
    place: Any = data
    for part in parents:
        place = place[part]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return data


def replaced(data: dict[str, Any], key: str, old: str, new: str) -> dict[str, Any]:
    data = copy.deepcopy(data)
    assert any(old in line for line in data[key])
    data[key] = [line.replace(old, new) for line in data[key]]
    return data


def test_the_shipped_file_has_nothing_wrong_but_what_is_yours_to_fill_in(shipped: dict[str, Any]) -> None:
    assert rules(shipped, fatal=True) == set()
    assert rules(shipped) == {"placeholder"}


def test_ray_accepts_it(shipped: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(copy.deepcopy(shipped)))


def test_rays_own_scheduler_takes_spot_machines_first_and_on_demand_ones_when_there_are_none(
    shipped: dict[str, Any],
) -> None:
    from ray.autoscaler._private.resource_demand_scheduler import _default_utilization_scorer, get_nodes_for

    types = shipped["available_node_types"]
    demand = [{"CPU": 4, "GPU": 1}] * 2

    def started(scorer: Any) -> dict[str, int]:
        return dict(get_nodes_for(types, {"head": 1}, "head", shipped["max_workers"], demand, scorer)[0])

    def score(resources: Any, demands: Any, kind: str) -> Any:
        return _default_utilization_scorer(resources, demands, kind, node_availability_summary=EMPTY)

    def score_without_spot(resources: Any, demands: Any, kind: str) -> Any:
        return None if kind == "gpu_spot" else score(resources, demands, kind)

    from ray.autoscaler._private.node_provider_availability_tracker import NodeAvailabilitySummary

    EMPTY = NodeAvailabilitySummary(node_availabilities={})
    assert started(score) == {"gpu_spot": 2}
    assert started(score_without_spot) == {"gpu_on_demand": 2}


MISTAKES: dict[str, tuple[str, Any]] = {
    "no start command for the head": ("start", lambda c: changed(c, HEAD)),
    "no start command for workers": ("start", lambda c: changed(c, WORKER)),
    "workers that are never started": ("start", lambda c: replaced(c, HEAD, "--autoscaling-config", "--x")),
    "a worker that joins nobody": ("start", lambda c: replaced(c, WORKER, "--address=$RAY_HEAD_IP:6379", "")),
    "a dashboard for everybody": ("exposure", lambda c: replaced(c, HEAD, "host=127.0.0.1", "host=0.0.0.0")),
    "a dashboard for everybody, with a blank": (
        "exposure",
        lambda c: replaced(c, HEAD, "host=127.0.0.1", "host ::"),
    ),
    "Ray Client": ("exposure", lambda c: replaced(c, HEAD, "--port=6379", "--ray-client-server-port=10001")),
    "a published port": ("exposure", lambda c: changed(c, "docker/run_options/0", "--publish 8265:8265")),
    "SSH for everybody": ("firewall", lambda c: changed(c, "provider/security_group", open_port(22))),
    "Ray for everybody": ("firewall", lambda c: changed(c, "provider/security_group", open_port(6379))),
    "Ray's own security group": ("firewall", lambda c: changed(c, SPOT + "/node_config/SecurityGroupIds")),
    "a head without a token": ("token", lambda c: without_mode(c, HEAD)),
    "workers without a token": ("token", lambda c: without_mode(c, WORKER)),
    "a token in another shell": ("token", lambda c: own_line(without_mode(c, HEAD))),
    "a token that does not travel": ("token", lambda c: no_token(c)),
    "a token that others read": ("token", lambda c: replaced(c, "setup_commands", "chmod 600", "ls")),
    "another Ray": ("image", lambda c: changed(c, "docker/image", "rayproject/ray:2.59.0-py311-gpu")),
    "another Python": ("image", lambda c: changed(c, "docker/image", "rayproject/ray:2.60.0-py39-gpu")),
    "a Python that is not said": ("image", lambda c: changed(c, "docker/image", "rayproject/ray:2.60.0-gpu")),
    "an image for CPUs": ("image", lambda c: changed(c, "docker/image", "rayproject/ray:2.60.0-py311")),
    "a tag that moves": ("image", lambda c: changed(c, "docker/image", "rayproject/ray:latest")),
    "no tag": ("image", lambda c: changed(c, "docker/image", "registry.example.org:5000/study")),
    "an own image of another Ray": (
        "image",
        lambda c: changed(c, "docker/image", "registry.example.org/study:1.0-ray2.9.3"),
    ),
    "another image for workers": (
        "image",
        lambda c: changed(c, "docker/worker_image", "rayproject/ray:2.9.0-py311-gpu"),
    ),
    "no image": ("image", lambda c: changed(c, "docker")),
    "no name of the container": ("container", lambda c: changed(c, "docker/container_name")),
    "nodes without the project": ("code", lambda c: replaced(c, "setup_commands", "pip install", "echo")),
    "runs on the head": (
        "head",
        lambda c: replaced(changed(c, HEAD_TYPE + "/resources", {"CPU": 4}), HEAD, "--num-cpus=0", ""),
    ),
    "runs on whatever the head has": (
        "head",
        lambda c: replaced(changed(c, HEAD_TYPE + "/resources", {}), HEAD, "--num-cpus=0", ""),
    ),
    "runs by the start command": ("head", lambda c: replaced(c, HEAD, "--num-cpus=0", "--num-cpus=4")),
    "GPUs of the head": ("head", lambda c: changed(c, HEAD_TYPE + "/resources", {"CPU": 0, "GPU": 1})),
    "a head that is taken away": (
        "head",
        lambda c: changed(c, HEAD_TYPE + "/node_config/InstanceMarketOptions", {"MarketType": "spot"}),
    ),
    "half a GPU": ("resources", lambda c: changed(c, SPOT + "/resources/GPU", 0.5)),
    "spot alone": ("spot", lambda c: changed(c, FIRM + "")),
    "a fallback that may not start": ("spot", lambda c: changed(c, FIRM + "/max_workers", 0)),
    "a fallback that comes first": ("spot", lambda c: changed(c, FIRM + "/priority", 20)),
    "no end of idle workers": ("idle", lambda c: changed(c, "idle_timeout_minutes")),
    "idle for a day": ("idle", lambda c: changed(c, "idle_timeout_minutes", 1440)),
    "workers that are always up": ("idle", lambda c: changed(c, SPOT + "/min_workers", 2)),
    "disks that are kept": ("idle", lambda c: changed(c, "provider/cache_stopped_nodes", True)),
    "no cap": ("cap", lambda c: changed(c, "max_workers")),
    "a type without a cap": ("cap", lambda c: changed(c, SPOT + "/max_workers")),
    "no shared storage": ("storage", lambda c: no_storage(c)),
    "a mount inside the container": ("storage", lambda c: mount_inside(c)),
    "a mount that the container does not see": (
        "storage",
        lambda c: changed(c, "docker/run_options/5", "--env A=1"),
    ),
    "few open files": (
        "ulimit",
        lambda c: replaced(changed(c, "docker/run_options/0", "--env A=1"), WORKER, "ulimit -n 65536; ", ""),
    ),
    "an AWS key": (
        "secret",
        lambda c: changed(c, "docker/run_options/1", "--env AWS_ACCESS_KEY_ID=AKIAIOSFODNN7EXAMPLE"),
    ),
    "a token in a command": (
        "secret",
        lambda c: replaced(c, HEAD, "export", "export RAY_AUTH_TOKEN=0123456789abcdef; export"),
    ),
    "a password of a database": (
        "secret",
        lambda c: changed(c, "setup_commands/0", "echo postgresql://study:hunter2@db/ledger"),
    ),
    "credentials of a provider": (
        "secret",
        lambda c: changed(c, "provider/gcp_credentials", {"type": "service_account", "credentials": "abc"}),
    ),
    "a private key": (
        "secret",
        lambda c: changed(c, "setup_commands/0", "echo '-----BEGIN RSA PRIVATE KEY-----'"),
    ),
    "a key that nobody knows": ("schema", lambda c: changed(c, "max_worker", 8)),
    "a word for a number": ("schema", lambda c: changed(c, "upscaling_speed", "fast")),
    "a head of no type": ("schema", lambda c: changed(c, "head_node_type", "haed")),
    "a provider of no kind": ("schema", lambda c: changed(c, "provider/type", "awz")),
    "more at least than at most": ("schema", lambda c: changed(c, SPOT + "/min_workers", 50)),
}


def open_port(port: int) -> dict[str, Any]:
    rule = {"FromPort": port, "ToPort": port, "IpProtocol": "TCP", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
    return {"GroupName": "study", "IpPermissions": [rule]}


def without_mode(data: dict[str, Any], key: str) -> dict[str, Any]:
    return replaced(
        changed(data, "docker/run_options/1", "--env A=1"), key, "export RAY_AUTH_MODE=token; ", ""
    )


def own_line(data: dict[str, Any]) -> dict[str, Any]:
    data[HEAD].insert(1, "export RAY_AUTH_MODE=token")
    return data


def no_token(data: dict[str, Any]) -> dict[str, Any]:
    data = copy.deepcopy(data)
    del data["file_mounts"]["~/.ray/auth_token"]
    return data


def no_storage(data: dict[str, Any]) -> dict[str, Any]:
    data = replaced(data, "initialization_commands", "mount -t nfs4", "ls")
    data["docker"]["run_options"] = ["--ulimit nofile=65536:65536", "--env RAY_AUTH_MODE=token"]
    return data


def mount_inside(data: dict[str, Any]) -> dict[str, Any]:
    data = copy.deepcopy(data)
    data["setup_commands"] += data.pop("initialization_commands")
    return data


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_lint_sees(mistake: str, shipped: dict[str, Any]) -> None:
    rule, change = MISTAKES[mistake]
    assert rule not in rules(shipped)
    assert rule in rules(change(shipped)), mistake


def test_secrets_are_not_repeated_in_the_message(shipped: dict[str, Any]) -> None:
    data = changed(shipped, "docker/run_options/1", "--env AWS_ACCESS_KEY_ID=AKIAIOSFODNN7EXAMPLE")
    faults = lint_cluster(Document(Path("cluster.yaml"), data))
    assert not [fault.message for fault in faults if "AKIAIOSFODNN7EXAMPLE" in fault.message]


def test_a_bucket_is_shared_storage_too(shipped: dict[str, Any]) -> None:
    data = no_storage(shipped)
    data["docker"]["run_options"].append("--env STUDY_STORAGE=s3://bucket/study")
    assert "storage" not in rules(data)


@pytest.mark.parametrize("provider", ["aws", "gcp", "azure", "vsphere"])
def test_the_providers_defaults_are_read_to_their_end(provider: str) -> None:
    """Ray's own files are far from safe: no crash, and the dashboard that they open is seen."""
    import ray.autoscaler

    path = Path(ray.autoscaler.__file__).parent / provider / "defaults.yaml"
    found = lint_file(path)
    assert found is not None
    assert {fault.rule for fault, _ in found} >= {"token"}
    if "0.0.0.0" in path.read_text():
        assert "exposure" in {fault.rule for fault, _ in found}


@pytest.mark.parametrize(
    "data",
    [
        {"cluster_name": "x", "provider": None},
        {"cluster_name": 3, "provider": {"type": "local", "head_ip": "10.0.0.1", "worker_ips": ["10.0.0.2"]}},
        {"cluster_name": "x", "provider": {"type": "fake_multinode"}, "available_node_types": {"a": None}},
        {
            "cluster_name": "x",
            "provider": {"type": "aws"},
            "docker": [],
            "file_mounts": 4,
            "setup_commands": "ls",
        },
        {
            "cluster_name": "x",
            "provider": {"type": "external"},
            "available_node_types": [],
            "head_node_type": [],
        },
        {"cluster_name": "x", "provider": {"type": "aws"}, HEAD: [None, 3, {}], "max_workers": None},
    ],
)
def test_whatever_stands_in_the_file_is_told_and_not_thrown(data: dict[str, Any]) -> None:
    assert rules(data, fatal=True)


def doctor(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["doctor", *arguments])
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def test_doctor_tells_a_cluster_from_a_study(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = doctor(capsys, str(ROOT / "cluster.yaml"), "--format", "csv")
    assert code == 0
    assert "cluster.yaml:" in out
    assert "python" not in out.splitlines()[1]
    bad = tmp_path / "bad.yaml"
    text = (ROOT / "cluster.yaml").read_text()
    bad.write_text(
        text.replace("--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0").replace(
            "idle_timeout", "idle_time"
        )
    )
    code, out, _ = doctor(capsys, str(bad), "--format", "csv")
    assert code == 1
    line = next(number for number, line in enumerate(bad.read_text().splitlines(), 1) if "idle_time_" in line)
    assert f"bad.yaml:{line} idle_time_minutes" in out
    assert "exposure,False" in out
    assert "idle,False" in out


@pytest.mark.parametrize("text", ["cluster_name: [", "cluster_name: x\ncluster_name: y\n", "\xff"])
def test_a_file_that_cannot_be_read(text: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_bytes(text.encode("latin-1"))
    code, out, err = doctor(capsys, str(path))
    assert (code, out) == (2, "")
    assert "cluster.yaml" in err
    assert "Traceback" not in err


def test_a_file_that_is_not_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, _, err = doctor(capsys, str(tmp_path / "cluster.yaml"))
    assert code == 2
    assert "there is no file" in err

"""cluster.yaml is valid for Ray's own autoscaler and free of the mistakes that its schema does not see."""

import re
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def cluster() -> dict:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


def test_ray_accepts_it(cluster: dict) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(cluster))


def test_ray_refuses_a_fraction_of_a_gpu(cluster: dict) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    cluster["available_node_types"]["gpu_spot"]["resources"]["GPU"] = 0.5
    with pytest.raises(Exception, match=r"0\.5"):
        validate_config(prepare_config(cluster))


def test_image_has_the_installed_ray(cluster: dict) -> None:
    tag = cluster["docker"]["image"].split(":")[1]
    assert tag.startswith(version("ray") + "-py3")


def test_the_head_trains_nothing() -> None:
    cluster = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    head = cluster["available_node_types"][cluster["head_node_type"]]
    assert head["resources"] == {"CPU": 0}


@pytest.mark.parametrize("commands", ["head_start_ray_commands", "worker_start_ray_commands"])
def test_ray_starts_with_a_token_and_a_private_dashboard(cluster: dict, commands: str) -> None:
    start = next(line for line in cluster[commands] if "ray start" in line)
    assert "RAY_AUTH_MODE=token" in start
    assert "0.0.0.0" not in start
    if "--head" in start:
        assert re.search(r"--dashboard-host=127\.0\.0\.1\b", start)


def test_the_token_travels(cluster: dict) -> None:
    assert "~/.ray/auth_token" in cluster["file_mounts"]
    assert any("chmod 600 ~/.ray/auth_token" in line for line in cluster["setup_commands"])

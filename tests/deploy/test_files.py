"""The files under deploy/ are sound: manifest, image and scripts agree with the project and with each other."""

from __future__ import annotations

import copy
import gzip
import re
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from study.lint import lint_file
from study.lint.kuberay import lint_manifest
from trainables.config.yaml_reader import Document

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
PINNED = dict(
    line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
)


@pytest.fixture(autouse=True)
def _python_of_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """The files name one Python; the tests run on either."""
    monkeypatch.setattr("study.lint.findings.installed", lambda: (version("ray"), "311"))


# ---------------------------------------------------------------------- RayJob


@pytest.fixture(scope="module")
def job() -> dict[str, Any]:
    documents = list(yaml.safe_load_all((DEPLOY / "rayjob.yaml").read_text()))
    assert [document["kind"] for document in documents] == ["PersistentVolumeClaim", "RayJob"]
    return documents[1]


def rules(data: Any) -> set[str]:
    return {fault.rule for fault in lint_manifest(Document(Path("rayjob.yaml"), data))}


def test_the_manifest_has_nothing_wrong_but_what_is_yours_to_fill_in() -> None:
    found = lint_file(DEPLOY / "rayjob.yaml")
    assert found
    assert {fault.rule for fault, _ in found} == {"placeholder"}


def test_places_are_lines_of_the_whole_file() -> None:
    lines = (DEPLOY / "rayjob.yaml").read_text().splitlines()
    for fault, place in lint_file(DEPLOY / "rayjob.yaml") or []:
        line = lines[int(re.match(r"rayjob\.yaml:(\d+) ", place)[1]) - 1]  # type: ignore[index]
        assert fault.message.split(" ")[0] in line


def test_a_retry_finds_what_the_last_cluster_left(job: dict[str, Any]) -> None:
    spec = job["spec"]
    storage = re.search(r"--storage (\S+)", spec["entrypoint"])[1]  # type: ignore[index]
    assert spec["backoffLimit"] > 0
    groups = [spec["rayClusterSpec"]["headGroupSpec"], *spec["rayClusterSpec"]["workerGroupSpecs"]]
    for group in groups:
        pod = group["template"]["spec"]
        mounts = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
        volume = next(volume for volume in pod["volumes"] if volume["name"] == mounts[storage])
        assert volume["persistentVolumeClaim"]["claimName"] == "diffusion-study"


CLUSTER = "spec/rayClusterSpec"
CONTAINER = "template/spec/containers/0"
HALF = {"cpu": 7, "memory": "1Gi", "nvidia.com/gpu": 0.5}
PRIVILEGED = {"privileged": True}
MISTAKES: dict[str, tuple[str, str, Any]] = {
    "an old API": ("schema", "apiVersion", "ray.io/v1alpha1"),
    "a number for a text": ("schema", f"{CLUSTER}/headGroupSpec/rayStartParams/num-gpus", 0),
    "nothing to run": ("entrypoint", "spec/entrypoint", ""),
    "another program": ("entrypoint", "spec/entrypoint", "python train.py"),
    "a cluster that stays": ("cost", "spec/shutdownAfterJobFinishes", False),
    "another Ray": ("image", f"{CLUSTER}/rayVersion", "2.9.0"),
    "no version": ("image", f"{CLUSTER}/rayVersion", None),
    "an image of another Ray": ("image", f"{CLUSTER}/headGroupSpec/{CONTAINER}/image", "me/study:ray2.9.0"),
    "an image of another Python": ("image", f"{CLUSTER}/headGroupSpec/{CONTAINER}/image", "me/study:ray2.60.0-py39"),
    "a tag that moves": ("image", f"{CLUSTER}/workerGroupSpecs/0/{CONTAINER}/image", "me/study:latest"),
    "an image for CPUs": ("image", f"{CLUSTER}/workerGroupSpecs/0/{CONTAINER}/image", "rayproject/ray:2.60.0-cpu"),
    "no token": ("token", f"{CLUSTER}/authOptions", None),
    "authentication off": ("token", f"{CLUSTER}/authOptions/mode", "disabled"),
    "runs on the head": ("head", f"{CLUSTER}/headGroupSpec/rayStartParams/num-cpus", None),
    "a public service": ("exposure", f"{CLUSTER}/headGroupSpec/serviceType", "LoadBalancer"),
    "an ingress": ("exposure", f"{CLUSTER}/headGroupSpec/enableIngress", True),
    "no cap": ("cap", f"{CLUSTER}/workerGroupSpecs/0/maxReplicas", None),
    "a cap that is no number": ("schema", f"{CLUSTER}/workerGroupSpecs/1/maxReplicas", "three"),
    "more workers than the cap": ("schema", f"{CLUSTER}/workerGroupSpecs/1/minReplicas", 9),
    "a group without a name": ("schema", f"{CLUSTER}/workerGroupSpecs/0/groupName", None),
    "workers that never start": ("cap", f"{CLUSTER}/enableInTreeAutoscaling", False),
    "no workers": ("workers", f"{CLUSTER}/workerGroupSpecs", []),
    "half a GPU": ("resources", f"{CLUSTER}/workerGroupSpecs/0/{CONTAINER}/resources/limits", HALF),
    "no limits": ("resources", f"{CLUSTER}/headGroupSpec/{CONTAINER}/resources", None),
    "root": ("privileges", f"{CLUSTER}/headGroupSpec/template/spec/securityContext", None),
    "a privileged container": ("privileges", f"{CLUSTER}/workerGroupSpecs/0/{CONTAINER}/securityContext", PRIVILEGED),
    "no volume of a worker": ("storage", f"{CLUSTER}/workerGroupSpecs/1/template/spec/volumes", []),
    "no storage": ("storage", "spec/entrypoint", "study launch /config/my-study.yaml"),
    "storage beside the volume": ("storage", "spec/entrypoint", "study launch a.yaml --storage /tmp/study"),
    "a password": ("secret", f"{CLUSTER}/headGroupSpec/{CONTAINER}/env", [{"name": "X", "value": "postgresql://u:pw@db/x"}]),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_lint_sees(mistake: str, job: dict[str, Any]) -> None:
    rule, path, value = MISTAKES[mistake]
    assert rule not in rules(job)
    data = copy.deepcopy(job)
    *parents, last = [int(part) if part.isdigit() else part for part in path.split("/")]
    place: Any = data
    for part in parents:
        place = place[part]
    if value is None:
        del place[last]
    else:
        place[last] = value
    assert rule in rules(data)


def test_the_lint_says_what_rays_autoscaler_cannot_read(job: dict[str, Any]) -> None:
    data = copy.deepcopy(job)
    data["spec"]["rayClusterSpec"]["workerGroupSpecs"][1] |= {"minReplicas": 3}
    (fault,) = (f for f in lint_manifest(Document(Path("rayjob.yaml"), data)) if f.rule == "schema")
    assert fault.loc == ("spec", "rayClusterSpec", "workerGroupSpecs", 1)
    assert fault.message.startswith(
        "Ray's autoscaler cannot read the group: The specified global `max_workers`"
    )


def test_what_kuberay_fills_in_need_not_be_written(job: dict[str, Any]) -> None:
    data = copy.deepcopy(job)
    cluster = data["spec"]["rayClusterSpec"]
    for group in cluster["workerGroupSpecs"]:
        del group["minReplicas"]
    assert rules(data) == {"placeholder"}
    cluster["enableInTreeAutoscaling"] = False
    for group in cluster["workerGroupSpecs"]:
        del group["maxReplicas"]
        group["replicas"] = 2
    assert rules(data) == {"placeholder"}


def test_rays_autoscaler_reads_the_shipped_manifest_as_it_is_meant(job: dict[str, Any]) -> None:
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    named = {"metadata": {"name": "study", "namespace": "default"}}
    found = _derive_autoscaling_config_from_ray_cr({**named, "spec": job["spec"]["rayClusterSpec"]})
    types = found["available_node_types"]
    assert types[found["head_node_type"]]["resources"]["CPU"] == 0
    workers = {name: kind for name, kind in types.items() if name != found["head_node_type"]}
    assert {name: kind["max_workers"] for name, kind in workers.items()} == {
        "gpu-spot": 6,
        "gpu-on-demand": 2,
    }
    assert workers["gpu-spot"]["priority"] > workers["gpu-on-demand"]["priority"]
    assert {kind["resources"]["GPU"] for kind in workers.values()} == {1}
    assert found["idle_timeout_minutes"] == 10


def unknown_to(schema: dict[str, Any], value: Any, at: str = "") -> list[str]:
    """Fields that a schema of Kubernetes does not name; Kubernetes refuses them when it is strict."""
    if isinstance(value, list):
        return [
            f for i, item in enumerate(value) for f in unknown_to(schema.get("items", {}), item, f"{at}[{i}]")
        ]
    if not isinstance(value, dict) or "properties" not in schema:
        return []
    fields = schema["properties"]
    unknown = [f"{at}.{key}" for key in value if key not in fields]
    return unknown + [
        f
        for key, item in value.items()
        if key in fields
        for f in unknown_to(fields[key], item, f"{at}.{key}")
    ]


@pytest.fixture(scope="module")
def rayjob_schema() -> dict[str, Any]:
    """KubeRay's published schema of a RayJob: its release v1.7.0, Apache-2.0 (LICENSE beside it)."""
    packed = Path(__file__).parent / "kuberay" / "ray.io_rayjobs-v1.7.0.yaml.gz"
    versions = yaml.load(gzip.decompress(packed.read_bytes()), yaml.CSafeLoader)["spec"]["versions"]
    (schema,) = (version["schema"] for version in versions if version["name"] == "v1")
    found: dict[str, Any] = schema["openAPIV3Schema"]
    return found


def test_the_schema_of_kuberay_takes_the_shipped_manifest(
    job: dict[str, Any], rayjob_schema: dict[str, Any]
) -> None:
    assert unknown_to(rayjob_schema, job) == []
    jsonschema.validate(job, rayjob_schema)


def test_the_schema_of_kuberay_refuses_what_is_wrong(
    job: dict[str, Any], rayjob_schema: dict[str, Any]
) -> None:
    wrong = copy.deepcopy(job)
    wrong["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParam"] = {}
    assert unknown_to(rayjob_schema, wrong) == [".spec.rayClusterSpec.headGroupSpec.rayStartParam"]
    wrong["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["replicas"] = "two"
    with pytest.raises(jsonschema.ValidationError, match="'two' is not of type 'integer'"):
        jsonschema.validate(wrong, rayjob_schema)


def test_storage_by_url_needs_no_volume(job: dict[str, Any]) -> None:
    data = copy.deepcopy(job)
    data["spec"]["entrypoint"] = "study launch /config/my-study.yaml --storage s3://bucket/study"
    for group in (
        data["spec"]["rayClusterSpec"]["headGroupSpec"],
        *data["spec"]["rayClusterSpec"]["workerGroupSpecs"],
    ):
        group["template"]["spec"]["volumes"] = []
    assert "storage" not in rules(data)


@pytest.mark.parametrize(
    "data", [{}, {"spec": None}, {"spec": []}, {"spec": {"rayClusterSpec": {"workerGroupSpecs": [None, 3]}}}]
)
@pytest.mark.parametrize("kind", ["RayJob", "RayCluster"])
def test_whatever_stands_in_the_manifest_is_told_and_not_thrown(kind: str, data: dict[str, Any]) -> None:
    assert rules({"kind": kind, **data})


# ---------------------------------------------------------------------- image


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"\\\n\s*", " ", (DEPLOY / "Dockerfile").read_text())
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(name.upper(), rest) for name, _, rest in (line.partition(" ") for line in lines)]


def test_the_image_has_the_projects_ray_and_python() -> None:
    froms = [rest for name, rest in instructions() if name == "FROM"]
    assert froms == [f"rayproject/ray:{PINNED['ray']}-py311-gpu"]
    cluster = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    assert cluster["docker"]["image"] == froms[0]
    assert PINNED["ray"] == version("ray")


def test_the_image_runs_as_nobody_special_and_holds_no_secret() -> None:
    found = instructions()
    users = [rest for name, rest in found if name == "USER"]
    assert users
    assert set(users) == {"ray"}
    assert not [rest for name, rest in found if name == "ADD"]
    assert not [
        rest
        for name, rest in found
        if name in ("ARG", "ENV") and re.search(r"(TOKEN|SECRET|PASSWORD|KEY)", rest)
    ]
    assert not [rest for name, rest in found if name == "EXPOSE"]


def test_what_the_image_copies_exists_and_is_not_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    kept = {line[1:] for line in ignored if line.startswith("!")}
    sources = [
        word
        for name, rest in instructions()
        if name == "COPY"
        for word in rest.split()[:-1]
        if not word.startswith("--")
    ]
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert source in kept, source
    assert "*" in ignored
    assert {"**/.env", "**/*.pem"} <= set(ignored)


def test_the_image_installs_all_packages_with_the_pins() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {name.rstrip("*") for name in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    copied = {rest.split()[-1] for name, rest in instructions() if name == "COPY"}
    assert packages <= copied
    installs = [
        part
        for name, rest in instructions()
        if name == "RUN"
        for part in rest.split("&&")
        if "pip install" in part
    ]
    assert installs
    assert all("--constraint constraints.txt" in part for part in installs)
    extras = re.search(r"\.\[([a-z,]+)\]", installs[-1])[1].split(",")  # type: ignore[index]
    assert set(extras) <= set(project["project"]["optional-dependencies"])
    assert "cluster" in extras


# ---------------------------------------------------------------------- scripts


@pytest.mark.parametrize("script", sorted(path.name for path in DEPLOY.glob("*.sh")))
def test_scripts_are_valid_bash(script: str) -> None:
    done = subprocess.run(["bash", "-n", str(DEPLOY / script)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_version_in_the_deployment_files_is_the_projects() -> None:
    files = [path for path in (*DEPLOY.iterdir(), ROOT / "cluster.yaml") if path.is_file()]
    for path in files:
        text = path.read_text()
        assert set(re.findall(r"ray:?(\d+\.\d+\.\d+)", text)) <= {PINNED["ray"]}, path
        assert set(re.findall(r"\bpy3\d+\b", text)) <= {"py311"}, path

"""The lint of KubeRay manifests (RayJob, RayCluster): what a study needs of them, and Ray's own reading of them.

Misspelt fields are not looked for: the cluster has the schema of its KubeRay, and `kubectl apply` refuses them by it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from study.lint.findings import Fault, image_faults, installed, placeholders, secrets
from study.lint.ray_up import autoscaler_problem
from study.lint.ray_up_file import items, mapping
from trainables.config.yaml_reader import Document, Loc

KINDS = ("RayJob", "RayCluster")

_PERSISTENT = ("persistentVolumeClaim", "nfs", "csi", "cephfs", "glusterfs")
# What KubeRay fills in; a missing name is told by a rule of its own.
_DEFAULTS = {"groupName": "", "minReplicas": 0, "maxReplicas": 2**31 - 1}
_URL = re.compile(r"\b(?:s3|gs|gcs|abfss?|postgresql)(?:\+\w+)?://")


@dataclass(frozen=True)
class _Group:
    """A group of equal pods: the head's, or one of workers."""

    loc: Loc
    data: dict[str, Any]

    @property
    def pod(self) -> dict[str, Any]:
        return mapping(mapping(self.data.get("template")).get("spec"))

    def containers(self) -> Iterator[tuple[Loc, dict[str, Any]]]:
        for index, container in enumerate(items(self.pod.get("containers"))):
            yield (*self.loc, "template", "spec", "containers", index), mapping(container)


@dataclass(frozen=True)
class _Cluster:
    loc: Loc
    data: dict[str, Any]

    @property
    def head(self) -> _Group:
        return _Group((*self.loc, "headGroupSpec"), mapping(self.data.get("headGroupSpec")))

    @property
    def workers(self) -> list[_Group]:
        groups = items(self.data.get("workerGroupSpecs"))
        return [_Group((*self.loc, "workerGroupSpecs", i), mapping(g)) for i, g in enumerate(groups)]

    @property
    def grows(self) -> bool:
        """Whether Ray's autoscaler adds and removes workers."""
        return self.data.get("enableInTreeAutoscaling") is True

    @property
    def groups(self) -> list[_Group]:
        return [self.head, *self.workers]


def lint_manifest(document: Document) -> list[Fault]:
    """Returns everything that is wrong with one RayJob or RayCluster, in the order of the file."""
    data, spec = document.data, mapping(document.data.get("spec"))
    found: list[Fault] = []
    if data.get("apiVersion") != "ray.io/v1":
        message = f"apiVersion is {data.get('apiVersion')!r}; write ray.io/v1"
        found.append(Fault("schema", ("apiVersion",), message))
    cluster = _Cluster(("spec",), spec)
    if data.get("kind") == "RayJob":
        cluster = _Cluster(("spec", "rayClusterSpec"), mapping(spec.get("rayClusterSpec")))
        found += [*_job(spec), *_persistence(str(spec.get("entrypoint", "")), cluster)]
    for rule in (_versions, _token, _head, _workers, _ray_reads):
        found += rule(cluster)
    for group in cluster.groups:
        found += _pod(group, gpus_wanted=group.loc != cluster.head.loc)
    found += [*secrets(document), *placeholders(document)]
    return sorted(dict.fromkeys(found), key=lambda fault: (document.line_of(fault.loc), not fault.fatal))


def _job(job: dict[str, Any]) -> Iterator[Fault]:
    loc, entrypoint = ("spec", "entrypoint"), job.get("entrypoint")
    if not isinstance(entrypoint, str) or not entrypoint.strip():
        yield Fault("entrypoint", loc, "the job runs nothing; write entrypoint: study launch ...")
    elif "study launch" not in entrypoint:
        message = "the entrypoint does not launch a study (study launch FILE ...)"
        yield Fault("entrypoint", loc, message, fatal=False)
    if job.get("shutdownAfterJobFinishes") is not True:
        message = "the cluster stays, and costs, after the study; write shutdownAfterJobFinishes: true"
        yield Fault("cost", ("spec", "shutdownAfterJobFinishes"), message)
    if job.get("rayClusterSpec") is None and not job.get("clusterSelector"):
        message = "the job has no cluster; write a rayClusterSpec"
        yield Fault("schema", ("spec", "rayClusterSpec"), message)


def _versions(cluster: _Cluster) -> Iterator[Fault]:
    ray, given, loc = installed()[0], cluster.data.get("rayVersion"), (*cluster.loc, "rayVersion")
    if given is None:
        what = "rayVersion is missing, without which KubeRay refuses authOptions"
    else:
        what = f"rayVersion is {given}, but {ray} is installed here"
    if str(given) != ray:
        yield Fault("image", loc, f'{what}; write rayVersion: "{ray}"')


def _token(cluster: _Cluster) -> Iterator[Fault]:
    options = cluster.data.get("authOptions")
    if isinstance(options, dict):
        if options.get("mode", "token") != "token":
            loc = (*cluster.loc, "authOptions", "mode")
            yield Fault("token", loc, f"authentication is {options['mode']}; write mode: token")
    elif not all(
        _asks_for_a_token(container) for group in cluster.groups for _, container in group.containers()
    ):
        yield Fault(
            "token",
            cluster.loc,
            "anybody who reaches the pods may run code; write authOptions: {mode: token} "
            "(KubeRay 1.5.1 or newer makes the Secret)",
        )


def _asks_for_a_token(container: dict[str, Any]) -> bool:
    env = {entry.get("name"): entry for entry in map(mapping, items(container.get("env")))}
    secret = mapping(mapping(env.get("RAY_AUTH_TOKEN")).get("valueFrom")).get("secretKeyRef")
    return mapping(env.get("RAY_AUTH_MODE")).get("value") == "token" and bool(mapping(secret))


def _head(cluster: _Cluster) -> Iterator[Fault]:
    head = cluster.head
    # `resources` of the group override the parameters of `ray start`.
    given = mapping(head.data.get("rayStartParams")).get("num-cpus")
    if str(mapping(head.data.get("resources")).get("CPU", given)) != "0":
        message = 'runs would train on the head, which then starves the driver; write num-cpus: "0"'
        yield Fault("head", (*head.loc, "rayStartParams"), message)
    ingress, service = head.data.get("enableIngress") is True, head.data.get("serviceType")
    if ingress or service in ("LoadBalancer", "NodePort"):
        yield Fault(
            "exposure",
            head.loc,
            f"{'an ingress' if ingress else f'serviceType {service}'} opens the dashboard and the job API, which run "
            "any code, beyond the cluster; take it out and use kubectl port-forward",
        )


def _workers(cluster: _Cluster) -> Iterator[Fault]:
    if not cluster.workers:
        message = "there are no workers, so no run can be placed; write a group with GPUs"
        yield Fault("workers", (*cluster.loc, "workerGroupSpecs"), message)
    for group in cluster.workers:
        if not cluster.grows and not group.data.get("replicas"):
            yield Fault(
                "cap",
                group.loc,
                "the group has no replicas and nothing adds any; write replicas, or "
                "enableInTreeAutoscaling: true",
            )
        if cluster.grows and not isinstance(group.data.get("maxReplicas"), int):
            yield Fault(
                "cap",
                group.loc,
                "maxReplicas is missing: it caps what the group can cost, and is 2,147,483,647 otherwise",
            )


def _ray_reads(cluster: _Cluster) -> Iterator[Fault]:
    """What Ray's autoscaler cannot read, group by group; and what the schema of KubeRay has as texts."""
    for group in cluster.workers if cluster.grows else ():
        if problem := autoscaler_problem({**cluster.data, "workerGroupSpecs": [_DEFAULTS | group.data]}):
            yield Fault("schema", group.loc, f"Ray's autoscaler cannot read the group: {problem}")
    for group in cluster.groups:
        if not group.data.get("groupName") and group.loc != cluster.head.loc:
            yield Fault("schema", group.loc, "a group of workers needs a groupName")
        for key, value in mapping(group.data.get("rayStartParams")).items():
            if not isinstance(value, str):
                message = f'values of rayStartParams are texts; write {key}: "{value}"'
                yield Fault("schema", (*group.loc, "rayStartParams", key), message)


def _pod(group: _Group, *, gpus_wanted: bool) -> Iterator[Fault]:
    containers = list(group.containers())
    if not containers:
        yield Fault("schema", group.loc, "the group has no container; write template.spec.containers")
    for at, container in containers:
        yield from _privileges(mapping(group.pod.get("securityContext")), at, container)
    for at, container in containers[:1]:  # Ray's is the first
        gpus = gpus_wanted and bool(_gpus(container))
        yield from image_faults(container.get("image"), (*at, "image"), gpus=gpus)
        yield from _limits(container, at)


def _privileges(of_pod: dict[str, Any], loc: Loc, container: dict[str, Any]) -> Iterator[Fault]:
    own = mapping(container.get("securityContext"))
    if own.get("privileged") is True:
        message = "a privileged container owns its machine; write privileged: false"
        yield Fault("privileges", (*loc, "securityContext"), message)
    if own.get("runAsNonRoot", of_pod.get("runAsNonRoot")) is not True:
        message = "the container may run as root; write securityContext: {runAsNonRoot: true}"
        yield Fault("privileges", loc, message, fatal=False)
    if own.get("allowPrivilegeEscalation") is not False:
        message = "write securityContext: {allowPrivilegeEscalation: false}"
        yield Fault("privileges", loc, message, fatal=False)


def _gpus(container: dict[str, Any]) -> Any:
    resources = mapping(container.get("resources"))
    requested = mapping(resources.get("requests")).get("nvidia.com/gpu", 0)
    return mapping(resources.get("limits")).get("nvidia.com/gpu", requested)


def _limits(container: dict[str, Any], loc: Loc) -> Iterator[Fault]:
    loc = (*loc, "resources")
    for name in ("cpu", "memory"):
        if name not in mapping(mapping(container.get("resources")).get("limits")):
            what = f"without a limit of {name} Ray takes that of the whole machine"
            yield Fault("resources", loc, f"{what}; write limits: {{{name}: ...}}")
    if not re.fullmatch(r"\d+", str(_gpus(container))):
        what = f"a pod has whole GPUs, got {_gpus(container)}"
        remedy = "write the share of a run as resources.gpus_per_run in the study file"
        yield Fault("resources", loc, f"{what}; {remedy}")


def _persistence(entrypoint: str, cluster: _Cluster) -> Iterator[Fault]:
    """A retry is a new cluster: what is to be gone on with must lie outside of it."""
    if _URL.search(entrypoint.partition("--storage")[2]):
        return
    kept = [_kept_paths(group) for group in cluster.groups]
    for group, paths in zip(cluster.groups, kept, strict=True):
        if not paths:
            yield Fault(
                "storage",
                group.loc,
                "the pods have no volume that outlives them, so a retry begins anew; mount a "
                "PersistentVolumeClaim (ReadWriteMany) in head and workers, or give --storage a "
                "URL (s3://...)",
            )
    storage, common = re.search(r"--storage[=\s]+(\S+)", entrypoint), set.intersection(*kept)
    message = None
    if storage is None:
        message = (
            "the study would be written into the head's own disk; write --storage with a folder "
            "of the shared volume"
        )
    elif common and not any((storage[1] + "/").startswith(path.rstrip("/") + "/") for path in common):
        message = f"--storage {storage[1]} is on no volume that all pods mount ({', '.join(sorted(common))})"
    if message is not None:
        yield Fault("storage", ("spec", "entrypoint"), message)


def _kept_paths(group: _Group) -> set[str]:
    """Where the pods of a group mount volumes that outlive them."""
    volumes = {
        volume.get("name")
        for volume in map(mapping, items(group.pod.get("volumes")))
        if any(kind in volume for kind in _PERSISTENT)
    }
    return {
        str(mount.get("mountPath"))
        for _, container in group.containers()
        for mount in map(mapping, items(container.get("volumeMounts")))
        if mount.get("name") in volumes
    }

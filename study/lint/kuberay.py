"""The lint of KubeRay manifests: RayJob and RayCluster as ``ray.io/v1`` defines them, and what a study needs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

from study.lint.findings import Fault, image_faults, placeholders, secrets
from study.lint.ray_up_file import items, mapping
from trainables.config.messages import did_you_mean
from trainables.config.yaml_reader import Document, Loc

KINDS = ("RayJob", "RayCluster")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# The fields of KubeRay 1.7, without those of its status.
_JOB = _words("""
    activeDeadlineSeconds backoffLimit rayClusterSpec submitterPodTemplate metadata clusterSelector
    submitterConfig managedBy deletionStrategy entrypoint runtimeEnvYAML jobId submissionMode
    entrypointResources entrypointNumCpus entrypointNumGpus ttlSecondsAfterFinished
    preRunningDeadlineSeconds shutdownAfterJobFinishes suspend
""")
_CLUSTER = _words("""
    upgradeStrategy authOptions suspend managedBy autoscalerOptions headServiceAnnotations
    enableInTreeAutoscaling gcsFaultToleranceOptions historyServerOptions networkPolicy tlsOptions
    headGroupSpec rayVersion workerGroupSpecs
""")
_HEAD = _words("""
    template headService enableIngress ingressOptions resources labels rayStartParams serviceType
""")
_WORKERS = _words("""
    suspend groupName replicas minReplicas maxReplicas idleTimeoutSeconds priority resources labels
    rayStartParams template scaleStrategy numOfHosts upgradeStrategy
""")
_AUTOSCALER = _words("""
    resources image imagePullPolicy securityContext idleTimeoutSeconds upscalingMode version env envFrom
    volumeMounts command args
""")
_PERSISTENT = ("persistentVolumeClaim", "nfs", "csi", "cephfs", "glusterfs")
_URL = re.compile(r"\b(?:s3|gs|gcs|abfss?|postgresql)(?:\+\w+)?://")


def lint_manifest(document: Document) -> list[Fault]:
    """Returns everything that is wrong with one RayJob or RayCluster, in the order of the file."""
    data = document.data
    found: list[Fault] = []
    if data.get("apiVersion") != "ray.io/v1":
        found.append(
            Fault("schema", ("apiVersion",), f"apiVersion is {data.get('apiVersion')!r}; write ray.io/v1")
        )
    spec: Loc = ("spec",)
    cluster = mapping(data.get("spec"))
    if data.get("kind") == "RayJob":
        found += [*_unknown(cluster, spec, _JOB), *_job(cluster, spec)]
        spec, cluster = (*spec, "rayClusterSpec"), mapping(cluster.get("rayClusterSpec"))
    found += [*_cluster(cluster, spec), *secrets(document), *placeholders(document)]
    if data.get("kind") == "RayJob":
        found += _persistence(mapping(data.get("spec")), cluster, spec)
    return sorted(dict.fromkeys(found), key=lambda fault: (document.line_of(fault.loc), not fault.fatal))


def _unknown(value: dict[str, Any], loc: Loc, known: frozenset[str]) -> Iterator[Fault]:
    for key in value:
        if key not in known:
            hint = did_you_mean(key, sorted(known))
            yield Fault(
                "schema",
                (*loc, key),
                f"KubeRay knows no field {key!r} here; {hint}correct or remove it",
            )


def _job(job: dict[str, Any], loc: Loc) -> Iterator[Fault]:
    entrypoint = job.get("entrypoint")
    if not isinstance(entrypoint, str) or not entrypoint.strip():
        yield Fault(
            "entrypoint",
            (*loc, "entrypoint"),
            "the job runs nothing; write entrypoint: study launch ...",
        )
    elif "study launch" not in entrypoint:
        yield Fault(
            "entrypoint",
            (*loc, "entrypoint"),
            "the entrypoint does not launch a study (study launch FILE ...)",
            fatal=False,
        )
    if job.get("shutdownAfterJobFinishes") is not True:
        yield Fault(
            "cost",
            (*loc, "shutdownAfterJobFinishes"),
            "the cluster stays, and costs, after the study; write shutdownAfterJobFinishes: true",
        )
    elif not isinstance(job.get("ttlSecondsAfterFinished"), int):
        yield Fault(
            "cost",
            (*loc, "ttlSecondsAfterFinished"),
            "the cluster is gone, with its logs, as soon as the job ends; write ttlSecondsAfterFinished: 600",
            fatal=False,
        )
    if job.get("rayClusterSpec") is None and not job.get("clusterSelector"):
        yield Fault("schema", (*loc, "rayClusterSpec"), "the job has no cluster; write a rayClusterSpec")


def _cluster(cluster: dict[str, Any], loc: Loc) -> Iterator[Fault]:
    yield from _unknown(cluster, loc, _CLUSTER)
    head = mapping(cluster.get("headGroupSpec"))
    groups = [mapping(group) for group in items(cluster.get("workerGroupSpecs"))]
    head_loc = (*loc, "headGroupSpec")
    yield from _unknown(head, head_loc, _HEAD)
    yield from _versions(cluster, loc)
    yield from _token(cluster, head, groups, loc)
    if _start_params(head).get("num-cpus") != "0":
        yield Fault(
            "head",
            (*head_loc, "rayStartParams"),
            'runs would train on the head, which then starves the driver; write num-cpus: "0"',
        )
    if head.get("serviceType") in ("LoadBalancer", "NodePort") or head.get("enableIngress") is True:
        what = "an ingress" if head.get("enableIngress") is True else f"serviceType {head['serviceType']}"
        yield Fault(
            "exposure",
            head_loc,
            f"{what} opens the dashboard and the job API, which run any code, beyond the cluster; "
            "take it out and use kubectl port-forward",
        )
    yield from _pod(head, head_loc, gpus_wanted=False)
    yield from _autoscaling(cluster, groups, loc)
    if not groups:
        yield Fault(
            "workers",
            (*loc, "workerGroupSpecs"),
            "there are no workers, so no run can be placed; write a group with GPUs",
        )
    for index, group in enumerate(groups):
        here = (*loc, "workerGroupSpecs", index)
        yield from _unknown(group, here, _WORKERS)
        if not group.get("groupName"):
            yield Fault("schema", here, "a group of workers needs a groupName")
        yield from _pod(group, here, gpus_wanted=True)
    for at, group in ((head_loc, head), *(((*loc, "workerGroupSpecs", i), g) for i, g in enumerate(groups))):
        for key, value in mapping(group.get("rayStartParams")).items():
            if not isinstance(value, str):
                yield Fault(
                    "schema",
                    (*at, "rayStartParams", key),
                    f'values of rayStartParams are texts; write {key}: "{value}"',
                )


def _start_params(group: dict[str, Any]) -> dict[str, str]:
    """The parameters of `ray start`, with the resources that override them."""
    given = {key: str(value) for key, value in mapping(group.get("rayStartParams")).items()}
    resources = mapping(group.get("resources"))
    return given | ({"num-cpus": str(resources["CPU"])} if "CPU" in resources else {})


def _versions(cluster: dict[str, Any], loc: Loc) -> Iterator[Fault]:
    ray, given = version("ray"), cluster.get("rayVersion")
    if given is None:
        yield Fault(
            "image",
            (*loc, "rayVersion"),
            f'rayVersion is missing, without which KubeRay refuses authOptions; write rayVersion: "{ray}"',
        )
    elif str(given) != ray:
        yield Fault(
            "image",
            (*loc, "rayVersion"),
            f'rayVersion is {given}, but {ray} is installed here; write rayVersion: "{ray}"',
        )


def _token(
    cluster: dict[str, Any], head: dict[str, Any], groups: list[dict[str, Any]], loc: Loc
) -> Iterator[Fault]:
    options = cluster.get("authOptions")
    if isinstance(options, dict):
        if options.get("mode", "token") != "token":
            yield Fault(
                "token",
                (*loc, "authOptions", "mode"),
                f"authentication is {options['mode']}; write mode: token",
            )
        return
    for group in (head, *groups):
        for _, container in _containers(group, ()):
            env = {entry.get("name"): entry for entry in map(mapping, items(container.get("env")))}
            secret = mapping(mapping(mapping(env.get("RAY_AUTH_TOKEN")).get("valueFrom")).get("secretKeyRef"))
            if mapping(env.get("RAY_AUTH_MODE")).get("value") != "token" or not secret:
                yield Fault(
                    "token",
                    loc,
                    "anybody who reaches the pods may run code; write authOptions: {mode: token} "
                    "(KubeRay 1.5.1 or newer makes the Secret)",
                )
                return


def _autoscaling(cluster: dict[str, Any], groups: list[dict[str, Any]], loc: Loc) -> Iterator[Fault]:
    grows = cluster.get("enableInTreeAutoscaling") is True
    options = mapping(cluster.get("autoscalerOptions"))
    yield from _unknown(options, (*loc, "autoscalerOptions"), _AUTOSCALER)
    if grows and not isinstance(options.get("idleTimeoutSeconds"), int):
        yield Fault(
            "idle",
            (*loc, "autoscalerOptions"),
            "idle workers end after Ray's default of 60 seconds; write idleTimeoutSeconds, e.g. 600",
            fatal=False,
        )
    for index, group in enumerate(groups):
        here = (*loc, "workerGroupSpecs", index)
        if grows and not isinstance(group.get("maxReplicas"), int):
            yield Fault(
                "cap",
                here,
                "maxReplicas is missing: it caps what the group can cost, and is 2,147,483,647 otherwise",
            )
        if not grows and not group.get("replicas"):
            yield Fault(
                "cap",
                here,
                "the group has no replicas and nothing adds any; write replicas, or "
                "enableInTreeAutoscaling: true",
            )
        least = group.get("minReplicas", 0)
        if isinstance(least, int) and least > 0 and grows:
            yield Fault(
                "idle",
                (*here, "minReplicas"),
                f"{least} workers run, and cost, even when nothing is to do; write minReplicas: 0",
                fatal=False,
            )


def _containers(group: dict[str, Any], loc: Loc) -> Iterator[tuple[Loc, dict[str, Any]]]:
    pod = mapping(mapping(group.get("template")).get("spec"))
    for index, container in enumerate(items(pod.get("containers"))):
        yield (*loc, "template", "spec", "containers", index), mapping(container)


def _pod(group: dict[str, Any], loc: Loc, *, gpus_wanted: bool) -> Iterator[Fault]:
    containers = list(_containers(group, loc))
    if not containers:
        yield Fault("schema", loc, "the group has no container; write template.spec.containers")
    pod = mapping(mapping(group.get("template")).get("spec"))
    context = mapping(pod.get("securityContext"))
    for index, (at, container) in enumerate(containers):
        own = mapping(container.get("securityContext"))
        if own.get("privileged") is True:
            yield Fault(
                "privileges",
                (*at, "securityContext"),
                "a privileged container owns its machine; write privileged: false",
            )
        if own.get("runAsNonRoot", context.get("runAsNonRoot")) is not True:
            yield Fault(
                "privileges",
                at,
                "the container may run as root; write securityContext: {runAsNonRoot: true}",
                fatal=False,
            )
        if own.get("allowPrivilegeEscalation") is not False:
            yield Fault(
                "privileges",
                at,
                "write securityContext: {allowPrivilegeEscalation: false}",
                fatal=False,
            )
        if index == 0:
            yield from image_faults(
                container.get("image"), (*at, "image"), gpus=gpus_wanted and bool(_gpus(container))
            )
            yield from _limits(container, at)


def _gpus(container: dict[str, Any]) -> Any:
    resources = mapping(container.get("resources"))
    return mapping(resources.get("limits")).get(
        "nvidia.com/gpu", mapping(resources.get("requests")).get("nvidia.com/gpu", 0)
    )


def _limits(container: dict[str, Any], loc: Loc) -> Iterator[Fault]:
    limits = mapping(mapping(container.get("resources")).get("limits"))
    for name in ("cpu", "memory"):
        if name not in limits:
            yield Fault(
                "resources",
                (*loc, "resources"),
                f"without a limit of {name} Ray takes that of the whole machine; write limits: {{{name}: ...}}",
            )
    gpus = _gpus(container)
    if not re.fullmatch(r"\d+", str(gpus)):
        yield Fault(
            "resources",
            (*loc, "resources"),
            f"a pod has whole GPUs, got {gpus}; write the share of a run as "
            "resources.gpus_per_run in the study file",
        )


def _persistence(job: dict[str, Any], cluster: dict[str, Any], loc: Loc) -> Iterator[Fault]:
    """A retry is a new cluster: what is to be gone on with must lie outside of it."""
    entrypoint = str(job.get("entrypoint", ""))
    if _URL.search(entrypoint.partition("--storage")[2]):
        return
    groups = [(mapping(cluster.get("headGroupSpec")), (*loc, "headGroupSpec"))]
    groups += [
        (mapping(group), (*loc, "workerGroupSpecs", index))
        for index, group in enumerate(items(cluster.get("workerGroupSpecs")))
    ]
    kept: list[set[str]] = []
    for group, at in groups:
        pod = mapping(mapping(group.get("template")).get("spec"))
        volumes = {
            volume.get("name")
            for volume in map(mapping, items(pod.get("volumes")))
            if any(kind in volume for kind in _PERSISTENT)
        }
        paths = {
            str(mount.get("mountPath"))
            for _, container in _containers(group, at)
            for mount in map(mapping, items(container.get("volumeMounts")))
            if mount.get("name") in volumes
        }
        if not paths:
            yield Fault(
                "storage",
                at,
                "the pods have no volume that outlives them, so a retry begins anew; mount a "
                "PersistentVolumeClaim (ReadWriteMany) in head and workers, or give --storage a "
                "URL (s3://...)",
            )
        kept.append(paths)
    storage = re.search(r"--storage[=\s]+(\S+)", entrypoint)
    common = set.intersection(*kept) if kept else set()
    if storage is None:
        yield Fault(
            "storage",
            ("spec", "entrypoint"),
            "the study would be written into the head's own disk; write --storage with a folder "
            "of the shared volume",
        )
    elif common and not any((storage[1] + "/").startswith(path.rstrip("/") + "/") for path in common):
        yield Fault(
            "storage",
            ("spec", "entrypoint"),
            f"--storage {storage[1]} is on no volume that all pods mount ({', '.join(sorted(common))})",
        )
